"""A parent process that puts into words how JAX ends one of several processes.

Where a process of a run loses the others, JAX may end it from C++, with SIGABRT
and a stack trace. Under a supervisor the user has one clear sentence after it,
and an exit code that a script can act on. The supervisor starts its own command
line again as a child, passes on signals, and waits; it never uses a device.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

_VARIABLE = 'ISGD_JAX_SUPERVISOR'
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_socket: socket.socket | None = None


def is_supervised() -> bool:
  """Whether this process is the child of a supervisor.

  Returns:
    Whether it is.

  Example:
    >>> is_supervised()
    False
  """
  return _socket is not None


def supervise() -> int:
  """Runs the command line of this process in a child, and waits for it.

  Returns:
    The exit code to end with. What there is to say has been said.
  """
  here, there = socket.socketpair()
  child: subprocess.Popen[bytes] | None = None
  early: list[int] = []

  def pass_on(signum: int, frame: Any) -> None:
    del frame
    if child is None:
      early.append(signum)
    else:
      child.send_signal(signum)

  for signum in _SIGNALS:
    # One that is ignored stays so, in the child too.
    if signal.getsignal(signum) != signal.SIG_IGN:
      signal.signal(signum, pass_on)
  child = subprocess.Popen(
    [sys.executable, *sys.orig_argv[1:]],
    env={**os.environ, _VARIABLE: str(there.fileno())},
    pass_fds=[there.fileno()],
    # A Ctrl-C, which goes to a whole group, is to reach it once.
    process_group=0,
  )
  there.close()
  for signum in early:
    child.send_signal(signum)
  code = child.wait()
  if code >= 0:
    return code
  name = signal.Signals(-code).name
  words = 128 - code, f'error: {name} ended the process'
  if -code == signal.SIGABRT:
    words = _last_words(here) or words
  exit_code, message = words
  print(f'isgd-jax: {message}', file=sys.stderr)
  return exit_code


def start() -> None:
  """Takes up the connection to the supervisor, if there is one.

  The process ends when its supervisor does.

  Example:
    >>> start()
  """
  global _socket
  # What this process starts in its turn is not the supervisor's.
  number = os.environ.pop(_VARIABLE, None)
  if number is None:
    return
  _socket = socket.socket(fileno=int(number))
  threading.Thread(target=_end_with, args=[_socket], daemon=True).start()


def say_on_abort(exit_code: int, message: str) -> None:
  """Tells the supervisor what it means if JAX ends the process from now on.

  Args:
    exit_code: to end with.
    message: to print.

  Example:
    >>> say_on_abort(76, 'error: another process is gone')
  """
  if _socket is not None:
    with contextlib.suppress(OSError):
      _socket.sendall(json.dumps([exit_code, message]).encode() + b'\n')


def _end_with(parent: socket.socket) -> None:
  """Ends the process when the supervisor is gone."""
  with contextlib.suppress(OSError):
    parent.recv(1)
  os._exit(128 + signal.SIGKILL)


def _last_words(here: socket.socket) -> tuple[int, str] | None:
  """What the child said last to its supervisor, if it said anything."""
  here.setblocking(False)
  said = b''
  with contextlib.suppress(BlockingIOError):
    while part := here.recv(1 << 16):
      said += part
  lines = said.splitlines()
  return tuple(json.loads(lines[-1])) if lines else None
