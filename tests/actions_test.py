"""What charts do besides chasing: watching and skipping; isgd with each."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers

pytestmark = pytest.mark.cheap_compile

BASES = {
  'sgd': lambda: optax.sgd(0.1),
  'momentum': lambda: helpers.relaxed(optax.sgd(0.1, momentum=0.9)),
  'adam': lambda: helpers.relaxed(optax.adam(0.05)),
  'schedule': lambda: optax.sgd(optax.linear_schedule(0.1, 0.0, 20)),
}
LOSSES = [1.0, 1.1, 0.9, 1.0, 50.0, 1.05, 0.95, 60.0, 70.0, 1.0, 1.1, -40.0]
LOSSES += [1.0, np.nan, 80.0, np.inf, 1.0]
ABOVE = [4, 7, 8, 14]


def make_chart():
  return isgd_jax.shewhart(4, flagged_losses='leave_out')


def make_params():
  return {'w': jnp.array([1.0, -2.0, 3.0]), 'b': jnp.float32(0.5)}


def grads_of(step):
  keys = jax.random.split(jax.random.key(step))
  return {
    'w': jax.random.normal(keys[0], (3,)),
    'b': jax.random.normal(keys[1], ()),
  }


def run(optimizer, losses, jit=False, **extra_args):
  """Updates, states before and after, and infos of each step."""
  params = make_params()
  state = optimizer.init(params)
  update = optimizer.update
  if jit:
    update = jax.jit(update)
  rows = []
  for t, loss in enumerate(losses):
    updates, new_state = update(
      grads_of(t), state, params, value=jnp.float32(loss), **extra_args
    )
    params = jax.tree.map(lambda p, u: p + u, params, updates)
    rows.append((updates, state, new_state))
    state = new_state
  return rows


def readings_of(chart, losses):
  """The chart alone, op by op."""
  state, readings = chart.init(), []
  for loss in losses:
    state, reading = chart.update(state, jnp.float32(loss))
    readings.append(reading)
  return readings


def assert_info_is_reading(info, loss, reading, rtol=0.0):
  pairs = {
    'mean': reading.mean,
    'sigma': reading.sigma,
    'lower_limit': reading.lower_limit,
    'control_limit': reading.upper_limit,
    'statistic': reading.statistic,
    'is_undertrained': reading.is_above,
    'is_well_trained': reading.is_below,
    'violated_rules': reading.violated_rules,
    'loss': jnp.float32(loss),
  }
  for field, expected in pairs.items():
    np.testing.assert_allclose(
      *(getattr(info, field), expected), rtol=rtol, err_msg=field
    )


ALL_CHARTS = {
  'shewhart': make_chart(),
  'mad': isgd_jax.shewhart(4, sigma_estimator='mad'),
  'ewma': isgd_jax.ewma(0.4, 2.5, reference=make_chart()),
  'cusum': isgd_jax.cusum(reference=make_chart()),
  'cusum_reset': isgd_jax.cusum(
    reference=make_chart(), reset_when_flagged=True
  ),
  'difference': isgd_jax.difference_chart(2, window_size=3),
  'rules': isgd_jax.with_run_rules(make_chart(), 'nelson'),
  'restart': isgd_jax.with_restart(make_chart(), 2),
  'fixed': isgd_jax.fixed_limits(1.0, 0.1),
  'custom': isgd_jax.ControlChart(
    lambda: jnp.zeros((), jnp.int32),
    lambda state, loss: (
      state + 1,
      isgd_jax.ChartReading(
        *map(jnp.float32, (1.0, 0.5, 0.0, 2.0)), loss > 2.0, loss < 0.0
      ),
    ),
  ),
}


@pytest.mark.parametrize('place', ['before', 'after', 'alone'])
@pytest.mark.parametrize('name', BASES)
def test_watch_is_an_identity_in_any_place_of_a_chain(name, place):
  """Op by op bit for bit, also of the base's state."""
  base = optax.with_extra_args_support(BASES[name]())
  watch = isgd_jax.watch(make_chart())
  order = {'before': (watch, base), 'after': (base, watch), 'alone': (watch,)}
  at = order[place].index(watch)
  rows = run(optax.chain(*order[place]), LOSSES[:6])
  alone = run(
    base
    if place != 'alone'
    else optax.with_extra_args_support(optax.identity()),
    LOSSES[:6],
  )
  for (updates, _, state), (expected, _, base_state) in zip(
    rows, alone, strict=True
  ):
    chex.assert_trees_all_equal(updates, expected)
    if place != 'alone':
      chex.assert_trees_all_equal(state[1 - at], base_state)


@pytest.mark.parametrize('name', ALL_CHARTS)
def test_info_of_watch_and_skip_is_the_reading_of_the_chart(name):
  chart = ALL_CHARTS[name]
  readings = readings_of(chart, LOSSES)
  above = np.cumsum([bool(r.is_above) for r in readings])
  below = np.cumsum([bool(r.is_below) for r in readings])
  for optimizer in (
    isgd_jax.watch(chart),
    isgd_jax.skip_out_of_control(optax.sgd(0.1), chart, max_consecutive=None),
  ):
    for t, (_, _, state) in enumerate(run(optimizer, LOSSES)):
      info = isgd_jax.get_info(state)
      reading = readings[t]
      if reading.statistic is None:
        reading = reading._replace(
          statistic=info.loss, violated_rules=jnp.int32(0)
        )
      assert_info_is_reading(info, LOSSES[t], reading)
      assert int(info.num_undertrained) == above[t]
      assert int(info.num_well_trained) == below[t]
      assert int(info.num_steps) == int(info.num_gradient_evaluations) == t + 1
      is_skip = isinstance(state, isgd_jax.SkipState)
      assert bool(info.is_skipped) == (is_skip and bool(reading.is_above))
      assert int(info.num_skipped) == (above[t] if is_skip else 0)
      np.testing.assert_array_equal(info.final_loss, info.loss)
      assert int(info.num_chase_steps) == 0
  assert above[-1] > 0


@pytest.mark.parametrize('name', BASES)
def test_a_skipped_step_is_zero_and_all_others_are_the_base_alone(name):
  """Op by op bit for bit: as if the base had never seen the skipped ones."""
  optimizer = isgd_jax.skip_out_of_control(BASES[name](), make_chart())
  base = BASES[name]()
  params = make_params()
  base_state = base.init(params)
  skipped = []
  for t, (updates, before, after) in enumerate(run(optimizer, LOSSES)):
    if isgd_jax.get_info(after).is_skipped:
      skipped.append(t)
      for leaf in jax.tree.leaves(updates):
        np.testing.assert_array_equal(np.asarray(leaf), 0.0)
        assert not np.signbit(leaf).any()
      chex.assert_trees_all_equal(after.base_state, before.base_state)
    else:
      expected, base_state = base.update(grads_of(t), base_state, params)
      chex.assert_trees_all_equal(updates, expected)
    chex.assert_trees_all_equal(after.base_state, base_state)
    params = jax.tree.map(lambda p, u: p + u, params, updates)
  assert skipped == ABOVE


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_non_finite_loss_passes_to_the_base(bad):
  rows = run(
    isgd_jax.skip_out_of_control(optax.sgd(0.1), make_chart()),
    [*LOSSES[:4], bad],
  )
  updates, _, state = rows[-1]
  chex.assert_trees_all_equal(
    updates, jax.tree.map(lambda g: -0.1 * g, grads_of(4))
  )
  assert int(isgd_jax.get_info(state).num_skipped) == 0


def expected_skips(flags, finite, most):
  """Which are skipped, by the definition."""
  row, skips = 0, []
  for is_above, is_finite in zip(flags, finite, strict=True):
    skips.append(is_above and (most is None or row < most))
    if is_finite:
      row = row + 1 if is_above else 0
  return skips


@pytest.mark.parametrize('most', [1, 2, 3, np.int64(3), None])
def test_at_most_so_many_are_skipped_in_a_row(most):
  """Then all pass until one is within the limit, which starts a new count."""
  losses = [1.0, 1.1, 0.9, 1.0, *[50.0] * 5, 1.0, 50.0, np.nan, 50.0, np.inf]
  losses += [50.0, 50.0, 1.0, 50.0, -50.0, 50.0, 50.0, 50.0, 50.0]
  flags = [bool(r.is_above) for r in readings_of(make_chart(), losses)]
  assert flags == [loss == 50.0 for loss in losses]
  optimizer = isgd_jax.skip_out_of_control(
    optax.sgd(0.1), make_chart(), max_consecutive=most
  )
  expected = expected_skips(flags, np.isfinite(losses), most)
  for jit in (False, True):
    infos = [isgd_jax.get_info(row[2]) for row in run(optimizer, losses, jit)]
    assert [bool(info.is_skipped) for info in infos] == expected
    assert int(infos[-1].num_skipped) == sum(expected)


@pytest.mark.parametrize('most', [0, -1, 1.5, True, '3', np.nan])
def test_a_max_consecutive_that_is_no_count_is_refused(most):
  with pytest.raises(ValueError, match='max_consecutive') as error:
    isgd_jax.skip_out_of_control(
      optax.sgd(0.1), make_chart(), max_consecutive=most
    )
  assert repr(most) in str(error.value)


ACTIONS = {
  'watch': isgd_jax.watch,
  'skip_out_of_control': lambda chart: isgd_jax.skip_out_of_control(
    optax.sgd(0.1), chart
  ),
}


@pytest.mark.parametrize('name', ACTIONS)
@pytest.mark.parametrize(
  'value', [None, jnp.ones(2), 'loss', 1j, (1.0, {}), jnp.bool(True)]
)
def test_a_missing_or_wrong_value_is_named(name, value):
  optimizer = ACTIONS[name](make_chart())
  params = make_params()
  state = optimizer.init(params)
  with pytest.raises(ValueError, match='value') as error:
    optimizer.update(grads_of(0), state, params, value=value)
  if value is None:
    for part in (f'{name} needs value', 'value=loss)'):
      assert part in str(error.value)


def test_extra_arguments_reach_the_base_with_value_and_reading():
  seen = []

  def update(updates, state, params=None, **extra_args):
    del params
    seen.append(extra_args)
    return updates, state

  base = optax.GradientTransformationExtraArgs(lambda params: (), update)
  chart = make_chart()
  run(isgd_jax.skip_out_of_control(base, chart), LOSSES, foreign='here')
  readings = readings_of(chart, LOSSES)
  for extra_args, loss, reading in zip(seen, LOSSES, readings, strict=True):
    assert set(extra_args) == {'foreign', 'value', 'chart_reading'}
    np.testing.assert_array_equal(extra_args['value'], jnp.float32(loss))
    chex.assert_trees_all_equal(extra_args['chart_reading'], reading)


def test_a_base_that_needs_value_finds_it():
  base = helpers.relaxed(optax.contrib.reduce_on_plateau(patience=2))
  rows = run(isgd_jax.skip_out_of_control(base, make_chart()), LOSSES[:6])
  assert np.isfinite(rows[-1][2].base_state.best_value)


@pytest.mark.parametrize('name', BASES)
def test_skipping_under_jit_scan_and_vmap(name):
  optimizer = isgd_jax.skip_out_of_control(
    optax.chain(optax.clip_by_global_norm(0.5), BASES[name]()), make_chart()
  )
  op_by_op = run(optimizer, LOSSES)
  jitted = run(optimizer, LOSSES, jit=True)
  grads = [grads_of(t) for t in range(len(LOSSES))]
  grads = jax.tree.map(lambda *xs: jnp.stack(xs), *grads)

  def scan(scale, losses):
    params = make_params()

    def step(carry, row):
      params, state = carry
      grads, loss = row
      updates, state = optimizer.update(grads, state, params, value=loss)
      params = jax.tree.map(lambda p, u: p + u, params, updates)
      return (params, state), (updates, isgd_jax.get_info(state).is_skipped)

    scaled = jax.tree.map(lambda g: scale * g, grads)
    carry = (params, optimizer.init(params))
    return jax.lax.scan(step, carry, (scaled, losses))

  losses = jnp.array(LOSSES, jnp.float32)
  (_, state), (updates, skipped) = jax.jit(scan)(1.0, losses)
  assert np.flatnonzero(skipped).tolist() == ABOVE
  chex.assert_trees_all_close(state, op_by_op[-1][2], rtol=1e-5, atol=1e-7)
  chex.assert_trees_all_close(state, jitted[-1][2], rtol=1e-5, atol=1e-7)
  for leaf in jax.tree.leaves(updates):
    assert not np.asarray(leaf)[ABOVE].any()
  # One member of the batch skips where the others do not.
  both = jnp.stack([losses, jnp.roll(losses, 1), jnp.ones_like(losses)])
  scales = jnp.array([1.0, 2.0, 0.5])
  mapped = jax.jit(jax.vmap(scan))(scales, both)
  single = [jax.jit(scan)(s, x) for s, x in zip(scales, both, strict=True)]
  chex.assert_trees_all_close(
    mapped,
    jax.tree.map(lambda *xs: jnp.stack(xs), *single),
    rtol=1e-4,
    atol=1e-6,
  )
  assert mapped[1][1].sum(axis=1).tolist()[2] == 0


def test_skip_keeps_dtypes_and_structure_and_maps_over_params():
  for dtype in ('bfloat16', 'float16', 'float32'):
    optimizer = isgd_jax.skip_out_of_control(BASES['adam'](), make_chart())
    params = optax.tree.cast(make_params(), dtype)
    state = optimizer.init(params)
    step = lambda s, p, v: optimizer.update(p, s, p, value=v)  # noqa: B023
    for value in (jnp.float32(1), jnp.bfloat16(1), 1.0, 1):
      updates, after = jax.eval_shape(step, state, params, value)
      chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
      chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
      assert not any(x.weak_type for x in jax.tree.leaves(after))
  specs = optax.tree.map_params(
    optimizer,
    lambda _: 'param',
    state,
    transform_non_params=lambda _: 'other',
  )
  assert set(jax.tree.leaves(specs.base_state)) == {'param', 'other'}
  assert specs.num_above_in_a_row == 'other'
  assert specs.packed_info.floats == 'other'


def test_skip_under_inject_hyperparams():
  """Its own number and the base's are injected and take effect."""
  factory = lambda learning_rate, max_consecutive: isgd_jax.skip_out_of_control(
    optax.sgd(learning_rate), make_chart(), max_consecutive=max_consecutive
  )
  injected = helpers.relaxed(
    optax.inject_hyperparams(factory)(learning_rate=0.1, max_consecutive=1)
  )
  plain = factory(0.1, 1)
  for row, other in zip(
    run(injected, LOSSES, jit=True), run(plain, LOSSES, jit=True), strict=True
  ):
    chex.assert_trees_all_close(row[0], other[0], rtol=1e-6)
    chex.assert_trees_all_close(
      isgd_jax.get_info(row[2]), isgd_jax.get_info(other[2]), rtol=1e-6
    )
  assert int(isgd_jax.get_info(row[2]).num_skipped) == 3


def test_masked_and_partitioned_parameters_can_be_skipped():
  """Unlike a chase, a skip looks at no parameter."""
  mask = {'w': True, 'b': False}
  optimizer = optax.masked(
    isgd_jax.skip_out_of_control(optax.sgd(0.1), make_chart()), mask
  )
  updates, _, _ = run(optimizer, LOSSES[:5])[-1]
  np.testing.assert_array_equal(updates['w'], 0.0)
  np.testing.assert_array_equal(updates['b'], grads_of(4)['b'])


def recorded_losses(num_steps=400):
  """Batch losses of a small network; a batch in 29 has its labels shifted."""
  key = jax.random.key(11)
  sizes = (8, 16, 1)
  params = []
  for i, (n, m) in enumerate(itertools.pairwise(sizes)):
    w = jax.random.normal(jax.random.fold_in(key, i), (n, m)) / n**0.5
    params.append((w, jnp.zeros(m)))

  def loss_fn(params, x, y):
    (w0, b0), (w1, b1) = params
    return jnp.mean(jnp.square(jnp.tanh(x @ w0 + b0) @ w1 + b1 - y))

  optimizer = optax.sgd(0.05)

  def step(carry, t):
    params, state = carry
    x = jax.random.normal(jax.random.fold_in(key, t + 100), (16, 8))
    y = jnp.sin(x @ jnp.arange(8.0))[:, None]
    y = y + jnp.where(t % 29 == 28, 2.0 + 0.02 * t.astype(y.dtype), 0.0)
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    updates, state = optimizer.update(grads, state)
    return (optax.apply_updates(params, updates), state), loss

  carry = (params, optimizer.init(params))
  steps = jnp.arange(num_steps, dtype=jnp.int32)
  return np.asarray(jax.jit(lambda: jax.lax.scan(step, carry, steps)[1])())


def common_rule(losses, m, k, dtype):
  """Skips, and the least relative distance of a loss from its limit."""
  skips, margin = [], np.inf
  for t, loss in enumerate(losses):
    last = losses[max(0, t - m) : t].astype(dtype)
    if len(last) < m // 2:
      skips.append(False)
      continue
    limit = last.mean() + dtype(k) * last.std(ddof=1)
    margin = min(margin, abs(loss - limit) / limit)
    skips.append(bool(loss > limit))
  return skips, margin


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize(('m', 'k'), [(128, 6.0), (128, 3.0), (30, 2.0)])
def test_skip_on_spike_makes_the_decisions_of_the_common_rule(m, k, dtype):
  """On recorded losses: mean + k sample std of the last m, spikes included."""
  losses = recorded_losses()
  expected, margin = common_rule(losses, m, k, dtype)
  # No decision hangs on rounding, and there are some of either kind.
  assert margin > 1e-6
  assert 3 <= sum(expected) < len(losses) / 10
  chart = isgd_jax.shewhart(
    m, k, sigma_estimator='sample_std', phase_one_size=m // 2
  )
  optimizer = isgd_jax.skip_out_of_control(
    optax.sgd(0.1), chart, max_consecutive=None
  )

  def step(state, loss):
    updates, state = optimizer.update(jnp.ones(2), state, value=loss)
    return state, updates[0] == 0

  state = optimizer.init(jnp.ones(2))
  _, skipped = jax.jit(lambda xs: jax.lax.scan(step, state, xs))(losses)
  assert np.asarray(skipped).tolist() == expected


def quadratic(params, target):
  return sum(jnp.sum(jnp.square(p - target)) for p in jax.tree.leaves(params))


def train_isgd(optimizer, targets):
  """Infos of isgd on a quadratic whose target moves, jitted."""

  @jax.jit
  def step(params, state, target):
    loss, grads = jax.value_and_grad(quadratic)(params, target)
    updates, state = optimizer.update(
      grads,
      state,
      params,
      value=loss,
      value_fn=lambda p: quadratic(p, target),
    )
    return optax.apply_updates(params, updates), state

  params = make_params()
  state = optimizer.init(params)
  rows = []
  for target in targets:
    params, state = step(params, state, target)
    rows.append((params, jax.device_get(isgd_jax.get_info(state))))
  return rows


def moving_targets(num_steps=60):
  wobble = 0.3 * jax.random.normal(jax.random.key(1), (num_steps,))
  return wobble.at[30].set(5.0).at[31].set(0.0).at[45].set(4.0)


@pytest.mark.parametrize('name', ALL_CHARTS)
def test_isgd_chases_only_where_the_loss_is_above_the_target(name):
  chart = ALL_CHARTS[name]
  rows = train_isgd(
    helpers.blind_isgd(optax.sgd(0.05), chart), moving_targets()
  )
  infos = [info for _, info in rows]
  state, num_chases = chart.init(), 0
  num_below = 0
  update = jax.jit(chart.update)
  for info in infos:
    state, reading = update(state, info.loss)
    if reading.statistic is None:
      reading = reading._replace(
        statistic=info.loss, violated_rules=jnp.int32(0)
      )
    assert_info_is_reading(info, info.loss, reading, rtol=2e-4)
    num_below += int(reading.is_below)
    assert int(info.num_well_trained) == num_below
    is_chased = info.num_chase_steps > 0 or info.is_chase_reverted
    is_due = bool(reading.is_above) and info.loss > info.mean
    assert is_chased == is_due
    if is_chased and not info.is_chase_reverted:
      assert info.final_loss < info.loss
      num_chases += 1
    elif not is_chased:
      assert info.final_loss == info.loss
  assert num_chases > 0
  assert not infos[-1].is_skipped


def test_a_chart_with_memory_flags_good_batches_that_are_not_chased():
  """The case that the target guards against does occur."""
  infos = [
    info
    for name in ('ewma', 'cusum')
    for _, info in train_isgd(
      helpers.blind_isgd(optax.sgd(0.05), ALL_CHARTS[name]), moving_targets()
    )
  ]
  lingering = [i for i in infos if i.is_undertrained and i.loss <= i.mean]
  assert lingering
  assert all(i.num_chase_steps == 0 for i in lingering)


UNREACHED = {
  'shewhart': isgd_jax.shewhart(4, 1e6),
  'mad': isgd_jax.shewhart(100, sigma_estimator='mad'),
  'ewma': isgd_jax.ewma(0.1, 30.0, reference=isgd_jax.shewhart(4)),
  'cusum': isgd_jax.cusum(0.5, 1e6, reference=isgd_jax.shewhart(4)),
  'difference': isgd_jax.difference_chart(4, 1e6),
  'rules': isgd_jax.with_run_rules(
    isgd_jax.shewhart(4, 1e6), [isgd_jax.RunRule('beyond', 20, sigmas=9.0)]
  ),
  'restart': isgd_jax.with_restart(isgd_jax.shewhart(4, 1e6), 1),
}


@pytest.mark.parametrize('name', UNREACHED)
def test_never_triggered_is_the_base_optimizer_bit_for_bit(name):
  """Op by op."""
  for base in (optax.sgd(0.05), helpers.relaxed(optax.adam(0.05))):
    optimizer = helpers.blind_isgd(base, UNREACHED[name])
    params = alone = make_params()
    state, alone_state = optimizer.init(params), base.init(params)
    for target in moving_targets()[25:33]:
      loss, grads = jax.value_and_grad(quadratic)(params, target)
      updates, state = optimizer.update(
        grads,
        state,
        params,
        value=loss,
        value_fn=lambda p, t=target: quadratic(p, t),
      )
      alone_updates, alone_state = base.update(grads, alone_state, alone)
      chex.assert_trees_all_equal(updates, alone_updates)
      chex.assert_trees_all_equal(state.base_state, alone_state)
      params = optax.apply_updates(params, updates)
      alone = optax.apply_updates(alone, alone_updates)
    assert int(isgd_jax.get_info(state).num_undertrained) == 0


def test_violated_rules_reach_the_info():
  chart = isgd_jax.with_run_rules(isgd_jax.fixed_limits(0, 1), 'nelson')
  rows = run(isgd_jax.watch(chart), [*[0.5] * 15, 4.0])
  rules = [int(isgd_jax.get_info(row[2]).violated_rules) for row in rows]
  # The 9th on one side; the 15th also within one sigma; then beyond three.
  assert rules[:8] == [0] * 8
  assert rules[8] == 0b10
  assert rules[14] == 0b1000010
  assert rules[15] == 0b11


OF_A_CHART = {
  'isgd': lambda chart: isgd_jax.isgd(optax.sgd(0.1), chart),
  'skip': lambda chart: isgd_jax.skip_out_of_control(optax.sgd(0.1), chart),
  'watch': lambda chart: isgd_jax.watch(chart),
}


@pytest.mark.parametrize('action', OF_A_CHART)
@pytest.mark.parametrize(
  'other',
  [
    isgd_jax.shewhart(7),
    isgd_jax.shewhart(2000),
    isgd_jax.shewhart(9, sigma_estimator='mad'),
    isgd_jax.ewma(reference=isgd_jax.shewhart(9)),
  ],
  ids=['a shorter window', 'a longer window', 'another sigma', 'another kind'],
)
def test_the_state_of_another_chart_is_named_before_anything_is_computed(
  action, other
):
  """As `flax.serialization.from_bytes` restores it, which checks no shapes."""
  optimizer = OF_A_CHART[action](isgd_jax.shewhart(9))
  params = jnp.ones(3)
  state = optimizer.init(params)
  restored = state._replace(chart_state=other.init())
  value_fn = lambda p: jnp.sum(jnp.square(p))
  with pytest.raises(
    ValueError, match=r"chart's state .* checkpoint of another"
  ):
    optimizer.update(params, restored, params, value=1.0, value_fn=value_fn)


@pytest.mark.parametrize('action', OF_A_CHART)
@pytest.mark.parametrize('is_jitted', [False, True])
def test_a_chart_of_ones_own_may_answer_in_python_numbers(action, is_jitted):
  chart = isgd_jax.ControlChart(
    init=lambda: jnp.zeros(()),
    update=lambda state, loss: (
      state,
      isgd_jax.ChartReading(1.0, 0.5, -1.0, 2.0, True, False),
    ),
  )
  optimizer = OF_A_CHART[action](chart)
  params = jnp.ones(3)
  value_fn = lambda p: jnp.sum(jnp.square(p))
  step = lambda state: optimizer.update(
    2 * params, state, params, value=3.0, value_fn=value_fn
  )
  state = optimizer.init(params)
  for _ in range(3):
    _, new_state = (jax.jit(step) if is_jitted else step)(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    state = new_state
  assert int(isgd_jax.get_info(state).num_undertrained) == 3
