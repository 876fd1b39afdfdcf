"""Settings of the experiments' tests."""

import jax
import pytest


@pytest.fixture(autouse=True)
def standard_promotion():
  """Optax's own Adam divides by a power of an integer count."""
  with jax.numpy_dtype_promotion('standard'):
    yield
