"""What charts once got wrong: shifts, scales, narrow dtypes, readings."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isgd_jax
from isgd_jax._charts import chart as chart_lib

ESTIMATORS = ('std', 'sample_std', 'moving_range', 'mad')


def scan(chart, losses, dtype=jnp.float32):
  run = jax.jit(lambda xs: jax.lax.scan(chart.update, chart.init(), xs)[1])
  return jax.device_get(run(jnp.asarray(losses, dtype)))


def noise(num_losses, seed=0):
  return np.random.default_rng(seed).normal(size=num_losses)


def flags_after_a_shift(chart, window_size, num_after=4_000):
  """Most flags over shifts of 2 to 20 sigmas, on either side, for good."""
  shifts = np.array([s for x in (2, 3, 5, 10, 20) for s in (x, -x)])
  losses = np.tile(noise(2 * window_size + num_after), (len(shifts), 1))
  losses[:, 2 * window_size :] += shifts[:, None]
  run = lambda xs: jax.lax.scan(chart.update, chart.init(), xs)[1]
  readings = jax.jit(jax.vmap(run))(jnp.asarray(losses, jnp.float32))
  is_out = np.asarray(readings.is_above | readings.is_below)
  return dict(
    zip(shifts.tolist(), is_out[:, 2 * window_size :].sum(1), strict=True)
  )


# Most flags after a permanent shift of up to 20 sigmas, in windows.
LARGEST_ROWS = {
  **{(estimator, 'keep'): 0.3 for estimator in ('std', 'sample_std')},
  **{(estimator, 'winsorize'): 0.6 for estimator in ('std', 'sample_std')},
  ('mad', 'keep'): 0.7,
  ('mad', 'winsorize'): 0.9,
  ('moving_range', 'keep'): 1.0,
  ('moving_range', 'winsorize'): 3.0,
}


@pytest.mark.parametrize(('estimator', 'flagged'), LARGEST_ROWS)
def test_flags_after_a_permanent_shift_are_bounded_in_windows(
  estimator, flagged
):
  """As docs/charts.md has them, for shifts of 2 to 20 sigmas on either side."""
  chart = isgd_jax.shewhart(
    100, sigma_estimator=estimator, flagged_losses=flagged
  )
  flags = flags_after_a_shift(chart, 100)
  assert max(flags.values()) <= 100 * LARGEST_ROWS[estimator, flagged]


@pytest.mark.parametrize('estimator', ESTIMATORS)
def test_a_permanent_shift_that_is_left_out_ends_with_a_restart(estimator):
  """Left-out losses never change the limits: a restart has to."""
  chart = isgd_jax.shewhart(
    100, sigma_estimator=estimator, flagged_losses='leave_out'
  )
  flags = flags_after_a_shift(isgd_jax.with_restart(chart, 5), 100)
  # Shifts that leave some losses within the limits break rows.
  assert max(flags.values()) <= 250 + 40


@pytest.mark.parametrize('estimator', ESTIMATORS)
@pytest.mark.parametrize('multiplier', [0.5, 1.0, 1.5])
def test_narrow_limits_do_not_close_in_on_winsorized_losses(
  estimator, multiplier
):
  """Clipped to less than their spread, losses would have ever less of it."""
  chart = isgd_jax.shewhart(
    100, multiplier, sigma_estimator=estimator, flagged_losses='winsorize'
  )
  readings = scan(chart, noise(5_000))
  assert 0.75 < readings.sigma[-1_000:].mean() < 1.2


def test_a_lone_spike_hardly_widens_a_winsorized_moving_range():
  """Its two ranges enter as what two losses within the limits can have."""
  chart = isgd_jax.shewhart(
    100, sigma_estimator='moving_range', flagged_losses='winsorize'
  )
  losses = noise(300)
  losses[200] = 1e6
  readings = scan(chart, losses)
  assert readings.is_above[200]
  assert readings.sigma[202] < 1.2 * readings.sigma[200]


@pytest.mark.parametrize(
  ('estimator', 'size'),
  [('std', 50), ('std', 1_000), ('std', 20_000), ('moving_range', 50)],
)
def test_charts_do_not_depend_on_the_unit_of_the_loss(estimator, size):
  losses = np.float32(3.0 + 0.1 * noise(size + 300))
  losses[size + 200] += 2.0
  chart = isgd_jax.shewhart(size, sigma_estimator=estimator)
  run = jax.jit(lambda xs: jax.lax.scan(chart.update, chart.init(), xs)[1])
  expected = jax.device_get(run(losses))
  for scale in np.float32([1e-33, 1e-30, 1e-20, 1e-6, 1e6, 1e20, 1e30]):
    readings = jax.device_get(run(scale * losses))
    np.testing.assert_allclose(
      *(readings.sigma[2:] / scale, expected.sigma[2:]),
      rtol=1e-4,
      err_msg=f'at {scale}',
    )
    assert readings.is_above[size + 200]
    assert readings.is_above.sum() == expected.is_above.sum()


@pytest.mark.parametrize('estimator', ['std', 'moving_range', 'mad'])
def test_small_noise_on_a_large_loss_is_judged_as_in_float64(estimator):
  """1e4 + 0.01 noise, ten float32s wide: flags, z-scores and sums."""
  losses = np.float32(1e4 + 0.01 * noise(3_000))
  make = {
    'shewhart': lambda reference: reference,
    'cusum': lambda reference: isgd_jax.cusum(0.5, 5.0, reference=reference),
    'ewma': lambda reference: isgd_jax.ewma(0.1, 2.7, reference=reference),
  }
  for name, chart_of in make.items():
    chart = chart_of(isgd_jax.shewhart(100, 2.0, sigma_estimator=estimator))
    narrow = scan(chart, losses)
    with jax.enable_x64(True):
      exact = scan(chart, losses.astype(np.float64), jnp.float64)
    np.testing.assert_array_equal(narrow.is_above, exact.is_above)
    np.testing.assert_array_equal(narrow.is_below, exact.is_below)
    z = narrow.deviation[100:] / narrow.sigma[100:]
    exact_z = exact.deviation[100:] / exact.sigma[100:]
    np.testing.assert_allclose(z, exact_z, atol=2e-3, err_msg=name)


@pytest.mark.parametrize(
  ('estimator', 'dtype'),
  [*((e, 'bfloat16') for e in ESTIMATORS), ('std', 'float16')],
)
def test_rounded_losses_raise_no_more_false_alarms(estimator, dtype):
  """A spread of less than the distance of neighbouring losses of a dtype."""
  quantum = 2.0 * float(jnp.finfo(dtype).eps)
  rng = np.random.default_rng(1)
  levels = 2.3 + quantum * rng.uniform(size=(50, 1))
  spreads = np.tile([0.05, 0.1, 0.2, 0.3, 0.5], 10)[:, None]
  losses = levels + spreads * quantum * rng.normal(size=(50, 1_000))
  chart = isgd_jax.shewhart(
    100, 4.0, sigma_estimator=estimator, flagged_losses='winsorize'
  )
  run = jax.jit(
    jax.vmap(lambda xs: jax.lax.scan(chart.update, chart.init(), xs)[1])
  )
  readings = run(jnp.asarray(losses, dtype))
  # 45,000 losses; a hundredth of a percent would be 4.5.
  assert int(readings.is_above.sum()) <= 5
  difference = isgd_jax.difference_chart(4, 4.0, window_size=100)
  readings = jax.vmap(
    lambda xs: jax.lax.scan(difference.update, difference.init(), xs)[1]
  )(jnp.asarray(losses, dtype))
  assert int(readings.is_above.sum()) <= 25


def test_a_straight_rise_is_a_trend_wherever_the_mean_is():
  """As with fixed limits: 95 of 100 losses complete six in a row."""
  rise = np.concatenate([np.tile([1.0, 0.0], 10), np.arange(100) / 64])
  rules = [isgd_jax.RunRule('trend', 6)]
  for reference in (
    isgd_jax.fixed_limits(0.0, 1.0),
    isgd_jax.shewhart(20),
    isgd_jax.shewhart(20, sigma_estimator='mad', flagged_losses='winsorize'),
  ):
    chart = isgd_jax.with_run_rules(reference, rules)
    assert (scan(chart, rise).violated_rules > 0).sum() == 95


def test_turns_of_the_losses_are_turns_wherever_the_mean_is():
  """Steps of a millionth up and down on a slope that moves the mean more."""
  losses = 1.0 + np.arange(60) / 1024 + 2 * (np.arange(60) % 2) / 1024
  rules = [isgd_jax.RunRule('alternating', 14)]
  expected = scan(
    isgd_jax.with_run_rules(isgd_jax.fixed_limits(0.0, 1.0), rules), losses
  )
  readings = scan(isgd_jax.with_run_rules(isgd_jax.shewhart(5), rules), losses)
  np.testing.assert_array_equal(
    readings.violated_rules[18:], expected.violated_rules[18:]
  )
  assert expected.violated_rules.any()


def test_trends_of_a_difference_chart_are_those_of_the_differences():
  """Batches of one cycle differ for good: that is neither rise nor turn."""
  cycle = np.array([1.0, 5.0, 9.0, 2.0])
  losses = np.tile(cycle, 40) + np.arange(160) ** 2 / 1024
  chart = isgd_jax.with_run_rules(
    isgd_jax.difference_chart(4, smoothing=1.0),
    [isgd_jax.RunRule('trend', 6)],
  )
  # A loss that grows with the square of time differs more each cycle.
  assert (scan(chart, losses).violated_rules > 0)[-100:].all()


CHASED = {
  'shewhart': isgd_jax.shewhart(20),
  'difference': isgd_jax.difference_chart(4, window_size=20),
  'ewma': isgd_jax.ewma(reference=isgd_jax.shewhart(20)),
  'cusum': isgd_jax.cusum(reference=isgd_jax.shewhart(20)),
  'rules': isgd_jax.with_run_rules(isgd_jax.shewhart(20), 'nelson'),
  'restart': isgd_jax.with_restart(
    isgd_jax.cusum(reference=isgd_jax.shewhart(20)), 50
  ),
}


@pytest.mark.parametrize('name', CHASED)
def test_a_batch_at_its_loss_limit_would_not_have_been_flagged(name):
  """Unless the limit is the mean: then the losses before it are to blame."""
  chart = CHASED[name]
  losses = np.float32(1.0 + 0.1 * noise(90, seed=3))
  losses[60:64] += 0.25
  losses[75] += 1.0
  state, seen = chart.init(), 0
  update = jax.jit(chart.update)
  for loss in losses:
    new_state, reading = update(state, loss)
    if reading.is_above:
      limit = float(reading.loss_limit)
      assert reading.mean <= limit
      if limit > float(reading.mean) * (1 + 1e-6):
        seen += 1
        assert loss > limit
        assert not update(state, np.float32(limit - 1e-5))[1].is_above
        if name in ('shewhart', 'difference', 'ewma', 'cusum'):
          assert update(state, np.float32(limit + 1e-5))[1].is_above
    state = new_state
  assert seen


@pytest.mark.parametrize('name', CHASED)
def test_phase_one_has_no_loss_limit(name):
  _, reading = CHASED[name].update(CHASED[name].init(), 1.0)
  assert chart_lib.loss_limit_of(reading) == math.inf


def custom_reading(**fields):
  return isgd_jax.ChartReading(1.0, 0.5, -math.inf, 2.0, True, False, **fields)


def test_the_limit_of_a_chart_of_ones_own_is_that_of_the_loss_or_is_asked_for():
  assert chart_lib.loss_limit_of(custom_reading()) == 2.0
  assert chart_lib.loss_limit_of(custom_reading(loss_limit=1.5)) == 1.5
  with pytest.raises(ValueError, match=r"loss_limit .*chase_to='mean'"):
    chart_lib.loss_limit_of(custom_reading(statistic=7.0))


@pytest.mark.parametrize('dtype', ['float32', None])
def test_a_reading_of_pythons_numbers_becomes_arrays(dtype):
  loss = jnp.bfloat16(3.0)
  reading = chart_lib.as_arrays(custom_reading(), dtype, loss)
  fields = reading._asdict()
  assert fields.pop('parts') is None  # Only a joined chart has some.
  for name, field in fields.items():
    assert isinstance(field, jax.Array), name
    assert field.shape == (), name
    expected = {'violated_rules': jnp.int32, 'is_above': bool, 'is_below': bool}
    assert field.dtype == expected.get(name, jnp.float32), name
    assert not field.weak_type
  assert (reading.statistic, reading.loss_limit) == (3.0, 2.0)
  assert (reading.deviation, reading.baseline) == (2.0, 0.0)
  assert reading.is_above
  assert not reading.violated_rules
  own = chart_lib.as_arrays(custom_reading(statistic=7), dtype, loss)
  assert own.loss_limit is None
  assert own.statistic.dtype == jnp.float32


def test_a_field_that_is_no_scalar_is_named():
  reading = custom_reading()._replace(sigma=jnp.ones(1))
  with pytest.raises(ValueError, match='sigma of a ChartReading'):
    chart_lib.as_arrays(reading, None, 1.0)


@pytest.mark.parametrize('integer', [jnp.int32, np.int64, np.uint8])
def test_array_integers_are_taken_as_pythons(integer):
  charts = (
    isgd_jax.shewhart(integer(6), phase_one_size=integer(3)),
    isgd_jax.default_chart(integer(6)),
    isgd_jax.difference_chart(integer(3), window_size=integer(4)),
    isgd_jax.with_restart(isgd_jax.shewhart(integer(4)), integer(2)),
    isgd_jax.with_run_rules(
      isgd_jax.shewhart(4), [isgd_jax.RunRule('beyond', integer(2), integer(3))]
    ),
  )
  for chart in charts:
    scan(chart, np.arange(12.0))
    scan(chart, np.arange(12.0))


@pytest.mark.parametrize(
  'value', [jnp.bool_(True), np.bool_(True), jnp.ones(1)]
)
def test_arrays_that_are_no_integers_are_refused(value):
  with pytest.raises(ValueError, match='window_size must be an integer'):
    isgd_jax.shewhart(value)


STATES = {
  'a shorter window': (isgd_jax.shewhart(50), isgd_jax.shewhart(40)),
  'a window of another form': (isgd_jax.shewhart(50), isgd_jax.shewhart(900)),
  'another estimator': (
    isgd_jax.shewhart(50),
    isgd_jax.shewhart(50, sigma_estimator='mad'),
  ),
  'another kind': (isgd_jax.shewhart(50), CHASED['ewma']),
  'another cycle': (isgd_jax.difference_chart(5), isgd_jax.difference_chart(6)),
  'no state': (isgd_jax.shewhart(50), isgd_jax.fixed_limits(0, 1)),
}


@pytest.mark.parametrize('name', STATES)
def test_the_state_of_another_chart_is_refused(name):
  """At trace time, either way round, with the remedy."""
  for chart, other in (STATES[name], STATES[name][::-1]):
    for check in (
      chart_lib.check_state,
      jax.jit(chart_lib.check_state, static_argnums=0),
    ):
      check(chart, chart.init())
      with pytest.raises(ValueError, match=r'window_size .*init anew') as error:
        check(chart, other.init())
      assert repr(chart.kind) in str(error.value)


def test_a_restored_state_of_numpy_arrays_is_taken():
  for chart in CHASED.values():
    chart_lib.check_state(chart, jax.tree.map(np.asarray, chart.init()))
