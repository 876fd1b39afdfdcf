"""`isgd-jax compare`: a workload, every method, tuned alike."""
