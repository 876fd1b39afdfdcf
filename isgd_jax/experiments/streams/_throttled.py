"""A source of batches that is slower than what reads it."""

from collections.abc import Iterator
import queue
import threading
import time

import numpy as np

from isgd_jax.experiments.streams._stream import Stream


def throttled(stream: Stream, seconds_per_batch: float) -> Stream:
  """The same stream from a slow source, read ahead by a thread of its own.

  Args:
    stream: the batches.
    seconds_per_batch: between the arrivals of two batches.

  Returns:
    The `Stream`; the source starts when the first batch is asked for, and holds
    at most two that nobody has taken.

  Example:
    >>> stream = Stream(iter([(1, 1), (2, 2)]), 2, ())
    >>> [x for x, _ in throttled(stream, 0.001).batches]
    [1, 2]
  """

  def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    ready = queue.Queue(maxsize=2)
    is_over = threading.Event()

    def read() -> None:
      due = time.perf_counter()
      for batch in stream.batches:
        due = max(due, time.perf_counter() - seconds_per_batch)
        due += seconds_per_batch
        time.sleep(max(0.0, due - time.perf_counter()))
        while not is_over.is_set():
          try:
            ready.put(batch, timeout=0.1)
            break
          except queue.Full:
            continue
        if is_over.is_set():
          return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
      for _ in range(stream.num_batches):
        yield ready.get()
    finally:
      is_over.set()
      thread.join()

  return stream._replace(batches=batches())
