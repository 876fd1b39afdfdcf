"""A source of batches that is slower than what reads it."""

from collections.abc import Iterator
import itertools
import queue
import threading
import time
from typing import Any, NamedTuple

from isgd_jax.experiments.streams._stream import Stream

# Batches read that nobody has taken.
_MOST_AHEAD = 3


def throttled(stream: Stream, seconds_per_batch: float) -> Stream:
  """The same stream from a slow source, read ahead by a thread of its own.

  An error in the source is raised where its batch would have been taken. When
  the batches are closed or dropped, the thread ends with the batch it is
  reading.

  Args:
    stream: the batches.
    seconds_per_batch: between the arrivals of two batches, 0 or more.

  Returns:
    The `Stream`; the source starts when the first batch is asked for, and holds
    at most three that nobody has taken.

  Raises:
    ValueError: `seconds_per_batch` is negative or not finite.

  Example:
    >>> stream = Stream(iter([(1, 1), (2, 2)]), 2, ())
    >>> [x for x, _ in throttled(stream, 0.001).batches]
    [1, 2]
  """
  if not 0 <= seconds_per_batch < float('inf'):
    raise ValueError(
      'seconds_per_batch must be 0 or more, and finite, got '
      f'{seconds_per_batch}'
    )

  def batches() -> Iterator[Any]:
    source = itertools.islice(stream.batches, stream.num_batches)
    link = _Link(
      queue.SimpleQueue(), threading.Semaphore(_MOST_AHEAD), threading.Event()
    )
    thread = threading.Thread(
      target=_read, args=(source, seconds_per_batch, link), daemon=True
    )
    thread.start()
    try:
      while not isinstance(item := link.arrived.get(), _End):
        link.num_free.release()
        yield item
      if item.error is not None:
        raise item.error
    finally:
      link.is_closed.set()
      link.num_free.release()
      thread.join()

  return stream._replace(batches=batches())


class _Link(NamedTuple):
  """Between the thread that reads and the one that takes.

  Attributes:
    arrived: batches, and an `_End` after the last.
    num_free: places for batches still to be read.
    is_closed: nothing will be taken any more.
  """

  arrived: queue.SimpleQueue[Any]
  num_free: threading.Semaphore
  is_closed: threading.Event


class _End(NamedTuple):
  """The end of a source, and the error that it ended with."""

  error: BaseException | None


def _read(source: Iterator[Any], seconds_per_batch: float, link: _Link) -> None:
  """Hands the batches on, each when it is due, and then an `_End`."""
  error = None
  try:
    due = time.perf_counter()
    while link.num_free.acquire() and not link.is_closed.is_set():
      batch = next(source)
      # A source that was held up does not catch up on more than one batch.
      due = max(due, time.perf_counter() - seconds_per_batch)
      due += seconds_per_batch
      link.is_closed.wait(max(0.0, due - time.perf_counter()))
      link.arrived.put(batch)
  except StopIteration:
    pass
  except BaseException as caught:  # Whatever it is, the taker waits for it.
    error = caught
  link.arrived.put(_End(error))
