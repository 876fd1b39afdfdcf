"""SIGTERM and SIGINT as a request to save and stop, in all processes alike."""

from collections.abc import Iterator
import contextlib
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np

_STDERR = 2


class StopRequest:
  """Which signal asked the run to stop, if one did.

  Attributes:
    signum: the signal's number, or None.
  """

  signum: int | None = None

  def agree(self) -> None:
    """Comes by at the end of a block of steps; alone, one need not agree."""


class SharedStopRequest(StopRequest):
  """A request to one process that all of them see at the same step.

  What is asked at the end of one block of steps is heard at the end of the
  next: by then it has been computed, and no device has waited for it.

  Attributes:
    signum: the signal's number in all processes, or None.

  Example:
    >>> mesh = jax.sharding.Mesh(jax.devices(), ('data',))
    >>> by_row = jax.sharding.NamedSharding(mesh, jax.P('data'))
    >>> whole = jax.sharding.NamedSharding(mesh, jax.P())
    >>> request = StopRequest()
    >>> request.signum = signal.SIGTERM
    >>> shared = SharedStopRequest(request, by_row, whole)
    >>> shared.agree()
    >>> shared.signum
    >>> shared.agree()
    >>> shared.signum == signal.SIGTERM
    True
  """

  def __init__(
    self,
    request: StopRequest,
    by_row: jax.sharding.Sharding,
    whole: jax.sharding.Sharding | None,
  ):
    """Watches the request to this process.

    Args:
      request: to this process.
      by_row: a sharding of one axis over the devices of all processes.
      whole: whole on each of these devices.
    """
    self._request = request
    self._by_row = by_row
    self._largest = jax.jit(jnp.max, out_shardings=whole)
    self._asked: jax.Array | None = None

  def agree(self) -> None:
    """Asks all processes, and hears what they were asked the last time."""
    asked = self._asked
    mine = np.full(
      len(self._by_row.addressable_devices), self._request.signum or 0, np.int32
    )
    self._asked = self._largest(
      jax.make_array_from_process_local_data(self._by_row, mine)
    )
    if asked is not None:
      self.signum = int(jax.device_get(asked)) or None


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
    # At once, and past any buffer that the handler may have come upon.
    name = signal.Signals(signum).name
    text = f'\nisgd-jax: {name}: saving ... (a second one does not wait)\n'
    with contextlib.suppress(OSError):
      os.write(_STDERR, text.encode())

  for signum in old:
    signal.signal(signum, note)
  try:
    yield request
  finally:
    restore()
