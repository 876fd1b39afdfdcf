"""`python -m isgd_jax.experiments`: the same command line as `isgd-jax`."""

from isgd_jax.experiments.main import main

if __name__ == '__main__':
  main()
