"""`isgd-jax compare`: all runs of one workload, from where they stopped."""

from collections.abc import Sequence
import dataclasses
import pathlib
import sys

from isgd_jax.experiments import files
from isgd_jax.experiments.compare import ignored
from isgd_jax.experiments.datasets import is_cifar10_archive
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.optimizers.base_optimizers import base_optimizer_names
from isgd_jax.experiments.optimizers.published import PUBLISHED
from isgd_jax.experiments.progress import progress
from isgd_jax.experiments.runs import real_streams
from isgd_jax.experiments.runs.methods import LOSS_ADAPTIVE
from isgd_jax.experiments.runs.methods import resolve_methods
from isgd_jax.experiments.runs.rate_map import run_rate_map
from isgd_jax.experiments.runs.records import Store
from isgd_jax.experiments.runs.runner import ComparisonPlan
from isgd_jax.experiments.runs.runner import run_plan
from isgd_jax.experiments.runs.tasks import PERMUTED_TASKS
from isgd_jax.experiments.runs.tasks import WARM_UP_ROWS
from isgd_jax.experiments.runs.tasks import Task
from isgd_jax.experiments.runs.tasks import reads_folder
from isgd_jax.experiments.runs.tasks import task_table
from isgd_jax.experiments.runs.workloads import LARGE_WORKLOADS
from isgd_jax.experiments.runs.workloads import WORKLOADS


@dataclasses.dataclass(frozen=True)
class CompareConfig:
  """What is compared.

  Attributes:
    workload: one of `workloads.WORKLOADS`.
    methods: names; None takes the workload's.
    base_optimizers: names; None takes the workload's.
    seeds: of the runs that are reported.
    budget: gradient evaluations (batches, on a stream) of a run; None takes
      each task's own.
    large: whether to take the form for an accelerator.
    data_dir: where the files of the data set lie; None where they are looked
      for by themselves. Of CIFAR-10, the binary version or the JPEG archive.
    tasks: names, in the order in which they are run; None takes the workload's.
  """

  workload: str
  methods: tuple[str, ...] | None = None
  base_optimizers: tuple[str, ...] | None = None
  seeds: int = 5
  budget: int | None = None
  large: bool = False
  data_dir: str | None = None
  tasks: tuple[str, ...] | None = None

  @property
  def file_name(self) -> str:
    """Of the records, in the results folder."""
    return f'{self.workload}{"-large" if self.large else ""}.jsonl'

  def plans(self) -> list[ComparisonPlan]:
    """Checks everything that a user can get wrong, before any compute.

    Returns:
      What to run, one plan a task.

    Raises:
      InputError: (a `ValueError`) a name is unknown, a number too small, or
        an option does nothing on this workload.

    Example:
      >>> [plan.task.name for plan in CompareConfig('drift-labels').plans()]
      ['drift-labels/fashion', 'drift-labels/digits']
    """
    check_name('workload', self.workload, WORKLOADS)
    workload = (LARGE_WORKLOADS if self.large else WORKLOADS)[self.workload]
    if self.seeds < 1:
      raise InputError(f'seeds must be at least 1, got {self.seeds}')
    # Permuted tasks are run with published settings alone, and those there.
    known = base_optimizer_names()
    if set(workload.base_optimizers) & set(PUBLISHED):
      known = workload.base_optimizers
    for name in self.base_optimizers or ():
      check_name('base optimizer', name, known)
    methods = resolve_methods(self.methods or workload.methods)
    tasks = self._chosen_tasks(workload.tasks)
    ignored.check_ignored(
      self.workload,
      tasks=tasks if self.tasks else None,
      methods=self.methods,
      base_optimizers=self.base_optimizers,
      large=self.large,
      data_dir=self.data_dir,
    )
    chosen = self.base_optimizers or workload.base_optimizers
    # Those two are compared alone.
    wants_adaptive = (
      bool(set(chosen) & set(LOSS_ADAPTIVE))
      if self.base_optimizers
      else workload.has_loss_adaptive and self.methods is None
    )
    return [
      ComparisonPlan(
        task=self._fitted(task),
        base_optimizers=tuple(
          b for b in chosen if b not in LOSS_ADAPTIVE or not wants_adaptive
        ),
        methods=methods,
        has_loss_adaptive=wants_adaptive,
        num_rates=workload.num_rates,
        rate_factor=workload.rate_factor,
        num_tuning_seeds=workload.num_tuning_seeds,
        num_seeds=self.seeds,
        has_traces=workload.has_traces,
        is_map=workload.is_map,
      )
      for task in tasks
    ]

  def _chosen_tasks(self, tasks: Sequence[Task]) -> list[Task]:
    """Those that were asked for, each once."""
    if not self.tasks:
      return list(tasks)
    by_name = {task.name: task for task in tasks}
    for name in self.tasks:
      check_name(f'task of {self.workload}', name, by_name)
    return [by_name[name] for name in dict.fromkeys(self.tasks)]

  def _fitted(self, task: Task) -> Task:
    """The task, of the size and from the place that were asked for."""
    if self.budget is not None:
      task = with_budget(task, self.budget)
    # Beside one that reads files, a workload may have one that has none.
    folder = self.data_dir if reads_folder(task) else None
    task = dataclasses.replace(task, data_dir=folder)
    if task.dataset == 'cifar10' and is_cifar10_archive(self.data_dir):
      # The records are to say which pixels they are of.
      task = dataclasses.replace(task, dataset='cifar10-jpeg')
    return task


def with_budget(task: Task, budget: int) -> Task:
  """The task, of about as many batches as asked for.

  Args:
    task: the task.
    budget: gradient evaluations, or on a stream batches.

  Returns:
    A task of whole epochs, of segments of equal length, of the first permuted
    tasks, or of a table's first rows.

  Raises:
    InputError: (a `ValueError`) the budget is less than an epoch or a permuted
      task, or less than 20 batches a segment.

  Example:
    >>> task = WORKLOADS['drift-labels'].tasks[0]
    >>> with_budget(task, 500).batches_per_segment
    50
  """
  if task.is_table:
    if budget < 20:
      raise InputError(
        f'budget={budget} is too few batches of {task.name}: give at least 20'
      )
    num_train = WARM_UP_ROWS + budget * task.batch_size
    return dataclasses.replace(task, num_train=min(task.num_train, num_train))
  if task.order == PERMUTED_TASKS:
    # Tasks as long as published, the first of them.
    if budget < task.batches_per_segment:
      raise InputError(
        f'budget={budget} is less than a task of {task.name}: give at least '
        f'{task.batches_per_segment}'
      )
    num_tasks = min(task.num_segments, budget // task.batches_per_segment)
    return dataclasses.replace(task, num_segments=num_tasks)
  if task.is_stream:
    length, least = budget // task.num_segments, 20
    if length < least:
      raise InputError(
        f'budget={budget} leaves {length} batches for each of the '
        f'{task.num_segments} segments of {task.name}: give at least '
        f'{least * task.num_segments}'
      )
    transition = task.transition_batches * length // task.batches_per_segment
    return dataclasses.replace(
      task, batches_per_segment=length, transition_batches=transition
    )
  per_epoch = task.num_train // task.batch_size
  if budget < per_epoch:
    raise InputError(
      f'budget={budget} is less than an epoch of {task.name}: give at least '
      f'{per_epoch}'
    )
  return dataclasses.replace(task, num_epochs=budget // per_epoch)


def _with_data(plans: list[ComparisonPlan]) -> list[ComparisonPlan]:
  """The plans, those of real streams only where their data are at hand."""
  found, missing = [], {}
  for plan in plans:
    try:
      if plan.task.is_table:
        task_table(plan.task)
      found.append(plan)
    except (ImportError, ValueError) as error:
      missing[plan.task.dataset] = error
  for name, error in missing.items():
    if not found:
      raise error
    print(f'left out: {name}: {error}', file=sys.stderr)
  return found


def compare(
  config: CompareConfig,
  out: str | pathlib.Path,
  *,
  show_progress: bool | None = None,
) -> pathlib.Path:
  """Makes the runs of a workload that are not on record.

  Args:
    config: what to compare.
    out: the results folder; made where it is missing.
    show_progress: whether to show a progress bar on stderr; None shows it on a
      terminal only.

  Returns:
    The file of the records.

  Raises:
    ValueError: `config` is not valid, or data are missing.
    OSError: the folder cannot be written.
    KeyboardInterrupt: with a message that says what was kept and where.
  """
  plans = _with_data(config.plans())
  path = files.prepare_output_folder(out) / config.file_name
  store = Store(path)
  bar = progress(
    sum(plan.num_runs for plan in plans), unit='run', show=show_progress
  )
  try:
    with bar:
      for plan in plans:
        if plan.task.is_table:
          store.note('no_change', real_streams.no_change(plan.task))
        (run_rate_map if plan.is_map else run_plan)(plan, store, bar)
  except KeyboardInterrupt as error:
    raise KeyboardInterrupt(
      f'{store.num_runs} runs are kept in {path}; the same command goes on'
    ) from error
  return path
