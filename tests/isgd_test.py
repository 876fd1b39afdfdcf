"""The design's invariants by name, and the errors of isgd."""

import functools

import chex
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers

BASES = {
  'sgd': lambda: optax.sgd(0.05),
  'momentum': lambda: optax.sgd(0.05, momentum=0.9),
  'nesterov': lambda: optax.sgd(0.05, momentum=0.9, nesterov=True),
  'adam': lambda: helpers.relaxed(optax.adam(0.05)),
}


def loss_fn(params, batch):
  """Mean squared error of a small nonlinear model."""
  x, y = batch
  hidden = jnp.tanh(x @ params['w'])
  return jnp.mean(jnp.square(hidden @ params['v'] - y))


def make_params(dtype=jnp.float32):
  key_w, key_v = jax.random.split(jax.random.key(0))
  return {
    'w': jax.random.normal(key_w, (3, 5), dtype),
    'v': jax.random.normal(key_v, (5,), dtype),
  }


def make_batch(step, shift=0.0, dtype=jnp.float32):
  x = jax.random.normal(jax.random.key(100 + step), (16, 3), dtype)
  return x, jnp.sin(x[:, 0]) + jnp.asarray(shift, dtype)


def update_with(optimizer, batch, params, opt_state, **kwargs):
  """One training step; returns params, state."""
  loss, grads = jax.value_and_grad(loss_fn)(params, batch)
  updates, opt_state = optimizer.update(
    grads,
    opt_state,
    params,
    value=loss,
    value_fn=lambda p: loss_fn(p, batch),
    **kwargs,
  )
  return optax.apply_updates(params, updates), opt_state


def train(optimizer, batches, params=None, jit=True):
  """Parameters, state and info after each of `batches`."""
  params = make_params() if params is None else params
  opt_state = optimizer.init(params)
  step = functools.partial(update_with, optimizer)
  step = jax.jit(step) if jit else step
  for batch in batches:
    params, opt_state = step(batch, params, opt_state)
    yield params, opt_state


def drift(num_steps=40, shift=3.0, at=30):
  return [make_batch(s, shift if s >= at else 0.0) for s in range(num_steps)]


def chasing_isgd(base, **kwargs):
  return helpers.blind_isgd(base, isgd_jax.shewhart(10, 2.0), **kwargs)


# Invariant 1.


@pytest.mark.parametrize('base', BASES)
@pytest.mark.parametrize(
  'options',
  [
    {'probation': True},
    {'probation': False},
    {'base_update_when_chasing': True},
  ],
)
def test_invariant_1_never_triggered_is_the_base_optimizer_bit_for_bit(
  base, options
):
  """Op by op; the window never fills."""
  make_base = BASES[base]
  optimizer = isgd_jax.isgd(make_base(), isgd_jax.shewhart(100), **options)
  with jax.disable_jit():
    batches = [make_batch(s) for s in range(4)]
    expected = list(train(make_base_with_extra_args(make_base()), batches))
    got = list(train(optimizer, batches, jit=False))
  for (params, state), (base_params, base_state) in zip(
    got, expected, strict=True
  ):
    chex.assert_trees_all_equal(params, base_params)
    chex.assert_trees_all_equal(state.base_state, base_state)


def make_base_with_extra_args(base):
  return optax.with_extra_args_support(base)


@pytest.mark.parametrize('base', BASES)
@pytest.mark.parametrize('probation', [False, True])
def test_invariant_1_never_triggered_is_the_base_optimizer_under_jit(
  base, probation
):
  """To rounding: XLA may fuse the two programs differently."""
  make_base = BASES[base]
  batches = [make_batch(s) for s in range(30)]
  optimizer = isgd_jax.isgd(
    make_base(), isgd_jax.shewhart(100), probation=probation
  )
  *_, (params, state) = train(optimizer, batches)
  *_, (base_params, base_state) = train(
    make_base_with_extra_args(make_base()), batches
  )
  chex.assert_trees_all_close(params, base_params, rtol=1e-4, atol=1e-6)
  chex.assert_trees_all_close(
    state.base_state, base_state, rtol=1e-3, atol=1e-6
  )
  assert int(isgd_jax.get_info(state).num_gradient_evaluations) == 30


def test_with_no_chase_steps_the_chart_only_watches():
  """No value_fn is needed, and flagged batches get the base update."""
  batches = drift()
  watching = chasing_isgd(optax.sgd(0.05), max_chase_steps=0)
  params = make_params()
  opt_state = watching.init(params)
  base_params = params
  base = optax.sgd(0.05)
  base_state = base.init(params)
  with jax.disable_jit():
    for batch in batches:
      loss, grads = jax.value_and_grad(loss_fn)(params, batch)
      updates, opt_state = watching.update(grads, opt_state, params, value=loss)
      params = optax.apply_updates(params, updates)
      grads = jax.grad(loss_fn)(base_params, batch)
      updates, base_state = base.update(grads, base_state)
      base_params = optax.apply_updates(base_params, updates)
  chex.assert_trees_all_equal(params, base_params)
  info = isgd_jax.get_info(opt_state)
  assert int(info.num_undertrained) > 0
  assert int(info.num_gradient_evaluations) == len(batches)


# Invariant 2.

JITTED_STEPS = {
  flag: jax.jit(
    functools.partial(
      update_with,
      helpers.blind_isgd(
        optax.sgd(0.05, momentum=0.9),
        isgd_jax.shewhart(4, 1.0),
        base_update_when_chasing=flag,
      ),
    )
  )
  for flag in (False, True)
}
jitted_loss = jax.jit(loss_fn)
jitted_gradient = jax.jit(jax.grad(loss_fn))


@jax.jit
def draw_problem(seed, shift, scale):
  """Parameters of a scale, and a batch whose targets are shifted."""
  params = jax.tree.map(lambda p: p * scale, make_params())
  x = jax.random.normal(jax.random.key(seed), (16, 3))
  return params, (x, x[:, 0] + shift)


@functools.cache
def full_window():
  """A chart's state after which any larger loss is flagged."""
  chart = isgd_jax.shewhart(4, 1.0)
  chart_state = chart.init()
  for loss in (0.1, 0.2, 0.1, 0.2):
    chart_state, _ = chart.update(chart_state, loss)
  return chart_state


@hypothesis.given(
  st.integers(0, 2**20),
  st.floats(-50, 50, width=32),
  st.floats(-4, 4, width=32),
  st.booleans(),
)
def test_invariant_2_the_chase_never_hurts_its_batch(
  seed, shift, log_scale, base_update_when_chasing
):
  """Finite and no higher than found, or else the base update."""
  params, batch = draw_problem(seed, shift, 10.0**log_scale)
  optimizer = helpers.blind_isgd(
    optax.sgd(0.05, momentum=0.9), isgd_jax.shewhart(4, 1.0)
  )
  opt_state = optimizer.init(params)._replace(chart_state=full_window())
  found = jitted_loss(params, batch)
  hypothesis.assume(bool(jnp.isfinite(found)))
  new_params, state = JITTED_STEPS[base_update_when_chasing](
    batch, params, opt_state
  )
  info = isgd_jax.get_info(state)
  if not info.is_undertrained:
    return
  grads = jitted_gradient(params, batch)
  base_params = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)
  if info.is_chase_reverted:
    chex.assert_trees_all_close(new_params, base_params, rtol=1e-5, atol=1e-6)
    assert float(info.final_loss) == float(info.loss)
  else:
    left = jitted_loss(new_params, batch)
    assert np.isfinite(left)
    # The update is rounded once more when it is applied.
    assert float(left) <= float(info.loss) * (1 + 1e-4)
    np.testing.assert_allclose(left, info.final_loss, rtol=1e-3, atol=1e-5)


# Invariant 3.


@pytest.mark.parametrize('bad', [jnp.nan, jnp.inf, -jnp.inf])
def test_invariant_3_a_non_finite_loss_starts_no_chase_and_enters_no_chart(bad):
  """The base optimizer alone decides what becomes of its gradient."""
  base = optax.sgd(0.05, momentum=0.9)
  optimizer = chasing_isgd(base)
  *_, (params, state) = train(optimizer, drift(20))
  grads = jax.tree.map(lambda p: jnp.full_like(p, bad), params)
  updates, new_state = optimizer.update(
    grads,
    state,
    params,
    value=jnp.float32(bad),
    value_fn=lambda p: loss_fn(p, make_batch(0)),
  )
  expected, expected_base_state = base.update(grads, state.base_state, params)
  chex.assert_trees_all_equal(updates, expected)
  chex.assert_trees_all_equal(new_state.base_state, expected_base_state)
  chex.assert_trees_all_equal(new_state.chart_state, state.chart_state)
  info = isgd_jax.get_info(new_state)
  assert not bool(info.is_undertrained)
  assert int(info.num_chase_steps) == 0
  assert int(info.num_steps) == int(isgd_jax.get_info(state).num_steps) + 1


def test_invariant_3_a_finite_loss_with_a_nan_gradient_falls_back_to_the_base():
  optimizer = chasing_isgd(optax.sgd(0.05))
  *_, (params, state) = train(optimizer, drift(20))
  grads = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
  batch = make_batch(0)
  updates, new_state = optimizer.update(
    grads,
    state,
    params,
    value=jnp.float32(1e3),
    value_fn=lambda p: loss_fn(p, batch),
    grad=grads,
  )
  expected, _ = optax.sgd(0.05).update(grads, state.base_state, params)
  chex.assert_trees_all_equal(updates, expected)
  assert bool(isgd_jax.get_info(new_state).is_undertrained)
  assert bool(isgd_jax.get_info(new_state).is_chase_reverted)
  assert int(isgd_jax.get_info(new_state).num_chases_reverted) == 1


# Invariant 4.


@pytest.mark.parametrize('max_chase_steps', [1, 2, 5])
@pytest.mark.parametrize('base_update_when_chasing', [False, True])
def test_invariant_4_evaluations_are_bounded_and_counted(
  max_chase_steps, base_update_when_chasing
):
  """Every call of value_fn is in num_gradient_evaluations, and no other."""
  optimizer = chasing_isgd(
    optax.sgd(0.05),
    max_chase_steps=max_chase_steps,
    base_update_when_chasing=base_update_when_chasing,
  )
  calls = []

  def counted(params, batch):
    jax.debug.callback(lambda: calls.append(1))
    return loss_fn(params, batch)

  @jax.jit
  def step(params, opt_state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = optimizer.update(
      grads,
      opt_state,
      params,
      value=loss,
      value_fn=lambda p: counted(p, batch),
    )
    return optax.apply_updates(params, updates), opt_state

  params = make_params()
  opt_state = optimizer.init(params)
  num_chases = 0
  for index, batch in enumerate(drift()):
    before = len(calls)
    params, opt_state = step(params, opt_state, batch)
    jax.effects_barrier()
    info = isgd_jax.get_info(opt_state)
    steps = int(info.num_chase_steps)
    extra = len(calls) - before
    assert steps <= max_chase_steps
    assert steps <= extra <= steps + 1
    assert (extra > 0) == bool(info.is_undertrained)
    if not base_update_when_chasing:  # The gradient at hand is used.
      assert extra == steps + bool(info.is_chase_reverted)
    assert int(info.num_gradient_evaluations) == index + 1 + len(calls)
    num_chases += bool(info.is_undertrained)
  assert num_chases == int(info.num_undertrained) > 0


# Invariant 6. (5 is in common_test.py)


@pytest.mark.parametrize('base', BASES)
def test_invariant_6_a_chased_step_leaves_the_base_state_as_it_was(base):
  optimizer = chasing_isgd(BASES[base]())
  before, num_chased = None, 0
  for index, (_, state) in enumerate(train(optimizer, drift())):
    if (
      isgd_jax.get_info(state).is_undertrained
      and not isgd_jax.get_info(state).is_chase_reverted
    ):
      chex.assert_trees_all_equal(state.base_state, before)
      num_chased += 1
    assert int(isgd_jax.get_info(state).num_steps) == index + 1
    before = state.base_state
  assert num_chased > 0


def test_invariant_6_the_schedule_counts_unchased_steps_only():
  base = optax.sgd(optax.linear_schedule(0.05, 0.0, 1000))
  for advances in (False, True):
    optimizer = chasing_isgd(base, base_update_when_chasing=advances)
    *_, (_, state) = train(optimizer, drift())
    num_chased = int(isgd_jax.get_info(state).num_undertrained) - int(
      isgd_jax.get_info(state).num_chases_reverted
    )
    assert num_chased > 0
    count = int(optax.tree.get(state.base_state, 'count'))
    assert count == 40 - (0 if advances else num_chased)
    assert int(isgd_jax.get_info(state).num_steps) == 40


# Composition.


def test_chain_before_with_the_raw_gradient_and_after():
  """Clipping before: the chase uses `grad`; scaling after: applies to all."""
  clipped = optax.chain(
    optax.clip_by_global_norm(1e-3),
    chasing_isgd(optax.sgd(0.05)),
    optax.scale(0.5),
  )
  alone = chasing_isgd(optax.sgd(0.05))

  @jax.jit
  def update_both(params, state, alone_state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    kwargs = dict(value=loss, value_fn=lambda p: loss_fn(p, batch))
    updates, state = clipped.update(grads, state, params, grad=grads, **kwargs)
    expected, alone_state = alone.update(grads, alone_state, params, **kwargs)
    return updates, state, expected, alone_state

  params = make_params()
  state, alone_state = clipped.init(params), alone.init(params)
  num_chased = 0
  for batch in drift():
    updates, state, expected, alone_state = update_both(
      params, state, alone_state, batch
    )
    if isgd_jax.get_info(state).is_undertrained:
      num_chased += 1
      expected = jax.tree.map(lambda u: 0.5 * u, expected)
      chex.assert_trees_all_close(updates, expected, rtol=1e-5, atol=1e-7)
    else:
      assert float(optax.tree.norm(updates)) <= 0.5 * 0.05 * 1.001e-3
    params = optax.apply_updates(params, updates)
  assert num_chased > 0


def test_a_reverted_chase_falls_back_to_the_transformed_updates():
  """With `grad` given, the base update is made from `updates`, not from it."""
  optimizer = chasing_isgd(optax.sgd(1.0))
  params = {'w': jnp.ones(2)}
  state = optimizer.init(params)
  value_fn = lambda p: (
    jnp.sum(p['w'] ** 2) + jnp.where(jnp.all(p['w'] == 1.0), 0.0, 1e6)
  )
  for loss in (1.0, 1.1) * 5 + (9.0,):
    updates, state = optimizer.update(
      {'w': jnp.full(2, 0.25)},
      state,
      params,
      value=loss,
      value_fn=value_fn,
      grad={'w': jnp.full(2, 2.0)},
    )
  assert bool(isgd_jax.get_info(state).is_chase_reverted)
  np.testing.assert_array_equal(updates['w'], -0.25)


@pytest.mark.parametrize('base_update_when_chasing', [False, True])
def test_frozen_parameters_stay_frozen_during_a_chase(base_update_when_chasing):
  base = optax.partition(
    {'train': optax.sgd(0.05, momentum=0.9), 'freeze': optax.set_to_zero()},
    {'w': 'freeze', 'v': 'train'},
  )
  optimizer = chasing_isgd(
    base, base_update_when_chasing=base_update_when_chasing
  )
  start = make_params()
  *_, (params, state) = train(optimizer, drift(), start)
  assert int(isgd_jax.get_info(state).num_undertrained) > 0
  np.testing.assert_array_equal(params['w'], start['w'])
  assert np.any(np.asarray(params['v']) != np.asarray(start['v']))


@pytest.mark.parametrize(
  'base',
  [
    optax.sgd(lambda count: 0.0 * count),
    optax.chain(optax.apply_every(100), optax.sgd(0.05)),
  ],
)
def test_a_base_update_of_zero_is_not_chased_away(base):
  """What moves nothing cannot chase: the base state still advances."""
  base = helpers.relaxed(base)
  *_, (params, state) = train(chasing_isgd(base), drift())
  info = isgd_jax.get_info(state)
  assert int(info.num_chases_reverted) == int(info.num_undertrained) > 0
  *_, (expected, base_state) = train(base, drift())
  chex.assert_trees_all_equal(params, expected)
  chex.assert_trees_all_close(state.base_state, base_state, rtol=1e-5)


def test_a_constant_infinite_parameter_does_not_stop_the_chase():
  def masked_loss(params, batch):
    return loss_fn(params, batch) + 0.0 * jnp.sum(jnp.exp(params['mask']))

  params = make_params() | {'mask': jnp.array([-jnp.inf, 0.0])}
  optimizer = chasing_isgd(optax.sgd(0.05))
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, batch):
    loss, grads = jax.value_and_grad(masked_loss)(params, batch)
    updates, state = optimizer.update(
      grads,
      state,
      params,
      value=loss,
      value_fn=lambda p: masked_loss(p, batch),
    )
    return optax.apply_updates(params, updates), state

  for batch in drift():
    params, state = step(params, state, batch)
  info = isgd_jax.get_info(state)
  assert int(info.num_undertrained) > int(info.num_chases_reverted)
  assert params['mask'].tolist() == [-jnp.inf, 0.0]


def test_parameters_may_be_python_floats():
  optimizer = chasing_isgd(optax.sgd(0.1))
  params = {'w': 1.0}
  state = optimizer.init(params)
  updates, _ = optimizer.update(
    {'w': jnp.float32(2.0)}, state, params, value=1.0, value_fn=lambda p: p['w']
  )
  np.testing.assert_allclose(updates['w'], -0.2, rtol=1e-6)


def test_a_line_search_as_the_base_finds_value_fn_and_its_arguments():
  base = helpers.relaxed(
    optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10))
  )
  optimizer = chasing_isgd(base, has_aux=True)

  @jax.jit
  def step(params, state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, state = optimizer.update(
      grads,
      state,
      params,
      value=loss,
      grad=grads,
      value_fn=lambda params, batch: (loss_fn(params, batch), 'aux'),
      batch=batch,
    )
    return optax.apply_updates(params, updates), state

  params = make_params()
  state = optimizer.init(params)
  for batch in drift():
    before = loss_fn(params, batch)
    params, state = step(params, state, batch)
    assert float(loss_fn(params, batch)) <= float(before) * (1 + 1e-5)
  assert int(isgd_jax.get_info(state).num_undertrained) > 0


def test_partition_inside_trains_every_group():
  base = optax.partition(
    {
      'a': optax.sgd(0.05, momentum=0.9),
      'b': helpers.relaxed(optax.adam(0.01)),
    },
    {'w': 'a', 'v': 'b'},
  )
  start = make_params()
  *_, (params, state) = train(chasing_isgd(base), drift(), start)
  assert int(isgd_jax.get_info(state).num_undertrained) > 0
  for name, leaf in params.items():
    assert np.all(np.asarray(leaf) != np.asarray(start[name]))


def final_params(optimizer, **kwargs):
  """Parameters after drift(), with `kwargs` in place of a closed value_fn."""

  @jax.jit
  def step(params, opt_state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    bound = {name: make(batch) for name, make in kwargs.items()}
    updates, opt_state = optimizer.update(
      grads, opt_state, params, value=loss, **bound
    )
    return optax.apply_updates(params, updates), opt_state

  params = make_params()
  opt_state = optimizer.init(params)
  for batch in drift():
    params, opt_state = step(params, opt_state, batch)
  assert int(isgd_jax.get_info(opt_state).num_undertrained) > 0
  return params


def test_value_fn_takes_its_further_arguments_from_the_extra_arguments():
  """As Optax's line searches do."""
  params = final_params(
    chasing_isgd(optax.sgd(0.05)),
    value_fn=lambda _: loss_fn,
    batch=lambda batch: batch,
  )
  *_, (expected, _) = train(chasing_isgd(optax.sgd(0.05)), drift())
  chex.assert_trees_all_close(params, expected, rtol=1e-5)


def test_has_aux_drops_what_extra_evaluations_return():
  def with_aux(batch):
    return lambda p: (loss_fn(p, batch), {'accuracy': 1.0})

  params = final_params(
    chasing_isgd(optax.sgd(0.05), has_aux=True), value_fn=with_aux
  )
  *_, (expected, _) = train(chasing_isgd(optax.sgd(0.05)), drift())
  chex.assert_trees_all_close(params, expected, rtol=1e-5)


def test_value_reaches_a_base_optimizer_that_needs_it():
  base = optax.polyak_sgd(max_learning_rate=0.1)
  *_, (_, state) = train(chasing_isgd(base), drift())
  assert int(isgd_jax.get_info(state).num_undertrained) > 0


def test_get_info_finds_the_info_in_a_nested_state():
  optimizer = optax.chain(
    optax.add_decayed_weights(1e-4),
    optax.apply_if_finite(chasing_isgd(optax.sgd(0.1)), 3),
  )
  assert int(isgd_jax.get_info(optimizer.init(make_params())).num_steps) == 0
  with pytest.raises(
    ValueError, match=r'state of one isgd .* found 0 in a tuple'
  ):
    isgd_jax.get_info(optax.sgd(0.1).init(make_params()))
  twice = optax.chain(optimizer, chasing_isgd(optax.sgd(0.1)))
  with pytest.raises(ValueError, match='found 2'):
    isgd_jax.get_info(twice.init(make_params()))


def test_counters_saturate_instead_of_wrapping():
  optimizer = chasing_isgd(optax.sgd(0.05))
  params = make_params()
  state = optimizer.init(params)
  largest = jnp.iinfo(jnp.int32).max
  integers = jnp.full_like(state.packed_info.integers, largest)
  state = state._replace(
    packed_info=state.packed_info._replace(integers=integers)
  )
  _, state = update_with(optimizer, make_batch(0), params, state)
  assert int(isgd_jax.get_info(state).num_steps) == largest
  assert int(isgd_jax.get_info(state).num_gradient_evaluations) == largest


def test_no_nan_is_made_where_the_user_looks_for_nans():
  """jax_debug_nans raises on any NaN, also in values nobody reads."""
  with jax.debug_nans(True):
    *_, (_, state) = train(chasing_isgd(optax.sgd(0.05)), drift())
  assert int(isgd_jax.get_info(state).num_undertrained) > 0


# Invariant 10: errors name the argument, its value and the remedy.


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    (
      {'max_chase_steps': -1},
      'max_chase_steps must be an integer >= 0, got -1',
    ),
    ({'max_chase_steps': 2.5}, 'max_chase_steps must be an integer .* got 2.5'),
    (
      {'conservative_weight': -0.1},
      'conservative_weight must be a finite number >= 0, got -0.1',
    ),
    ({'conservative_weight': float('nan')}, 'conservative_weight .* got nan'),
    (
      {'chase_to': 'median'},
      "chase_to must be 'mean' or 'limit', got 'median'",
    ),
  ],
)
def test_invariant_10_the_factory_refuses(kwargs, message):
  with pytest.raises(ValueError, match=message):
    isgd_jax.isgd(optax.sgd(0.1), isgd_jax.shewhart(5), **kwargs)


def call_update(**changes):
  """`update` with good arguments but for `changes`."""
  params = make_params()
  optimizer = chasing_isgd(optax.sgd(0.1))
  batch = make_batch(0)
  loss, grads = jax.value_and_grad(loss_fn)(params, batch)
  arguments = dict(
    updates=grads,
    state=optimizer.init(params),
    params=params,
    value=loss,
    value_fn=lambda p: loss_fn(p, batch),
  )
  arguments.update(changes)
  return optimizer.update(**arguments)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'params': None}, 'isgd needs params, got None. Pass the current'),
    ({'value': None}, 'isgd needs value, got None. Pass the loss'),
    ({'value_fn': None}, 'isgd needs value_fn, got None. Pass a function'),
    (
      {'value': jnp.ones(16)},
      r'value must be a real scalar, got float32\[16\]. Pass the mean loss',
    ),
    ({'value': 1j}, 'value must be a real scalar, got 1j of type complex'),
    (
      {'value': jnp.complex64(1j)},
      r'value must be a real scalar, got complex64\[\]',
    ),
    ({'value': 'low'}, r"value must be a real scalar, got 'low' of type str"),
    (
      {'value_fn': lambda p: p['v']},
      r'The result of value_fn must be a real scalar, got float32\[5\]',
    ),
    (
      {'value_fn': lambda p: (jnp.sum(p['v']), 0)},
      'The result of value_fn must be a real scalar, .* needs has_aux=True',
    ),
    ({'value_fn': 3.0}, 'value_fn must be a function of the parameters, got 3'),
    ({'updates': {'w': jnp.ones((3, 5))}}, 'updates must have the tree str'),
    (
      {'updates': {'w': jnp.ones((5, 3)), 'v': jnp.ones(5)}},
      r"updates\['w'\] must have the shape of its parameter, \(3, 5\), got",
    ),
    ({'grad': {'w': 0.0}}, 'grad must have the tree structure of params'),
    ({'state': optax.EmptyState()}, 'opt_state must be an ISGDState'),
  ],
)
def test_invariant_10_update_refuses(changes, message):
  with pytest.raises(ValueError, match=message):
    call_update(**changes)


def test_invariant_10_isgd_inside_masked_or_partition_is_refused():
  mask = {'w': True, 'v': False}
  with pytest.raises(ValueError, match='Put isgd outermost'):
    optax.masked(chasing_isgd(optax.sgd(0.1)), mask).init(make_params())
  labels = {'w': 'a', 'v': 'b'}
  optimizer = optax.partition(
    {'a': chasing_isgd(optax.sgd(0.1)), 'b': optax.sgd(0.1)}, labels
  )
  with pytest.raises(ValueError, match=r'optax\.masked or optax\.partition'):
    optimizer.init(make_params())


def test_invariant_10_parameters_that_are_not_real_floats_are_refused():
  params = {'w': jnp.ones(2), 'steps': jnp.int32(3)}
  with pytest.raises(ValueError, match=r"params\['steps'\] has dtype int32"):
    chasing_isgd(optax.sgd(0.1)).init(params)


def test_invariant_10_has_aux_without_aux_is_refused():
  optimizer = chasing_isgd(optax.sgd(0.1), has_aux=True)
  params = make_params()
  batch = make_batch(0)
  loss, grads = jax.value_and_grad(loss_fn)(params, batch)
  with pytest.raises(ValueError, match=r'must return a pair \(loss, aux\)'):
    optimizer.update(
      grads,
      optimizer.init(params),
      params,
      value=loss,
      value_fn=lambda p: loss_fn(p, batch),
    )


def test_paper_isgd_names_its_own_rate():
  with pytest.raises(
    ValueError, match='chase_learning_rate must be a finite number above 0'
  ):
    isgd_jax.paper_isgd(
      optax.sgd(0.1), batches_per_epoch=20, chase_learning_rate=-1.0
    )


def test_paper_isgd_refuses_a_queue_that_can_never_flag():
  with pytest.raises(
    ValueError, match='batches_per_epoch must be an integer of at least 11'
  ):
    isgd_jax.paper_isgd(
      optax.sgd(0.1), batches_per_epoch=10, chase_learning_rate=0.1
    )
