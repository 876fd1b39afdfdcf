"""The folder of a run: what is in it, and whose run it is."""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
import typing
from typing import Any

from isgd_jax.experiments._errors import InputError
from isgd_jax.experiments.results import environment
from isgd_jax.experiments.results import prepare_output_folder
from isgd_jax.experiments.results import replace_file
from isgd_jax.experiments.trainer.config import TrainConfig

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'


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
  has_run = (pathlib.Path(out) / CONFIG).is_file()
  if resume and not has_run:
    raise InputError(
      f"nothing to resume: '{os.fspath(out)}' holds no run (no {CONFIG}); "
      'leave out --resume to start one there'
    )
  if has_run and not resume:
    raise InputError(
      f"'{os.fspath(out)}' holds a run already; carry it on with --resume, or "
      'choose another --out'
    )


def save_config(config: TrainConfig, out: str | os.PathLike[str]) -> None:
  """Writes the options of a run into its folder, which is made if missing.

  Args:
    config: the run.
    out: its folder.

  Raises:
    OutputError: it cannot be written.
  """
  record = {'config': dataclasses.asdict(config), **environment()}
  text = json.dumps(record, indent=2) + '\n'
  path = prepare_output_folder(out) / CONFIG
  replace_file(path, lambda new: new.write_text(text))


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
  check_folder(out, resume=True)
  path = pathlib.Path(out) / CONFIG
  try:
    return _from_record(TrainConfig, json.loads(path.read_text())['config'])
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f"cannot read '{path}': {error}; it is damaged, or of another version "
      'of isgd_jax'
    ) from error


def _from_record(cls: type, record: Mapping[str, Any]) -> Any:
  """A dataclass of dataclasses from nested mappings."""
  types = typing.get_type_hints(cls)

  def restore(name, value):
    if isinstance(value, Mapping):
      return _from_record(types[name], value)
    return tuple(value) if isinstance(value, list) else value

  return cls(**{name: restore(name, value) for name, value in record.items()})
