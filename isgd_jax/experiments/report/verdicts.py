"""What the numbers say of ISGD, by rules fixed beforehand.

Every sentence and every mark comes from the rows alone. With five seeds a
paired interval that leaves zero out means that all five agree.
"""

import math
import statistics
from typing import Any, NamedTuple

from isgd_jax.experiments.report import rows as rows_lib
from isgd_jax.experiments.report.rows import Row
from isgd_jax.experiments.report.rows import Rows
from isgd_jax.experiments.statistics import Interval
from isgd_jax.experiments.statistics import compare_by_seed

# A stream: ISGD may spend this many times the evaluations of the base alone.
MAX_EVALUATION_RATIO = 1.2


class StreamVerdict(NamedTuple):
  """ISGD on a stream, over one base optimizer.

  Attributes:
    task: the task.
    base: the base optimizer.
    isgd: its prequential loss.
    versus: of each other method, the interval of ISGD's loss minus its loss.
    evaluation_ratio: ISGD's gradient evaluations over the base's, the median
      over the seeds.
    is_no_worse_than_twice: whether it is not higher than with every batch
      twice.
    is_better_than_random: whether it is lower than with the random trigger.
    is_cheap: whether it spent at most 1.2 times the evaluations.
  """

  task: str
  base: str
  isgd: Interval
  versus: dict[str, Interval]
  evaluation_ratio: float
  is_no_worse_than_twice: bool
  is_better_than_random: bool
  is_cheap: bool

  @property
  def is_met(self) -> bool:
    """Whether all three hold."""
    return (
      self.is_no_worse_than_twice
      and self.is_better_than_random
      and self.is_cheap
    )


class StationaryVerdict(NamedTuple):
  """ISGD against its base at equal gradient evaluations, stationary data.

  Attributes:
    task: the task.
    base: the base optimizer.
    schedule: of the learning rate of both.
    measures: of train loss, test loss and accuracy: ISGD's median, the least
      and greatest of the base's seeds, and the paired difference.
    is_harmless: whether each median is within the base's own seeds or better.
    better: the measures in which all seeds agree that ISGD is better.
    worse: likewise worse.
  """

  task: str
  base: str
  schedule: str
  measures: dict[str, tuple[float, float, float, Interval]]
  is_harmless: bool
  better: tuple[str, ...]
  worse: tuple[str, ...]


def bases_of(rows: Rows, task: str) -> list[str]:
  """The base optimizers that ISGD was run over on a task."""
  return [b for t, b, method in rows if t == task and method == 'isgd']


def stream_verdicts(rows: Rows) -> list[StreamVerdict]:
  """ISGD on every stream, over every base optimizer.

  Args:
    rows: all rows.

  Returns:
    One verdict for each row of ISGD on a stream that has its controls.
  """
  verdicts = []
  for (task, base, method), row in rows.items():
    if method != 'isgd' or not row.is_stream:
      continue
    pairs = {
      other: paired
      for other in ('base', 'base-decayed', 'twice', 'random', 'skip')
      if (paired := _paired(row, rows.get((task, base, other)), 'loss'))
    }
    found = {other: compare_by_seed(*pairs[other]) for other in pairs}
    if not {'base', 'twice', 'random'} <= found.keys():
      continue
    ratio = relative_to_base(rows, row, 'num_gradient_evaluations')
    verdicts.append(
      StreamVerdict(
        task=task,
        base=base,
        isgd=row.interval('loss'),
        versus={other: found[other].difference for other in found},
        evaluation_ratio=ratio,
        is_no_worse_than_twice=found['twice'].verdict != 'higher',
        is_better_than_random=found['random'].verdict == 'lower',
        is_cheap=ratio <= MAX_EVALUATION_RATIO,
      )
    )
  return verdicts


def stationary_verdicts(rows: Rows) -> list[StationaryVerdict]:
  """ISGD against its base, with the rate decayed and with it constant.

  Args:
    rows: all rows.

  Returns:
    One verdict for each row of ISGD on a stationary task, over the seeds that
    both have. Tasks whose budget is one of batches are left out: there ISGD
    spends more evaluations than its base.
  """
  pairs = {'isgd': 'base', 'isgd-constant': 'base-constant'}
  verdicts = []
  for (task, base, method), row in rows.items():
    if row.is_stream or row.config['seconds_per_batch']:
      continue
    other = rows.get((task, base, pairs.get(method, '')))
    if not _paired(row, other, 'loss'):
      continue
    measures, is_harmless, better, worse = {}, True, [], []
    for name in ('train_loss', 'loss', 'accuracy'):
      # Of an accuracy the negative, so that lower is better in all.
      sign = -1.0 if name == 'accuracy' else 1.0
      ours, theirs = (
        {seed: sign * value for seed, value in values.items()}
        for values in _paired(row, other, name)
      )
      median = statistics.median(ours.values())
      low, high = min(theirs.values()), max(theirs.values())
      difference, found = compare_by_seed(ours, theirs)
      measures[name] = sign * median, sign * low, sign * high, difference
      is_harmless &= median <= high
      if found == 'lower':
        better.append(name)
      elif found == 'higher':
        worse.append(name)
    verdicts.append(
      StationaryVerdict(
        task,
        base,
        'constant' if method == 'isgd-constant' else 'decayed',
        measures,
        is_harmless,
        tuple(better),
        tuple(worse),
      )
    )
  return verdicts


def profile_costs(rows: Rows) -> dict[str, dict[str, float]]:
  """Gradient evaluations to the target, of each problem, of each method.

  Args:
    rows: all rows, without the ablation's.

  Returns:
    Of each task and base optimizer, named together, the methods' medians over
    the seeds; infinite where most missed. Only methods that were run on every
    problem are in it.
  """
  costs: dict[str, dict[str, float]] = {}
  for (task, base, method), row in rows.items():
    goal = rows_lib.target(rows, task, base)
    # A run that an echo or a chase cannot shorten has no place here.
    if goal is None or row.config['seconds_per_batch']:
      continue
    of_row = rows_lib.costs(row, goal).evaluations.values()
    problem = f'{task}, {base}'
    costs.setdefault(problem, {})[method] = statistics.median_high(of_row)
  costs = {p: of for p, of in costs.items() if 'isgd' in of}
  common = set.intersection(*map(set, costs.values())) if costs else set()
  return {
    problem: {m: c for m, c in of.items() if m in common}
    for problem, of in costs.items()
  }


def _paired(
  row: Row, other: Row | None, name: str
) -> tuple[dict[int, float], ...]:
  """The values of both at the seeds that both have; empty without any."""
  seeds = [] if other is None else [s for s in row.runs if s in other.runs]
  if other is None or not seeds:
    return ()
  ours, theirs = row.values(name), other.values(name)
  return {s: ours[s] for s in seeds}, {s: theirs[s] for s in seeds}


def relative_to_base(rows: Rows, row: Row, name: str) -> float:
  """Median over the seeds of a number over the base's, seed by seed.

  Args:
    rows: all rows.
    row: of the method.
    name: of the number in the summaries.

  Returns:
    The ratio, infinite where most runs diverged, 0 where most of the base's
    did, 1 where both; NaN without a base.
  """
  paired = _paired(row, rows.get((row.task, row.base, 'base')), name)
  if not paired:
    return math.nan
  ours, theirs = paired
  return statistics.median(_ratio(ours[s], theirs[s]) for s in ours)


def _ratio(ours: float, theirs: float) -> float:
  """The ratio of two numbers, zero and infinity included."""
  if ours == theirs:
    return 1.0
  return ours / theirs if theirs else math.inf


def summary_of(verdicts: list[Any], attribute: str) -> str:
  """How many of the verdicts have it: `'7 of 9'`."""
  return f'{sum(getattr(v, attribute) for v in verdicts)} of {len(verdicts)}'
