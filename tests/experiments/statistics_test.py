"""Intervals, differences and profiles: by hand, by SciPy, by invariance."""

import itertools
import math
import statistics as stdlib_statistics

import numpy as np
import pytest

from isgd_jax.experiments import statistics

pytestmark = pytest.mark.one_version

INF = math.inf
COSTS = {
  'a': {'x': 1.0, 'y': 2.0, 'z': INF},
  'b': {'x': 6.0, 'y': 2.0, 'z': 5.0},
  'c': {'x': 9.0, 'y': 1.0, 'z': 4.0},
  'd': {'x': INF, 'y': INF, 'z': INF},
}


# Medians and their intervals


@pytest.mark.parametrize('n', [3, 4, 6])
def test_few_values_have_the_interval_of_all_resamples(n):
  values = np.random.default_rng(n).normal(size=n).tolist()
  medians = sorted(
    stdlib_statistics.median(r) for r in itertools.product(values, repeat=n)
  )
  # Half the sought tail on each side, counted in whole resamples.
  out = math.ceil(0.2 / 2 * n**n - 1e-9) - 1
  found = statistics.median_interval(values, confidence=0.8)
  np.testing.assert_allclose(
    found, (stdlib_statistics.median(values), medians[out], medians[-1 - out])
  )


def test_the_interval_of_five_seeds_is_their_range():
  values = [4.0, 1.0, 5.0, 2.0, 3.0]
  assert statistics.median_interval(values) == (3, 1, 5)
  # The least is the median of 5.8 % of the resamples, the next of 31.7 %.
  assert statistics.median_interval(values, confidence=0.8) == (3, 2, 4)


@pytest.mark.parametrize('n', [5, 6])
def test_exact_intervals_do_not_depend_on_the_seed_or_the_order(n):
  values = list(range(n))
  assert statistics.median_interval(values, seed=0) == (
    statistics.median_interval(values[::-1], seed=1, num_resamples=7)
  )


@pytest.mark.parametrize('n', [20, 41])
def test_intervals_of_many_values_are_scipys(n):
  stats = pytest.importorskip('scipy.stats')
  values = np.random.default_rng(0).lognormal(size=n)
  theirs = stats.bootstrap(
    (values,),
    np.median,
    n_resamples=20_000,
    method='percentile',
    rng=np.random.default_rng(1),
  ).confidence_interval
  ours = statistics.median_interval(values, num_resamples=20_000)
  assert ours.median == np.median(values)
  # An order statistic or two apart, by the luck of the draw.
  tolerance = np.diff(np.sort(values)).mean()
  np.testing.assert_allclose(ours[1:], theirs, atol=tolerance)


@pytest.mark.parametrize('n', [2, 3, 4, 5, 6, 9, 12])
def test_infinite_values_never_make_a_nan(n):
  for num_high in range(n + 1):
    for num_low in range(n + 1 - num_high):
      values = [INF] * num_high + [-INF] * num_low
      values += [float(i) for i in range(n - len(values))]
      found = statistics.median_interval(values, num_resamples=200)
      assert found.low <= found.median <= found.high


def test_the_median_is_finite_while_most_runs_are():
  assert statistics.median_interval([1.0, 2.0, 3.0, INF, INF]) == (3, 1, INF)
  found = statistics.median_interval([1.0, 2.0, INF, INF, INF])
  assert found == (INF, 1, INF)
  # One of the two in the middle is infinite: half the runs failed.
  assert statistics.median_interval([1.0, 2.0, INF, INF]).median == INF


@pytest.mark.parametrize('n', [5, 6, 8])
def test_negated_values_have_the_mirrored_interval(n):
  values = np.random.default_rng(n).normal(size=n)
  values[0] = INF
  median, low, high = statistics.median_interval(values, num_resamples=500)
  assert statistics.median_interval(-values, num_resamples=500) == (
    -median,
    -high,
    -low,
  )


def test_a_single_value_is_its_own_interval():
  assert statistics.median_interval([2.0]) == (2, 2, 2)


@pytest.mark.parametrize(
  ('values', 'options', 'message'),
  [
    ([], {}, 'values must be at least one number'),
    ([1.0, math.nan], {}, 'must not be NaN.*as infinite'),
    ([1.0], {'confidence': 95}, 'confidence must be .* got 95'),
    ([1.0], {'num_resamples': 0}, 'num_resamples must be .* got 0'),
  ],
)
def test_what_has_no_interval_is_refused(values, options, message):
  with pytest.raises(ValueError, match=message):
    statistics.median_interval(values, **options)


# Differences


def test_differences_are_paired_by_seed_not_by_order():
  theirs = {1: 10.0, 2: 20.0, 3: 30.0}
  ours = {3: 29.0, 1: 9.0, 2: 19.0}
  found = statistics.paired_difference(ours, theirs)
  assert found == (-1, -1, -1)
  assert statistics.verdict(found) == 'lower'
  in_order = statistics.paired_difference([9.0, 19, 29], [10.0, 20, 30])
  assert in_order == found


def test_two_runs_that_both_missed_are_no_different():
  found = statistics.paired_difference([INF] * 5, [INF] * 5)
  assert found == (0, 0, 0)
  assert statistics.verdict(found) == 'no different'


def test_a_run_that_only_we_missed_counts_as_infinitely_worse():
  ours, theirs = [1.0, 1.0, INF, INF, INF], [2.0, 2.0, 2.0, 2.0, INF]
  found = statistics.paired_difference(ours, theirs)
  assert found == (0, -1, INF)
  mirrored = statistics.paired_difference(theirs, ours)
  assert mirrored == (0, -INF, 1)


@pytest.mark.parametrize(
  ('ours', 'theirs', 'message'),
  [
    ({0: 1.0, 1: 1.0}, {0: 1.0, 2: 1.0}, r'same seeds.*\[1, 2\]'),
    ({0: 1.0}, [1.0], 'both be mappings.*dict and list'),
    ([1.0, 2.0], [1.0], 'got 2 and 1 values'),
  ],
)
def test_values_without_a_partner_are_refused(ours, theirs, message):
  with pytest.raises(ValueError, match=message):
    statistics.paired_difference(ours, theirs)


@pytest.mark.parametrize(
  ('low', 'high', 'expected'),
  [
    (0.1, INF, 'higher'),
    (-INF, -0.1, 'lower'),
    (-1, 1, 'no different'),
    (0, 1, 'no different'),
    (-1, 0, 'no different'),
  ],
)
def test_only_an_interval_without_zero_is_a_difference(low, high, expected):
  interval = statistics.Interval(0.5 * (max(low, -9) + min(high, 9)), low, high)
  assert statistics.verdict(interval) == expected


@pytest.mark.parametrize(
  ('ours', 'theirs', 'expected'),
  [
    (0.9, [1.0, 2.0], True),
    (2.0, [1.0, 2.0], True),
    (2.1, [1.0, 2.0], False),
    (INF, [1.0, 2.0], False),
    (INF, [1.0, INF], True),
  ],
)
def test_ours_never_hurts_up_to_their_worst_seed(ours, theirs, expected):
  assert statistics.within_seed_interval(ours, theirs) is expected


# Profiles


def test_a_profile_worked_by_hand():
  """Ratios x: 1, 3, 9; y: 2, 1, 1; z: inf, 2.5, 4."""
  profile = statistics.performance_profile(COSTS)
  assert profile.num_problems == 3
  assert profile.num_unsolved == 1
  at = {tau: i for i, tau in enumerate(profile.taus.tolist())}
  for method, expected in {
    'x': {1.0: 1, 2.99: 1, 3.0: 2, 4.0: 2},
    'y': {1.0: 2, 1.99: 2, 2.0: 3, 4.0: 3},
    'z': {1.0: 0, 2.49: 0, 2.5: 1, 3.99: 1, 4.0: 2},
  }.items():
    for tau, num_solved in expected.items():
      assert profile.shares[method][at[tau]] == pytest.approx(num_solved / 3)
  # The areas: 3 + 1, 2 + 3 + 3 and 1.5 of 3 problems times 3.
  expected = {'x': 4 / 9, 'y': 8 / 9, 'z': 1.5 / 9}
  assert profile.scores == pytest.approx(expected)


def test_scores_are_the_area_below_the_shares_whatever_the_points():
  profile = statistics.performance_profile(COSTS, num_points=2)
  # The jumps are among the points, so rectangles are exact.
  assert profile.taus.tolist() == [1, 2, 2.5, 3, 4]
  for method, shares in profile.shares.items():
    area = (shares[:-1] * np.diff(profile.taus)).sum() / 3
    assert profile.scores[method] == pytest.approx(area)


def test_the_unit_of_a_problem_does_not_matter():
  costs = {p: dict(row) for p, row in COSTS.items()}
  costs['b'] = {m: 1024 * c for m, c in costs['b'].items()}
  before = statistics.performance_profile(COSTS)
  after = statistics.performance_profile(costs)
  assert after.scores == before.scores
  for method in before.shares:
    np.testing.assert_array_equal(after.shares[method], before.shares[method])


def test_a_worse_method_changes_no_score_of_the_others():
  before = statistics.performance_profile(COSTS).scores
  costs = {
    p: row | {'worse': 1.5 * max(row.values())} for p, row in COSTS.items()
  }
  after = statistics.performance_profile(costs).scores
  assert {m: after[m] for m in before} == before


def test_a_narrower_range_of_ratios_forgives_less():
  scores = statistics.performance_profile(COSTS, max_tau=2.0).scores
  assert scores == pytest.approx({'x': 1 / 3, 'y': 2 / 3, 'z': 0})


def test_a_missing_method_is_infinite_only_when_told():
  costs = {'a': {'x': 1.0, 'y': 1.0}, 'b': {'x': 1.0}}
  with pytest.raises(ValueError, match=r"costs\['b'\] lacks the method 'y'"):
    statistics.performance_profile(costs)
  profile = statistics.performance_profile(costs, missing_is_infinite=True)
  assert profile.scores == {'x': 1.0, 'y': 0.5}


@pytest.mark.parametrize('cost', [0.0, -1.0, math.nan])
def test_a_cost_that_has_no_ratio_is_refused(cost):
  with pytest.raises(ValueError, match=r"costs\['a'\]\['x'\] must be above 0"):
    statistics.performance_profile({'a': {'x': cost}})


@pytest.mark.parametrize('costs', [{}, {'a': {'x': INF}}, {'a': {}}])
def test_nothing_solved_is_no_profile(costs):
  with pytest.raises(ValueError, match=f'any of the {len(costs)} problems'):
    statistics.performance_profile(costs)


@pytest.mark.parametrize('options', [{'max_tau': 1.0}, {'num_points': 1}])
def test_profiles_of_no_extent_are_refused(options):
  with pytest.raises(ValueError, match='got 1'):
    statistics.performance_profile(COSTS, **options)
