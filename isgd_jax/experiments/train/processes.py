"""The processes of one run, which fail together rather than wait in vain.

A process that fails alone leaves the others waiting in a collective operation.
So what can fail is done, before any compute, under `Processes.agreeing`, which
has all of them stop with the message of the one. What fails later ends its
process, and the others notice that (see `connection`).
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import pathlib
import secrets
import socket
import time
from typing import Any

from jax.experimental import multihost_utils
import numpy as np

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.files import explained
from isgd_jax.experiments.files import to_json
from isgd_jax.experiments.train import checks

# What a machine may have of its own: where data lie, and how they are read.
_OWN = frozenset({'config.data.data_dir', 'config.data.num_workers'})
# A network file system may show a new file late.
_SHOWS_WITHIN_SECONDS = 5.0
_MOST_DIFFERENCES = 5


class Processes:
  """The processes of a run, seen from one of them.

  Attributes:
    count: how many they are.
    index: which of them this one is, from 0.
    have_agreed_to_fail: whether all of them raise an error now.

  Example:
    >>> Processes(count=1, index=0).is_first
    True
  """

  count: int
  index: int
  have_agreed_to_fail: bool

  def __init__(self, count: int, index: int):
    """Takes note of both.

    Args:
      count: how many they are.
      index: which of them this one is.
    """
    self.count = count
    self.index = index
    self.have_agreed_to_fail = False

  @property
  def is_first(self) -> bool:
    """Whether this is the process that writes and prints."""
    return self.index == 0

  @contextlib.contextmanager
  def agreeing(self) -> Iterator[None]:
    """Has every process fail where one fails; all must come by.

    Yields:
      Nothing.

    Raises:
      InputError: another process failed; with its message.
      Exception: what failed here.

    Example:
      >>> with Processes(count=1, index=0).agreeing():
      ...   pass
    """
    if self.count == 1:
      yield
      return
    failure = None
    try:
      yield
    except Exception as error:
      failure = error
    messages = self.gather(None if failure is None else _message(failure))
    self.have_agreed_to_fail = any(message is not None for message in messages)
    if failure is not None:
      raise failure
    for process, message in enumerate(messages):
      if message is not None:
        raise InputError(f'process {process}: {message}')

  def gather(self, value: Any) -> list[Any]:
    """A value of each process, in all of them; all must call it.

    Args:
      value: of this process; what JSON has.

    Returns:
      The values, by process.

    Example:
      >>> Processes(count=1, index=0).gather({'a': 1})
      [{'a': 1}]
    """
    text = to_json(value).encode()
    if self.count == 1:
      return [json.loads(text)]
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    # Powers of two, so that few sizes are compiled.
    padded = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [
      json.loads(row[:size].tobytes())
      for row, size in zip(rows, sizes.tolist(), strict=True)
    ]

  def check_alike(self, facts: Mapping[str, Any]) -> None:
    """Raises, in all processes, unless they are about to train the same run.

    Args:
      facts: nested mappings; the options of the run under `config`.

    Raises:
      InputError: naming what differs, with the values.

    Example:
      >>> Processes(count=1, index=0).check_alike({'config': {'seed': 0}})
    """
    first, *others = map(checks.flatten, self.gather(facts))
    differences = [
      f'{_spelt(name)} is {first.get(name)!r} in process 0, '
      f'{other.get(name)!r} in process {process}'
      for process, other in enumerate(others, 1)
      for name in sorted(first.keys() | other.keys())
      if name not in _OWN and first.get(name) != other.get(name)
    ]
    if differences:
      self.have_agreed_to_fail = True
      more = len(differences) - _MOST_DIFFERENCES
      raise InputError(
        'the processes were not started for the same run: '
        + '; '.join(differences[:_MOST_DIFFERENCES])
        + (f'; and {more} more' if more > 0 else '')
        + '. Start all of them with the same options, data and packages'
      )

  def check_folder_is_shared(self, out: pathlib.Path) -> None:
    """Raises, in all processes, unless all see what process 0 writes.

    Args:
      out: the run's folder, which exists in process 0.

    Raises:
      InputError: naming the process that does not see it.
      OutputError: process 0 cannot write there.

    Example:
      >>> import tempfile
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> Processes(count=1, index=0).check_folder_is_shared(folder)
    """
    if self.count == 1:
      return
    # A new name: a file system may remember that a file was not there.
    mark = out / f'.shared-{self.gather(secrets.token_hex(8))[0]}'
    with self.agreeing():
      if self.is_first:
        with explained(mark):
          mark.touch()
    try:
      with self.agreeing():
        if not comes_true(mark.exists):
          raise InputError(
            f"--out '{out}' on {socket.gethostname()} does not show what "
            'process 0 has written to its --out; give every process the same '
            'folder, on a file system that they share'
          )
    finally:
      if self.is_first:
        with contextlib.suppress(OSError):
          mark.unlink()


def comes_true(condition: Callable[[], bool]) -> bool:
  """Whether something is so on a file system, or comes to be so in seconds.

  Args:
    condition: looks.

  Returns:
    Whether it was seen.

  Example:
    >>> comes_true(lambda: True)
    True
  """
  deadline = time.monotonic() + _SHOWS_WITHIN_SECONDS
  while not condition():
    if time.monotonic() > deadline:
      return False
    time.sleep(0.1)
  return True


def _message(error: Exception) -> str:
  """An error in one line, named where it is not one of ours."""
  if isinstance(error, ValueError | OSError | ImportError) and str(error):
    return str(error)
  return f'{type(error).__name__}: {error}'


def _spelt(name: str) -> str:
  """The option or the fact of a dotted name, as a user knows it."""
  kind, _, rest = name.partition('.')
  if kind == 'config':
    return f'--{checks.option_name(rest)}'
  return f'{kind} {rest}'.strip()
