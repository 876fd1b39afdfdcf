"""Gains over a base at the same rate, by rate and by task."""

from collections.abc import Iterable, Mapping
import math
import pathlib
import statistics
from typing import Any, NamedTuple

from isgd_jax.experiments.report.findings import describe_environment
from isgd_jax.experiments.report.rows import Record
from isgd_jax.experiments.runs.records import read_runs

NAME = 'paper-map'
TARGET = 'held_90'
# The paper leaves the rate of its chase open.
PAPER_METHODS = {'paper-isgd': 1, 'paper-isgd-10': 10, 'paper-isgd-100': 100}
BEST_OF_PAPER = 'best of the paper'


class Cell(NamedTuple):
  """A method at one base rate on one cycle, against the base at that rate.

  Attributes:
    method: its name.
    evaluations: to the target by seed; infinite where it was missed.
    gains: of each seed, 1 - its evaluations / the base's: infinite where only
      the base missed, minus infinity where only the method did, NaN where both.
  """

  method: str
  evaluations: dict[int, float]
  gains: dict[int, float]

  @property
  def gain(self) -> float:
    """The median over the seeds; NaN where both missed in most of them."""
    known = [g for g in self.gains.values() if not math.isnan(g)]
    if 2 * len(known) <= len(self.gains):
      return math.nan
    # Where both missed, neither gains.
    return statistics.median(
      0.0 if math.isnan(g) else g for g in self.gains.values()
    )

  @property
  def is_gain(self) -> bool:
    """Whether every seed took fewer evaluations than the base."""
    return all(g > 0 for g in self.gains.values())

  @property
  def is_loss(self) -> bool:
    """Whether every seed took more."""
    return all(g < 0 for g in self.gains.values())


class GainMap(NamedTuple):
  """Everything that was run.

  Attributes:
    columns: of each task, its title, in order.
    rates: ascending.
    cells: of (method, rate, task); of the base too.
    num_seeds: of each cell, at least.
    config: all numbers of the first task.
    environments: hardware and versions, a line each.
  """

  columns: dict[str, str]
  rates: list[float]
  cells: dict[tuple[str, float, str], Cell]
  num_seeds: int
  config: Mapping[str, Any]
  environments: list[str]

  def best_of_paper(self, rate: float, task: str) -> Cell | None:
    """The chase rate with the highest median gain, chosen after the fact."""
    found = [
      self.cells[method, rate, task]
      for method in PAPER_METHODS
      if (method, rate, task) in self.cells
    ]
    return max(found, key=_rank, default=None)

  def cell(self, method: str, rate: float, task: str) -> Cell | None:
    """Of a method, or of the best of the paper's."""
    if method == BEST_OF_PAPER:
      return self.best_of_paper(rate, task)
    return self.cells.get((method, rate, task))

  def tuned(self, methods: Iterable[str], task: str) -> tuple[float, float]:
    """The least median of evaluations over methods and rates, and its rate."""
    costs = {
      (rate, method): statistics.median_high(cell.evaluations.values())
      for (method, rate, of), cell in self.cells.items()
      if method in methods and of == task
    }
    best = min(costs, key=costs.__getitem__)
    return costs[best], best[0]


def _rank(cell: Cell) -> float:
  """By the median gain; what both missed is last but for what it missed."""
  return -math.inf if math.isnan(cell.gain) else cell.gain


def read_map(folder: pathlib.Path, target: str = TARGET) -> GainMap | None:
  """The map that a results folder holds.

  Args:
    folder: with `paper-map.jsonl`.
    target: a number of the summaries.

  Returns:
    The map, of cells with the seeds that their base has too; None where there
    are no records.
  """
  path = folder / f'{NAME}.jsonl'
  if not path.exists():
    return None
  return gain_map(read_runs(path), target)


def gain_map(records: Iterable[Record], target: str = TARGET) -> GainMap | None:
  """The map of some records.

  Args:
    records: as `read_runs` yields them.
    target: a number of the summaries.

  Returns:
    As `read_map`.
  """
  columns: dict[str, str] = {}
  configs: list[Mapping[str, Any]] = []
  environments = set()
  costs: dict[tuple[str, float, str], dict[int, float]] = {}
  for record in records:
    columns[record['task']] = record['task_config']['title']
    configs.append(record['task_config'])
    environments.add(describe_environment(record))
    key = record['method'], record['learning_rate'], record['task']
    spent = record['summary'][target]
    costs.setdefault(key, {})[record['seed']] = (
      math.inf if spent is None else float(spent)
    )
  cells = {}
  for (method, rate, task), spent in costs.items():
    base = costs.get(('base', rate, task), {})
    common = {seed: x for seed, x in sorted(spent.items()) if seed in base}
    if common:
      gains = {seed: gain_of(x, base[seed]) for seed, x in common.items()}
      cells[method, rate, task] = Cell(method, common, gains)
  if not cells:
    return None
  return GainMap(
    columns,
    sorted({rate for _, rate, _ in cells}),
    cells,
    min(len(cell.gains) for cell in cells.values()),
    configs[0],
    sorted(environments),
  )


def gain_of(ours: float, base: float) -> float:
  """Share of the base's evaluations that were saved.

  Args:
    ours: evaluations of a method; infinite where it missed.
    base: likewise of the base.

  Returns:
    The share: infinite where only the base missed, minus infinity where only
    the method did, NaN where both.

  Example:
    >>> gain_of(75.0, 100.0), gain_of(75.0, math.inf)
    (0.25, inf)
  """
  if math.isinf(ours) and math.isinf(base):
    return math.nan
  return math.inf if math.isinf(base) else 1 - ours / base
