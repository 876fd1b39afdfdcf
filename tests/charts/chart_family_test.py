"""Every chart against an oracle in pure Python, and through JAX's machinery."""

import math

import chex
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isgd_jax
from isgd_jax import RunRule
from tests.charts import chart_oracle

pytestmark = [pytest.mark.cheap_compile, pytest.mark.newest_version]

NUM_LOSSES = 40

# Widths that no ratio of grid values meets exactly.
K, L, KAPPA, H, CLIP = 2.0371, 1.5137, 0.4713, 2.2913, 6.1357
RULES = (
  RunRule('beyond', 1, 1, 2.5171),
  RunRule('beyond', 2, 3, 1.5173),
  RunRule('beyond', 3, sigmas=0.0),
  RunRule('trend', 3),
  RunRule('alternating', 4),
  RunRule('within', 3, sigmas=0.9171),
  RunRule('outside', 3, sigmas=0.6173),
)


def both_shewhart(estimator, flagged, phase=None, size=5):
  ours = isgd_jax.shewhart(
    size,
    K,
    sigma_estimator=estimator,
    flagged_losses=flagged,
    phase_one_size=phase,
  )
  theirs = lambda: chart_oracle.Shewhart(
    size, K, estimator, flagged, size if phase is None else phase
  )
  return ours, theirs


def both_fixed():
  return (
    isgd_jax.fixed_limits(1.25, 0.75, K),
    lambda: chart_oracle.Fixed(1.25, 0.75, K),
  )


def both_exponential(decay, flagged, phase, epsilon=0.0):
  return (
    isgd_jax.exponential_chart(
      decay, K, flagged_losses=flagged, phase_one_size=phase, epsilon=epsilon
    ),
    lambda: chart_oracle.Exponential(decay, K, flagged, phase, epsilon),
  )


def both_ewma(smoothing, reference):
  ours, theirs = reference
  return (
    isgd_jax.ewma(smoothing, L, reference=ours, clip=CLIP),
    lambda: chart_oracle.Ewma(smoothing, L, theirs(), CLIP),
  )


def both_cusum(is_reset, reference):
  ours, theirs = reference
  return (
    isgd_jax.cusum(
      KAPPA, H, reference=ours, clip=CLIP, reset_when_flagged=is_reset
    ),
    lambda: chart_oracle.Cusum(KAPPA, H, theirs(), CLIP, is_reset),
  )


def both_difference(cycle, smoothing, estimator, flagged, window=None):
  return (
    isgd_jax.difference_chart(
      cycle,
      K,
      smoothing=smoothing,
      window_size=window,
      sigma_estimator=estimator,
      flagged_losses=flagged,
    ),
    lambda: chart_oracle.Difference(
      cycle,
      smoothing,
      chart_oracle.Shewhart(
        window or max(2, cycle), K, estimator, flagged, window or max(2, cycle)
      ),
    ),
  )


def both_rules(reference, rules=RULES):
  ours, theirs = reference
  return (
    isgd_jax.with_run_rules(ours, rules),
    lambda: chart_oracle.Rules(theirs(), rules),
  )


def both_restart(chart, after):
  ours, theirs = chart
  return (
    isgd_jax.with_restart(ours, after),
    lambda: chart_oracle.Restart(theirs(), after),
  )


ESTIMATORS = ('std', 'sample_std', 'moving_range', 'mad')
FLAGGED = ('keep', 'winsorize', 'leave_out')
PAIRS = {
  f'{estimator}-{flagged}': both_shewhart(
    estimator, flagged, (None, 2, 3)[(i + j) % 3]
  )
  for i, estimator in enumerate(ESTIMATORS)
  for j, flagged in enumerate(FLAGGED)
}
PAIRS |= {
  'exponential-keep': both_exponential(0.9, 'keep', 5),
  'exponential-winsorize': both_exponential(0.8, 'winsorize', 3, 0.0625),
  'exponential-reciprocal': both_exponential(0.9, 'reciprocal', 6),
  'exponential-leave_out': both_exponential(0.7, 'leave_out', 2),
  'restart-exponential': both_restart(both_exponential(0.9, 'leave_out', 4), 3),
  'ewma-fixed': both_ewma(0.2, both_fixed()),
  'ewma-std': both_ewma(0.3, both_shewhart('std', 'keep')),
  'ewma-mad': both_ewma(1.0, both_shewhart('mad', 'leave_out', 3)),
  'ewma-restart': both_ewma(
    0.3, both_restart(both_shewhart('std', 'leave_out', 3), 2)
  ),
  'cusum-fixed': both_cusum(False, both_fixed()),
  'cusum-std': both_cusum(False, both_shewhart('sample_std', 'leave_out')),
  'cusum-reset': both_cusum(True, both_shewhart('moving_range', 'winsorize')),
  'difference-1': both_difference(1, 0.5, 'std', 'keep'),
  'difference-3': both_difference(3, 0.25, 'std', 'leave_out', 5),
  'difference-4': both_difference(4, 1.0, 'mad', 'winsorize'),
  'rules-fixed': both_rules(both_fixed()),
  'rules-std': both_rules(both_shewhart('std', 'leave_out', 3)),
  'rules-difference': both_rules(both_difference(2, 0.5, 'std', 'keep', 4)),
  'restart-std': both_restart(both_shewhart('std', 'leave_out', 3), 2),
  'restart-mad': both_restart(both_shewhart('mad', 'leave_out', 3), 1),
  'restart-range': both_restart(
    both_shewhart('moving_range', 'winsorize', 3), 2
  ),
  'restart-ewma': both_restart(
    both_ewma(0.4, both_shewhart('std', 'leave_out', 3)), 3
  ),
  'restart-cusum': both_restart(
    both_cusum(False, both_shewhart('std', 'leave_out', 3)), 3
  ),
  'restart-rules': both_restart(
    both_rules(both_shewhart('std', 'leave_out', 3)), 3
  ),
  'restart-difference': both_restart(
    both_difference(3, 0.5, 'std', 'keep', 4), 2
  ),
}
CHARTS = {name: ours for name, (ours, _) in PAIRS.items()}
# One of each kind, for what costs more.
KINDS = {
  name: CHARTS[name]
  for name in (
    *('std-keep', 'sample_std-winsorize', 'moving_range-leave_out'),
    *('mad-leave_out', 'ewma-std', 'cusum-reset', 'difference-3'),
    *('rules-std', 'restart-ewma', 'restart-mad', 'exponential-reciprocal'),
  )
}
KINDS['fixed'] = both_fixed()[0]

SCANS = {
  name: jax.jit(lambda xs, c=chart: jax.lax.scan(c.update, c.init(), xs))
  for name, chart in (CHARTS | KINDS).items()
}

# On a grid of 1/64: differences are ordinary numbers or zero.
usual = st.integers(-64_000, 64_000).map(lambda i: i / 64)
few = st.sampled_from([0.0, 1.0, 1.0, 1.25, 1.5, 2.0, -1.0])
awkward = st.sampled_from([math.nan, math.inf, -math.inf, 2.0**40, -(2.0**40)])
series = st.one_of(
  st.lists(few, min_size=1, max_size=NUM_LOSSES),
  st.lists(few | usual, min_size=1, max_size=NUM_LOSSES),
  st.lists(few | awkward, min_size=1, max_size=NUM_LOSSES),
  st.lists(usual | awkward, min_size=12, max_size=NUM_LOSSES),
  # A constant, then a level shift or two.
  st.builds(
    lambda a, b, c, n, m: [a] * n + [b] * m + [c] * (NUM_LOSSES - n - m),
    *(usual, usual, few),
    *(st.integers(0, 20), st.integers(0, 20)),
  ),
  # Noise that shifts by many sigmas.
  st.builds(
    lambda seed, n, shift: (
      np.round(64 * np.random.default_rng(seed).normal(size=NUM_LOSSES)) / 64
      + shift * (np.arange(NUM_LOSSES) >= n)
    ).tolist(),
    *(st.integers(0, 99), st.integers(8, 30), st.integers(-99, 99)),
  ),
)


def padded(losses, dtype=np.float64):
  """NaN changes nothing before it: it pads all lists to one shape."""
  return np.array(losses + [math.nan] * (NUM_LOSSES - len(losses)), dtype)


@pytest.mark.parametrize('name', PAIRS)
@hypothesis.settings(max_examples=30)
@hypothesis.given(losses=series)
def test_readings_are_those_of_the_oracle(name, losses):
  """In float64, up to the first decision that rounding might turn."""
  with jax.enable_x64(True):
    _, readings = SCANS[name](jnp.asarray(padded(losses)))
  readings = jax.tree.map(np.asarray, readings)
  oracle = PAIRS[name][1]()
  clear = chart_oracle.Clear()
  for t, loss in enumerate(losses):
    expected = oracle.update(loss, clear)
    if not clear.is_clear:
      return
    for field in ('mean', 'sigma', 'lower_limit', 'upper_limit', 'statistic'):
      got, want = getattr(readings, field)[t], getattr(expected, field)
      np.testing.assert_allclose(
        *(got, want),
        rtol=1e-9,
        atol=1e-11 * clear.scale,
        err_msg=f'{field} at {t}',
      )
    for field in ('is_above', 'is_below', 'violated_rules'):
      got, want = getattr(readings, field)[t], getattr(expected, field)
      assert got == want, (field, t, got, want)


@pytest.mark.parametrize('name', PAIRS)
def test_the_oracle_is_asked_about_flags(name):
  """The comparison above reaches flags, and decides them clearly."""
  rng = np.random.default_rng(5)
  flags = 0
  for _ in range(10):
    losses = 1.25 + 0.75 * rng.normal(size=NUM_LOSSES)
    losses[25:] += rng.choice([-3.0, 4.0])
    oracle, clear = PAIRS[name][1](), chart_oracle.Clear()
    readings = [oracle.update(loss, clear) for loss in losses.tolist()]
    assert clear.is_clear
    flags += sum(r.is_above or r.is_below for r in readings)
  assert flags >= 5


@pytest.mark.parametrize(
  'name', [name for name in KINDS if 'difference' not in name]
)
@hypothesis.settings(max_examples=15)
@hypothesis.given(losses=series, data=st.data())
def test_non_finite_losses_leave_no_trace(name, losses, data):
  """State and later readings are bit for bit those without them."""
  losses = [x for x in losses if math.isfinite(x)][:30]
  mixed = [(x, True) for x in losses]
  for _ in range(data.draw(st.integers(1, 6))):
    bad = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    mixed.insert(data.draw(st.integers(0, len(mixed))), (bad, False))
  state, expected = SCANS[name](padded(losses, np.float32))
  mixed_state, readings = SCANS[name](padded([x for x, _ in mixed], np.float32))
  kept = np.flatnonzero([is_kept for _, is_kept in mixed])
  chex.assert_trees_all_equal(
    jax.tree.map(lambda x: np.asarray(x)[kept], readings),
    jax.tree.map(lambda x: np.asarray(x)[: len(losses)], expected),
  )
  chex.assert_trees_all_equal(mixed_state, state)
  bad = np.setdiff1d(np.arange(len(mixed)), kept)
  for field in ('is_above', 'is_below', 'violated_rules'):
    assert not np.asarray(getattr(readings, field))[bad].any()


def test_a_non_finite_loss_advances_a_difference_chart_and_nothing_else():
  chart = CHARTS['difference-3']
  losses = noise(0, 20)
  state, _ = SCANS['difference-3'](losses)
  for bad in (math.nan, math.inf, -math.inf):
    after, reading = chart.update(state, bad)
    assert int(state.num_seen) == 3
    assert int(after.position) == (int(state.position) + 1) % 3
    assert not (reading.is_above | reading.is_below)
    assert after.baseline == state.baselines[after.position]
    moved = {'position': state.position, 'baseline': state.baseline}
    chex.assert_trees_all_equal(after._replace(**moved), state)


def noise(seed, num_losses, *shape):
  key = jax.random.key(seed)
  return 1.25 + 0.75 * jax.random.normal(key, (*shape, num_losses))


@pytest.mark.parametrize('name', KINDS)
def test_op_by_op_jit_scan_and_vmap_agree(name):
  chart = KINDS[name]
  losses = noise(1, 24, 3).at[:, 15:].add(4.0).at[1, 7].set(math.nan)
  scanned = [jax.device_get(SCANS[name](row)) for row in losses]
  mapped = jax.device_get(jax.vmap(SCANS[name])(losses))
  update = jax.jit(chart.update)
  state, jit_state = chart.init(), chart.init()
  readings, jit_readings = [], []
  for loss in losses[1]:
    state, reading = chart.update(state, loss)
    jit_state, jit_reading = update(jit_state, loss)
    readings.append(jax.device_get(reading))
    jit_readings.append(jax.device_get(jit_reading))
  stack = lambda trees: jax.tree.map(lambda *xs: np.stack(xs), *trees)
  close = dict(rtol=2e-5, atol=2e-5)
  chex.assert_trees_all_close(mapped, stack(scanned), **close)
  chex.assert_trees_all_close((state, stack(readings)), scanned[1], **close)
  chex.assert_trees_all_close(
    (jit_state, stack(jit_readings)), scanned[1], **close
  )
  assert scanned[0][1].is_above.any()


def assert_same_kind(tree, other):
  chex.assert_trees_all_equal_shapes_and_dtypes(tree, other)
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  leaves = jax.tree.leaves((tree, other))
  assert not any(leaf.weak_type for leaf in leaves)


@pytest.mark.parametrize('is_x64', [False, True])
@pytest.mark.parametrize('name', KINDS)
def test_structure_and_dtypes_are_for_life(name, is_x64):
  """For losses of any real dtype, and Python's numbers."""
  with jax.enable_x64(is_x64):
    chart = KINDS[name]
    state = chart.init()
    dtype = jnp.dtype('float64' if is_x64 else 'float32')
    losses = [
      jnp.asarray(2, kind)
      for kind in ('bfloat16', 'float16', 'float32', 'int32', 'int8')
    ]
    losses += [2.0, 3, np.float64(2.5), np.float16(2.5), np.int64(1)]
    for loss in losses:
      new_state, reading = jax.eval_shape(chart.update, state, loss)
      assert_same_kind(new_state, jax.eval_shape(lambda state: state, state))
      floats = (reading.mean, reading.sigma, reading.statistic)
      floats += (reading.lower_limit, reading.upper_limit)
      assert {x.dtype for x in floats} == {dtype}
      assert {x.shape for x in jax.tree.leaves(reading)} == {()}
      assert reading.is_above.dtype == reading.is_below.dtype == bool
      assert reading.violated_rules.dtype == jnp.int32
    for loss in (losses[0], losses[5]):
      new_state, _ = chart.update(state, loss)
      assert_same_kind(new_state, state)
    if chart.restart is not None:
      assert_same_kind(chart.restart(state, jnp.bool(True)), state)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('name', KINDS)
def test_narrow_losses_are_judged_at_their_value(name, dtype):
  losses = noise(2, NUM_LOSSES).at[30:].add(3.0).astype(dtype)
  narrow = SCANS[name](losses)
  wide = SCANS[name](losses.astype(jnp.float32))
  chex.assert_trees_all_close(narrow, wide, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('name', KINDS)
def test_a_checkpoint_continues_identically(name):
  chart = KINDS[name]
  losses = noise(3, NUM_LOSSES).at[28:].add(5.0)
  resume = jax.jit(lambda state, xs: jax.lax.scan(chart.update, state, xs))
  for at in (1, 9, 30):
    state, _ = resume(chart.init(), losses[:at])
    kept = [np.array(leaf) for leaf in jax.tree.leaves(state)]
    structure = jax.tree.structure(jax.eval_shape(chart.init))
    restored = jax.tree.map(jnp.asarray, jax.tree.unflatten(structure, kept))
    chex.assert_trees_all_equal(
      resume(restored, losses[at:]), resume(state, losses[at:])
    )


HUGE = float(np.finfo(np.float32).max)
DEBUGGED = {
  'constant': [2.0] * 12 + [3.0, 2.0],
  'infinite': [1.0, 2.0, math.inf, 1.5, -math.inf, 1.0, 2.0, 1.0, math.inf, 90],
  'huge': [1.0, 2.0, 1e30, 1.5, -1e30, 1.0, 2.0, 1.0, 3e38, 90, 1.0, 2.0],
  'largest': [HUGE, -HUGE, HUGE, HUGE, 0.0, HUGE, -HUGE, -HUGE, HUGE, 1.0],
}


@pytest.mark.parametrize('series_name', DEBUGGED)
@pytest.mark.parametrize('name', KINDS)
def test_no_nan_is_made_where_the_user_looks_for_nans(name, series_name):
  chart = KINDS[name]
  with jax.debug_nans(True):
    state = chart.init()
    for loss in DEBUGGED[series_name]:
      state, reading = chart.update(state, np.float32(loss))
      if chart.restart is not None:
        state = chart.restart(state, jnp.bool(False))
  assert not any(np.isnan(x).any() for x in jax.tree.leaves((state, reading)))


@pytest.mark.parametrize('name', [n for n in KINDS if n != 'difference-3'])
def test_huge_losses_are_forgotten_with_the_window(name):
  """After the largest float32s have left, readings are as if none had been."""
  losses = noise(4, NUM_LOSSES).at[jnp.array([6, 8])].set(HUGE)
  _, readings = SCANS[name](losses.at[7].set(-HUGE))
  _, expected = SCANS[name](losses.at[jnp.array([6, 7, 8])].set(1.0))
  assert not any(np.isnan(x).any() for x in jax.tree.leaves(readings))
  if name.startswith('std'):
    np.testing.assert_allclose(
      readings.sigma[-6:], expected.sigma[-6:], rtol=1e-5
    )


def test_a_spike_beyond_all_squares_does_not_blind_the_chart():
  """Limits stay finite after it, and a larger one is still found."""
  losses = noise(4, 20).at[8].set(1e25).at[10].set(1e30)
  for estimator in ('std', 'sample_std', 'moving_range'):
    chart = isgd_jax.shewhart(6, sigma_estimator=estimator)
    _, readings = jax.lax.scan(chart.update, chart.init(), losses)
    assert np.isfinite(np.asarray(readings.upper_limit)[6:]).all()
    assert readings.is_above[8]
    assert readings.is_above[10]


def test_after_a_restart_a_long_window_holds_only_what_came_after():
  """Also the blocks of the window that are not filled again yet."""
  for estimator in ESTIMATORS:
    chart = isgd_jax.shewhart(
      1_000, sigma_estimator=estimator, phase_one_size=40
    )
    run = jax.jit(lambda s, xs, c=chart: jax.lax.scan(c.update, s, xs))
    state, _ = run(chart.init(), 1e3 * noise(5, 1_500))
    state = chart.restart(state, jnp.bool(True))
    _, readings = run(state, noise(6, 300))
    _, expected = run(chart.init(), noise(6, 300))
    chex.assert_trees_all_close(readings, expected, rtol=1e-5)


RESTARTABLE = {
  'std': isgd_jax.shewhart(10, flagged_losses='leave_out'),
  'winsorized': isgd_jax.shewhart(10, flagged_losses='winsorize'),
  'range': isgd_jax.shewhart(
    10, sigma_estimator='moving_range', flagged_losses='leave_out'
  ),
  'mad': isgd_jax.shewhart(10, sigma_estimator='mad', phase_one_size=8),
  'ewma': isgd_jax.ewma(
    reference=isgd_jax.shewhart(10, flagged_losses='leave_out')
  ),
  'cusum': isgd_jax.cusum(
    reference=isgd_jax.shewhart(10, flagged_losses='leave_out')
  ),
  'rules': isgd_jax.with_run_rules(
    isgd_jax.shewhart(10, flagged_losses='leave_out')
  ),
  'difference': isgd_jax.difference_chart(5, flagged_losses='leave_out'),
}
PHASE_ONE = {'mad': 8, 'difference': 10}


def shifting_losses():
  """Three levels, 60 losses each, on a grid of noise without extremes."""
  cycle = jnp.array([0.0, 1.0, -1.0, 0.5, -0.5, 1.0, -0.5, 0.0, -1.0, 0.5])
  levels = jnp.repeat(jnp.array([0.0, 1e4, -5e4]), 60)
  return levels + jnp.tile(cycle, 18)


@pytest.mark.parametrize('after', [1, 2, 4])
@pytest.mark.parametrize('name', RESTARTABLE)
def test_a_permanent_shift_is_flagged_so_often_and_then_accepted(name, after):
  """m flags, Phase I, and then quiet; up and then down."""
  chart = isgd_jax.with_restart(RESTARTABLE[name], after)
  _, readings = jax.jit(
    lambda xs: jax.lax.scan(chart.update, chart.init(), xs)
  )(shifting_losses())
  above = np.flatnonzero(readings.is_above).tolist()
  below = np.flatnonzero(readings.is_below).tolist()
  assert above == list(range(60, 60 + after))
  assert below == list(range(120, 120 + after))
  in_phase_one = np.flatnonzero(np.isinf(readings.upper_limit)).tolist()
  length = PHASE_ONE.get(name, 10)
  starts = (0, 60 + after, 120 + after)
  assert in_phase_one == [s + i for s in starts for i in range(length)]


@pytest.mark.parametrize('name', RESTARTABLE)
def test_flags_apart_from_one_another_do_not_restart(name):
  """Non-finite losses between them do not make the row, nor break it."""
  chart = isgd_jax.with_restart(RESTARTABLE[name], 2)
  run = jax.jit(lambda xs: jax.lax.scan(chart.update, chart.init(), xs))
  losses = shifting_losses()[:60].at[30].set(1e4)
  apart = losses.at[41].set(1e4) if name != 'difference' else losses
  _, readings = run(apart)
  if name in ('std', 'range', 'mad', 'winsorized'):
    phase = PHASE_ONE.get(name, 10)
    assert np.isfinite(np.asarray(readings.upper_limit)[phase:]).all()
    split = losses.at[31].set(math.nan).at[32].set(1e4)
    _, readings = run(split)
    assert np.isinf(readings.upper_limit[33])
  assert readings.is_above[30]


def test_a_custom_chart_without_restart_gets_its_initial_state():
  def update(state, loss):
    limit = jnp.where(state < 3, jnp.inf, 1.0)
    reading = isgd_jax.ChartReading(
      *(jnp.zeros(()), jnp.ones(()), -limit, limit),
      *(loss > limit, loss < -limit),
    )
    return state + 1, reading

  custom = isgd_jax.ControlChart(lambda: jnp.zeros((), jnp.int32), update)
  chart = isgd_jax.with_restart(custom, 2)
  assert chart.kind == 'custom'
  _, readings = jax.lax.scan(chart.update, chart.init(), jnp.full(12, 5.0))
  assert np.flatnonzero(readings.is_above).tolist() == [3, 4, 8, 9]


def cycles(num_cycles, seed=7):
  """Losses of four batches, of which the third is much harder, [cycle, 4]."""
  levels = jnp.array([1.0, 1.2, 9.0, 1.1])
  noise = 0.02 * jax.random.normal(jax.random.key(seed), (num_cycles, 4))
  return levels + noise


def test_a_batch_that_is_merely_harder_is_flagged_by_shewhart_alone():
  losses = cycles(40).reshape(-1)
  chart = isgd_jax.difference_chart(4, 6.0, window_size=12)
  _, readings = jax.lax.scan(chart.update, chart.init(), losses)
  assert not readings.is_above.any()
  plain = isgd_jax.shewhart(
    12, 6.0, sigma_estimator='mad', flagged_losses='leave_out'
  )
  _, readings = jax.lax.scan(plain.update, plain.init(), losses)
  flagged = np.flatnonzero(readings.is_above)
  assert flagged.tolist() == list(range(14, 160, 4))


@pytest.mark.parametrize('flagged', FLAGGED)
def test_a_batch_that_falls_behind_while_the_others_go_on_is_flagged(flagged):
  """Losses all fall by the cycle; one batch stops falling."""
  falling = cycles(40) * 0.9 ** jnp.arange(40.0)[:, None]
  stuck = falling.at[25, 1].set(falling[10, 1])
  chart = isgd_jax.difference_chart(
    4, 4.0, window_size=12, flagged_losses=flagged
  )
  run = jax.jit(lambda xs: jax.lax.scan(chart.update, chart.init(), xs))
  _, readings = run(stuck.reshape(-1))
  _, without = run(falling.reshape(-1))
  assert readings.is_above[25 * 4 + 1]
  assert not without.is_above[25 * 4 + 1]


def test_a_difference_chart_reads_in_terms_of_the_loss():
  """Centre and limits are those of its baseline plus those of differences."""
  chart = isgd_jax.difference_chart(2, smoothing=1.0, window_size=2)
  losses = [1.0, 50.0, 3.0, 51.0, 4.0]
  _, readings = jax.lax.scan(chart.update, chart.init(), jnp.array(losses))
  # Differences 2 and 1: mean 1.5, sigma 0.5; the baseline is 3.
  got = [float(x[-1]) for x in readings[:4]]
  # Sums of squares are kept as their roots, which round.
  np.testing.assert_allclose(got, [4.5, 0.5, 3.0, 6.0], rtol=2e-7)
  assert float(readings.statistic[-1]) == 4.0


CHART = isgd_jax.shewhart(5)
EWMA = isgd_jax.ewma(reference=CHART)
CUSUM = isgd_jax.cusum(reference=CHART)
RULED = isgd_jax.with_run_rules(CHART)
CUSTOM = isgd_jax.ControlChart(CHART.init, CHART.update)
NOT_NUMBERS = (math.nan, math.inf, '1', None, [1.0], True, 1j)
REFUSED = [
  *(
    (lambda v=v: isgd_jax.shewhart(5, v), 'sigma_multiplier', v)
    for v in (0, -1.0, *NOT_NUMBERS)
  ),
  *(
    (lambda v=v: isgd_jax.shewhart(5, phase_one_size=v), 'phase_one_size', v)
    for v in (1, 0, 6, 2.5, '3', True)
  ),
  *(
    (lambda v=v: isgd_jax.shewhart(5, sigma_estimator=v), 'sigma_estimator', v)
    for v in ('median', '', None, 3, ['std'])
  ),
  *(
    (lambda v=v: isgd_jax.shewhart(5, flagged_losses=v), 'flagged_losses', v)
    for v in ('drop', None, True, {'keep': 1})
  ),
  *(
    (lambda v=v: isgd_jax.fixed_limits(v, 1.0), 'mean', v) for v in NOT_NUMBERS
  ),
  *(
    (lambda v=v: isgd_jax.fixed_limits(0.0, v), 'sigma', v)
    for v in (0, -1.0, *NOT_NUMBERS)
  ),
  *(
    (lambda v=v: isgd_jax.fixed_limits(0, 1, v), 'sigma_multiplier', v)
    for v in (0, -1.0, *NOT_NUMBERS)
  ),
  *(
    (lambda v=v: isgd_jax.ewma(v, reference=CHART), 'smoothing', v)
    for v in (0, -0.1, 1.1, *NOT_NUMBERS)
  ),
  *(
    (lambda v=v: isgd_jax.ewma(0.1, v, reference=CHART), 'limit_width', v)
    for v in (0, -1.0, *NOT_NUMBERS)
  ),
  *(
    (lambda v=v: isgd_jax.ewma(reference=CHART, clip=v), 'clip', v)
    for v in (0, -1.0, *NOT_NUMBERS)
  ),
  *(
    (lambda v=v: isgd_jax.cusum(v, reference=CHART), 'allowance', v)
    for v in (-0.1, *NOT_NUMBERS)
  ),
  *(
    (lambda v=v: isgd_jax.cusum(0, v, reference=CHART), 'decision_interval', v)
    for v in (0, -1.0, *NOT_NUMBERS)
  ),
  *(
    (lambda v=v: isgd_jax.cusum(reference=CHART, clip=v), 'clip', v)
    for v in (0, -1.0, *NOT_NUMBERS)
  ),
  *(
    (
      lambda v=v: isgd_jax.cusum(reference=CHART, reset_when_flagged=v),
      'reset_when_flagged',
      v,
    )
    for v in (None, 1, 'yes')
  ),
  *(
    (lambda v=v: isgd_jax.difference_chart(v), 'cycle_length', v)
    for v in (0, -1, 2.0, None, True)
  ),
  *(
    (lambda v=v: isgd_jax.difference_chart(4, smoothing=v), 'smoothing', v)
    for v in (0, 1.5, *NOT_NUMBERS)
  ),
  *(
    (lambda v=v: isgd_jax.difference_chart(4, window_size=v), 'window_size', v)
    for v in (0, 1, 2.5)
  ),
  *(
    (lambda v=v: isgd_jax.difference_chart(4, v), 'sigma_multiplier', v)
    for v in (0, *NOT_NUMBERS)
  ),
  *(
    (lambda v=v: isgd_jax.with_restart(CHART, v), 'restart_after', v)
    for v in (0, -1, 1.5, None, True)
  ),
  *(
    (lambda v=v: isgd_jax.with_run_rules(CHART, v), 'rules', v)
    for v in ('nelsen', None, 3)
  ),
  (lambda: isgd_jax.with_run_rules(CHART, []), 'rules must be 1 to 31', 0),
  (lambda: isgd_jax.with_run_rules(CHART, RULES * 5), 'rules must be', 35),
  (lambda: isgd_jax.with_run_rules(CHART, ['trend']), 'rules must be', 'trend'),
  *(
    (
      lambda v=v, kw=kw: isgd_jax.with_run_rules(CHART, [RunRule(**kw)]),
      name,
      v,
    )
    for name, v, kw in (
      ('kind', 'up', dict(kind='up', count=2)),
      ('count', 0, dict(kind='beyond', count=0)),
      ('count', 2.5, dict(kind='within', count=2.5)),
      ('count', 1, dict(kind='trend', count=1)),
      ('count', 2, dict(kind='alternating', count=2)),
      ('window', 2, dict(kind='beyond', count=3, window=2)),
      ('window', -1, dict(kind='beyond', count=3, window=-1)),
      ('window', 4.5, dict(kind='beyond', count=3, window=4.5)),
      ('window', 5, dict(kind='trend', count=3, window=5)),
      ('sigmas', -1.0, dict(kind='beyond', count=3, sigmas=-1.0)),
      ('sigmas', math.nan, dict(kind='beyond', count=3, sigmas=math.nan)),
    )
  ),
]


@pytest.mark.parametrize(('make', 'name', 'value'), REFUSED)
def test_an_argument_out_of_range_is_named_with_its_value(make, name, value):
  with pytest.raises(ValueError, match=name) as error:
    make()
  assert repr(value) in str(error.value)


@pytest.mark.parametrize(
  ('chart', 'kind'),
  [
    *((EWMA, 'ewma'), (CUSUM, 'cusum'), (RULED, 'run_rules')),
    *((CUSTOM, 'custom'), (isgd_jax.with_restart(EWMA, 3), 'ewma')),
    ('shewhart', 'str'),
  ],
)
def test_run_rules_and_references_want_a_shewhart_chart(chart, kind):
  """Refused with the reason and the remedy."""
  with pytest.raises(ValueError, match=kind) as error:
    isgd_jax.with_run_rules(chart)
  for part in ('independent points', 'shewhart(...)'):
    assert part in str(error.value)
  for build in (isgd_jax.ewma, isgd_jax.cusum):
    with pytest.raises(ValueError, match=kind) as error:
      build(reference=chart)
    for part in (build.__name__, 'single losses', 'fixed_limits(...)'):
      assert part in str(error.value)


def test_charts_that_keep_a_shewhart_charts_kind_take_run_rules():
  for chart in (
    isgd_jax.with_restart(CHART, 3),
    isgd_jax.difference_chart(4),
    isgd_jax.fixed_limits(0, 1),
  ):
    assert isgd_jax.with_run_rules(chart).kind == 'run_rules'


def test_limits_that_no_clipped_loss_reaches_are_refused_with_the_remedy():
  with pytest.raises(ValueError, match=r'limit_width=9\.0 .*clip above 9'):
    isgd_jax.ewma(1.0, 9.0, reference=CHART)
  with pytest.raises(ValueError, match=r'limit_width=3\.0 .*clip above 3'):
    isgd_jax.ewma(1.0, 3.0, reference=CHART, clip=3.0)
  isgd_jax.ewma(1.0, 9.0, reference=CHART, clip=9.1)
  with pytest.raises(ValueError, match=r'allowance=8\.0 .*clip above 8'):
    isgd_jax.cusum(8.0, reference=CHART)
  isgd_jax.cusum(8.0, reference=CHART, clip=8.1)


@pytest.mark.parametrize('clip', [3.2, 8.0])
def test_the_ewma_limit_is_reached_just_where_it_is_allowed(clip):
  """With the largest losses, for ever: the refusal above is not too strict."""
  width = 0.99 * clip * math.sqrt((2 - 0.3) / 0.3)
  known = isgd_jax.fixed_limits(0, 1)
  chart = isgd_jax.ewma(0.3, width, reference=known, clip=clip)
  _, readings = jax.lax.scan(chart.update, chart.init(), jnp.full(99, 1e3))
  assert readings.is_above[-1]
  with pytest.raises(ValueError, match='limit_width'):
    isgd_jax.ewma(0.3, width / 0.98, reference=known, clip=clip)


def test_numbers_of_charts_may_be_traced():
  """As under optax.inject_hyperparams; with the result of plain ones."""

  def run(smoothing, width, allowance, interval, clip, multiplier):
    reference = isgd_jax.shewhart(5, multiplier)
    charts = (
      isgd_jax.ewma(smoothing, width, reference=reference, clip=clip),
      isgd_jax.cusum(allowance, interval, reference=reference, clip=clip),
      isgd_jax.difference_chart(3, multiplier, smoothing=smoothing),
      isgd_jax.fixed_limits(allowance, interval, multiplier),
    )
    losses = noise(8, 30).at[20:].add(2.0)
    return [jax.lax.scan(c.update, c.init(), losses) for c in charts]

  numbers = (0.3, 2.0, 0.5, 4.0, 8.0, 2.5)
  chex.assert_trees_all_close(
    jax.jit(run)(*map(jnp.float32, numbers)), run(*numbers), rtol=1e-5
  )
