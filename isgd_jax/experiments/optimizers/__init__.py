"""Settings to optimizers: the base, the control chart, the algorithm."""
