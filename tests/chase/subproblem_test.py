"""The solvers against their formulas, and the chase without an optimizer."""

import chex
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax._chase import loop


def make_subproblem(anchor, target, damping=0.0, num_training_steps=0):
  return isgd_jax.Subproblem(
    anchor=anchor,
    target=jnp.float32(target),
    damping=jnp.float32(damping),
    num_training_steps=jnp.int32(num_training_steps),
    is_movable=jax.tree.map(lambda _: True, anchor),
  )


def counting(value_fn):
  """Value and gradient of `value_fn`, and how often they were computed."""
  calls = []

  def value_and_grad_fn(params):
    jax.debug.callback(lambda: calls.append(1))
    return jax.value_and_grad(value_fn)(params)

  return value_and_grad_fn, calls


def chase(value_fn, params, *, target, max_steps=5, solver=None, **kwargs):
  """A chase from the anchor with loss and gradient at hand, as isgd does."""
  value_and_grad_fn, calls = counting(value_fn)
  loss, grad = jax.value_and_grad(value_fn)(params)
  result = loop.chase(
    value_and_grad_fn,
    solver or isgd_jax.gauss_newton(),
    make_subproblem(params, target),
    params,
    loss_found=loss,
    max_steps=max_steps,
    start_grad=grad,
    **kwargs,
  )
  jax.effects_barrier()
  return result, loss, len(calls)


def test_gauss_newton_reaches_the_target_of_a_linear_loss_in_one_step():
  slope = jnp.array([3.0, -4.0])
  result, _, calls = chase(
    lambda p: jnp.dot(slope, p) + 7.0, jnp.zeros(2), target=2.0
  )
  np.testing.assert_allclose(result.left, -0.2 * slope, rtol=1e-6)
  np.testing.assert_allclose(result.loss, 2.0, rtol=1e-6)
  assert (int(result.num_steps), int(result.num_evaluations), calls) == (
    1,
    1,
    1,
  )


def test_gauss_newton_step_solves_the_linearised_subproblem():
  """argmin 1/2 (psi + g.d - target)^2 + damping/2 |g|^2 |d|^2."""
  rng = np.random.default_rng(0)
  grad, params = rng.normal(size=(2, 5))
  loss, target, damping = 4.0, 1.5, 0.3
  solver = isgd_jax.gauss_newton()
  subproblem = make_subproblem(
    jnp.asarray(params, jnp.float32), target, damping
  )
  stepped, _ = solver.step(
    solver.init(subproblem),
    subproblem,
    jnp.asarray(params, jnp.float32),
    jnp.float32(loss),
    jnp.asarray(grad, jnp.float32),
  )
  rows = np.vstack([grad, np.sqrt(damping * (grad @ grad)) * np.eye(5)])
  right = np.concatenate([[target - loss], np.zeros(5)])
  step = np.linalg.lstsq(rows, right, rcond=None)[0]
  np.testing.assert_allclose(stepped, params + step, rtol=1e-5)


@pytest.mark.parametrize('num_training_steps', [0, 10])
def test_gradient_descent_steps_along_the_gradient_of_phi(num_training_steps):
  """The step is minus the rate times jax.grad of the paper's phi."""
  schedule = optax.linear_schedule(0.5, 0.1, 10)
  anchor = {'a': jnp.array([1.0, 2.0]), 'b': jnp.array([[0.5]])}
  params = jax.tree.map(lambda x: 1.1 * x, anchor)
  subproblem = make_subproblem(anchor, 1.0, 0.2, num_training_steps)

  def psi(p):
    return jnp.sum(p['a'] ** 2) + jnp.sum(jnp.exp(p['b']))

  def phi(p):
    away = optax.tree.norm(optax.tree.sub(p, anchor), squared=True)
    return 0.5 * (psi(p) - 1.0) ** 2 + 0.5 * 0.2 * away

  solver = isgd_jax.gradient_descent(schedule)
  loss, grad = jax.value_and_grad(psi)(params)
  stepped, _ = solver.step(
    solver.init(subproblem), subproblem, params, loss, grad
  )
  rate = schedule(num_training_steps)
  expected = jax.tree.map(
    lambda p, g: p - rate * g, params, jax.grad(phi)(params)
  )
  chex.assert_trees_all_close(stepped, expected, rtol=1e-5)


@pytest.mark.parametrize('max_steps', [1, 2, 5])
def test_the_chase_is_bounded_and_evaluates_no_more_than_it_reads(max_steps):
  """A target out of reach: every allowed step, one evaluation each."""
  result, loss, calls = chase(
    lambda p: jnp.sum(p**2) + 3.0,
    jnp.array([2.0]),
    target=0.0,
    max_steps=max_steps,
    solver=isgd_jax.gradient_descent(0.01),
  )
  assert int(result.num_steps) == max_steps
  assert int(result.num_evaluations) == calls == max_steps
  assert float(result.loss) < float(loss)
  assert not bool(result.is_reverted)


@pytest.mark.parametrize('max_steps', [1, 3])
def test_without_the_guard_the_last_loss_is_not_evaluated(max_steps):
  value_fn, calls = counting(lambda p: jnp.sum(p**2) + 3.0)
  params = jnp.array([2.0])
  result = loop.chase(
    value_fn,
    isgd_jax.gradient_descent(0.01),
    make_subproblem(params, 0.0),
    params,
    loss_found=jnp.float32(7.0),
    max_steps=max_steps,
    guard=False,
  )
  jax.effects_barrier()
  assert int(result.num_steps) == max_steps
  assert int(result.num_evaluations) == len(calls) == max_steps


def test_a_start_that_is_at_the_target_takes_no_step():
  value_fn, calls = counting(lambda p: jnp.sum(p**2))
  start = jnp.array([0.5])
  result = loop.chase(
    value_fn,
    isgd_jax.gauss_newton(),
    make_subproblem(jnp.array([2.0]), 1.0),
    start,
    loss_found=jnp.float32(4.0),
    max_steps=5,
  )
  jax.effects_barrier()
  assert (int(result.num_steps), len(calls)) == (0, 1)
  np.testing.assert_array_equal(result.left, start)


def test_tolerance_is_a_share_of_the_gap_found():
  """On a convex loss Gauss-Newton ends above the target; 1 % of 9 is enough."""
  losses = {}
  for tolerance in (0.0, 0.01, 0.5):
    result, _, _ = chase(
      lambda p: jnp.sum(p**2),
      jnp.array([3.0]),
      target=0.0001,
      max_steps=20,
      tolerance=tolerance,
    )
    losses[tolerance] = float(result.loss), int(result.num_steps)
  assert losses[0.5][0] <= 0.5 * 9.0
  assert 0.0001 < losses[0.01][0] <= 0.01 * 9.0 + 0.0001
  assert losses[0.5][1] < losses[0.01][1] < losses[0.0][1]


@pytest.mark.parametrize('bad', [jnp.inf, -jnp.inf, jnp.nan, 100.0])
@pytest.mark.parametrize('recover_grad', [False, True])
def test_the_guard_reverts_a_chase_that_ends_worse_or_not_finite(
  bad, recover_grad
):
  """The anchor comes back bit for bit, or its gradient where asked for."""

  def value_fn(p):
    is_anchor = jnp.all(p == 1.0)
    return jnp.where(is_anchor, jnp.sum(p**2), bad)

  params = jnp.ones(3)
  result, loss, calls = chase(
    value_fn, params, target=1.0, max_steps=1, recover_grad=recover_grad
  )
  assert bool(result.is_reverted)
  left = 2.0 * params if recover_grad else params
  np.testing.assert_array_equal(result.left, left)
  assert int(result.num_steps) == 1
  assert int(result.num_evaluations) == calls == 1 + recover_grad
  assert float(loss) == 3.0


@pytest.mark.parametrize('bad', [jnp.nan, jnp.inf, -jnp.inf])
def test_the_guard_sees_parameters_that_the_loss_does_not(bad):
  """A leaf that is not finite and that the loss ignores: still reverted."""

  def solver_step(state, subproblem, params, loss, grad):
    del subproblem, loss, grad
    return {'used': 0.5 * params['used'], 'unused': bad}, state

  result, _, _ = chase(
    lambda p: p['used'] ** 2,
    {'used': jnp.float32(2.0), 'unused': jnp.float32(1.0)},
    target=0.1,
    max_steps=2,
    solver=isgd_jax.SubproblemSolver(lambda _: (), solver_step),
  )
  assert bool(result.is_reverted)
  chex.assert_tree_all_finite(result.left)


def rugged(params, coefficients):
  """A loss with hills, cliffs and, for some coefficients, holes of NaN."""
  a, b, c, d = coefficients
  x, y = params
  wave = jnp.sin(a * x) * jnp.exp(b * y) + c * x * x
  hole = jnp.where(x + y > d, jnp.nan, 0.0)
  return wave + jnp.abs(y) + hole


@jax.jit
def rugged_chase(params, coefficients, target, max_steps):
  loss, grad = jax.value_and_grad(rugged)(params, coefficients)
  result = loop.chase(
    lambda p: jax.value_and_grad(rugged)(p, coefficients),
    isgd_jax.gauss_newton(),
    make_subproblem(params, target, 1e-3),
    params,
    loss_found=loss,
    max_steps=max_steps,
    start_grad=grad,
    recover_grad=True,
  )
  return result, loss, grad, rugged(result.left, coefficients)


coordinates = st.floats(-3, 3, width=32)


@hypothesis.given(
  st.tuples(coordinates, coordinates),
  st.tuples(coordinates, coordinates, coordinates, st.floats(-2, 6, width=32)),
  st.floats(0.0078125, 5, width=32),
  st.integers(1, 6),
)
def test_a_chase_never_leaves_its_batch_worse(
  params, coefficients, gap, max_steps
):
  """Invariant 2, on rugged losses: finite and no higher, or the anchor."""
  params, coefficients = jnp.float32(params), jnp.float32(coefficients)
  found = rugged(params, coefficients)
  hypothesis.assume(bool(jnp.isfinite(found)))
  result, loss, grad, left = rugged_chase(
    params, coefficients, found - jnp.float32(gap), max_steps
  )
  assert 1 <= int(result.num_steps) <= max_steps
  if result.is_reverted:
    np.testing.assert_allclose(result.left, grad, rtol=1e-6)
    assert int(result.num_evaluations) == int(result.num_steps) + 1
  else:
    assert np.isfinite(left)
    assert float(result.loss) <= float(loss)
    np.testing.assert_allclose(left, result.loss, rtol=1e-5, atol=1e-5)
    assert int(result.num_evaluations) == int(result.num_steps)


@pytest.mark.parametrize('rate', [0.0, -1.0, float('nan'), 'fast', None])
def test_a_rate_that_is_neither_schedule_nor_positive_is_refused(rate):
  with pytest.raises(
    ValueError, match='learning_rate must be a finite number above 0, got'
  ):
    isgd_jax.gradient_descent(rate)
