"""Shewhart charts against NumPy, theory, and awkward losses."""

import math

import chex
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isgd_jax
from isgd_jax._charts import shewhart as shewhart_lib


def scan_chart(chart, losses):
  """Final state and all readings of a chart over `losses`."""
  return jitted_scan(chart)(jnp.asarray(losses, jnp.float32))


def numpy_readings(losses, window_size, multiplier, winsorize=False):
  """Mean, sigma, limits and flags of each loss, in float64, by definition."""
  window, rows = [], []
  for loss in np.asarray(losses, np.float32).astype(np.float64):
    mean = np.mean(window) if window else 0.0
    sigma = np.std(window) if window else 0.0
    width = multiplier * sigma if len(window) == window_size else np.inf
    rows.append((mean, sigma, mean - width, mean + width))
    if np.isfinite(loss):
      entering = np.clip(loss, mean - width, mean + width)
      window.append(entering if winsorize and sigma > 0 else loss)
      window = window[-window_size:]
  return np.array(rows).T


# Squares below 1e-38 are zero in float32, and so is then sigma: no tiny losses.
usual_losses = st.floats(-1e3, 1e3, width=32).map(
  lambda x: x if abs(x) > 1e-6 else 0.0
)
finite_losses = st.lists(usual_losses, min_size=1, max_size=60)
any_losses = st.lists(
  usual_losses | st.sampled_from([math.inf, -math.inf, math.nan]),
  min_size=1,
  max_size=60,
)


def jitted_scan(chart):
  return jax.jit(lambda xs: jax.lax.scan(chart.update, chart.init(), xs))


CHARTS = {
  (size, winsorize): jitted_scan(
    isgd_jax.shewhart(
      size, 2.0, flagged_losses='winsorize' if winsorize else 'keep'
    )
  )
  for size in (2, 5, 12)
  for winsorize in (False, True)
}


def pad(losses):
  """Non-finite losses change nothing, so NaN pads a list to one shape."""
  return jnp.asarray(losses + [math.nan] * (60 - len(losses)), jnp.float32)


@hypothesis.given(any_losses, st.sampled_from(sorted(CHARTS)))
def test_readings_are_those_of_numpy(losses, key):
  window_size, winsorize = key
  _, readings = CHARTS[key](pad(losses))
  mean, sigma, lower, upper = numpy_readings(
    losses, window_size, 2.0, winsorize
  )
  n = len(losses)
  # Rounding of the window's own magnitude.
  scale = max([abs(x) for x in losses if math.isfinite(x)], default=0.0)
  close = dict(rtol=1e-5, atol=1e-5 * scale)
  np.testing.assert_allclose(readings.mean[:n], mean, **close)
  np.testing.assert_allclose(readings.sigma[:n], sigma, **close)
  np.testing.assert_allclose(readings.lower_limit[:n], lower, **close)
  np.testing.assert_allclose(readings.upper_limit[:n], upper, **close)


@hypothesis.given(any_losses, st.sampled_from(sorted(CHARTS)))
def test_flags_follow_from_the_limits(losses, key):
  window_size, _ = key
  state, readings = CHARTS[key](pad(losses))
  n = len(losses)
  losses = np.asarray(losses, np.float32)
  is_finite = np.isfinite(losses)
  with np.errstate(invalid='ignore'):
    above = is_finite & (losses > np.asarray(readings.upper_limit[:n]))
    below = is_finite & (losses < np.asarray(readings.lower_limit[:n]))
  np.testing.assert_array_equal(readings.is_above[:n], above)
  np.testing.assert_array_equal(readings.is_below[:n], below)
  # Phase I: nothing is flagged before the window holds window_size losses.
  seen_before = np.cumsum(is_finite) - is_finite
  assert not (above | below)[seen_before < window_size].any()
  assert min(int(state.num_taken_in), window_size) == min(
    is_finite.sum(), window_size
  )
  assert np.isfinite(np.asarray(state.window)).all()


@hypothesis.given(finite_losses, st.data())
def test_non_finite_losses_leave_no_trace(losses, data):
  """The state is bit for bit that of the same losses without them."""
  chart = CHARTS[5, True]
  mixed = list(losses)
  for _ in range(min(3, 60 - len(losses))):
    place = data.draw(st.integers(0, len(mixed)))
    mixed.insert(place, data.draw(st.sampled_from([math.inf, math.nan])))
  expected, _ = chart(pad(losses))
  state, _ = chart(pad(mixed))
  chex.assert_trees_all_equal(state, expected)


WINSORIZED_UPDATE = jax.jit(
  isgd_jax.shewhart(6, 2.0, flagged_losses='winsorize').update
)


@hypothesis.given(st.lists(usual_losses, min_size=9))
def test_a_loss_enters_the_winsorized_window_clipped_to_its_limits(losses):
  state = isgd_jax.shewhart(6, 2.0, flagged_losses='winsorize').init()
  for loss in losses[:14]:
    position = int(state.num_taken_in) % 6
    state, reading = WINSORIZED_UPDATE(state, jnp.float32(loss))
    entered = float(state.window.reshape(-1)[position])
    expected = np.float32(loss)
    if reading.sigma > 0:
      expected = np.clip(expected, reading.lower_limit, reading.upper_limit)
    assert entered == expected


@pytest.mark.parametrize('window_size', [1_000, 30_011])
def test_statistics_keep_small_noise_on_a_large_loss(window_size):
  """1e4 + noise of 0.05, twice around the window, against float64."""
  rng = np.random.default_rng(0)
  losses = (1e4 + 0.05 * rng.normal(size=2 * window_size + 7)).astype(
    np.float32
  )
  _, readings = scan_chart(isgd_jax.shewhart(window_size), losses)
  exact = losses.astype(np.float64)
  for t in (window_size // 2, window_size, len(losses) - 1):
    window = exact[max(0, t - window_size) : t]
    np.testing.assert_allclose(readings.mean[t], window.mean(), rtol=1e-7)
    np.testing.assert_allclose(readings.sigma[t], window.std(), rtol=2e-5)


@pytest.mark.one_version
def test_statistics_of_a_million_losses():
  """A full window of 10^6 and 1,500 more losses, whose level then rises."""
  window_size = 1_000_000
  rng = np.random.default_rng(1)
  losses = (1e4 + 0.05 * rng.normal(size=window_size + 1_500)).astype(
    np.float32
  )
  losses[window_size:] += 0.4
  state, readings = jax.jit(
    lambda xs: jax.lax.scan(
      lambda s, x: (isgd_jax.shewhart(window_size).update(s, x)[0], None),
      isgd_jax.shewhart(window_size).init(),
      xs,
    )
  )(jnp.asarray(losses))
  del readings
  _, reading = isgd_jax.shewhart(window_size).update(state, jnp.float32(1e4))
  exact = losses[1_500:].astype(np.float64)
  np.testing.assert_allclose(reading.mean, exact.mean(), rtol=1e-7)
  np.testing.assert_allclose(reading.sigma, exact.std(), rtol=1e-5)


def test_a_huge_loss_leaves_no_error_behind():
  """After 1e30 has left the window the statistics are exact again."""
  losses = np.linspace(1.0, 2.0, 64, dtype=np.float32)
  losses[20] = 1e30
  _, readings = scan_chart(isgd_jax.shewhart(8), losses)
  exact = losses.astype(np.float64)
  np.testing.assert_allclose(readings.mean[40], exact[32:40].mean(), rtol=1e-6)
  np.testing.assert_allclose(readings.sigma[40], exact[32:40].std(), rtol=1e-5)
  assert bool(readings.is_above[20])


def test_a_winsorized_window_of_equal_losses_lets_a_shift_in():
  """Clipped to limits of no width, no other loss would ever enter."""
  losses = [0.0] * 4 + [1.0, 1.2, 1.1] * 20
  _, readings = scan_chart(
    isgd_jax.shewhart(4, 3.0, flagged_losses='winsorize'), losses
  )
  assert not np.asarray(readings.is_above)[-30:].any()


def test_constant_losses_have_zero_sigma_and_flag_any_rise():
  losses = np.full(30, 12_345.678, np.float32)
  losses[25] = np.nextafter(losses[25], np.float32(np.inf))
  _, readings = scan_chart(isgd_jax.shewhart(10), losses)
  np.testing.assert_array_equal(readings.sigma[1:26], 0.0)
  assert np.flatnonzero(readings.is_above).tolist() == [25]


@pytest.mark.parametrize('winsorize', [False, True])
def test_a_batch_is_judged_against_the_batches_before_it(winsorize):
  """Its own value is not in its limits: z is unbounded, also for n = 2."""
  chart = isgd_jax.shewhart(
    2, 3.0, flagged_losses='winsorize' if winsorize else 'keep'
  )
  _, readings = scan_chart(chart, [1.0, 1.1, 50.0])
  assert np.flatnonzero(readings.is_above).tolist() == [2]
  np.testing.assert_allclose(readings.upper_limit[2], 1.05 + 3 * 0.05, 1e-6)


def test_the_paper_chart_judges_a_loss_with_itself_in_the_queue():
  """No z-score above sqrt(n - 1); at n = 11 that is just above 3."""
  losses = [1.0] * 11 + [2.0]
  _, readings = scan_chart(shewhart_lib.paper_chart(11), losses)
  window = np.array(losses[1:])
  np.testing.assert_allclose(
    readings.upper_limit[-1], window.mean() + 3 * window.std(), rtol=1e-6
  )
  assert bool(readings.is_above[-1])
  with pytest.raises(ValueError, match=r'batches_per_epoch .* 11, got 10'):
    shewhart_lib.paper_chart(10)


@pytest.mark.parametrize('multiplier', [2.0, 3.0])
def test_false_alarm_rate_on_normal_losses_matches_theory(multiplier):
  """With limits estimated from n losses, (x - mean) / s is Student's t.

  x - mean has variance sigma^2 (1 + 1/n), and the population s has n in its
  denominator: P(x above) = P(t_{n-1} > k sqrt((n - 1) / (n + 1))).
  """
  from scipy import stats

  window_size, num_charts, num_losses = 25, 400, 500
  chart = isgd_jax.shewhart(window_size, multiplier)
  losses = jax.random.normal(
    jax.random.key(0), (num_charts, window_size + num_losses)
  )
  _, readings = jax.jit(
    jax.vmap(lambda xs: jax.lax.scan(chart.update, chart.init(), xs))
  )(losses)
  rate = float(jnp.mean(readings.is_above[:, window_size:]))
  below = float(jnp.mean(readings.is_below[:, window_size:]))
  k = multiplier * math.sqrt((window_size - 1) / (window_size + 1))
  expected = stats.t.sf(k, window_size - 1)
  # 200,000 draws; neighbours share a window, so twice the binomial error.
  error = 2 * math.sqrt(expected / (num_charts * num_losses))
  assert abs(rate - expected) < 4 * error
  assert abs(below - expected) < 4 * error


def test_published_mean_and_deviation_of_the_speed_of_light():
  """Michelson's first series of 20 (1879), km/s above 299,000.

  The data, their mean 909 and sample standard deviation 104.9 are in Stigler,
  "Do Robust Estimators Work with Real Data?", Annals of Statistics 5, 1977.
  """
  light = [850, 740, 900, 1070, 930, 850, 950, 980, 980, 880]
  light += [1000, 980, 930, 650, 760, 810, 1000, 1000, 960, 960]
  _, readings = scan_chart(isgd_jax.shewhart(20), [*light, 0.0])
  sample_std = readings.sigma[-1] * math.sqrt(20 / 19)
  assert round(float(readings.mean[-1])) == 909
  assert round(float(sample_std), 1) == 104.9


def test_state_passes_through_jit_scan_vmap_and_donation():
  chart = isgd_jax.shewhart(700, flagged_losses='winsorize')
  losses = jax.random.normal(jax.random.key(1), (3, 40))
  donating = jax.jit(chart.update, donate_argnums=0)
  stepped = []
  for row in losses:
    state = chart.init()
    for loss in row:
      structure = jax.tree.map(jnp.shape, state)
      state, _ = donating(state, loss)
      assert jax.tree.map(jnp.shape, state) == structure
    stepped.append(state)
  mapped, _ = jax.vmap(lambda xs: jax.lax.scan(chart.update, chart.init(), xs))(
    losses
  )
  expected = jax.tree.map(lambda *xs: jnp.stack(xs), *stepped)
  chex.assert_trees_all_close(mapped, expected, rtol=1e-6)
  chex.assert_trees_all_equal_dtypes(chart.init(), stepped[0])


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32', 'int32'])
def test_statistics_are_float32_for_narrow_losses(dtype):
  chart = isgd_jax.shewhart(3)
  state, reading = chart.update(chart.init(), jnp.asarray(2, dtype))
  chex.assert_type(
    [state.window, reading.mean, reading.upper_limit], jnp.float32
  )


@pytest.mark.parametrize(
  'window_size', [1, 0, -3, 2.0, 2.5, '5', None, True, float('nan')]
)
def test_a_window_that_is_not_an_integer_of_two_or_more_is_refused(window_size):
  with pytest.raises(
    ValueError, match=r'window_size must be an integer of at least 2, got'
  ) as error:
    isgd_jax.shewhart(window_size)
  assert repr(window_size) in str(error.value)


@pytest.mark.parametrize(
  'multiplier', [0.0, -1.0, float('nan'), float('inf'), '3', None, [3.0]]
)
def test_a_sigma_multiplier_that_is_not_a_positive_number_is_refused(
  multiplier,
):
  with pytest.raises(
    ValueError, match='sigma_multiplier must be a finite number above 0, got'
  ) as error:
    isgd_jax.shewhart(5, multiplier)
  assert repr(multiplier) in str(error.value)


def test_a_numpy_window_size_is_an_integer():
  isgd_jax.shewhart(np.int64(5)).init()
