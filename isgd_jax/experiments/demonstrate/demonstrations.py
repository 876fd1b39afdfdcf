"""The paper's own demonstrations: why batches differ, and what ISGD does.

A handful of runs in a fixed cycle, at one learning rate a base optimizer that
nobody tuned: they show what the control chart sees, and compare nothing.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import os
import pathlib
import types
from typing import Any

import numpy as np

from isgd_jax import plotting
from isgd_jax.experiments import figures
from isgd_jax.experiments import files
from isgd_jax.experiments.demonstrate import numbers
from isgd_jax.experiments.demonstrate.numbers import describe_demonstrations
from isgd_jax.experiments.demonstrate.runs import COMMON_METHODS
from isgd_jax.experiments.demonstrate.runs import plan_runs
from isgd_jax.experiments.demonstrate.runs import run_outcome
from isgd_jax.experiments.environment import environment
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import data_error
from isgd_jax.experiments.progress import progress
from isgd_jax.experiments.runs import tasks
from isgd_jax.experiments.runs.tasks import Task
from isgd_jax.experiments.runs.workloads import WORKLOADS

__all__ = [
  'LEARNING_RATES',
  'STEMS',
  'demonstration_task',
  'describe_demonstrations',
  'draw_demonstrations',
  'read_demonstrations',
  'run_demonstrations',
]

LEARNING_RATES: Mapping[str, float] = types.MappingProxyType(
  {'sgd': 0.1, 'momentum': 0.01, 'nesterov': 0.01}
)

# By data set, what the names of the file and of the figures begin with: each
# has its own, so that they stand side by side in a folder.
_STEM = 'demonstrations'
STEMS: Mapping[str, str] = types.MappingProxyType(
  {'mnist': f'{_STEM}-mnist', 'fashion-mnist': _STEM}
)


def demonstration_task(
  large: bool = False, *, mnist: str | None = None
) -> Task:
  """The paper's MNIST set-up: LeNet, a fixed cycle, a constant learning rate.

  Args:
    large: whether to take all 60,000 training examples, in batches of 128, 15
      times; otherwise 3,200 of them, in batches of 64, 6 times.
    mnist: the folder of MNIST's files; None takes Fashion-MNIST.

  Returns:
    The task.

  Example:
    >>> demonstration_task().num_batches, demonstration_task(True).num_batches
    (300, 7020)
  """
  sizes = (60_000, 128, 15) if large else (3_200, 64, 6)
  num_train, batch_size, num_epochs = sizes
  name = f'demonstrations/{"large" if large else "small"}'
  return dataclasses.replace(
    WORKLOADS['stationary-fashion'].tasks[0],
    name=name if mnist is None else f'{name}-mnist',
    title=f'LeNet on {"Fashion-" if mnist is None else ""}MNIST',
    dataset='fashion-mnist' if mnist is None else 'mnist',
    data_dir=mnist,
    schedule='constant',
    num_train=num_train,
    batch_size=batch_size,
    num_epochs=num_epochs,
    window_size=num_train // batch_size,
  )


def run_demonstrations(
  task: Task,
  out: str | os.PathLike[str],
  *,
  learning_rates: Mapping[str, float] = LEARNING_RATES,
  seed: int = 0,
  show_progress: bool | None = None,
) -> list[dict[str, Any]]:
  """Makes the runs that are not on record yet, each recorded as it ends.

  Of each base optimizer: alone, with ISGD and with the paper's ISGD. Of SGD
  also with reshuffled batches, the control for what a place in the cycle
  explains. Along the run of Momentum alone, the losses of batches of one class
  each and of i.i.d. batches are looked at, without training on them.

  Args:
    task: a stationary one in a fixed cycle, of two epochs and a window of 11
      batches or more.
    out: folder for `demonstrations.jsonl`, or of MNIST
      `demonstrations-mnist.jsonl`; made if missing. Of each run, the file has a
      line with its configuration and environment.
    learning_rates: of base optimizers by name; all their methods have it.
    seed: of the cycle and the initial parameters.
    show_progress: whether to show a progress bar on stderr; None shows it on a
      terminal only.

  Returns:
    The records, as `read_demonstrations` returns them.

  Raises:
    InputError: (a `ValueError`) the task or a name is not such a one.
    DataError: (a `ValueError`) the data are missing.
    OutputError: (an `OSError`) the folder cannot be written.
    KeyboardInterrupt: with a message that says what was kept and where.

  Example:
    >>> import tempfile
    >>> task = Task('tiny', 'MLP', 'digits', 'mlp', 'cycle', batch_size=32,
    ...   window_size=20, num_train=640, num_epochs=2)
    >>> records = run_demonstrations(
    ...   task, tempfile.mkdtemp(), learning_rates={'nesterov': 0.01})
    >>> [record['method'] for record in records]
    ['base', 'isgd', 'paper-isgd']
  """
  if task.order != 'cycle' or task.num_epochs < 2 or task.window_size < 11:
    raise InputError(
      "task must have order='cycle', num_epochs >= 2 and window_size >= 11 "
      f"(the paper's ISGD), got {task.order!r}, {task.num_epochs} and "
      f'{task.window_size}; take another, such as demonstration_task()'
    )
  plan = plan_runs(task, learning_rates, seed)
  stem = STEMS.get(task.dataset, _STEM)
  path = files.prepare_output_folder(out) / f'{stem}.jsonl'
  records = {r['id']: r for r in _records(path) if r['id'] in plan}
  model = tasks.build_task_model(task)
  bar = progress(
    len(plan),
    initial=len(records),
    title='demonstrations',
    unit='run',
    show=show_progress,
  )
  try:
    with bar:
      for identity, configuration in plan.items():
        if identity in records:
          continue
        bar.set_postfix_str(
          f'{configuration["base"]} {configuration["method"]}'
        )
        records[identity] = files.plain(
          {
            'id': identity,
            **configuration,
            **run_outcome(task, model, configuration),
            'environment': environment(),
          }
        )
        files.append_record(path, records[identity])
        bar.update()
  except KeyboardInterrupt as error:
    raise KeyboardInterrupt(
      f'{len(records)} of {len(plan)} runs are kept in {path}; the same '
      'command goes on from there'
    ) from error
  _put_last(path, plan)
  return read_demonstrations(out, task.dataset)


def read_demonstrations(
  folder: str | os.PathLike[str], dataset: str = 'fashion-mnist'
) -> list[dict[str, Any]]:
  """The runs that were made last, under one configuration.

  Args:
    folder: with `demonstrations.jsonl`, or of MNIST
      `demonstrations-mnist.jsonl`.
    dataset: `'mnist'`, or any other for the file of all others.

  Returns:
    Records, one a base optimizer and method: `base`, `method`, `learning_rate`,
    `seed`, `task_config`, `algorithm`, `environment`, `summary`, and of
    the losses, nats, null where not finite: `losses` [num_epochs,
    cycle_length], or `sorted_losses` [num_epochs, 41 or fewer], and of one run
    `batch_kinds` (`steps` [num_points], `classes` [num_classes], and
    `single_class` and `iid`, each [num_batches, num_points]).

  Raises:
    DataError: (a `ValueError`) there are none.

  Example:
    >>> import tempfile
    >>> try:
    ...   read_demonstrations(tempfile.mkdtemp())
    ... except ValueError as error:
    ...   print('isgd-jax demonstrate' in str(error))
    True
  """
  path = pathlib.Path(folder) / f'{STEMS.get(dataset, _STEM)}.jsonl'
  records = list(_records(path))
  if not records:
    found = 'no run in it' if path.exists() else 'no such file'
    options = f'--out {folder}' + ' --mnist DIR' * (dataset == 'mnist')
    raise data_error(
      path, found, 'runs', f'make them: isgd-jax demonstrate {options}'
    )
  latest = records[-1]['plan']
  return list({r['id']: r for r in records if r['plan'] == latest}.values())


def draw_demonstrations(
  folder: str | os.PathLike[str],
  figure_format: figures.FigureFormat = 'png',
  dataset: str = 'fashion-mnist',
) -> list[pathlib.Path]:
  """Draws the figures that the records in a folder are enough for.

  Args:
    folder: with the records; the figures go there.
    figure_format: of the figures.
    dataset: as `read_demonstrations` takes it.

  Returns:
    The figures: `demonstrations-batch-kinds.png`, `demonstrations-positions
    .png` and for each base optimizer `demonstrations-distributions-<base>.png`;
    of MNIST `demonstrations-mnist-batch-kinds.png` and so on.

  Raises:
    DataError: (a `ValueError`) there are no records.
    OutputError: (an `OSError`) a figure cannot be written.
    ImportError: matplotlib is missing; the message names the extra.

  Example:
    >>> import tempfile
    >>> task = Task('tiny', 'MLP', 'digits', 'mlp', 'cycle', batch_size=32,
    ...   window_size=20, num_train=640, num_epochs=2)
    >>> folder = tempfile.mkdtemp()
    >>> _ = run_demonstrations(task, folder, learning_rates={'nesterov': 0.01})
    >>> [path.name for path in draw_demonstrations(folder)]
    ['demonstrations-distributions-nesterov.png']
  """
  plotting.new_figure()  # A missing matplotlib shows before anything is drawn.
  folder = pathlib.Path(folder)
  records = read_demonstrations(folder, dataset)
  stem = STEMS.get(dataset, _STEM)
  title = records[0]['task_config']['title']
  drawn = []

  def path(name: str) -> pathlib.Path:
    drawn.append(folder / f'{stem}-{name}.{figure_format}')
    return drawn[-1]

  for record in records:
    if kinds := record.get('batch_kinds'):
      figures.draw_batch_kinds(
        path('batch-kinds'),
        np.array(kinds['steps']),
        np.array(kinds['single_class'], np.float64),
        np.array(kinds['iid'], np.float64),
        class_names=[f'class {label}' for label in kinds['classes']],
        title=f'Losses along one run: {title}, {numbers.base_title(record)}',
        log_y=True,
      )
  panels = {
    numbers.panel_title(record): numbers.epoch_losses(record)
    for record in records
    if 'losses' in record
  }
  if panels:
    figures.draw_positions(
      path('positions'), panels, title=f'Losses by place in the cycle: {title}'
    )
  for base in dict.fromkeys(record['base'] for record in records):
    runs = [r for r in records if r['base'] == base]
    base_title = numbers.base_title(runs[0])
    figures.draw_loss_distributions(
      path(f'distributions-{base}'),
      {
        r['method']: numbers.epoch_losses(r)
        for r in runs
        if r['method'] in COMMON_METHODS
      },
      title=f'Batch losses by epoch: {title}, {base_title}',
      titles={r['method']: numbers.panel_title(r) for r in runs},
    )
  return drawn


def _records(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The runs of a file, in order; none where there is no file."""
  if path.exists():
    records = files.read_records(path)
    yield from (r for r in records if {'id', 'plan'} <= r.keys())


def _put_last(path: pathlib.Path, plan: Mapping[str, Any]) -> None:
  """Moves the runs of a plan to the end, where the latest ones are looked for.

  They are not there where another plan's were made since.
  """
  records = {record['id']: record for record in _records(path)}
  ordered = [i for i in records if i not in plan] + list(plan)
  if ordered != list(records):
    files.write_records(path, [records[identity] for identity in ordered])
