"""`isgd-jax demonstrate`: the paper's own pictures."""
