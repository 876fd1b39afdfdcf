"""All batches of a stream at once, as one program takes them."""

import functools
from typing import NamedTuple

import numpy as np

from isgd_jax.experiments import streams
from isgd_jax.experiments.runs import tasks
from isgd_jax.experiments.runs.tasks import Task

# What the wrong labels are drawn from, beside the run's seed.
_WRONG_STREAM = 1


class ScanBatches(NamedTuple):
  """All batches of a stream.

  Attributes:
    inputs: [num_batches, b, h, w, c] float32.
    targets: [num_batches, b], int32 or float32.
    is_wrong: [num_batches] bool, the batches whose labels are random; None
      where a task has none.
    block_size: batches that one program takes; None for all of them.
  """

  inputs: np.ndarray | streams.PermutedInputs
  targets: np.ndarray
  is_wrong: np.ndarray | None = None
  block_size: int | None = None


# Kept for the methods that follow: they see the same seeds.
@functools.lru_cache(maxsize=8)
def build_scan_batches(task: Task, seed: int) -> ScanBatches:
  """The batches of one run.

  Args:
    task: with `is_scanned`.
    seed: of the order, where it is drawn, and of the wrong labels.

  Returns:
    `ScanBatches`, not to be changed.

  Raises:
    ValueError: the data are missing or too few, or wrong labels are asked for
      of a regression.
  """
  if task.order == tasks.PERMUTED_TASKS:
    images, labels, permuted = tasks.build_permuted_tasks(task, seed)
    return ScanBatches(
      streams.PermutedInputs(images, permuted),
      streams.permuted_targets(labels, permuted),
      block_size=task.batches_per_segment,
    )
  if task.is_table:
    # Only what is drawn has a seed.
    is_drawn = task.order == 'shuffled-table'
    table = tasks.build_table_batches(task, seed if is_drawn else 0)
    # As networks for images take it: [num_batches, b, 1, d, 1].
    inputs = table.inputs[:, :, np.newaxis, :, np.newaxis]
    targets = table.targets
  else:
    batches = list(tasks.build_stream(task, seed).batches)
    inputs, targets = (np.stack(x) for x in zip(*batches, strict=True))
  if not task.wrong_batches:
    return ScanBatches(inputs, targets)
  num_classes = tasks.num_classes_of(task)
  rng = np.random.default_rng([seed, _WRONG_STREAM])
  is_wrong = np.zeros(len(targets), bool)
  num_wrong = round(task.wrong_batches * len(targets))
  is_wrong[rng.choice(len(targets), num_wrong, replace=False)] = True
  drawn = rng.integers(num_classes, size=targets.shape)
  targets = np.where(is_wrong[:, np.newaxis], drawn, targets)
  return ScanBatches(inputs, targets.astype(np.int32), is_wrong)
