"""The folder of a run: what is in it, and whose run it is."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import json
import os
import pathlib
import types
import typing
from typing import Any

from isgd_jax.experiments.environment import environment
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.files import explained
from isgd_jax.experiments.files import prepare_output_folder
from isgd_jax.experiments.files import replace_file
from isgd_jax.experiments.train.config import TrainConfig

try:
  import fcntl
except ImportError:  # Not on Windows, where two runs can meet in a folder.
  fcntl = None

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'
_LOCK = '.lock'
_OF_A_RUN = (CONFIG, CHECKPOINTS, 'metrics.jsonl')


def check_folder(out: str | os.PathLike[str], resume: bool) -> None:
  """Raises unless a run can begin, or be carried on, in a folder.

  Args:
    out: the folder.
    resume: whether a run is to be carried on.

  Raises:
    InputError: naming the folder and the remedy.

  Example:
    >>> import tempfile
    >>> check_folder(tempfile.mkdtemp(), resume=False)
  """
  out = pathlib.Path(out)
  with explained(out):
    if resume and not (out / CONFIG).is_file():
      raise InputError(
        f"nothing to resume: '{out}' holds no run (no {CONFIG}); leave out "
        '--resume to start one there'
      )
    if not resume and any((out / name).exists() for name in _OF_A_RUN):
      raise InputError(
        f"'{out}' holds a run already; carry it on with --resume, or choose "
        'another --out'
      )


@contextlib.contextmanager
def locked(out: str | os.PathLike[str]) -> Iterator[None]:
  """Keeps other processes from writing to the folder of a run.

  Args:
    out: the folder, which is made if missing.

  Yields:
    Nothing. The lock ends with the process, however that ends.

  Raises:
    InputError: another process has the folder.
    OutputError: it cannot be written to.

  Example:
    >>> import tempfile
    >>> with locked(tempfile.mkdtemp()):
    ...   pass
  """
  path = prepare_output_folder(out) / _LOCK
  with explained(path):
    file = open(path, 'ab')  # noqa: SIM115
  with file:
    if fcntl is not None:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        raise InputError(
          f"another process is writing to '{os.fspath(out)}'; wait for it, or "
          'choose another --out'
        ) from error
    yield


def save_config(
  config: TrainConfig,
  out: str | os.PathLike[str],
  placement: Mapping[str, int] | None = None,
) -> None:
  """Writes the options of a run into its folder, which is made if missing.

  The hardware and versions beside them stay those that the run began with.

  Args:
    config: the run.
    out: its folder.
    placement: facts of the hardware besides: devices and processes in use.

  Raises:
    OutputError: it cannot be written.
  """
  record = {'config': dataclasses.asdict(config), **made_with(out, placement)}
  text = json.dumps(record, indent=2) + '\n'
  path = prepare_output_folder(out) / CONFIG
  replace_file(path, lambda new: new.write_text(text))


def made_with(
  out: str | os.PathLike[str], placement: Mapping[str, int] | None = None
) -> dict[str, dict[str, Any]]:
  """The hardware and versions that the run in a folder began with.

  Args:
    out: the folder.
    placement: facts of the hardware besides, where there is no run.

  Returns:
    As `results.environment`; those of this process where there is no run.

  Example:
    >>> import tempfile
    >>> sorted(made_with(tempfile.mkdtemp()))
    ['hardware', 'versions']
  """
  path = pathlib.Path(out) / CONFIG
  here = here_and_now(placement)
  try:
    saved = json.loads(path.read_text())
    return {name: dict(saved[name]) for name in here}
  except (OSError, ValueError, KeyError, TypeError):
    return here


def here_and_now(
  placement: Mapping[str, int] | None = None,
) -> dict[str, dict[str, Any]]:
  """The hardware and versions of this process.

  Args:
    placement: facts of the hardware besides: devices and processes in use.

  Returns:
    As `results.environment`.

  Example:
    >>> here_and_now({'num_processes': 2})['hardware']['num_processes']
    2
  """
  here = environment()
  here['hardware'] |= placement or {}
  return here


def say_what_changed(
  then: Mapping[str, Mapping[str, Any]],
  now: Mapping[str, Mapping[str, Any]],
  say: Callable[[str], None],
) -> None:
  """Warns where hardware or versions are not those a run began with.

  Args:
    then: as `made_with`.
    now: as `here_and_now`.
    say: called with the warning, if there is one.

  Example:
    >>> now = here_and_now({'num_devices': 8, 'num_processes': 2})
    >>> then = here_and_now({'num_devices': 1})
    >>> say_what_changed(then, now, lambda text: print(text[57:]))
    num_devices 1 -> 8, num_processes 1 -> 2
  """
  # Runs of an earlier version do not say that they had one process.
  then = {**then, 'hardware': {'num_processes': 1, **then['hardware']}}
  changes = [
    f'{name} {then[part].get(name)} -> {value}'
    for part in ('versions', 'hardware')
    for name, value in now[part].items()
    if then[part].get(name) != value
  ]
  if changes:
    say(
      'The run began elsewhere, and will not go on bit for bit: '
      + ', '.join(changes)
    )


def load_config(out: str | os.PathLike[str]) -> TrainConfig:
  """Reads the options of the run in a folder.

  Args:
    out: the folder.

  Returns:
    The options.

  Raises:
    InputError: there is no run, or its options are not those of this version.

  Example:
    >>> import tempfile
    >>> out = tempfile.mkdtemp()
    >>> save_config(TrainConfig(model='lenet'), out)
    >>> load_config(out).model
    'lenet'
  """
  path = pathlib.Path(out) / CONFIG
  with explained(path):
    if not path.is_file():
      raise InputError(f"'{os.fspath(out)}' holds no run (no {CONFIG})")
  try:
    return _from_record(TrainConfig, json.loads(path.read_text())['config'])
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f"cannot read '{path}': {error}; it is damaged, or of another version "
      'of isgd_jax'
    ) from error


def _from_record(cls: type, record: Mapping[str, Any]) -> Any:
  """A dataclass of dataclasses from nested mappings."""
  hints = typing.get_type_hints(cls)

  def restore(name, value):
    if isinstance(value, Mapping):
      return _from_record(hints[name], value)
    value = tuple(value) if isinstance(value, list) else value
    if not _fits(value, hints[name]):
      raise TypeError(f'{name} is {value!r}')
    return value

  return cls(**{name: restore(name, value) for name, value in record.items()})


def _fits(value: Any, hint: Any) -> bool:
  """Whether a value read from JSON is of the type of its field."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is typing.Literal:
    return value in args
  if origin is types.UnionType:
    return any(_fits(value, arg) for arg in args)
  if origin is tuple:
    return isinstance(value, tuple) and all(_fits(v, args[0]) for v in value)
  if isinstance(value, bool) or hint is bool:
    return isinstance(value, bool) and hint is bool
  # JSON writes 1.0 as 1 in other hands.
  return isinstance(value, (int, float) if hint is float else hint)
