"""Many devices: the collectives, shares of unequal size, microbatches."""
