"""The runs of one method on one task, gathered, and what they amount to."""

import collections
from collections.abc import Iterable, Mapping
import math
import statistics
from typing import Any, NamedTuple

from isgd_jax.experiments.optimizers.base_optimizers import ALWAYS_ON
from isgd_jax.experiments.optimizers.base_optimizers import best_rate
from isgd_jax.experiments.optimizers.published import PUBLISHED
from isgd_jax.experiments.optimizers.strengths import STRENGTHS
from isgd_jax.experiments.runs.methods import METHODS
from isgd_jax.experiments.runs.tasks import STREAM_ORDERS
from isgd_jax.experiments.statistics import Interval
from isgd_jax.experiments.statistics import median_interval

# Share of the tuned baseline's own final accuracy that a run has to reach.
_TARGET_SHARE = 0.99
# Share of the best accuracy that the tuned baseline has within a segment.
_RECOVERED_SHARE = 0.9
_BASE_ORDER = (
  *('sgd', 'momentum', 'nesterov', 'adam', 'polyak', 'momo'),
  *ALWAYS_ON,
  *STRENGTHS,
  *PUBLISHED,
)
_METHOD_ORDER = tuple(METHODS)
# Columns of an evaluation in a record.
_EVALUATIONS, _SECONDS, _ACCURACY = range(3)

Record = Mapping[str, Any]


class Row(NamedTuple):
  """A method over a base optimizer on a task.

  Attributes:
    task: the task's name.
    base: name of the base optimizer.
    method: name of the method.
    runs: the reporting runs by seed.
    learning_rate: as tuned.
    is_rate_at_edge: whether that is the grid's first or last.
    tuning_loss: of the tuning runs at that rate, the median; NaN untuned.
  """

  task: str
  base: str
  method: str
  runs: dict[int, Record]
  learning_rate: float
  is_rate_at_edge: bool
  tuning_loss: float = math.nan

  @property
  def config(self) -> Mapping[str, Any]:
    """All numbers of the task."""
    return self.first['task_config']

  @property
  def first(self) -> Record:
    """The run of the first seed."""
    return next(iter(self.runs.values()))

  @property
  def is_stream(self) -> bool:
    """Whether the task is one pass, judged before training."""
    return self.config['order'] in STREAM_ORDERS

  def values(self, name: str) -> dict[int, float]:
    """A number of the runs' summaries, by seed.

    Args:
      name: in the summary.

    Returns:
      The numbers; a diverged run's are the worst there is.
    """
    worst = -math.inf if 'accuracy' in name else math.inf
    return {
      seed: worst if run['summary'][name] is None else run['summary'][name]
      for seed, run in self.runs.items()
    }

  def median(self, name: str) -> float:
    """The median over the seeds of a number of the summaries."""
    return statistics.median(self.values(name).values())

  def interval(self, name: str) -> Interval:
    """The median over the seeds, with its interval."""
    return median_interval(self.values(name).values())

  @property
  def share_chasing(self) -> float:
    """Gradient evaluations beyond the first of each step, share of all."""
    return statistics.median(
      1
      - run['summary']['num_steps'] / run['summary']['num_gradient_evaluations']
      for run in self.runs.values()
    )

  @property
  def steps_per_flag(self) -> float:
    """Chase steps for each flagged batch; NaN where none is flagged."""
    flags = sum(r['summary']['num_undertrained'] for r in self.runs.values())
    steps = sum(r['summary']['num_extra_steps'] for r in self.runs.values())
    return steps / flags if flags else math.nan


Rows = dict[tuple[str, str, str], Row]


def collect(records: Iterable[Record]) -> Rows:
  """Gathers records into rows.

  Args:
    records: as `records.read_runs` yields them.

  Returns:
    Of each (task, base, method) that has reporting runs at the rate that its
    tuning runs chose (or at a published one, which nobody tuned), its row,
    tasks in the order of the records. Rows of a
    task that was changed stand only beside others of the same numbers: of the
    numbers that most rows have.
  """
  groups: dict[tuple[str, str, str], dict[str, list[Record]]] = {}
  for record in records:
    key = record['task'], record['base'], record['method']
    group = groups.setdefault(key, {'tuning': [], 'reporting': []})
    group[record['purpose']].append(record)
  rows = {}
  for key, group in groups.items():
    losses: dict[float, list[float]] = {}
    for record in group['tuning']:
      loss = record['summary']['loss']
      losses.setdefault(record['learning_rate'], []).append(
        math.inf if loss is None else loss
      )
    if not group['reporting'] or not (losses or _is_untuned(group)):
      continue
    rate = (
      best_rate(losses) if losses else group['reporting'][-1]['learning_rate']
    )
    runs = {
      r['seed']: r for r in group['reporting'] if r['learning_rate'] == rate
    }
    if not runs:
      continue
    rows[key] = Row(
      *key,
      runs=dict(sorted(runs.items())),
      learning_rate=rate,
      is_rate_at_edge=bool(losses) and rate in (min(losses), max(losses)),
      tuning_loss=statistics.median(losses[rate]) if losses else math.nan,
    )
  return _of_one_form(_in_order(rows))


def _is_untuned(group: Mapping[str, list[Record]]) -> bool:
  """Whether the rate of these runs is a published one."""
  return all(
    r['algorithm'].get('tuning_seeds') == [] for r in group['reporting']
  )


def _in_order(rows: Rows) -> Rows:
  """The rows in an order that does not hang on which runs were made first."""
  tasks = list(dict.fromkeys(task for task, _, _ in rows))

  def place(key: tuple[str, str, str]) -> tuple[int, ...]:
    orders = tasks, _BASE_ORDER, _METHOD_ORDER
    return tuple(
      order.index(name) if name in order else len(order)
      for order, name in zip(orders, key, strict=True)
    )

  return {key: rows[key] for key in sorted(rows, key=place)}


def _of_one_form(rows: Rows) -> Rows:
  """The rows whose task has the numbers that most rows of that task have."""
  forms: dict[str, collections.Counter[str]] = {}
  for (task, _, _), row in rows.items():
    forms.setdefault(task, collections.Counter())[repr(row.config)] += 1
  usual = {task: found.most_common(1)[0][0] for task, found in forms.items()}
  return {
    key: row for key, row in rows.items() if repr(row.config) == usual[key[0]]
  }


def target(rows: Rows, task: str, base: str) -> float | None:
  """What a run on a task has to reach.

  Args:
    rows: all rows.
    task: a task's name.
    base: a base optimizer; its own tuned baseline sets the target for all
      methods over it.

  Returns:
    From its reported runs (tuning runs are judged on other examples, which may
    be easier): on a stationary task an accuracy, 99 % of the median that they
    have at the end, the rate decayed; on a stream a rolling accuracy, 90 % of
    the median over their segments of the best within the segment. None without
    a baseline, or where it diverged.
  """
  baseline = rows.get((task, base, 'base'))
  if baseline is None:
    return None
  if not baseline.is_stream:
    goal = _TARGET_SHARE * baseline.median('accuracy')
    return goal if math.isfinite(goal) else None
  highs = [
    segment[-1][2] if segment else 0.0
    for run in baseline.runs.values()
    if run['summary']['loss'] is not None
    for segment in run['recovery']
  ]
  return _RECOVERED_SHARE * statistics.median(highs) if highs else None


class Costs(NamedTuple):
  """What it took each run of a row to reach the target, by seed.

  Attributes:
    evaluations: gradient evaluations; infinite where it was missed.
    seconds: of training; on a stream NaN, it is measured for whole runs alone.
    batches: on a stream, from the change on; else NaN.
  """

  evaluations: dict[int, float]
  seconds: dict[int, float]
  batches: dict[int, float]


def costs(row: Row, goal: float) -> Costs:
  """What it took each run of a row to reach a target.

  Args:
    row: the runs.
    goal: from `target`.

  Returns:
    The costs. On a stream, of each run the median over the changes; a segment
    in which the target was not reached counts as infinite.
  """
  found = {
    seed: (_recovery if row.is_stream else _first_reach)(run, goal)
    for seed, run in row.runs.items()
  }
  return Costs(
    *({seed: cost[i] for seed, cost in found.items()} for i in range(3))
  )


def _first_reach(run: Record, goal: float) -> tuple[float, float, float]:
  """Evaluations and seconds at the first evaluation at the target."""
  for evaluation in run['evaluations']:
    accuracy = evaluation[_ACCURACY]
    if accuracy is not None and accuracy >= goal:
      return evaluation[_EVALUATIONS], evaluation[_SECONDS], math.nan
  return math.inf, math.inf, math.nan


def _recovery(run: Record, goal: float) -> tuple[float, float, float]:
  """Median evaluations and batches from a change to the target."""
  batches, evaluations = [], []
  for segment in run['recovery']:
    reached = next(
      ((b, e) for b, e, accuracy in segment if accuracy >= goal),
      (math.inf, math.inf),
    )
    batches.append(reached[0])
    evaluations.append(reached[1])
  return (
    statistics.median_high(evaluations),
    math.nan,
    statistics.median_high(batches),
  )
