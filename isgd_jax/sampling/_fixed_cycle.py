"""The fixed cycle of batches as a Grain dataset over global steps."""

from __future__ import annotations

from collections.abc import Callable
import functools
import operator
import types
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from isgd_jax import _checks
from isgd_jax import _extras

if TYPE_CHECKING:
  import grain

_LAST_BATCH = ('wrap', 'pad', 'short', 'drop')
# Epochs are int32: as many as can be counted.
_MAX_EPOCHS = np.iinfo(np.int32).max


class CycleBatch(NamedTuple):
  """A batch of a cycle.

  Attributes:
    data: pytree of arrays [local batch, ...], the stacked records.
    weight: float32[local batch], 1 for a record and 0 for padding.
    index: int32 scalar, position of the batch in the cycle, 0 to n - 1.
    epoch: int32 scalar, how often the cycle had been completed before.
  """

  data: Any
  weight: Any
  index: Any
  epoch: Any


def fixed_cycle(
  source: Any,
  batch_size: int,
  *,
  seed: int,
  num_epochs: int | None = None,
  process_index: int | None = None,
  process_count: int | None = None,
  reshuffle: bool = False,
  last_batch: str = 'wrap',
  transform: Callable[[Any, np.random.Generator], Any] | None = None,
) -> grain.MapDataset[CycleBatch]:
  r"""Fixed-cycle pseudo-random (FCPR) sampling of a random-access source.

  With the :math:`N` records permuted once by :math:`\pi`, batch size :math:`b`
  and :math:`n = \lceil N / b \rceil` batches a cycle, step :math:`t` gets the
  records

  .. math::
    \pi(jb), \pi(jb + 1), \ldots, \pi(jb + b - 1), \qquad j = t \bmod n,

  the same batches in every epoch. So a chart whose window is n losses long
  judges each batch against one loss of every batch.

  The result is a Grain dataset over global steps: `dataset[t]` is the batch of
  step t, a pure function of t and the arguments. Map it, or hand it to
  :func:`prefetch`, which resumes at any t. (A new version of NumPy is free to
  permute otherwise: finish a run with the one it was begun with.)

  Args:
    source: the records, as either of

      * `len(source)` and `source[i]`, a pytree of arrays: a list of records,
        say. If it has `source.__getitems__(indices)`, that is called in place
        of it, once a batch, with an int64 array, for a pytree of *stacked*
        arrays [len(indices), ...]. Reading must be thread-safe.
      * a tuple or dict of arrays [N, ...], nested or not, such as `(x, y)`:
        record i is row i of each.
    batch_size: records in a global batch, over all processes.
    seed: integer >= 0; decides permutations and transforms.
    num_epochs: epochs >= 1 in the dataset; None for 2^31 - 1, in effect
      endless. `len(dataset)` is the number of steps.
    process_index: this process, by default `jax.process_index()`. Process p of
      P gets rows [p b / P, (p + 1) b / P) of each global batch.
    process_count: number P of processes, by default `jax.process_count()`.
    reshuffle: whether every epoch has a permutation of its own (ordinary
      sampling) in place of the first one's.
    last_batch: what becomes of the last batch where b does not divide N:

      * ``'wrap'`` fills it up with the first records of the permutation. All
        batches have one shape, and no record is lost: in a fixed cycle the
        records that ``'drop'`` leaves out would never be trained on.
      * ``'pad'`` fills it up with its last record, at weight 0.
      * ``'short'`` leaves it short, at the price of one more compilation. P
        must divide what is left (and, with a sharding, its devices too).
      * ``'drop'`` leaves it out: n is then floor(N / b).
    transform: `transform(record, rng) -> record`, applied to each record with
      `rng = np.random.default_rng([seed, epoch, record_index])`: the same in
      every process, thread and resumed run, another in another epoch. It must
      not write to its record.

  Returns:
    A `grain.MapDataset` of :class:`CycleBatch` with NumPy arrays.

  Raises:
    ImportError: without Grain.
    ValueError: on an argument out of range, or arrays of several lengths,
      before anything is read; from a read, if `__getitems__` returns anything
      but stacked arrays.

  Examples:
    >>> import numpy as np
    >>> from isgd_jax import sampling
    >>> class Digits:
    ...   def __len__(self):
    ...     return 10
    ...   def __getitem__(self, i):
    ...     return {'label': np.int32(i)}
    >>> dataset = sampling.fixed_cycle(Digits(), 4, seed=0)
    >>> batch = dataset[7]  # step 7 of batches 0, 1, 2
    >>> print(batch.index, batch.epoch, batch.data['label'].shape)
    1 2 (4,)
    >>> bool(np.all(batch.data['label'] == dataset[1].data['label']))
    True
    >>> x, y = np.zeros((10, 3)), np.arange(10)
    >>> batch = sampling.fixed_cycle((x, y), 4, seed=0)[7]
    >>> print(batch.data[0].shape, batch.data[1].shape)
    (4, 3) (4,)

  References:
    Wang et al., `Accelerating Deep Neural Network Training with Inconsistent
    Stochastic Gradient Descent <https://arxiv.org/abs/1603.05544>`_, Neural
    Networks 93, 2017.
  """
  grain = import_grain()
  source = _as_source(source)
  num_records = len(source)
  num_batches = batches_per_cycle(num_records, batch_size, last_batch)
  batch_size = operator.index(batch_size)
  seed = _checks.check_integer('seed', seed, minimum=0)
  if num_epochs is None:
    num_epochs = _MAX_EPOCHS
  num_epochs = _checks.check_integer('num_epochs', num_epochs, minimum=1)
  if num_epochs > _MAX_EPOCHS:
    raise ValueError(
      f'num_epochs must be at most {_MAX_EPOCHS}, got {num_epochs}. Use None '
      'for an endless cycle.'
    )
  if process_count is None:
    process_count = jax.process_count()
  if process_index is None:
    process_index = jax.process_index()
  process_count = _checks.check_integer(
    'process_count', process_count, minimum=1
  )
  process_index = _checks.check_integer(
    'process_index', process_index, minimum=0
  )
  if process_index >= process_count:
    raise ValueError(
      f'process_index must be below process_count {process_count}, got '
      f'{process_index}. Processes are counted from 0.'
    )
  if batch_size % process_count:
    raise ValueError(
      f'batch_size must be a multiple of process_count {process_count}, got '
      f'{batch_size}. Use '
      f'{_checks.nearest_multiples(batch_size, process_count)}.'
    )
  if last_batch == 'short' and num_records % batch_size % process_count:
    raise ValueError(
      f"last_batch='short' leaves {num_records % batch_size} records, which "
      f'process_count {process_count} does not divide. Use another last_batch, '
      'or another batch_size.'
    )
  cycle = _Cycle(
    source=source,
    num_records=num_records,
    num_batches=num_batches,
    batch_size=batch_size,
    seed=seed,
    num_epochs=num_epochs,
    process_index=process_index,
    process_count=process_count,
    reshuffle=reshuffle,
    last_batch=last_batch,
    transform=transform,
  )
  return grain.MapDataset.source(_CycleSource(cycle))


def batches_per_cycle(
  num_records: int, batch_size: int, last_batch: str = 'wrap'
) -> int:
  """Number n of batches in a cycle: the window of a chart over one epoch.

  Args:
    num_records: records in the source, >= 1.
    batch_size: records in a global batch, 1 to `num_records`.
    last_batch: as in :func:`fixed_cycle`.

  Returns:
    `num_records / batch_size`, rounded down with `'drop'` and else up.

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> from isgd_jax import sampling
    >>> sampling.batches_per_cycle(60_000, 128)
    469
    >>> sampling.batches_per_cycle(60_000, 128, last_batch='drop')
    468
  """
  _checks.check_choice('last_batch', last_batch, _LAST_BATCH)
  batch_size = _checks.check_integer('batch_size', batch_size, minimum=1)
  if num_records == 0:
    raise ValueError('source must hold at least 1 record, got 0.')
  num_records = _checks.check_integer('num_records', num_records, minimum=1)
  if batch_size > num_records:
    raise ValueError(
      f'batch_size must be at most the number of records, {num_records}, got '
      f'{batch_size}. Use a smaller batch.'
    )
  rounding = 0 if last_batch == 'drop' else batch_size - 1
  return (num_records + rounding) // batch_size


def _as_source(source: Any) -> Any:
  """The source; a tuple or dict of arrays as a source of its rows."""
  # A class that reads in its own way, even a named tuple, is a source already.
  reads = getattr(type(source), '__getitem__', None)
  if reads not in (tuple.__getitem__, dict.__getitem__):
    return source
  leaves, structure = jax.tree.flatten(source)
  shapes = [
    np.shape(leaf) if isinstance(leaf, (np.ndarray, jax.Array)) else None
    for leaf in leaves
  ]
  if not all(shapes) or len({shape[0] for shape in shapes if shape}) != 1:
    found = ', '.join(
      type(leaf).__name__ if shape is None else str(shape)
      for leaf, shape in zip(leaves, shapes, strict=True)
    )
    raise ValueError(
      f'source is a {type(source).__name__}, so it must hold arrays of one '
      f'length, a record a row; got {found or "none"}. Give arrays of one '
      'length, or the records as a list.'
    )
  return _Rows(structure.unflatten(map(np.asarray, leaves)))


class _Rows:
  """Record i is row i of each array of a pytree."""

  def __init__(self, arrays: Any):
    self._arrays = arrays

  def __len__(self) -> int:
    return len(jax.tree.leaves(self._arrays)[0])

  def __getitems__(self, indices: np.ndarray) -> Any:
    return jax.tree.map(lambda array: array[indices], self._arrays)


class _Cycle(NamedTuple):
  """Arguments of `fixed_cycle`, checked."""

  source: Any
  num_records: int
  num_batches: int
  batch_size: int
  seed: int
  num_epochs: int
  process_index: int
  process_count: int
  reshuffle: bool
  last_batch: str
  transform: Callable[[Any, np.random.Generator], Any] | None


class _CycleSource:
  """The batches of all steps, as a random-access source."""

  def __init__(self, cycle: _Cycle):
    self._cycle = cycle

  def __len__(self) -> int:
    return self._cycle.num_epochs * self._cycle.num_batches

  def __getitem__(self, step: int) -> CycleBatch:
    epoch, index = divmod(int(step), self._cycle.num_batches)
    indices, weight = _local_indices(self._cycle, epoch, index)
    return CycleBatch(
      data=_read(self._cycle, epoch, indices),
      weight=weight,
      index=np.int32(index),
      epoch=np.int32(epoch),
    )


def _local_indices(
  cycle: _Cycle, epoch: int, index: int
) -> tuple[np.ndarray, np.ndarray]:
  """This process's record indices and weights of one batch."""
  order = _permutation(
    cycle.num_records, cycle.seed, epoch if cycle.reshuffle else 0
  )
  first = index * cycle.batch_size
  size = cycle.batch_size
  if cycle.last_batch == 'short':
    size = min(size, cycle.num_records - first)
  local_size = size // cycle.process_count
  first += cycle.process_index * local_size
  weight = np.ones(local_size, np.float32)
  if first + local_size <= cycle.num_records:
    return order[first : first + local_size], weight
  positions = np.arange(first, first + local_size)
  if cycle.last_batch == 'pad':
    weight[positions >= cycle.num_records] = 0.0
    return order.take(positions, mode='clip'), weight
  return order.take(positions, mode='wrap'), weight


# A few epochs at once: threads read ahead into the next one.
@functools.lru_cache(maxsize=8)
def _permutation(num_records: int, seed: int, epoch: int) -> np.ndarray:
  """Order of the records in an epoch, int64[num_records], read-only."""
  # A spawn key keeps it apart from the transforms' [seed, epoch, record].
  sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
  order = np.random.default_rng(sequence).permutation(num_records)
  order.setflags(write=False)
  return order


def _read(cycle: _Cycle, epoch: int, indices: np.ndarray) -> Any:
  """The records at `indices`, transformed and stacked."""
  source, transform = cycle.source, cycle.transform
  stacked = None
  if hasattr(source, '__getitems__'):
    stacked = source.__getitems__(indices)
    for leaf in jax.tree.leaves(stacked):
      if np.shape(leaf)[:1] != indices.shape:
        raise ValueError(
          'source.__getitems__ must return a pytree of stacked arrays with '
          f'leading dimension {indices.size}, got a leaf of shape '
          f'{np.shape(leaf)}. Stack the records, or leave __getitems__ out.'
        )
    if transform is None:
      return stacked
  records = [
    source[i]
    if stacked is None
    else jax.tree.map(lambda leaf, row=row: leaf[row], stacked)
    for row, i in enumerate(indices.tolist())
  ]
  if transform is not None:
    records = [
      transform(record, np.random.default_rng([cycle.seed, epoch, i]))
      for record, i in zip(records, indices.tolist(), strict=True)
    ]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *records)


def import_grain() -> types.ModuleType:
  """Grain; an error that names the extra if it is not installed."""
  try:
    import grain
  except ImportError as error:
    raise _extras.missing(
      'isgd_jax.sampling', 'Grain', 'data', 'grain'
    ) from error
  return grain
