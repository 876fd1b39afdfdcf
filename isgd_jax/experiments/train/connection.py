"""How the processes of a run find one another, and what becomes of a lost one.

On a CPU the connections of a process that ends break, and the next collective
operation of the others raises. On any device JAX's coordination service, which
lives in process 0, listens for the heartbeat of all; where it misses one, or is
gone itself, JAX ends the process with SIGABRT, which no Python code can catch.
So what is to be said then is left with the supervisor beforehand.
"""

from collections.abc import Iterator
import contextlib
import os
import re
import signal
import socket
import threading
import time

import jax

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import OutputError
from isgd_jax.experiments.errors import ProcessLost
from isgd_jax.experiments.errors import RunStopped
from isgd_jax.experiments.train import supervisor
from isgd_jax.experiments.train.devices import DevicesConfig
from isgd_jax.experiments.train.devices import address
from isgd_jax.experiments.train.devices import ask_for_devices
from isgd_jax.experiments.train.devices import check_devices
from isgd_jax.experiments.train.devices import check_even
from isgd_jax.experiments.train.processes import Processes

# In what JAX, its collectives and its coordination service say of a lost peer.
_LOST = re.compile(
  r'gloo|nccl|coordination.?service|heartbeat|barrier|UNAVAILABLE:'
  r'|DEADLINE_EXCEEDED',
  re.IGNORECASE,
)
_LONGEST_REASON = 200
_BAD_INPUT = 2


@contextlib.contextmanager
def connected(
  devices: DevicesConfig, out: str | os.PathLike[str]
) -> Iterator[Processes]:
  """Joins the processes of a run, if it has others, and parts from them.

  They part in peace where all of them end for one reason. A process that fails
  alone stays connected, and should end without ado, as `isgd-jax` does: the
  others are waiting for it.

  Args:
    devices: the options. Where the program has called
      `jax.distributed.initialize` itself, nothing is joined or parted from.
    out: the run's folder, for messages.

  Yields:
    The processes.

  Raises:
    InputError: an option cannot be; process 0 cannot be reached, or is not as
      the others. Where it can be, but not all come, JAX ends the process.
    ProcessLost: another process is gone.

  Example:
    >>> with connected(DevicesConfig(), 'run') as processes:
    ...   processes.count
    1
  """
  check_devices(devices)
  ask_for_devices(devices)
  joins = devices.has_peers and not jax.distributed.is_initialized()
  if not devices.has_peers and not jax.distributed.is_initialized():
    yield Processes(1, 0)
    return
  if joins:
    _join(devices)
  lost = ProcessLost(
    'JAX has ended this one, since process 0 is gone or another was silent for '
    f'--peer-timeout {devices.peer_timeout} s',
    out,
  )
  supervisor.say_on_abort(lost.exit_code, f'error: {lost}')
  processes = None
  try:
    with losses_named(None, out):
      # The first thing that JAX does in all processes together.
      found = jax.devices()
      processes = Processes(jax.process_count(), jax.process_index())
    with losses_named(processes, out):
      try:
        check_even(found)
      except InputError:
        # Each of them sees the devices of all.
        processes.have_agreed_to_fail = True
        raise
      yield processes
  except Exception as error:
    if joins and (
      (processes and processes.have_agreed_to_fail)
      or isinstance(error, RunStopped)
    ):
      _part()
    raise
  if joins:
    _part()


@contextlib.contextmanager
def losses_named(
  processes: Processes | None, out: str | os.PathLike[str]
) -> Iterator[None]:
  """Turns what JAX raises for want of another process into a `ProcessLost`.

  Args:
    processes: of the run; None where it is not known yet how many they are.
    out: its folder, for the message.

  Yields:
    Nothing.

  Raises:
    ProcessLost: another process is gone.
    Exception: any other error, as it was.

  Example:
    >>> try:
    ...   with losses_named(Processes(2, 0), 'run'):
    ...     raise RuntimeError('Gloo all-reduce failed: connection closed')
    ... except ProcessLost as error:
    ...   error.exit_code
    76
  """
  try:
    yield
  except (RuntimeError, ValueError, OSError) as error:
    is_alone = processes is not None and processes.count == 1
    reason = None if is_alone else _reason(error, out)
    if reason is None:
      raise
    raise ProcessLost(reason, out) from error


def _reason(
  error: BaseException | None, out: str | os.PathLike[str]
) -> str | None:
  """What an error, or what it comes from, says of a lost process, if it does.

  A storage error, say, may come from a process that did not do its share.
  """
  while error is not None:
    # Ours quote what is in the options, which may be anything.
    is_ours = isinstance(error, InputError | OutputError)
    if not is_ours and _LOST.search(_without_paths(error, out)):
      return ' '.join(str(error).split())[:_LONGEST_REASON]
    error = error.__cause__
  return None


def _without_paths(error: BaseException, out: str | os.PathLike[str]) -> str:
  """What an error says, but for the names of files, which may be anything."""
  if isinstance(error, OSError) and error.filename is not None:
    return str(error.strerror)
  # As Orbax and TensorStore spell it; a short name may be a part of any word.
  text = str(error)
  for path in (os.path.realpath(out), os.path.abspath(out)):
    text = text.replace(path, '')
  return text


def _join(devices: DevicesConfig) -> None:
  """Finds the other processes, or says which option was to blame."""
  deadline = time.monotonic() + devices.connect_timeout
  where = (
    'the cluster'
    if devices.coordinator is None
    else f'--coordinator {devices.coordinator}'
  )
  if devices.coordinator is not None and devices.process_id:
    _wait_for(devices.coordinator, devices.connect_timeout)
  which = (
    'all processes of the job run'
    if devices.num_processes is None
    else f'each --process-id from 0 to {devices.num_processes - 1} is started '
    f'once (this one is {devices.process_id})'
  )
  supervisor.say_on_abort(
    _BAD_INPUT,
    f'error: not all processes came to {where} within --connect-timeout '
    f'{devices.connect_timeout} s; see that {which}, on the same coordinator, '
    'and what the others have said; or raise --connect-timeout',
  )
  with _signal_handlers_kept():
    try:
      jax.distributed.initialize(
        devices.coordinator,
        devices.num_processes,
        devices.process_id,
        # It would restrict the process to one device where it finds a cluster.
        cluster_detection_method=(
          None if devices.distributed else 'deactivate'
        ),
        initialization_timeout=max(1, round(deadline - time.monotonic())),
        heartbeat_timeout_seconds=devices.peer_timeout,
        shutdown_timeout_seconds=devices.peer_timeout,
      )
    except (RuntimeError, ValueError) as error:
      reason = ' '.join(str(error).split())[:_LONGEST_REASON].rstrip('.')
      if devices.distributed:
        raise InputError(
          f'--distributed cannot join the processes of a cluster: {reason}. '
          'Start the run with srun, mpirun, on Kubernetes or on a TPU pod, or '
          'give --coordinator, --num-processes and --process-id; JAX must not '
          'have been used before'
        ) from error
      raise InputError(
        f'cannot join the others at --coordinator {devices.coordinator}: '
        f'{reason}. Process 0 must run on that host, with the port free, and '
        'JAX must not have been used before'
      ) from error


def _wait_for(coordinator: str, timeout_seconds: float) -> None:
  """Returns when something listens there: JAX would not survive its absence."""
  deadline = time.monotonic() + timeout_seconds
  while True:
    left = deadline - time.monotonic()
    try:
      socket.create_connection(address(coordinator), max(left, 0.1)).close()
      return
    except OSError as error:
      if time.monotonic() + 0.2 > deadline:
        raise InputError(
          f'--coordinator {coordinator} cannot be reached within '
          f'--connect-timeout {timeout_seconds} s: {error.strerror or error}; '
          'see that --process-id 0 has been started on that host and that no '
          'firewall is between, or raise --connect-timeout'
        ) from error
    time.sleep(0.2)


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
  """Undoes what JAX does to SIGTERM, which it would keep for itself."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  old = signal.getsignal(signal.SIGTERM)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, old)


def _part() -> None:
  """Takes leave of the others, who come by to do so too."""
  # The run is over by now, whatever becomes of them.
  with contextlib.suppress(Exception):
    jax.distributed.shutdown()
