"""The real streams: tables in time order, and shuffled as their own control."""

from collections.abc import Iterator
import math

import numpy as np

from isgd_jax.experiments.runs import tasks
from isgd_jax.experiments.runs.tasks import WARM_UP_ROWS
from isgd_jax.experiments.runs.tasks import Task

_BATCH_SIZES = (1, 4, 16, 64)
_SHUFFLED_BATCH_SIZE = 16
# Rows, in the order in which they are run: what takes longest comes last.
_NUM_ROWS = {
  'elec2': 45_312,
  'sp500': 1_257,
  'phishing': 1_250,
  'water-flow': 1_268,
  'shuttle-stream': 49_097,
  'trump-approval': 1_001,
  'flights': 328_521,
}


def _task(name: str, batch_size: int, *, is_shuffled: bool = False) -> Task:
  num_batches = (_NUM_ROWS[name] - WARM_UP_ROWS) // batch_size
  suffix = ', shuffled' if is_shuffled else ''
  return Task(
    f'real-streams/{name}-{batch_size}{"-shuffled" if is_shuffled else ""}',
    f'{name}, batches of {batch_size}{suffix}',
    dataset=name,
    model='mlp-32',
    order='shuffled-table' if is_shuffled else 'table',
    batch_size=batch_size,
    window_size=50,
    num_train=WARM_UP_ROWS + num_batches * batch_size,
  )


def _tasks() -> Iterator[Task]:
  for batch_size in _BATCH_SIZES:
    for name in _NUM_ROWS:
      yield _task(name, batch_size)
  for name in _NUM_ROWS:
    yield _task(name, _SHUFFLED_BATCH_SIZE, is_shuffled=True)


TASKS = tuple(sorted(_tasks(), key=lambda task: task.dataset == 'flights'))


def no_change(task: Task) -> dict[str, str | float]:
  """What it is worth to say of a batch what was true of the row before it.

  Time dependence flatters whoever says so, and every method beside it.

  Args:
    task: of a table.

  Returns:
    The task's name, and of classification the `accuracy`, share in [0, 1]; of
    regression the `loss`, half the mean squared error in the deviations that
    the targets are scaled by. Of a shuffled table, in the order of seed 0.

  Raises:
    ValueError: the data are missing.
  """
  batches = tasks.build_table_batches(task, 0)
  size, kind = task.batch_size, tasks.task_table(task).kind
  targets = batches.targets.astype(np.float64)
  targets = batches.target_mean[:, None] + batches.target_std[:, None] * targets
  # The first batch has nothing before it.
  guess = np.repeat(targets[:-1, -1], size).reshape(-1, size)
  if kind == 'classification':
    return {'task': task.name, 'accuracy': float((guess == targets[1:]).mean())}
  error = (guess - targets[1:]) / batches.target_std[1:, None]
  loss = 0.5 * float(np.mean(error**2))
  return {'task': task.name, 'loss': loss if math.isfinite(loss) else math.inf}
