"""What a user can get wrong, and errors that say how to put it right."""

from collections.abc import Iterable
import difflib
import os
import shlex
import signal

from isgd_jax import _extras


class InputError(ValueError):
  """A user asked for something that is not valid."""


class UnknownNameError(InputError):
  """A data set, model, method or optimizer that does not exist."""


class DataError(InputError):
  """A data set's file is missing, broken, or not what it should be."""


class OutputError(OSError):
  """A result cannot be written."""


def data_error(
  path: str | os.PathLike[str], found: str, expected: str, remedy: str
) -> DataError:
  """The error for a file or folder that is not what a data set needs.

  Args:
    path: the file or folder.
    found: what is there.
    expected: what should be there.
    remedy: what the user can do about it, as an imperative.

  Returns:
    A `DataError` (a `ValueError`) with all four in its message.

  Example:
    >>> print(data_error('a.gz', '3 bytes', 'a header of 4', 'fetch it again'))
    a.gz: found 3 bytes; expected a header of 4; fetch it again
  """
  return DataError(
    f'{os.fspath(path)}: found {found}; expected {expected}; {remedy}'
  )


class RunStopped(Exception):
  """A signal stopped a run, which is saved and can be carried on.

  Attributes:
    exit_code: that the process ends with: 130 after SIGINT (Ctrl-C), as shells
      have it, and otherwise 75, `EX_TEMPFAIL` of sysexits.h: try again.
  """

  exit_code: int

  def __init__(self, signum: int, step: int, out: str):
    """Words the message.

    Args:
      signum: the signal.
      step: training steps done.
      out: the run's folder.
    """
    super().__init__(
      f'{signal.Signals(signum).name}: saved after step {step}; carry on with '
      f'isgd-jax train --resume --out {shlex.quote(out)}'
    )
    self.exit_code = 130 if signum == signal.SIGINT else 75


class ProcessLost(Exception):
  """Another process of the run died, or cannot be reached any more.

  Attributes:
    exit_code: that the process ends with: 76, `EX_PROTOCOL` of sysexits.h.
  """

  exit_code = 76

  def __init__(self, reason: str, out: str | os.PathLike[str]):
    """Words the message.

    Args:
      reason: what is known of it.
      out: the run's folder.
    """
    super().__init__(
      f'another process of the run ended or cannot be reached: {reason}. '
      'What it has printed says why; carry on from the last checkpoint, in all '
      f'processes, with --resume --out {shlex.quote(os.fspath(out))}'
    )


def check_name(kind: str, name: str, valid_names: Iterable[str]) -> str:
  """Returns `name` if it is valid, and otherwise says which one is near.

  Args:
    kind: what is named, for the message, e.g. `'data set'`.
    name: the name to check.
    valid_names: all names that exist.

  Returns:
    `name`, unchanged.

  Raises:
    UnknownNameError: (a `ValueError`) quoting `name`, with the nearest valid
      name, if one is near, and all of them.

  Example:
    >>> check_name('model', 'mlp', ['cnn', 'mlp'])
    'mlp'
    >>> try:
    ...   check_name('model', 'mpl', ['cnn', 'mlp'])
    ... except ValueError as error:
    ...   print(error)
    unknown model 'mpl'; did you mean 'mlp'? (valid: 'cnn', 'mlp')
  """
  valid = sorted(valid_names)
  if name in valid:
    return name
  near = difflib.get_close_matches(str(name).lower(), valid, n=1, cutoff=0.5)
  hint = f'did you mean {near[0]!r}? ' if near else ''
  listing = ', '.join(repr(n) for n in valid)
  raise UnknownNameError(f'unknown {kind} {name!r}; {hint}(valid: {listing})')


def missing_extra(package: str, extra: str = 'experiments') -> ImportError:
  """The error for an optional dependency that is not installed.

  Args:
    package: the package that could not be imported.
    extra: of isgd_jax, the one that installs it.

  Returns:
    An `ImportError` that names the package and the extra that installs it.

  Example:
    >>> str(missing_extra('flax')).partition(': ')[0]
    'isgd_jax.experiments needs flax'
  """
  return _extras.missing('isgd_jax.experiments', package, extra, package)
