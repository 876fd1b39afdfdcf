"""A table in the order in which its rows came, or shuffled, in batches.

What a row is scaled by came before it: nothing sees the future.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from isgd_jax.experiments.datasets import Table
from isgd_jax.experiments.streams._stream import Stream

# A value far out would decide its batch's loss alone.
_CLIP = 10.0
# Rows whose moments the first batch is scaled by; they are in no batch.
_WARM_UP = 64


class TableBatches(NamedTuple):
  """All batches of a stream at once, as a `lax.scan` takes them.

  Attributes:
    inputs: [num_batches, batch_size, d] float32, scaled, within -10 and 10.
    targets: [num_batches, batch_size], int32 labels, or float32 in standard
      deviations from the mean, both of the targets of earlier batches.
    target_mean: [num_batches] float64, what regression targets were scaled by:
      a target is `target_mean + target_std * scaled`; 0 for labels.
    target_std: likewise, > 0; 1 for labels.
  """

  inputs: np.ndarray
  targets: np.ndarray
  target_mean: np.ndarray
  target_std: np.ndarray


def table_batches(
  table: Table,
  *,
  batch_size: int,
  rng: np.random.Generator | None = None,
  warm_up: int = _WARM_UP,
) -> TableBatches:
  """Cuts a table into batches, each scaled by what came before.

  An input is scaled by the mean and standard deviation of its feature in all
  earlier rows, and clipped to 10 of these; a regression target by those of all
  targets before its batch, for those within it are not known yet. The first
  rows give the first moments, and are in no batch; rows that fill no whole
  batch are left out.

  Args:
    table: the rows in time order.
    batch_size: rows a batch.
    rng: shuffles the rows first, so that nothing drifts: the control of the
      same rows in time order. None keeps that order.
    warm_up: how many rows give the first moments, at least 2.

  Returns:
    `TableBatches`.

  Raises:
    ValueError: `batch_size` or `warm_up` is too small, or the table is too
      short for one batch.

  Example:
    >>> from isgd_jax.experiments import datasets
    >>> y = np.arange(200.0)
    >>> table = datasets.Table('t', y[:, None], y, 'regression', 1, ('x',))
    >>> batches = table_batches(table, batch_size=16)
    >>> batches.inputs.shape, batches.targets.shape
    ((8, 16, 1), (8, 16))
  """
  if batch_size < 1 or warm_up < 2:
    raise ValueError(
      'batch_size must be at least 1 and warm_up at least 2, got '
      f'{batch_size} and {warm_up}'
    )
  num_batches = (len(table.targets) - warm_up) // batch_size
  if num_batches < 1:
    raise ValueError(
      f'table {table.name!r} has {len(table.targets)} rows, too few for a '
      f'warm_up of {warm_up} and a batch_size of {batch_size}; lower one'
    )
  inputs, targets = table.inputs, table.targets
  if rng is not None:
    order = rng.permutation(len(targets))
    inputs, targets = inputs[order], targets[order]
  end = warm_up + num_batches * batch_size
  mean, std = running_moments(inputs[:end], warm_up)
  scaled = np.clip((inputs[warm_up:end] - mean) / std, -_CLIP, _CLIP)
  shape = num_batches, batch_size
  labels = targets[warm_up:end].reshape(shape)
  target_mean, target_std = np.zeros(num_batches), np.ones(num_batches)
  if table.kind == 'regression':
    moments = running_moments(targets[:end, np.newaxis], warm_up)
    target_mean, target_std = (each[::batch_size, 0] for each in moments)
    labels = (labels - target_mean[:, None]) / target_std[:, None]
  dtype = np.float32 if table.kind == 'regression' else np.int32
  return TableBatches(
    scaled.reshape(*shape, -1).astype(np.float32),
    labels.astype(dtype),
    target_mean,
    target_std,
  )


def table_stream(
  table: Table,
  *,
  batch_size: int,
  rng: np.random.Generator | None = None,
  warm_up: int = _WARM_UP,
) -> Stream:
  """One pass over a table, batch by batch, as networks for images take it.

  Args:
    table: as in `table_batches`, and so on.
    batch_size: likewise.
    rng: likewise.
    warm_up: likewise.

  Returns:
    A `Stream` of (inputs [b, 1, d, 1] float32, targets [b]). When it drifts is
    not known, so it has no change points.

  Raises:
    ValueError: as `table_batches`.

  Example:
    >>> from isgd_jax.experiments import datasets
    >>> table = datasets.Table('t', np.zeros((80, 3)), np.zeros(80, np.int32),
    ...                        'classification', 2, ('a', 'b', 'c'))
    >>> stream = table_stream(table, batch_size=4)
    >>> stream.num_batches, next(stream.batches)[0].shape
    (4, (4, 1, 3, 1))
  """
  batches = table_batches(
    table, batch_size=batch_size, rng=rng, warm_up=warm_up
  )

  def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    inputs = batches.inputs[:, :, np.newaxis, :, np.newaxis]
    yield from zip(inputs, batches.targets, strict=True)

  return Stream(pairs(), len(batches.targets), ())


def running_moments(
  values: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation of all that came before each row.

  Args:
    values: [n, d] float64, finite.
    first: the row to begin with, at least 1.

  Returns:
    Two [n - first, d] float64: of `values[:i]` for i from `first` on; the
    deviation is 1 where these were all the same.

  Example:
    >>> mean, std = running_moments(np.array([[1.0], [3.0], [9.0]]), 2)
    >>> mean, std
    (array([[2.]]), array([[1.]]))
  """
  # Taken from the first values: a large mean would leave a square no digits.
  offset = values[:first].mean(axis=0)
  moved = values[:-1] - offset
  counts = np.arange(first, len(values))[:, np.newaxis]
  mean = np.cumsum(moved, axis=0)[first - 1 :] / counts
  square = np.cumsum(moved**2, axis=0)[first - 1 :] / counts
  variance = square - mean**2
  # What rounding leaves of a constant is no deviation.
  is_constant = variance <= 1e-12 * square
  return offset + mean, np.sqrt(np.where(is_constant, 1.0, variance))
