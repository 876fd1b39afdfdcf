"""A file of JSON lines that a run appends to, and takes up where it stopped."""

import json
import os
import pathlib
from typing import Any, NamedTuple, Self

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.files import explained
from isgd_jax.experiments.files import to_json


class JsonLines:
  r"""A file of JSON lines that a run appends to, and can take up again.

  Every record has a `step`, and steps never fall.

  Attributes:
    kept: what the file held when it was opened, up to the step to go on from.

  Example:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'metrics.jsonl')
    >>> with JsonLines(path, last_step=0) as lines:
    ...   lines.write([{'step': 1}, {'step': 2}])
    >>> with JsonLines(path, last_step=1) as lines:
    ...   lines.write([{'step': 2, 'again': True}])
    >>> path.read_text()
    '{"step": 1}\n{"step": 2, "again": true}\n'
  """

  kept: 'KeptLines'

  def __init__(self, path: pathlib.Path, last_step: int):
    """Opens the file and cuts off what lies behind a step.

    Args:
      path: made where it is missing.
      last_step: lines of later steps are removed, and a torn last line.

    Raises:
      InputError: a line before that is damaged; the file is left as it is.
      OutputError: the file cannot be written.
    """
    self._path = path
    with explained(path):
      path.touch()
      self.kept = _lines_up_to(path, last_step)
      # Open as long as this is, and closed by `__exit__`.
      self._file = open(path, 'ab', buffering=0)  # noqa: SIM115
      self._file.truncate(self.kept.num_bytes)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self._file.close()

  def write(self, records: list[dict[str, Any]]) -> None:
    """Appends records, by one system call.

    Args:
      records: one a line; numbers that are not finite become null.

    Raises:
      OutputError: the file cannot be written.
    """
    text = ''.join(to_json(record) + '\n' for record in records).encode()
    with explained(self._path):
      while text:  # A disk that fills up takes a part before it refuses.
        text = text[self._file.write(text) :]

  def sync(self) -> None:
    """Returns when all that was written is on the disk.

    Raises:
      OutputError: it cannot be.
    """
    with explained(self._path):
      os.fsync(self._file.fileno())


class KeptLines(NamedTuple):
  """The lines of a file up to a step.

  Attributes:
    num_bytes: where the last of them ends.
    num_lines: how many they are.
    last: the last record, or None.
  """

  num_bytes: int
  num_lines: int
  last: dict[str, Any] | None


def _lines_up_to(path: pathlib.Path, last_step: int) -> KeptLines:
  """What to keep of a file; raises if some of it is lost among the rest."""
  kept = KeptLines(0, 0, None)
  bad_line = None
  with open(path, 'rb') as file:
    for number, line in enumerate(file, 1):
      record = _record(line)
      if record is None or record['step'] > last_step:
        bad_line = bad_line or number
      elif bad_line:
        raise InputError(
          f"line {bad_line} of '{path}' is damaged; the run cannot be carried "
          'on. Put the file back, or begin another run'
        )
      else:
        kept = KeptLines(kept.num_bytes + len(line), number, record)
  return kept


def _record(line: bytes) -> dict[str, Any] | None:
  """The record of a whole line; None of any other."""
  if not line.endswith(b'\n'):
    return None
  try:
    record = json.loads(line)
    return record if isinstance(record['step'], int) else None
  except (ValueError, TypeError, KeyError):
    return None
