"""Charts point by point: published worked examples, and another library.

The library is `shewhart` (PyPI), which shares no code with this project.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isgd_jax

pytestmark = pytest.mark.one_version

# Montgomery, Introduction to Statistical Quality Control, 7th ed.
# Table 6.6: cost of processing mortgage loan applications, 20 weeks.
LOANS = [310, 288, 297, 298, 307, 303, 294, 297, 308, 306]
LOANS += [294, 299, 297, 299, 314, 295, 293, 306, 301, 304]
# Table 9.1: mean 10 and sigma 1; from the 21st on the mean is 11.
OBSERVATIONS = [9.45, 7.99, 9.29, 11.66, 12.16, 10.18, 8.04, 11.46, 9.20]
OBSERVATIONS += [10.34, 9.03, 11.47, 10.51, 9.40, 10.08, 9.37, 10.62, 10.31]
OBSERVATIONS += [8.52, 10.84, 10.90, 9.33, 12.29, 11.50, 10.60, 11.08, 10.38]
OBSERVATIONS += [11.62, 11.31, 10.52]
# Table 9.2: the tabular CUSUM of these, k = 0.5, h = 5.
UPPER_SUMS = [0, 0, 0, 1.16, 2.82, 2.50, 0.04, 1.00, 0, 0, 0, 0.97, 0.98, 0, 0]
UPPER_SUMS += [0, 0.12, 0, 0, 0.34, 0.74, 0, 1.79, 2.79, 2.89, 3.47, 3.35, 4.47]
UPPER_SUMS += [5.28, 5.30]
LOWER_SUMS = [0.05, 1.56, 1.77, 0, 0, 0, 1.46, 0, 0.30, 0, 0.47, 0, 0, 0.10, 0]
LOWER_SUMS += [0.13, 0, 0, 0.98, 0, 0, 0.17, 0, 0, 0, 0, 0, 0, 0, 0]
# Table 9.12: their EWMA, lambda = 0.1, L = 2.7.
AVERAGES = [9.945, 9.7495, 9.7036, 9.8992, 10.1253, 10.1307, 9.9217, 10.0755]
AVERAGES += [9.9880, 10.0232, 9.9238, 10.0785, 10.1216, 10.0495, 10.0525]
AVERAGES += [9.9843, 10.0478, 10.0740, 9.9186, 10.0108, 10.0997, 10.0227]
AVERAGES += [10.2495, 10.3745, 10.3971, 10.4654, 10.4568, 10.5731, 10.6468]
AVERAGES += [10.6341]


def scan(chart, losses, states=False):
  """Readings, or the states after each loss."""

  def step(state, loss):
    state, reading = chart.update(state, loss)
    return state, state if states else reading

  run = jax.jit(lambda xs: jax.lax.scan(step, chart.init(), xs)[1])
  return jax.tree.map(np.asarray, run(jnp.asarray(losses, jnp.float32)))


def known(mean=10.0, sigma=1.0):
  return isgd_jax.fixed_limits(mean, sigma)


def test_individuals_chart_of_the_mortgage_loans():
  """Mean 300.5, average moving range 7.79, limits 321.22 and 279.78."""
  chart = isgd_jax.shewhart(20, sigma_estimator='moving_range')
  readings = scan(chart, [*LOANS, 300.5])
  assert round(float(readings.mean[-1]), 2) == 300.50
  assert round(float(readings.sigma[-1]) * 1.128, 2) == 7.79
  assert round(float(readings.upper_limit[-1]), 2) == 321.22
  assert round(float(readings.lower_limit[-1]), 2) == 279.78
  assert not readings.is_above.any()


@pytest.mark.parametrize(
  ('loss', 'above', 'below'),
  [(321, 0, 0), (322, 1, 0), (280, 0, 0), (279, 0, 1)],
)
def test_individuals_chart_judges_the_next_loan(loss, above, below):
  chart = isgd_jax.shewhart(20, sigma_estimator='moving_range')
  readings = scan(chart, [*LOANS, loss])
  assert (readings.is_above[-1], readings.is_below[-1]) == (above, below)


def test_tabular_cusum_of_montgomery():
  """Both columns of sums, and the first signal at observation 29."""
  chart = isgd_jax.cusum(0.5, 5.0, reference=known())
  states = scan(chart, OBSERVATIONS, states=True)
  np.testing.assert_allclose(states.high, UPPER_SUMS, atol=1e-5)
  np.testing.assert_allclose(states.low, LOWER_SUMS, atol=1e-5)
  readings = scan(chart, OBSERVATIONS)
  assert (np.flatnonzero(readings.is_above) + 1).tolist() == [29, 30]
  assert not readings.is_below.any()
  larger = np.where(
    np.array(UPPER_SUMS) >= LOWER_SUMS, UPPER_SUMS, -np.array(LOWER_SUMS)
  )
  np.testing.assert_allclose(readings.statistic, 10 + larger, atol=1e-5)
  np.testing.assert_array_equal(readings.upper_limit, 15.0)
  np.testing.assert_array_equal(readings.lower_limit, 5.0)


def test_ewma_of_montgomery():
  """The averages, the limits as they widen, the first signal at 28 or 29.

  Limits as published: 9.73 and 10.27 at first, 9.64 and 10.36 next, 9.38 and
  10.62 in the end.
  """
  chart = isgd_jax.ewma(0.1, 2.7, reference=known())
  readings = scan(chart, OBSERVATIONS)
  np.testing.assert_allclose(readings.statistic, AVERAGES, atol=6e-5)
  assert (np.flatnonzero(readings.is_above) + 1).tolist() == [29, 30]
  assert not readings.is_below.any()
  upper = np.round(readings.upper_limit.astype(np.float64), 2)
  lower = np.round(readings.lower_limit.astype(np.float64), 2)
  assert upper[:2].tolist() == [10.27, 10.36]
  assert lower[:2].tolist() == [9.73, 9.64]
  assert (upper[-3:] == 10.62).all()
  assert (lower[-3:] == 9.38).all()


def random_walks():
  """Noise, a drift, a level shift, steps of a grid (ties), a random walk."""
  rng = np.random.default_rng(3)
  n = 300
  noise = rng.normal(size=n)
  series = {
    'noise': noise,
    'drift': noise + np.linspace(0.0, 3.0, n),
    'shift': noise + 1.5 * (np.arange(n) > 150),
    'grid': np.round(2 * noise) / 2,
    'walk': np.cumsum(noise) / 4,
    'wave': np.sin(np.arange(n) * np.pi) + 0.5 * (-1.0) ** np.arange(n),
  }
  # As float32 sees them, so that both judge the same numbers.
  return {k: v.astype(np.float32).astype(float) for k, v in series.items()}


SERIES = random_walks()


@pytest.fixture(scope='module')
def library():
  return pytest.importorskip('shewhart')


@pytest.mark.parametrize('name', SERIES)
def test_individuals_chart_is_that_of_the_library(library, name):
  """Its limits come from all points given; ours from those before the next."""
  losses = SERIES[name]
  chart = isgd_jax.shewhart(50, sigma_estimator='moving_range')
  readings = scan(chart, losses)
  for t in (50, 51, 173, 299):
    stats = library.imr(losses[t - 50 : t], rules='none').stats
    ours = (
      readings.mean[t],
      readings.sigma[t],
      readings.lower_limit[t],
      readings.upper_limit[t],
    )
    theirs = [stats[k] for k in ('i_center', 'sigma_within', 'i_lcl', 'i_ucl')]
    # d2 is 1.128 with us, as in the tables; 2 / sqrt(pi) there.
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('name', SERIES)
@pytest.mark.parametrize('smoothing', [0.05, 0.3, 1.0])
def test_ewma_is_that_of_the_library(library, name, smoothing):
  losses = SERIES[name]
  table = library.ewma(losses, lam=smoothing, k=2.5, center=0.25, sigma=1.5)
  table = table.table
  chart = isgd_jax.ewma(smoothing, 2.5, reference=known(0.25, 1.5))
  readings = scan(chart, losses)
  close = dict(rtol=2e-5, atol=2e-5)
  np.testing.assert_allclose(readings.statistic, table['ewma'], **close)
  np.testing.assert_allclose(readings.upper_limit, table['ucl'], **close)
  np.testing.assert_allclose(readings.lower_limit, table['lcl'], **close)
  np.testing.assert_array_equal(
    readings.is_above | readings.is_below, table['signal']
  )


@pytest.mark.parametrize('name', SERIES)
def test_cusum_is_that_of_the_library(library, name):
  """Without resets; it keeps its sums in units of the loss, ours in sigmas."""
  losses = SERIES[name]
  table = library.cusum(losses, k=0.4, h=3.3, center=0.25, sigma=1.5).table
  chart = isgd_jax.cusum(0.4, 3.3, reference=known(0.25, 1.5))
  states = scan(chart, losses, states=True)
  readings = scan(chart, losses)
  close = dict(rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(1.5 * states.high, table['cusum_pos'], **close)
  np.testing.assert_allclose(-1.5 * states.low, table['cusum_neg'], **close)
  np.testing.assert_array_equal(
    readings.is_above | readings.is_below, table['signal']
  )


@pytest.mark.parametrize('name', SERIES)
@pytest.mark.parametrize('rules', ['western_electric', 'nelson'])
def test_run_rules_are_those_of_the_library(library, name, rules):
  """Point by point and rule by rule, where both say the same thing.

  The library reports all points of a pattern at once, after the fact; ours is
  at the loss that completes it. So a point of ours is one of its; and of each
  of its runs of m in a row ours are all points from the m-th on. In m of n
  beyond k sigma, it lists the points beyond of all windows that hold m: ours
  are those of them at the end of such a window (the newest point among them);
  with fewer than n points yet, it does not look.
  """
  losses = SERIES[name]
  limits = {'i_center': 0.25, 'sigma_within': 0.8, 'mr_center': 1.0}
  result = library.imr(losses, rules=rules, limits=limits)
  chart = isgd_jax.with_run_rules(known(0.25, 0.8), rules)
  readings = scan(chart, losses)
  all_rules = getattr(isgd_jax._charts.run_rules, rules.upper())
  prefix = 'we' if rules == 'western_electric' else 'nelson'
  z = (losses - 0.25) / 0.8
  for bit, rule in enumerate(all_rules):
    expected = np.zeros(len(losses), bool)
    for signal in result.signals:
      if signal.rule != f'{prefix}_{bit + 1}':
        continue
      points = np.array(signal.points)
      if rule.window > rule.count:
        side = np.sign(z[points[0]])
        for p in points:
          window = side * z[max(0, p - rule.window + 1) : p + 1]
          expected[p] |= (window > rule.sigmas).sum() >= rule.count
      else:
        expected[points[rule.count - 1 :]] = True
    ours = (readings.violated_rules >> bit) & 1 == 1
    np.testing.assert_array_equal(ours, expected, err_msg=str(rule))


def test_the_series_violate_every_rule():
  """Else the comparison above would say nothing."""
  chart = isgd_jax.with_run_rules(known(0.25, 0.8), 'nelson')
  seen = 0
  for losses in SERIES.values():
    seen |= np.bitwise_or.reduce(scan(chart, losses).violated_rules)
  assert seen == 0b11111111
