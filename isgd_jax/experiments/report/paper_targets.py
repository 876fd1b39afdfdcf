"""What each method saves of its base's evaluations to fixed accuracies.

On the paper's own data; beside it `replication` has the claims.
"""

from collections.abc import Sequence
import math
import statistics
from typing import NamedTuple

from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report import rows as rows_lib
from isgd_jax.experiments.report.gain_map import gain_of
from isgd_jax.experiments.report.rows import Rows
from isgd_jax.experiments.statistics import Interval
from isgd_jax.experiments.statistics import median_interval

# Test accuracies, fixed before any run. The headline is the highest that the
# base alone reaches in most seeds.
TARGETS = {
  'paper-mnist/lenet': (0.9, 0.95, 0.97),
  'paper-cifar10/quick': (0.3, 0.35, 0.4),
}
# What each is held against: the base with the same order and schedule.
_BASELINES = {
  **dict.fromkeys(
    (
      *('isgd-probation', 'isgd', 'paper-isgd'),
      *('paper-isgd-10', 'paper-isgd-100', 'base-constant'),
    ),
    'base',
  ),
  'reshuffled': 'base',
  'paper-isgd-reshuffled': 'reshuffled',
}
_TITLES = {
  'base': 'alone, decayed rate',
  'base-constant': 'alone, constant rate',
  'reshuffled': 'alone, decayed rate, reshuffled',
  'isgd-probation': 'ISGD',
  'isgd': 'ISGD, `probation=False`',
  'paper-isgd': "the paper's, chase at 1 x the rate",
  'paper-isgd-10': "the paper's, chase at 10 x",
  'paper-isgd-100': "the paper's, chase at 100 x",
  'paper-isgd-reshuffled': "the paper's, reshuffled",
}
# Fewer say nothing that could not be luck.
_MIN_SEEDS = 5
# In a cell, of what has no record.
NOT_RUN = 'not run'


class Saving(NamedTuple):
  """What a method saves of its baseline's evaluations to a target.

  Attributes:
    interval: of the shares saved, seed by seed.
    num_seeds: of those in which one of the two got there.
    verdict: `'fewer'` or `'more'` where the interval says so, else
      `'undecided'`.
  """

  interval: Interval
  num_seeds: int
  verdict: str


def saving(
  rows: Rows, task: str, base: str, method: str, target: float
) -> Saving | None:
  """What a method saves, against the base of the same order and schedule.

  Args:
    rows: all rows.
    task: a task's name.
    base: a base optimizer.
    method: one of those that have a baseline.
    target: a test accuracy.

  Returns:
    The saving; None where either was not run, or no seed of either got there.
  """
  ours = rows.get((task, base, method))
  other = rows.get((task, base, _BASELINES.get(method, '')))
  if ours is None or other is None:
    return None
  spent, theirs = (rows_lib.costs(row, target) for row in (ours, other))
  gains = [
    gain_of(spent.evaluations[seed], theirs.evaluations[seed])
    for seed in spent.evaluations
    if seed in theirs.evaluations
  ]
  known = [gain for gain in gains if not math.isnan(gain)]
  if not known:
    return None
  interval = median_interval(known)
  verdict = 'undecided'
  if len(known) >= _MIN_SEEDS:
    if interval.low > 0:
      verdict = 'fewer'
    elif interval.high < 0:
      verdict = 'more'
  return Saving(interval, len(known), verdict)


def headline_target(rows: Rows, task: str, base: str) -> float:
  """The highest target that the base alone reaches in most seeds.

  Args:
    rows: all rows.
    task: a task's name.
    base: a base optimizer.

  Returns:
    The target; the lowest where it reaches none, or was not run.
  """
  alone = rows.get((task, base, 'base'))
  for target in reversed(TARGETS[task]):
    if alone is not None:
      spent = rows_lib.costs(alone, target).evaluations.values()
      if math.isfinite(statistics.median_high(spent)):
        return target
  return TARGETS[task][0]


def targets_table(rows: Rows, task: str) -> str:
  """Evaluations to each target, and what is saved on the way to the headline.

  Args:
    rows: all rows.
    task: a task's name.

  Returns:
    A Markdown table; empty where nothing was run.
  """
  targets = TARGETS[task]
  header = ['base, method', 'rate', 'flagged, %']
  header += [f'evaluations to {100 * x:.0f} %' for x in targets]
  header += ['saved of the evaluations, against the base', 'verdict']
  lines = []
  for (of, base, method), row in rows.items():
    if of != task or method not in _TITLES:
      continue
    target = headline_target(rows, task, base)
    found = saving(rows, task, base, method, target)
    has_chart = row.first['algorithm']['kind'] in ('isgd', 'paper-isgd')
    flagged = 100 * row.median('share_undertrained')
    lines.append(
      [
        f'{base}, {_TITLES[method]}',
        f'{row.learning_rate:g}{"*" if row.is_rate_at_edge else ""}',
        f'{flagged:.1f}' if has_chart else '',
        *(
          markdown.cost(rows_lib.costs(row, x).evaluations.values(), 0)
          for x in targets
        ),
        ''
        if found is None
        else f'to {100 * target:.0f} %: {percent(found.interval)}',
        '' if found is None else found.verdict,
      ]
    )
  return markdown.markdown_table(header, lines) if lines else ''


def percent(interval: Interval) -> str:
  """`+3 % [-1 %, +8 %]`; what is infinite in words."""
  median, low, high = map(share, interval)
  return f'{median} [{low}, {high}]'


def share(gain: float) -> str:
  """`+3 %`; what is infinite in words."""
  if math.isinf(gain):
    return 'base missed' if gain > 0 else 'missed'
  # Rounded to a whole number, so that there is no -0.
  return f'{round(100 * gain):+d} %'


def describe_targets(rows: Rows) -> Sequence[str]:
  """The table of each of the paper's data sets that was run.

  Args:
    rows: all rows.

  Returns:
    Markdown paragraphs.
  """
  parts = []
  for task, targets in TARGETS.items():
    table = targets_table(rows, task)
    if not table:
      parts.append(f'`{task.split("/")[0]}`: {NOT_RUN}.')
      continue
    of_task = [row for row in rows.values() if row.task == task]
    config = of_task[0].config
    seeds = sorted({len(row.runs) for row in of_task})
    parts.append(
      f'{config["title"]}: {config["num_train"]:,} images of '
      f'{config["dataset"]}, batches of {config["batch_size"]}, '
      f'{config["num_epochs"]} epochs; seeds: {"/".join(map(str, seeds))}. '
      f'Targets: {", ".join(f"{100 * x:.0f} %" for x in targets)}.'
    )
    parts.append(table)
  return parts
