"""A base update ahead of the loop of a step, or after it: the same steps."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax._chase import base as base_lib
from isgd_jax._chase.probation import Rules
from tests import helpers
from tests.chase.linear import train

BASES = {
  'sgd': lambda: optax.sgd(0.05),
  'momentum': lambda: optax.sgd(0.02, momentum=0.9),
  'adam': lambda: helpers.relaxed(optax.adam(0.02)),
  'line search': lambda: optax.chain(
    optax.sgd(0.1),
    optax.scale_by_backtracking_linesearch(max_backtracking_steps=5),
  ),
}


def params_of(num_leaves, size):
  return [jnp.zeros(size // num_leaves) for _ in range(num_leaves)]


@pytest.mark.parametrize(
  ('base', 'num_leaves', 'size', 'expected'),
  [
    # All that is ready after the loop is a leaf of the state, each.
    ('sgd', 9, 90, False),
    ('momentum', 8, 80, False),
    ('adam', 3, 90, False),
    ('adam', 4, 80, True),
    ('adam', 8, 80, True),
    # Ahead of it, each leaf of the parameters.
    ('momentum', 9, 90, False),
    ('adam', 9, 90, False),
    # Where the second pass over the update costs more than it saves.
    ('adam', 4, 2**15, True),
    ('adam', 4, 2**16, False),
  ],
)
def test_goes_ahead_where_the_state_has_more_leaves_than_one_thread_runs(
  base, num_leaves, size, expected
):
  params = params_of(num_leaves, size)
  state = BASES[base]().init(params)
  assert base_lib.goes_ahead(state, params) is expected


def drifting(num_steps, seed):
  """Small noisy batches whose targets move at times: chases of every kind."""
  rng = np.random.default_rng(seed)
  for step in range(num_steps):
    x = rng.normal(size=(2, 3)).astype(np.float32)
    noise = rng.standard_t(2, size=2)
    shift = 8.0 * (step // 60 % 2) if step > 60 else 0.0
    yield x, (x.sum(axis=1) + shift + noise).astype(np.float32)


@pytest.mark.parametrize(
  ('base', 'passes_grad'),
  # A line search cannot do without.
  [*((base, True) for base in BASES), ('momentum', False), ('adam', False)],
)
@pytest.mark.parametrize(
  'probation', [False, True, Rules(starts_trusting=True)]
)
def test_the_steps_are_the_same_ahead_and_after(
  base, probation, passes_grad, monkeypatch
):
  """Chases that lead, are tried in the shadow, undone, and reverted."""
  runs = {}
  for is_ahead in (False, True):
    monkeypatch.setattr(base_lib, 'goes_ahead', lambda *_, a=is_ahead: a)
    optimizer = isgd_jax.isgd(
      BASES[base](),
      isgd_jax.shewhart(12, 1.5),
      # At this rate some chases diverge, and are undone by the guard.
      solver=isgd_jax.gradient_descent(0.03),
      probation=probation,
    )
    batches = drifting(400, seed=1)
    runs[is_ahead] = list(train(optimizer, batches, passes_grad=passes_grad))
  for (params, state), (other, other_state) in zip(
    runs[True], runs[False], strict=True
  ):
    chex.assert_trees_all_close(params, other, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(
      state.base_state, other_state.base_state, rtol=1e-4, atol=1e-4
    )
    chex.assert_trees_all_equal(
      isgd_jax.get_info(state).num_gradient_evaluations,
      isgd_jax.get_info(other_state).num_gradient_evaluations,
    )
  info = isgd_jax.get_info(runs[True][-1][1])
  assert info.num_gradient_evaluations > info.num_steps
  assert info.num_chases_reverted > 0
  if probation:
    assert info.num_chases_judged > 0
  if isinstance(probation, Rules):
    assert info.num_chases_undone > 0


@pytest.mark.parametrize('probation', [False, True])
def test_an_update_wider_than_gradient_and_parameters_keeps_its_digits(
  probation, monkeypatch
):
  """As over the base alone, to the bit: the slot is as wide as the update."""
  monkeypatch.setattr(base_lib, 'goes_ahead', lambda *_: True)
  wide = optax.stateless(
    lambda updates, _: jax.tree.map(
      lambda u: u.astype(jnp.float32) * jnp.float32(1.001), updates
    )
  )
  params = jnp.ones(3, jnp.bfloat16)
  grad = jnp.asarray([0.1, 0.2, 0.3], jnp.bfloat16)
  optimizer = isgd_jax.isgd(wide, isgd_jax.shewhart(12), probation=probation)
  updates, _ = jax.jit(
    lambda state: optimizer.update(
      grad,
      state,
      params,
      value=jnp.float32(1.0),
      value_fn=lambda p: jnp.sum(p.astype(jnp.float32)),
    )
  )(optimizer.init(params))
  expected, _ = wide.update(grad, wide.init(params))
  assert updates.dtype == jnp.float32
  chex.assert_trees_all_equal(updates, expected)
