"""A chase depends on no unit of the loss, and takes no rounding for a gain."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers

SOLVERS = {
  'gauss_newton': lambda unit: isgd_jax.gauss_newton(),
  'base_metric': lambda unit: isgd_jax.gauss_newton(metric='base'),
  'bounded': lambda unit: isgd_jax.gauss_newton(max_step_ratio=20.0),
  # Its rate and the constraint's weight have units: loss^-2 and loss^2.
  'gradient_descent': lambda unit: isgd_jax.gradient_descent(0.002 / unit**2),
}
UNITS = [1e-6, 1e6]


def loss_fn(params, batch):
  x, y = batch
  return jnp.mean(jnp.square(jnp.tanh(x @ params['w']) @ params['v'] - y))


def make_stream(dtype, num_steps=60):
  rng = np.random.default_rng(0)
  for step in range(num_steps):
    x = rng.normal(size=(16, 3))
    turned = 3.0 if step >= 40 else 1.0
    yield jnp.asarray(x, dtype), jnp.asarray(turned * x[:, 0], dtype)


def final_params(solver, unit, dtype, *, probation):
  """After a stream whose loss, and the base's rate with it, is in `unit`."""
  weight = 0.1 * unit**2 if solver == 'gradient_descent' else 0.1
  optimizer = isgd_jax.isgd(
    helpers.relaxed(optax.sgd(0.05 / unit, momentum=0.9)),
    isgd_jax.shewhart(10, 2.5),
    solver=SOLVERS[solver](unit),
    conservative_weight=weight,
    probation=probation,
  )

  @jax.jit
  def step(params, opt_state, batch):
    value_fn = lambda p: jnp.asarray(unit, dtype) * loss_fn(p, batch)
    value, grads = jax.value_and_grad(value_fn)(params)
    updates, opt_state = optimizer.update(
      grads, opt_state, params, value=value, value_fn=value_fn
    )
    return optax.apply_updates(params, updates), opt_state

  rng = np.random.default_rng(1)
  params = {
    'w': jnp.asarray(rng.normal(size=(3, 5)), dtype),
    'v': jnp.asarray(rng.normal(size=5), dtype),
  }
  opt_state = optimizer.init(params)
  for batch in make_stream(dtype):
    params, opt_state = step(params, opt_state, batch)
  info = isgd_jax.get_info(opt_state)
  num_kept = int(info.num_undertrained) - int(info.num_chases_reverted)
  assert num_kept > 0
  return params, int(info.num_gradient_evaluations)


@pytest.mark.parametrize('probation', [False, True])
@pytest.mark.parametrize('solver', SOLVERS)
def test_parameters_are_the_same_in_any_unit_of_the_loss(solver, probation):
  with jax.enable_x64(True):
    expected, num_evaluations = final_params(
      solver, 1.0, 'float64', probation=probation
    )
    for unit in UNITS:
      got, evaluations = final_params(
        solver, unit, 'float64', probation=probation
      )
      assert evaluations == num_evaluations, unit
      chex.assert_trees_all_close(got, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('unit', [2.0**-20, 2.0**20])
def test_nor_in_float32_to_the_last_bits(unit):
  """Powers of two round alike: what is left are squares that went out of it."""
  expected, _ = final_params('gauss_newton', 1.0, 'float32', probation=False)
  got, _ = final_params('gauss_newton', unit, 'float32', probation=False)
  chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-6)


def test_a_chase_that_lowers_the_loss_by_next_to_nothing_is_undone():
  """It would take the place of the base update: 4.5 found, 4.4994 left."""
  optimizer = helpers.blind_isgd(
    optax.sgd(0.1),
    isgd_jax.fixed_limits(1.0, 0.1),
    solver=isgd_jax.gradient_descent(1e-5),
  )
  params = jnp.float32(3.0)
  loss_of = lambda p: 0.5 * p**2
  value, grad = jax.value_and_grad(loss_of)(params)
  updates, state = optimizer.update(
    grad, optimizer.init(params), params, value=value, value_fn=loss_of
  )
  info = isgd_jax.get_info(state)
  assert bool(info.is_chase_reverted)
  assert float(info.final_loss) == float(value)
  np.testing.assert_allclose(updates, -0.3, rtol=1e-6)
