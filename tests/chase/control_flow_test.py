"""Loops of one trip, and flags that are computed once."""

import jax
import jax.numpy as jnp
import pytest

from isgd_jax._chase import control_flow


@pytest.mark.parametrize('is_due', [False, True])
@pytest.mark.parametrize('is_jitted', [False, True])
def test_a_trip_is_taken_where_it_is_due(is_due, is_jitted):
  def run(is_due, carry):
    return control_flow.run_once_if(is_due, lambda c: c + 1.0, carry)

  run = jax.jit(run) if is_jitted else run
  expected = 4.0 if is_due else 3.0
  assert float(run(jnp.bool_(is_due), jnp.float32(3.0))) == expected


@pytest.mark.parametrize('flag', [False, True])
def test_a_flag_computed_once_is_the_same(flag):
  flag = jnp.bool_(flag)
  assert control_flow.computed_once(flag) is flag
  got = jax.jit(control_flow.computed_once)(flag)
  assert got.dtype == bool
  assert got.shape == ()
  assert bool(got) == bool(flag)
