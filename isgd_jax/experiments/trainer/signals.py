"""SIGTERM and SIGINT as a request to save and stop."""

from collections.abc import Iterator
import contextlib
import signal
import threading


class StopRequest:
  """Which signal asked the run to stop, if one did.

  Attributes:
    signum: the signal's number, or None.
  """

  signum: int | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
  """Notes SIGTERM and SIGINT instead of dying of them; the second one kills.

  Yields:
    A `StopRequest`, whose `signum` is set when one has come. Outside the main
    thread, which alone may handle signals, it never is.

  Example:
    >>> with stop_requests() as request:
    ...   signal.raise_signal(signal.SIGTERM)
    ...   request.signum == signal.SIGTERM
    True
  """
  request = StopRequest()
  if threading.current_thread() is not threading.main_thread():
    yield request
    return
  signals = (signal.SIGTERM, signal.SIGINT)
  # One that is ignored stays so: a shell starts background jobs deaf to Ctrl-C.
  old = {
    signum: handler
    for signum in signals
    if (handler := signal.getsignal(signum)) != signal.SIG_IGN
  }

  def restore():
    for signum, handler in old.items():
      signal.signal(signum, handler)

  def note(signum, frame):
    del frame
    request.signum = signum
    restore()

  for signum in old:
    signal.signal(signum, note)
  try:
    yield request
  finally:
    restore()
