"""What a base optimizer does, keeps or forbids, and how a chase fits in."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers

CHART = isgd_jax.fixed_limits(1.0, 0.1)


def loss_of(params):
  return 0.5 * jnp.sum(jnp.square(params))


def chased(optimizer, params, value_fn=loss_of, **kwargs):
  """One step that is flagged, from a fresh state; parameters and state."""
  value, grad = jax.value_and_grad(value_fn)(params)
  updates, state = optimizer.update(
    grad,
    optimizer.init(params),
    params,
    value=value,
    value_fn=value_fn,
    grad=grad,
    **kwargs,
  )
  return optax.apply_updates(params, updates), state


LINE_SEARCHES = {
  'lbfgs': lambda: optax.lbfgs(),
  'backtracking': lambda: optax.chain(
    optax.sgd(1.0),
    optax.scale_by_backtracking_linesearch(10, store_grad=True),
  ),
  'zoom': lambda: optax.chain(
    optax.sgd(1.0), optax.scale_by_zoom_linesearch(10)
  ),
}


@pytest.mark.parametrize('name', LINE_SEARCHES)
@pytest.mark.parametrize('is_jitted', [False, True])
def test_a_value_stored_by_a_line_search_is_not_that_of_other_parameters(
  name, is_jitted
):
  base = helpers.relaxed(LINE_SEARCHES[name]())
  step = lambda params: chased(helpers.blind_isgd(base, CHART), params)
  with jax.numpy_dtype_promotion('standard'):
    params, state = (jax.jit(step) if is_jitted else step)(jnp.full(3, 4.0))
    assert int(isgd_jax.get_info(state).num_chase_steps) > 0
    value, grad = optax.value_and_grad_from_state(loss_of)(params, state=state)
  np.testing.assert_allclose(value, loss_of(params), rtol=1e-6)
  np.testing.assert_allclose(grad, params, rtol=1e-6)


def test_a_stored_value_stays_where_no_chase_moved_the_parameters():
  base = helpers.relaxed(optax.lbfgs())
  optimizer = helpers.blind_isgd(base, isgd_jax.shewhart(9))
  with jax.numpy_dtype_promotion('standard'):
    _, state = chased(optimizer, jnp.full(3, 4.0))
  assert np.isfinite(optax.tree.get(state, 'value'))


@pytest.mark.parametrize('name', ['skip', 'watch', 'isgd'])
def test_a_line_search_is_handed_what_its_value_fn_takes(name):
  base = helpers.relaxed(optax.lbfgs())
  optimizer = {
    'skip': isgd_jax.skip_out_of_control(base, isgd_jax.shewhart(5)),
    'watch': optax.chain(isgd_jax.watch(isgd_jax.shewhart(5)), base),
    'isgd': isgd_jax.isgd(base, isgd_jax.shewhart(5)),
  }[name]
  with jax.numpy_dtype_promotion('standard'):
    params, _ = chased(optimizer, jnp.full(3, 4.0))
  assert loss_of(params) < loss_of(jnp.full(3, 4.0))


def test_elements_that_the_base_does_not_move_are_not_chased():
  """An elementwise mask: rows of a table that are frozen."""
  mask = jnp.array([[1.0], [0.0], [1.0]])
  base = optax.chain(
    optax.sgd(0.1), optax.stateless(lambda u, _: jax.tree.map(mask.__mul__, u))
  )
  start = jnp.full((3, 2), 4.0)
  for probation in (False, True):
    optimizer = isgd_jax.isgd(base, CHART, probation=probation)
    params, state = chased(optimizer, start)
    assert int(isgd_jax.get_info(state).num_chase_steps) > 0 or probation
    np.testing.assert_array_equal(params[1], start[1])
    assert np.all(params[0] != start[0])


def test_constraints_go_outside_and_hold_there():
  value_fn = lambda p: jnp.sum(jnp.square(p + 3.0))
  outside = optax.chain(
    helpers.blind_isgd(optax.sgd(0.01), CHART), optax.keep_params_nonnegative()
  )
  params, state = chased(outside, jnp.array([0.5, 5.0]), value_fn)
  assert int(isgd_jax.get_info(state).num_chase_steps) > 0
  assert np.all(params >= 0)


@pytest.mark.parametrize('probation', [False, True])
@pytest.mark.parametrize('is_jitted', [False, True])
def test_a_base_that_climbs_is_not_chased_with(probation, is_jitted):
  """The sign and the rate stand after isgd: chases would be turned around."""
  start = jnp.full(3, 4.0)
  # The budget of probation takes a few steps to come.
  optimizer = optax.chain(
    isgd_jax.isgd(
      helpers.relaxed(optax.scale_by_adam()), CHART, probation=probation
    ),
    optax.scale(-0.1),
  )

  def step(params, state):
    value, grad = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer.update(
      grad, state, params, value=value, value_fn=loss_of, grad=grad
    )
    return optax.apply_updates(params, updates), state

  step = jax.jit(step) if is_jitted else step
  params, state, losses = start, optimizer.init(start), []
  for _ in range(33):
    losses.append(float(loss_of(params)))
    params, state = step(params, state)
  info = isgd_jax.get_info(state)
  assert int(info.num_chases_refused) > 0
  assert int(info.num_gradient_evaluations) == 33
  assert all(b < a for a, b in itertools.pairwise(losses)), losses


def test_momentum_that_points_uphill_is_no_base_that_climbs():
  optimizer = helpers.blind_isgd(optax.sgd(0.1, momentum=0.9), CHART)
  params = jnp.full(3, 4.0)
  state = optimizer.init(params)
  against = jax.tree.map(lambda t: t - 100.0, state.base_state)
  value, grad = jax.value_and_grad(loss_of)(params)
  _, state = optimizer.update(
    grad,
    state._replace(base_state=against),
    params,
    value=value,
    value_fn=loss_of,
  )
  info = isgd_jax.get_info(state)
  assert int(info.num_chase_steps) > 0
  assert not bool(info.is_chase_refused)


@pytest.mark.parametrize('probation', [False, True])
def test_models_of_more_than_two_to_the_31_parameters_trace(probation):
  params = {'w': jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32)}
  optimizer = isgd_jax.isgd(
    optax.sgd(0.1), isgd_jax.shewhart(5), probation=probation
  )

  def step(params):
    state = optimizer.init(params)
    value_fn = lambda p: jnp.sum(p['w'])
    value, grads = jax.value_and_grad(value_fn)(params)
    return optimizer.update(
      grads, state, params, value=value, value_fn=value_fn
    )

  updates, _ = jax.eval_shape(step, params)
  assert updates['w'].shape == (2**16, 2**16)


@pytest.mark.parametrize('params', [{}, {'w': jnp.zeros((0, 3))}])
def test_a_tree_without_parameters_is_a_step_of_nothing(params):
  optimizer = isgd_jax.isgd(optax.sgd(0.1), CHART, probation=False)
  value_fn = lambda p: jnp.float32(5.0) + sum(map(jnp.sum, jax.tree.leaves(p)))
  new, state = chased(optimizer, params, value_fn)
  assert jax.tree.structure(new) == jax.tree.structure(params)
  assert int(isgd_jax.get_info(state).num_undertrained) == 1


@pytest.mark.parametrize('is_jitted', [False, True])
def test_value_fn_may_return_a_python_number(is_jitted):
  optimizer = helpers.blind_isgd(optax.sgd(0.1), CHART)
  step = lambda p: optimizer.update(
    jnp.ones(3),
    optimizer.init(p),
    p,
    value=5.0,
    value_fn=lambda p: 5.0,
    grad=jnp.ones(3),
  )
  updates, state = (jax.jit(step) if is_jitted else step)(jnp.ones(3))
  np.testing.assert_allclose(updates, -0.1, rtol=1e-6)
  assert bool(isgd_jax.get_info(state).is_chase_reverted)


def test_outside_jit_a_step_that_flags_nothing_compiles_nothing():
  """Not even the first after others, and however many."""
  optimizer = isgd_jax.isgd(optax.sgd(0.1), isgd_jax.shewhart(20))
  params = jnp.ones(3)
  state = optimizer.init(params)
  compiled = []

  def listen(event, *_, **__):
    if 'backend_compile' in event:
      compiled.append(event)

  for step in range(8):
    if step == 4:
      jax.monitoring.register_event_duration_secs_listener(listen)
    value, grad = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer.update(
      grad, state, params, value=value, value_fn=lambda p: loss_of(p)
    )
    params = optax.apply_updates(params, updates)
  jax.monitoring.clear_event_listeners()
  assert compiled == []


@pytest.mark.parametrize('probation', [False, True])
@pytest.mark.parametrize('is_jitted', [False, True])
def test_forward_mode_goes_through_two_steps_and_reverse_mode_says_why_not(
  probation, is_jitted
):
  """Two steps of rate 0.1 on |p - 1|^2 leave 0.64 of the distance."""
  optimizer = isgd_jax.isgd(
    optax.sgd(0.1), isgd_jax.shewhart(5), probation=probation
  )
  distance = lambda p: jnp.sum(jnp.square(p - 1.0))

  def two_steps(params):
    state = optimizer.init(params)
    for _ in range(2):
      value, grads = jax.value_and_grad(distance)(params)
      updates, state = optimizer.update(
        grads, state, params, value=value, value_fn=distance
      )
      params = optax.apply_updates(params, updates)
    return params

  push = lambda p: jax.jvp(two_steps, (p,), (jnp.ones(3),))
  params, tangent = (jax.jit(push) if is_jitted else push)(jnp.zeros(3))
  np.testing.assert_allclose(params, 0.36, rtol=1e-5)
  np.testing.assert_allclose(tangent, 0.64, rtol=1e-5)
  with pytest.raises(ValueError, match='Reverse-mode differentiation does not'):
    jax.jit(jax.grad(lambda p: jnp.sum(two_steps(p))))(jnp.zeros(3))
