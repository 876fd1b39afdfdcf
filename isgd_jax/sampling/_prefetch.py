"""Batches read ahead, and put on the device ahead of use."""

from __future__ import annotations

from collections.abc import Callable
import types
from typing import TYPE_CHECKING, Any, Self
import weakref

import jax
import numpy as np

from isgd_jax import _checks
from isgd_jax.sampling import _fixed_cycle

if TYPE_CHECKING:
  import grain


def prefetch(
  dataset: grain.MapDataset[_fixed_cycle.CycleBatch],
  *,
  start: int = 0,
  sharding: jax.sharding.Sharding | None = None,
  num_threads: int = 1,
  num_workers: int = 0,
  buffer_size: int = 2,
) -> PrefetchIterator:
  """Reads a dataset of batches ahead and puts them on the device ahead of use.

  The number of threads and workers changes the speed alone, never a batch.

  Args:
    dataset: what :func:`fixed_cycle` returns, or that dataset mapped over.
    start: global step of the first batch, 0 to `len(dataset)`.
    sharding: where `data` and `weight` go, by default to JAX's default device.
      One sharding serves all leaves: partition the leading axis alone. If it
      spans processes, the global arrays are made of every process's rows.
    num_threads: threads that read, >= 1. One is enough for records in memory;
      for files on a disk or a network, try 16.
    num_workers: processes that read, each with `num_threads`; 0 for none. They
      start afresh and import the main module, which needs its `if __name__ ==
      '__main__'`; source and transform are pickled, a copy for each worker.
    buffer_size: batches, >= 1, that wait on the device, and in each worker.

  Returns:
    A :class:`PrefetchIterator` over :class:`CycleBatch`: `data` and `weight`
    are JAX arrays, `index` and `epoch` stay NumPy scalars, which can be read
    without waiting for the device.

  Raises:
    ImportError: without Grain.
    ValueError: on an argument out of range.

  Examples:
    >>> import numpy as np
    >>> from isgd_jax import sampling
    >>> source = np.arange(6.0, dtype=np.float32)
    >>> dataset = sampling.fixed_cycle(source, 2, seed=0, num_epochs=2)
    >>> with sampling.prefetch(dataset, start=4) as batches:
    ...   for batch in batches:
    ...     print(batch.epoch, batch.index, batch.data.shape)
    1 1 (2,)
    1 2 (2,)
  """
  _fixed_cycle.import_grain()
  num_threads = _fixed_cycle.checked_integer(
    'num_threads', num_threads, minimum=1
  )
  num_workers = _fixed_cycle.checked_integer(
    'num_workers', num_workers, minimum=0
  )
  buffer_size = _fixed_cycle.checked_integer(
    'buffer_size', buffer_size, minimum=1
  )
  return PrefetchIterator(
    dataset,
    start=start,
    put=_DevicePut(sharding),
    num_threads=num_threads,
    num_workers=num_workers,
    buffer_size=buffer_size,
  )


class PrefetchIterator:
  """Iterator over batches that are read ahead; made by :func:`prefetch`.

  Its state is the consumer's position, not that of the reading ahead. Reading
  starts with the first batch asked for. If the source raises, so does the next
  batch due; asking again reads that batch again.

  Examples:
    >>> import numpy as np
    >>> from isgd_jax import sampling
    >>> dataset = sampling.fixed_cycle(np.arange(6), 2, seed=0)
    >>> with sampling.prefetch(dataset) as batches:
    ...   batch = next(batches)
    ...   print(batches.get_state())
    {'next_index': 1}
  """

  def __init__(
    self,
    dataset: grain.MapDataset[_fixed_cycle.CycleBatch],
    *,
    start: int,
    put: Callable[[_fixed_cycle.CycleBatch], _fixed_cycle.CycleBatch],
    num_threads: int,
    num_workers: int,
    buffer_size: int,
  ):
    """See :func:`prefetch`."""
    self._dataset = dataset
    self._put = put
    self._num_threads = num_threads
    self._num_workers = num_workers
    self._buffer_size = buffer_size
    self._is_closed = False
    self._pipeline: grain.DatasetIterator[_fixed_cycle.CycleBatch] | None = None
    self._stop: Callable[[], Any] = lambda: None
    self._next_index = self._checked_position('start', start)

  def __iter__(self) -> Self:
    return self

  def __next__(self) -> _fixed_cycle.CycleBatch:
    if self._is_closed:
      raise ValueError('The iterator is closed: make another with prefetch.')
    if self._next_index == len(self._dataset):
      self._halt()
      raise StopIteration
    if self._pipeline is None:
      self._start()
    assert self._pipeline is not None
    try:
      batch = next(self._pipeline)
    except BaseException:
      self._halt()
      raise
    self._next_index += 1
    return batch

  def get_state(self) -> dict[str, int]:
    """The position, `{'next_index': t}`: t is the step of the next batch."""
    return {'next_index': self._next_index}

  def set_state(self, state: dict[str, int]) -> None:
    """Goes to a position that :meth:`get_state` returned, here or elsewhere.

    Args:
      state: `{'next_index': t}`. Worker processes, if any, start anew.

    Raises:
      ValueError: if t is missing or not from 0 to the length of the dataset.
    """
    position = self._checked_position(
      "state['next_index']", state.get('next_index')
    )
    self._halt()
    self._next_index = position

  def close(self) -> None:
    """Stops reading ahead, and ends its threads and processes.

    With several threads, a read that is under way ends by itself.
    """
    self._is_closed = True
    self._halt()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    exc_type: type[BaseException] | None,
    exc_value: BaseException | None,
    traceback: types.TracebackType | None,
  ) -> None:
    self.close()

  def _checked_position(self, name: str, position: Any) -> int:
    """`position`, if it is one in the dataset."""
    position = _fixed_cycle.checked_integer(name, position, minimum=0)
    if position > len(self._dataset):
      raise ValueError(
        f'{name} must be at most the length of the dataset, '
        f'{len(self._dataset)} steps, got {position}. Give the dataset more '
        'epochs.'
      )
    return position

  def _start(self) -> None:
    """Starts to read ahead from the next batch on."""
    import grain

    inline = self._num_threads == 1
    batches = self._dataset.slice(
      slice(self._next_index, None)
    ).to_iter_dataset(
      # A single reader is the thread that also puts batches on the device.
      grain.ReadOptions(
        num_threads=0 if inline else self._num_threads,
        prefetch_buffer_size=(
          0 if inline else max(self._num_threads, self._buffer_size)
        ),
      )
    )
    if self._num_workers:
      from absl import flags

      if not flags.FLAGS.is_parsed():
        # Grain reads its flags here, and absl refuses that outside app.run.
        flags.FLAGS.mark_as_parsed()
      batches = batches.mp_prefetch(
        grain.multiprocessing.MultiprocessingOptions(
          self._num_workers, self._buffer_size
        )
      )
    batches = grain.experimental.ThreadPrefetchIterDataset(
      batches.map(self._put), prefetch_buffer_size=self._buffer_size
    )
    self._pipeline = iter(batches)
    # Also when garbage is collected, and before JAX is torn down at exit.
    self._stop = weakref.finalize(self, self._pipeline.close)

  def _halt(self) -> None:
    """Stops reading ahead; the next batch starts it again."""
    self._stop()
    self._pipeline = None


class _DevicePut:
  """Puts a batch on the device, under the settings of the calling thread.

  JAX's context managers hold for one thread, and this runs in another.
  """

  def __init__(self, sharding: jax.sharding.Sharding | None):
    if sharding is not None and not isinstance(sharding, jax.sharding.Sharding):
      raise ValueError(
        f'sharding must be a jax.sharding.Sharding, got {sharding!r}. For one '
        'device pass jax.sharding.SingleDeviceSharding(device).'
      )
    self._sharding = sharding
    self._default_device = (
      jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    )
    self._is_x64 = (
      jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    )

  def __call__(self, batch: _fixed_cycle.CycleBatch) -> _fixed_cycle.CycleBatch:
    if not isinstance(batch, _fixed_cycle.CycleBatch):
      raise ValueError(
        'dataset must hold CycleBatch elements, got a '
        f'{type(batch).__name__}. Have the mapped function return '
        'batch._replace(data=...).'
      )
    with (
      jax.default_device(self._default_device),
      jax.enable_x64(self._is_x64),
    ):
      data, weight = self._put((batch.data, batch.weight))
    return batch._replace(data=data, weight=weight)

  def _put(self, arrays: Any) -> Any:
    """The arrays as JAX arrays, global ones if the sharding spans processes."""
    sharding = self._sharding
    if sharding is None:
      return jax.device_put(arrays)
    num_parts = _checks.num_parts(sharding)
    count = 1 if sharding.is_fully_addressable else jax.process_count()
    for leaf in jax.tree.leaves(arrays):
      size = count * np.shape(leaf)[0]
      if size % num_parts:
        sizes = _checks.nearest_multiples(size, num_parts)
        raise ValueError(
          f'A batch of {size} cannot be cut into {num_parts} equal parts, as '
          f'{sharding} wants. Use a batch_size of {sizes}; with '
          "last_batch='short' the last batch of an epoch has another size."
        )
    if sharding.is_fully_addressable:
      return jax.device_put(arrays, sharding)

    def make_global(local: np.ndarray) -> jax.Array:
      shape = (count * local.shape[0], *local.shape[1:])
      return jax.make_array_from_process_local_data(sharding, local, shape)

    return jax.tree.map(make_global, arrays)
