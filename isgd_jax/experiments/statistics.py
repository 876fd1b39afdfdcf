"""Medians with bootstrap intervals, paired differences, performance profiles.

Costs may be infinite: a run that missed its target, or diverged, cost more
than any number says. Everything here is therefore made of order statistics,
which need no arithmetic between what is finite and what is not.
"""

from collections.abc import Iterable, Mapping, Sequence
import functools
import itertools
import math
from typing import Any, Literal, NamedTuple

import numpy as np

from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.errors import InputError

Verdict = Literal['lower', 'higher', 'no different']

# 6^6 resamples are 46,656; 7^7 would be 823,543.
_MAX_ENUMERATED = 6


class Interval(NamedTuple):
  """A median and what it may be as well.

  Attributes:
    median: of the values, in their unit; may be infinite.
    low: lower end of the interval, <= `median`.
    high: upper end, >= `median`.
  """

  median: float
  low: float
  high: float


class Comparison(NamedTuple):
  """One method against another, seed by seed.

  Attributes:
    difference: of ours minus theirs.
    verdict: what it says: ours is lower, higher, or no different.
  """

  difference: Interval
  verdict: Verdict


class Profile(NamedTuple):
  """Performance profiles of methods over problems.

  Attributes:
    taus: [num_points] float64, cost ratios from 1 to the largest, rising; every
      ratio at which a profile jumps is among them, so steps are exact.
    shares: of each method, [num_points] float64, the share of the solved
      problems that it solved at a cost of at most `taus` times the best.
    scores: of each method, its profile's mean over [1, largest tau], in [0, 1].
    num_problems: problems that some method solved: those that count.
    num_unsolved: problems that no method solved, left out.
  """

  taus: np.ndarray
  shares: dict[str, np.ndarray]
  scores: dict[str, float]
  num_problems: int
  num_unsolved: int


def median_interval(
  values: Iterable[float],
  *,
  confidence: float = 0.95,
  num_resamples: int = 10_000,
  seed: int = 0,
) -> Interval:
  """Median and percentile-bootstrap interval of it, one value a seed.

  With up to 6 values all n^n resamples are taken rather than some of them, so
  the interval is exact and `seed` does nothing. With 2 to 5 values the 95 %
  interval is the range of the values: more than 2.5 % of the resamples have
  the least value, or the greatest, as their median. One value is an interval
  of no length, which says nothing of the spread.

  The median of an even number of values is midway between the middle two;
  beside an infinite one it is infinite, and between two opposite infinities 0.
  The ends are medians of resamples, never between two of them.

  Args:
    values: at least one; infinite ones are allowed, NaN is not.
    confidence: share of the resamples' medians inside, in (0, 1).
    num_resamples: drawn where there are more than 6 values, >= 1.
    seed: of that drawing.

  Returns:
    The `Interval`; the interval of the negated values is its mirror image.

  Raises:
    InputError: (a `ValueError`) an argument is out of range.

  Example:
    >>> median_interval([3.0, 1.0, 2.0, 5.0, float('inf')])
    Interval(median=3.0, low=1.0, high=inf)
  """
  sample = _to_values('values', values)
  if not 0 < confidence < 1:
    raise InputError(
      f'confidence must be between 0 and 1, got {confidence}; 0.95 is usual'
    )
  if num_resamples < 1:
    raise InputError(f'num_resamples must be at least 1, got {num_resamples}')
  n = len(sample)
  if n <= _MAX_ENUMERATED:
    indices = _all_resamples(n)
  else:
    generator = np.random.default_rng(seed)
    indices = generator.integers(n, size=(num_resamples, n))
  medians = np.sort(_medians(sample[indices]))
  # The inverted distribution function from below, and its mirror image from
  # above. 1 - 0.95 is a little over 0.05, which must not cost a rank.
  below = math.ceil((1 - confidence) / 2 * len(medians) - 1e-9) - 1
  return Interval(
    float(_medians(sample[None])[0]),
    float(medians[below]),
    float(medians[len(medians) - 1 - below]),
  )


def paired_difference(
  ours: Mapping[Any, float] | Sequence[float],
  theirs: Mapping[Any, float] | Sequence[float],
  *,
  confidence: float = 0.95,
  num_resamples: int = 10_000,
  seed: int = 0,
) -> Interval:
  """Median difference ours - theirs, seed by seed, and its interval.

  Where both are infinite, of one sign, the seed does not tell the methods
  apart: its difference is 0. Where one is, the difference is infinite.

  With few seeds an interval misses zero by luck alone: of two equal methods,
  at 95 %, once in 2 with 2 seeds, in 4 with 3, in 8 with 4 and in 16 with 5.

  Args:
    ours: the value of each seed, or the values in the order of the seeds.
    theirs: likewise, of the same seeds.
    confidence: as in :func:`median_interval`.
    num_resamples: likewise.
    seed: likewise.

  Returns:
    The `Interval` of the differences.

  Raises:
    InputError: (a `ValueError`) the seeds differ, one is a mapping and the
      other is not, or an argument is out of range.

  Example:
    >>> paired_difference({0: 1.0, 1: 2.0, 2: 3.0}, {2: 5.0, 1: 3.0, 0: 1.5})
    Interval(median=-1.0, low=-2.0, high=-0.5)
  """
  if isinstance(ours, Mapping) != isinstance(theirs, Mapping):
    raise InputError(
      'ours and theirs must both be mappings from seeds, or both sequences, '
      f'got {type(ours).__name__} and {type(theirs).__name__}'
    )
  if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
    unpaired = [s for s in ours if s not in theirs]
    unpaired += [s for s in theirs if s not in ours]
    if unpaired:
      raise InputError(
        'ours and theirs must have the same seeds; only one of them has '
        f'{unpaired}: run the other with them too, or leave them out'
      )
    ours, theirs = list(ours.values()), [theirs[s] for s in ours]
  a, b = _to_values('ours', ours), _to_values('theirs', theirs)
  if len(a) != len(b):
    raise InputError(
      'ours and theirs must have one value a seed, got '
      f'{len(a)} and {len(b)} values'
    )
  with np.errstate(invalid='ignore'):
    differences = np.where(a == b, 0.0, a - b)
  return median_interval(
    differences,
    confidence=confidence,
    num_resamples=num_resamples,
    seed=seed,
  )


def verdict(interval: Interval) -> Verdict:
  """What the interval of a difference says: all below zero, above, or neither.

  Args:
    interval: of the differences, from :func:`paired_difference`.

  Returns:
    `'lower'`, `'higher'`, or `'no different'` where zero is inside or an end.

  Example:
    >>> verdict(Interval(-1.0, -2.0, -0.5)), verdict(Interval(-1.0, -2.0, 0.0))
    ('lower', 'no different')
  """
  if interval.high < 0:
    return 'lower'
  if interval.low > 0:
    return 'higher'
  return 'no different'


def compare_by_seed(
  ours: Mapping[Any, float], theirs: Mapping[Any, float]
) -> Comparison:
  """The rule by which every command says that two methods differ.

  They do where the interval of the paired difference leaves zero out. That of
  one seed has no length and says nothing.

  Args:
    ours: the value of each seed.
    theirs: likewise, of the same seeds.

  Returns:
    A `Comparison`.

  Raises:
    InputError: (a `ValueError`) the seeds differ, or there are none.

  Example:
    >>> compare_by_seed({0: 1.0, 1: 3.0}, {0: 1.5, 1: 3.5}).verdict
    'lower'
  """
  difference = paired_difference(ours, theirs)
  return Comparison(
    difference, verdict(difference) if len(ours) > 1 else 'no different'
  )


def luck(num_seeds: int) -> str:
  """What the intervals over so many seeds are worth, in a sentence."""
  if num_seeds == 1:
    return 'Rows of one seed have no interval: theirs says nothing. '
  if 2 <= num_seeds <= 5:
    return (
      f'With {num_seeds} seeds such an interval is their range, and a '
      'difference whose interval leaves zero out is one that all of them agree '
      f'on: by luck alone, one in {2 ** (num_seeds - 1)}. '
    )
  return ''


def within_seed_interval(
  ours_median: float, theirs_values: Iterable[float]
) -> bool:
  """Whether our median is no worse than the base's own seeds range.

  Lower is better; negate both where higher is.

  Args:
    ours_median: may be infinite, not NaN.
    theirs_values: of the base, one a seed, likewise.

  Returns:
    Whether it is within their range or below. Where a seed of the base is
    infinite, anything is.

  Raises:
    InputError: (a `ValueError`) there are no values, or one is NaN.

  Example:
    >>> within_seed_interval(1.2, [1.0, 1.3]), within_seed_interval(1.4, [1.3])
    (True, False)
  """
  (ours,) = _to_values('ours_median', [ours_median])
  return bool(ours <= _to_values('theirs_values', theirs_values).max())


def performance_profile(
  costs: Mapping[str, Mapping[str, float]],
  max_tau: float = 4.0,
  num_points: int = 301,
  *,
  missing_is_infinite: bool = False,
) -> Profile:
  r"""Performance profiles and scores, as AlgoPerf computes them.

  With r the cost of a method over the best cost of the problem,

  .. math::

    \rho(\tau) = \mathrm{share\ of\ problems\ with\ } r \le \tau, \qquad
    \mathrm{score} = \frac{1}{\tau_\max - 1} \int_1^{\tau_\max} \rho \, d\tau .

  The integral is that of the step function, not a sum over `num_points`.

  Args:
    costs: of each problem, of each method, its cost to the target, > 0;
      infinite where it missed the target, which no tau reaches.
    max_tau: largest ratio that counts, > 1.
    num_points: evenly spaced ratios in `taus` beside those of the jumps, >= 2.
    missing_is_infinite: whether a method that a problem lacks has missed its
      target there; otherwise it is an error.

  Returns:
    The `Profile`. A problem that no method solved tells none apart and is only
    counted.

  Raises:
    InputError: (a `ValueError`) an argument is out of range, or a cost is.
    DataError: (a `ValueError`) a method is missing from a problem, or no method
      solved any.

  References:
    Dahl et al., Benchmarking Neural Network Training Algorithms, 2023,
    section 4 (https://arxiv.org/abs/2306.07179); Dolan and Moré, 2002.

  Example:
    >>> costs = {
    ...   'digits': {'base': 10.0, 'isgd': 20.0},
    ...   'fashion': {'base': 30.0, 'isgd': float('inf')}}
    >>> performance_profile(costs).scores
    {'base': 1.0, 'isgd': 0.3333333333333333}
  """
  if not (math.isfinite(max_tau) and max_tau > 1):
    raise InputError(f'max_tau must be finite and above 1, got {max_tau}')
  if num_points < 2:
    raise InputError(f'num_points must be at least 2, got {num_points}')
  methods = list(dict.fromkeys(m for row in costs.values() for m in row))
  table = np.array(
    [
      [_cost(p, row, m, missing_is_infinite) for m in methods]
      for p, row in costs.items()
    ]
  ).reshape(len(costs), len(methods))
  is_solved = np.isfinite(table).any(axis=1)
  solved = table[is_solved]
  if not len(solved):
    raise DataError(
      f'no method solved any of the {len(costs)} problems: no cost in costs is '
      'finite; choose targets that some method reaches'
    )
  ratios = solved / solved.min(axis=1, keepdims=True)
  taus = np.union1d(
    np.linspace(1, max_tau, num_points), ratios[ratios <= max_tau]
  )
  gains = np.clip(max_tau - ratios, 0, None) / (max_tau - 1)
  return Profile(
    taus=taus,
    shares={
      m: (ratios[:, i, None] <= taus).mean(axis=0)
      for i, m in enumerate(methods)
    },
    scores={m: float(gains[:, i].mean()) for i, m in enumerate(methods)},
    num_problems=len(solved),
    num_unsolved=int((~is_solved).sum()),
  )


def _to_values(name: str, values: Iterable[float]) -> np.ndarray:
  """[n] float64 with n > 0 and no NaN, or an error."""
  array = np.array(list(values), np.float64)
  if array.ndim != 1 or not array.size:
    raise InputError(
      f'{name} must be at least one number, got an array of shape {array.shape}'
    )
  if np.isnan(array).any():
    raise InputError(
      f'{name} must not be NaN, got {array.tolist()}; count a run that '
      'diverged or missed its target as infinite'
    )
  return array


@functools.cache
def _all_resamples(n: int) -> np.ndarray:
  """Indices of all resamples of n values, [n^n, n]."""
  return np.array(list(itertools.product(range(n), repeat=n)))


def _medians(samples: np.ndarray) -> np.ndarray:
  """Medians of rows, [m, n] to [m], infinities allowed."""
  n = samples.shape[1]
  middle = np.partition(samples, ((n - 1) // 2, n // 2), axis=1)
  low, high = middle[:, (n - 1) // 2], middle[:, n // 2]
  # Half of each, as the sum of two may overflow.
  with np.errstate(invalid='ignore'):
    midway = np.where(low == high, low, 0.5 * low + 0.5 * high)
  return np.where(np.isnan(midway), 0.0, midway)


def _cost(
  problem: str, row: Mapping[str, float], method: str, is_infinite: bool
) -> float:
  """The cost of a method in a problem, checked."""
  if method not in row:
    if is_infinite:
      return math.inf
    raise DataError(
      f'costs[{problem!r}] lacks the method {method!r}; run it there, or say '
      'missing_is_infinite=True to count it as having missed the target'
    )
  cost = float(row[method])
  if not cost > 0:  # NaN is refused too.
    raise InputError(
      f'costs[{problem!r}][{method!r}] must be above 0, got {cost}; count a '
      'run that missed its target as infinite'
    )
  return cost
