"""Settings of the experiments' tests."""

import jax
import pytest

from tests import helpers


def pytest_collection_modifyitems(items):
  helpers.mark_folder(items, __file__, 'cheap_compile')


@pytest.fixture(autouse=True)
def standard_promotion():
  """Optax's own Adam divides by a power of an integer count."""
  with jax.numpy_dtype_promotion('standard'):
    yield
