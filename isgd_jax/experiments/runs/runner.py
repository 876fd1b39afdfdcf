"""Runs every method on a task, tuned, and records each run at once.

The rules: every method sees the same batches from the same initial parameters;
each has its learning rate tuned on the same grid with the same number of runs,
on seeds apart from those that are reported; cost is counted in seconds and in
gradient evaluations. A run that is on record is not repeated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
from typing import Any, NamedTuple

import numpy as np

from isgd_jax.experiments import files
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.optimizers.base_optimizers import best_rate
from isgd_jax.experiments.optimizers.base_optimizers import learning_rate_grid
from isgd_jax.experiments.runs import tasks
from isgd_jax.experiments.runs.methods import LOSS_ADAPTIVE
from isgd_jax.experiments.runs.methods import METHODS
from isgd_jax.experiments.runs.methods import Method
from isgd_jax.experiments.runs.outcomes import extra_steps_of
from isgd_jax.experiments.runs.outcomes import histogram
from isgd_jax.experiments.runs.outcomes import outcome_of
from isgd_jax.experiments.runs.records import Store
from isgd_jax.experiments.runs.scan_batches import build_scan_batches
from isgd_jax.experiments.runs.scanned import train_in_scan
from isgd_jax.experiments.runs.tasks import Purpose
from isgd_jax.experiments.runs.tasks import Task
from isgd_jax.experiments.runs.training import RunConfig
from isgd_jax.experiments.runs.training import RunResult
from isgd_jax.experiments.runs.training import train

# How far the reporting seeds are from the tuning seeds.
_REPORTING_OFFSET = 1000


OnResult = Callable[[Mapping[str, Any], RunResult], None]


class Entry(NamedTuple):
  """A method over a base optimizer: one row of a table.

  Attributes:
    base_optimizer: its name.
    method: how to train.
  """

  base_optimizer: str
  method: Method


@dataclasses.dataclass(frozen=True)
class ComparisonPlan:
  """What is run on one task.

  Attributes:
    task: the task.
    base_optimizers: names; each is compared under every method.
    methods: ISGD before the random trigger.
    has_loss_adaptive: whether `polyak` and `momo` are compared too.
    num_rates: learning rates in the grid.
    rate_factor: of all of them.
    num_tuning_seeds: seeds of the runs that choose the rate; 0 where there is
      one rate, as published.
    num_seeds: seeds of the runs that are reported.
    first_seed: that both are counted from; the reported ones from 1000 on.
    has_traces: whether what happened along the runs is recorded too.
    is_map: whether every rate of the grid is reported, as `rate_map` does, and
      none is tuned.
  """

  task: Task
  base_optimizers: tuple[str, ...]
  methods: tuple[Method, ...]
  has_loss_adaptive: bool = False
  num_rates: int = 6
  rate_factor: float = 1.0
  num_tuning_seeds: int = 2
  num_seeds: int = 5
  first_seed: int = 0
  has_traces: bool = True
  is_map: bool = False

  def __post_init__(self):
    if not self.num_tuning_seeds and self.num_rates != 1:
      raise InputError(
        f'without tuning seeds there is one rate, got num_rates='
        f'{self.num_rates}; set it to 1, or give tuning seeds'
      )
    if self.num_tuning_seeds > _REPORTING_OFFSET:
      raise InputError(
        f'num_tuning_seeds must be at most {_REPORTING_OFFSET}, where the '
        f'seeds that are reported begin, got {self.num_tuning_seeds}'
      )

  @property
  def tuning_seeds(self) -> range:
    """Seeds of the runs that choose the rate."""
    return range(self.first_seed, self.first_seed + self.num_tuning_seeds)

  @property
  def reporting_seeds(self) -> range:
    """Seeds of the runs that are reported, none of them a tuning seed."""
    first = self.first_seed + _REPORTING_OFFSET
    return range(first, first + self.num_seeds)

  def groups(self) -> Iterator[list[Entry]]:
    """Entries that run side by side: those of one base optimizer."""
    for base_optimizer in self.base_optimizers:
      yield [Entry(base_optimizer, method) for method in self.methods]
    if self.has_loss_adaptive:
      yield [Entry(name, METHODS['base']) for name in LOSS_ADAPTIVE]

  def rates(self, base_optimizer: str) -> tuple[float, ...]:
    """The grid that every method of a base optimizer is tuned on."""
    return learning_rate_grid(base_optimizer, self.num_rates, self.rate_factor)

  @property
  def num_runs(self) -> int:
    """How many runs there are in all."""
    num_entries = sum(len(group) for group in self.groups())
    runs = self.num_rates * self.num_tuning_seeds + self.num_seeds
    if self.is_map:
      runs = self.num_rates * self.num_seeds
    return num_entries * runs


def run_plan(
  plan: ComparisonPlan,
  store: Store,
  bar: Any,
  *,
  on_result: OnResult = lambda record, result: None,
) -> None:
  """Tunes and reports every entry of a plan.

  Args:
    plan: what to run.
    store: where the records are, and go.
    bar: a progress bar, advanced by one a run.
    on_result: `on_result(record, result)` is called with the record of each run
      that was made just now, and the `RunResult` that it is of.
  """
  runner = _Runner(plan, store, bar, on_result)
  for group in plan.groups():
    runner.run_group(group)


class _Runner:
  """The runs of one task."""

  def __init__(
    self, plan: ComparisonPlan, store: Store, bar: Any, on_result: OnResult
  ):
    self._plan = plan
    self._store = store
    self._bar = bar
    self._on_result = on_result
    self._model = tasks.build_task_model(plan.task)
    self._evaluations: dict[Purpose, Any] = {}

  def run_group(self, group: Sequence[Entry]) -> None:
    """Tunes each entry; then reports all, seed by seed.

    Seed by seed, so that other load on the machine slows all methods.
    """
    plan = self._plan
    # Of ISGD as tuned, by seed: what the random trigger is to match.
    extra_steps: dict[int, np.ndarray] = {}
    rates = [self._tune(entry, extra_steps) for entry in group]
    for seed in plan.reporting_seeds:
      for entry, rate in zip(group, rates, strict=True):
        record = self._run(entry, 'reporting', rate, seed, extra_steps)
        if entry.method.name == 'isgd':
          extra_steps[seed] = self._extra_steps_of(record)

  def _tune(self, entry: Entry, extra_steps: dict[int, np.ndarray]) -> float:
    """The best rate; ISGD leaves the `extra_steps` that it took with it."""
    if not self._plan.num_tuning_seeds:
      (rate,) = self._plan.rates(entry.base_optimizer)
      return rate
    losses: dict[float, list[float]] = {}
    extra: dict[float, dict[int, np.ndarray]] = {}
    for rate in self._plan.rates(entry.base_optimizer):
      losses[rate], extra[rate] = [], {}
      for seed in self._plan.tuning_seeds:
        record = self._run(entry, 'tuning', rate, seed, extra_steps)
        loss = record['summary']['loss']
        losses[rate].append(np.inf if loss is None else loss)
        extra[rate][seed] = self._extra_steps_of(record)
    best = best_rate(losses)
    if entry.method.name == 'isgd':
      extra_steps.update(extra[best])
    return best

  def _run(
    self,
    entry: Entry,
    purpose: Purpose,
    rate: float,
    seed: int,
    extra_steps: dict[int, np.ndarray],
  ) -> dict[str, Any]:
    """The record of one run, made now or found."""
    task = self._plan.task
    config = entry.method.run_config(task, entry.base_optimizer, rate, seed)
    shared = {
      'task': task.as_record(),
      'algorithm': self._algorithm(entry, config),
    }
    identity = run_identity(task, entry, config, purpose)
    trace = extra_steps.get(seed) if config.method == 'random' else None
    record = self._store.find(identity, **shared)
    # ISGD may have been tuned to another rate since, and left another trace.
    if record is None or (
      trace is not None and record['extra_steps'] != histogram(trace)
    ):
      result = self._train(entry, config, purpose, trace)
      record = {
        'id': identity,
        'task': task.name,
        'base': entry.base_optimizer,
        'method': entry.method.name,
        'purpose': purpose,
        'learning_rate': rate,
        'seed': seed,
        **outcome_of(
          task,
          purpose,
          result,
          task.change_points,
          has_traces=self._plan.has_traces,
        ),
      }
      record = self._store.append(record, **shared)
      self._on_result(record, result)
    summary = record['summary']
    self._bar.set_description(
      f'{task.name} {entry.base_optimizer} {entry.method.name}'
    )
    loss = summary['loss']
    self._bar.set_postfix_str(
      'diverged' if loss is None else f'loss {loss:.3f}'
    )
    self._bar.update()
    return record

  def _extra_steps_of(self, record: dict[str, Any]) -> np.ndarray:
    """ISGD's; none of a scanned task, where no random trigger takes them."""
    is_scanned = self._plan.task.is_scanned
    return np.zeros(0, int) if is_scanned else extra_steps_of(record)

  def _train(
    self,
    entry: Entry,
    config: RunConfig,
    purpose: Purpose,
    isgd_extra_steps: np.ndarray | None,
  ) -> RunResult:
    """One run; of a scanned task as one program."""
    task = self._plan.task
    if task.is_scanned:
      return train_in_scan(
        config,
        self._model,
        build_scan_batches(task, config.seed),
        change_points=task.change_points,
        is_real_time=task.is_real_time,
      )
    return train(
      config,
      self._model,
      tasks.build_stream(
        task, config.seed, is_reshuffled=entry.method.is_reshuffled
      ),
      isgd_extra_steps=isgd_extra_steps,
      budget=task.budget,
      evaluate=self._evaluation(purpose),
      num_evaluations=task.num_evaluations,
      show_progress=False,
    )

  def _algorithm(self, entry: Entry, config: RunConfig) -> dict[str, Any]:
    """All numbers of how an entry is trained, and of how it was tuned."""
    plan = self._plan
    return {
      **config.algorithm.as_record(),
      'decay_evaluations': config.decay_evaluations,
      'is_reshuffled': entry.method.is_reshuffled,
      'grid': plan.rates(entry.base_optimizer),
      'tuning_seeds': list(plan.tuning_seeds),
    }

  def _evaluation(self, purpose: Purpose) -> Any:
    """How a network is judged; nothing on a stream."""
    if self._plan.task.is_stream:
      return None
    if purpose not in self._evaluations:
      self._evaluations[purpose] = tasks.build_evaluation(
        self._plan.task, self._model, purpose
      )
    return self._evaluations[purpose]


def run_identity(
  task: Task, entry: Entry, config: RunConfig, purpose: Purpose
) -> str:
  """Names a run by all that decides its outcome, but for the versions."""
  everything = {
    'task': task.as_record(),
    'method': config.method,
    'algorithm': config.algorithm.as_record(),
    'base': config.base_optimizer,
    'rate': config.learning_rate,
    'decay_evaluations': config.decay_evaluations,
    'seed': config.seed,
    'is_reshuffled': entry.method.is_reshuffled,
    'purpose': purpose,
  }
  # The random trigger has the trace of an ISGD run, whose settings count too.
  if config.method == 'random':
    everything['isgd'] = config.isgd.as_record()
  text = files.to_json(everything)
  return hashlib.sha256(text.encode()).hexdigest()[:12]
