"""`isgd-jax plan-batch-size`: which batch size, on this machine."""
