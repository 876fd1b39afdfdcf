"""`isgd-jax train`: one training run that can be stopped and carried on."""
