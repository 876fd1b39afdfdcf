"""Results as JSON lines that survive an interruption.

Whole lines only: a line is written by one system call and synchronised to disk
before the next run starts, and files that are written at once replace the old
ones atomically.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import json
import math
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from isgd_jax.experiments.errors import OutputError


def prepare_output_folder(path: str | os.PathLike[str]) -> pathlib.Path:
  """Makes sure, before any compute, that results can be written.

  Args:
    path: the folder; made with its parents where it is missing.

  Returns:
    The folder.

  Raises:
    OutputError: (an `OSError`) naming the folder, the reason and the remedy.
      Nothing that this function made is left behind.

  Example:
    >>> import tempfile
    >>> folder = prepare_output_folder(tempfile.mkdtemp() + '/a/b')
    >>> folder.is_dir()
    True
  """
  folder = pathlib.Path(path)
  made: list[pathlib.Path] = []
  try:
    for parent in [*reversed(folder.parents), folder]:
      if not parent.is_dir():
        parent.mkdir()
        made.append(parent)
    with tempfile.TemporaryFile(dir=folder) as probe:
      probe.write(b'\n')
  except OSError as error:
    for parent in reversed(made):
      parent.rmdir()
    reason = error.strerror or error
    raise OutputError(
      f"cannot write results to '{folder}': {reason}; choose a folder that you "
      'can write to with --out'
    ) from error
  return folder


def append_record(
  path: pathlib.Path, record: Mapping[str, Any], *, is_compact: bool = False
) -> None:
  r"""Appends one line of strict JSON, and synchronises it to disk.

  Args:
    path: the file; made where it is missing. A torn last line, left by a
      machine that stopped, is closed first, so that the new one stands alone.
    record: what to write; numbers that are not finite become null.
    is_compact: whether spaces are left out.

  Raises:
    OutputError: the file cannot be written.

  Example:
    >>> path = pathlib.Path(tempfile.mkdtemp()) / 'runs.jsonl'
    >>> append_record(path, {'loss': math.nan})
    >>> path.read_text()
    '{"loss": null}\n'
  """
  line = to_json(record, is_compact=is_compact).encode() + b'\n'
  with explained(path), open(path, 'ab+', buffering=0) as file:
    if file.tell() > 0:
      file.seek(-1, os.SEEK_END)
      line = line if file.read(1) == b'\n' else b'\n' + line
    # One unbuffered write: a signal is handled before or after it.
    file.write(line)
    os.fsync(file.fileno())


def write_records(
  path: pathlib.Path, records: Iterable[Mapping[str, Any]]
) -> None:
  """Writes a whole file of JSON lines, replacing the old one atomically.

  Args:
    path: the file.
    records: one a line; numbers that are not finite become null.

  Raises:
    OutputError: the file cannot be written; the old one, if any, is intact.

  Example:
    >>> path = pathlib.Path(tempfile.mkdtemp()) / 'steps.jsonl'
    >>> write_records(path, [{'step': 0}, {'step': 1}])
    >>> list(read_records(path))
    [{'step': 0}, {'step': 1}]
  """
  text = ''.join(to_json(record) + '\n' for record in records)
  replace_file(path, lambda new: new.write_text(text))


def read_records(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  r"""Reads JSON lines; a torn line is left out.

  Args:
    path: the file.

  Yields:
    The records, in order.

  Example:
    >>> path = pathlib.Path(tempfile.mkdtemp()) / 'runs.jsonl'
    >>> _ = path.write_text('{"run": 1}\n{"ru')
    >>> list(read_records(path))
    [{'run': 1}]
  """
  for line in path.read_text(errors='replace').splitlines():
    with contextlib.suppress(json.JSONDecodeError):
      yield json.loads(line)


def replace_file(
  path: pathlib.Path, write: Callable[[pathlib.Path], Any]
) -> None:
  """Writes a file beside its place and moves it there when it is whole.

  Args:
    path: the file.
    write: `write(new)` writes the contents to the path `new`, whose ending is
      that of `path`.

  Raises:
    OutputError: the file cannot be written; the old one, if any, is intact.

  Example:
    >>> path = pathlib.Path(tempfile.mkdtemp()) / 'table.txt'
    >>> replace_file(path, lambda new: new.write_text('hello'))
    >>> path.read_text()
    'hello'
  """
  new = path.with_name(f'.{path.stem}.new{path.suffix}')
  with explained(path):
    try:
      write(new)
      os.replace(new, path)
    finally:
      new.unlink(missing_ok=True)


def to_json(value: Any, *, is_compact: bool = False) -> str:
  """Strict JSON on one line: no NaN, no infinities, plain numbers.

  Args:
    value: mappings, sequences, strings, numbers, NumPy scalars and arrays.
    is_compact: whether spaces are left out.

  Returns:
    The text; numbers that are not finite are null.

  Example:
    >>> to_json({'limit': np.float32(np.inf), 'steps': np.arange(2)})
    '{"limit": null, "steps": [0, 1]}'
  """
  separators = (',', ':') if is_compact else None
  return json.dumps(plain(value), allow_nan=False, separators=separators)


def plain(value: Any) -> Any:
  """The same value in types that strict JSON has.

  Args:
    value: as `to_json` takes it.

  Returns:
    Dictionaries, lists, strings, numbers and None, as they would be read back.

  Example:
    >>> plain({'losses': (np.float32(0.5), math.nan)})
    {'losses': [0.5, None]}
  """
  if isinstance(value, Mapping):
    return {str(k): plain(v) for k, v in value.items()}
  if isinstance(value, np.ndarray | np.generic):
    return plain(value.tolist())
  if isinstance(value, list | tuple):
    return [plain(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
  """Turns an OSError into one that names the file and the remedy."""
  try:
    yield
  except OSError as error:
    raise OutputError(
      f"cannot write '{path}': {error.strerror or error}; make room, or choose "
      'another folder with --out'
    ) from error
