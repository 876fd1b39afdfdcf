"""Settings of every test: CPU, strict dtype promotion, one fixed draw."""

import os

import hypothesis
import jax

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_numpy_dtype_promotion', 'strict')

# JAX compiles on the first example, so no deadline; CI draws the same examples.
hypothesis.settings.register_profile(
  'isgd_jax', max_examples=300, deadline=None, derandomize=True
)
# For further versions, where the first one has drawn them all.
hypothesis.settings.register_profile(
  'fewer', max_examples=30, deadline=None, derandomize=True
)
hypothesis.settings.load_profile(
  os.environ.get('HYPOTHESIS_PROFILE', 'isgd_jax')
)
