"""`isgd-jax demo`: ISGD and its baselines on real digits."""
