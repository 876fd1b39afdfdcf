"""Every test here needs eight devices."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _eight_devices():
  if jax.device_count() < 8:
    pytest.skip('needs eight devices: JAX_NUM_CPU_DEVICES=8')
