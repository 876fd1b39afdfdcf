"""A slow source: the same batches, read ahead by a thread that always ends."""

import itertools
import queue
import threading
import time

import pytest

from isgd_jax.experiments import streams
from isgd_jax.experiments.streams import _throttled

SECONDS = 0.001


def throttled(batches, num_batches, seconds=SECONDS):
  stream = streams.Stream(iter(batches), num_batches, (2,))
  return streams.throttled(stream, seconds)


def pairs(num_batches):
  return [(i, -i) for i in range(num_batches)]


@pytest.mark.parametrize('seconds', [0.0, SECONDS])
@pytest.mark.parametrize('num_batches', [0, 1, 20])
def test_batches_and_their_order_are_kept(seconds, num_batches):
  stream = throttled(pairs(num_batches), num_batches, seconds)
  assert (stream.num_batches, stream.change_points) == (num_batches, (2,))
  assert list(stream.batches) == pairs(num_batches)


def test_no_more_is_read_than_the_stream_has():
  source = zip(itertools.count(), itertools.count(), strict=True)
  assert len(list(throttled(source, 6).batches)) == 6
  assert next(source) == (6, 6)


def test_a_source_that_ends_too_early_ends_the_stream():
  assert list(throttled(pairs(3), 5).batches) == pairs(3)


def test_nothing_is_read_before_the_first_batch_is_asked_for():
  read = []
  stream = throttled((read.append(i) for i in range(9)), 9)
  num_threads = threading.active_count()
  stream.batches.close()
  assert (read, threading.active_count()) == ([], num_threads)


class Broken(BaseException):
  """An error, not an `Exception`."""


@pytest.mark.timeout(60)  # Without the hand-over it would wait for ever.
@pytest.mark.parametrize('error', [OSError('disk gone'), Broken('badly')])
@pytest.mark.parametrize('num_before', [0, 1, 7])
def test_an_error_in_the_source_is_raised_after_the_batches_before_it(
  error, num_before
):
  def source():
    yield from pairs(num_before)
    raise error

  num_threads = threading.active_count()
  taken = []
  with pytest.raises(type(error)) as caught:  # noqa: PT012
    for batch in throttled(source(), 9).batches:
      taken.append(batch)
  assert caught.value is error
  assert taken == pairs(num_before)
  assert threading.active_count() == num_threads


@pytest.mark.timeout(60)
@pytest.mark.parametrize('num_taken', [1, 2, 5])
def test_closing_early_ends_the_thread(num_taken):
  num_threads = threading.active_count()
  batches = throttled(pairs(10_000), 10_000).batches
  taken = [next(batches) for _ in range(num_taken)]
  assert threading.active_count() == num_threads + 1
  batches.close()
  assert taken == pairs(num_taken)
  assert threading.active_count() == num_threads


@pytest.mark.timeout(60)
def test_closing_does_not_wait_until_the_next_batch_is_due():
  is_read = threading.Event()

  def source():
    is_read.set()
    yield 0, 0

  link = _throttled._Link(
    queue.SimpleQueue(), threading.Semaphore(2), threading.Event()
  )
  thread = threading.Thread(
    target=_throttled._read, args=(source(), 3600.0, link), daemon=True
  )
  thread.start()
  assert is_read.wait(30)
  link.is_closed.set()
  thread.join(30)
  assert not thread.is_alive()


@pytest.mark.timeout(60)
def test_dropping_the_batches_ends_the_thread():
  num_threads = threading.active_count()
  batches = throttled(pairs(10_000), 10_000).batches
  next(batches)
  del batches
  assert threading.active_count() == num_threads


@pytest.mark.timeout(60)
def test_at_most_three_are_read_that_nobody_has_taken():
  num_taken = 0
  ahead = []
  is_full = threading.Event()

  def source():
    for i, pair in enumerate(pairs(50)):
      # The one being read counts, and so does one that is being handed over.
      ahead.append(i + 1 - num_taken)
      if i == 3:
        is_full.set()
      yield pair

  for _ in throttled(source(), 50, 0.0).batches:
    if not num_taken:
      assert is_full.wait(30)
      time.sleep(0.05)  # Time to read too far.
    num_taken += 1
  assert max(ahead) == 4


@pytest.mark.parametrize('seconds', [-1.0, float('nan'), float('inf')])
def test_bad_seconds_are_refused(seconds):
  with pytest.raises(ValueError, match=f'seconds_per_batch .* got {seconds}'):
    throttled(pairs(1), 1, seconds)
