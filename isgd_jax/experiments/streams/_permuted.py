"""Permuted tasks, one example at a time: a published protocol."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from isgd_jax.experiments.streams._stream import Stream

Permuted = Literal['pixels', 'labels']
_HALF = np.float32(0.5)


class PermutedTasks(NamedTuple):
  """Which example comes when, and how it is permuted.

  Attributes:
    examples: [num_tasks, task_length], none twice within a task.
    pixels: [num_tasks, num_pixels]: pixel i of a task is pixel `pixels[i]`.
    classes: [num_tasks, num_classes]: label y of a task is `classes[y]`.
  """

  examples: np.ndarray
  pixels: np.ndarray
  classes: np.ndarray


def draw_permuted_tasks(
  *,
  num_examples: int,
  num_pixels: int,
  num_classes: int,
  num_tasks: int,
  task_length: int,
  permuted: Permuted,
  rng: np.random.Generator,
) -> PermutedTasks:
  """Draws the tasks one by one, so fewer tasks are a prefix of more.

  As in the code of Elsayed and Mahmood (ICLR 2024,
  github.com/mohmdelsayed/upgd, `core/task`): at each task, the first too, a
  permutation is drawn and the examples are shuffled anew. Their permutations
  of labels are of the labels before; one drawn anew is as likely.

  Args:
    num_examples: to draw from.
    num_pixels: of an example.
    num_classes: the number of classes.
    num_tasks: the number of tasks.
    task_length: examples a task.
    permuted: what.
    rng: of all of it.

  Returns:
    `PermutedTasks`.

  Raises:
    ValueError: a task needs more examples than there are.

  Example:
    >>> tasks = draw_permuted_tasks(num_examples=9, num_pixels=4, num_classes=3,
    ...   num_tasks=2, task_length=5, permuted='labels',
    ...   rng=np.random.default_rng(0))
    >>> tasks.examples.shape, tasks.pixels.tolist()
    ((2, 5), [[0, 1, 2, 3], [0, 1, 2, 3]])
  """
  if not 0 < task_length <= num_examples:
    raise ValueError(
      f'task_length={task_length} must be positive and at most the '
      f'{num_examples} examples; lower it'
    )
  examples, pixels, classes = [], [], []
  for _ in range(num_tasks):
    examples.append(rng.permutation(num_examples)[:task_length])
    is_pixels = permuted == 'pixels'
    pixels.append(
      rng.permutation(num_pixels) if is_pixels else np.arange(num_pixels)
    )
    classes.append(
      np.arange(num_classes) if is_pixels else rng.permutation(num_classes)
    )
  return PermutedTasks(*(np.stack(x) for x in (examples, pixels, classes)))


class PermutedInputs:
  """[num_batches, 1, h, w, c] float32 in [-1, 1], made as it is sliced.

  A thousand tasks would be gigabytes. Behaves as an array in what a run asks
  of it: `shape`, `dtype`, `len` and slices.
  """

  def __init__(self, images: np.ndarray, tasks: PermutedTasks):
    """Keeps both.

    Args:
      images: [num_examples, h, w, c], uint8, or float32 in [0, 1].
      tasks: the tasks.
    """
    self._images, self._tasks = images, tasks
    self.shape = (tasks.examples.size, 1, *images.shape[1:])
    self.dtype = np.dtype(np.float32)

  def __len__(self) -> int:
    """Of all tasks together."""
    return self.shape[0]

  def __getitem__(self, which: slice) -> np.ndarray:
    """The inputs of some batches."""
    task, place = np.divmod(
      np.arange(len(self))[which], self._tasks.examples.shape[1]
    )
    chosen = self._images[self._tasks.examples[task, place]]
    flat = chosen.reshape(len(task), -1)
    flat = np.take_along_axis(flat, self._tasks.pixels[task], axis=1)
    if flat.dtype == np.uint8:
      flat = flat.astype(np.float32) / 255
    # As torchvision normalizes with mean and deviation 0.5.
    return ((flat - _HALF) / _HALF).reshape(len(task), *self.shape[1:])


def permuted_targets(labels: np.ndarray, tasks: PermutedTasks) -> np.ndarray:
  """[num_batches, 1] int32: the labels of all tasks.

  Args:
    labels: [num_examples].
    tasks: the tasks.

  Returns:
    The labels, permuted.

  Example:
    >>> tasks = PermutedTasks(*map(np.array, ([[1, 0]], [[0]], [[2, 0, 1]])))
    >>> permuted_targets(np.array([0, 1]), tasks).tolist()
    [[0], [2]]
  """
  named = np.take_along_axis(tasks.classes, labels[tasks.examples], axis=1)
  return named.reshape(-1, 1).astype(np.int32)


def permuted_stream(
  images: np.ndarray, labels: np.ndarray, tasks: PermutedTasks
) -> Stream:
  """The same as a stream of batches of one example.

  Args:
    images: as `PermutedInputs` takes them.
    labels: [num_examples].
    tasks: the tasks.

  Returns:
    A `Stream`.
  """
  inputs = PermutedInputs(images, tasks)
  targets = permuted_targets(labels, tasks)

  def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for i in range(len(targets)):
      yield inputs[i : i + 1][0], targets[i]

  num_tasks, length = tasks.examples.shape
  return Stream(
    batches(), len(targets), tuple(length * i for i in range(1, num_tasks))
  )
