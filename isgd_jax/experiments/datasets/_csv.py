"""Comma-separated values, plain or gzip, with errors that name the line."""

from collections.abc import Collection, Sequence
import csv
import io
import os

import numpy as np

from isgd_jax.experiments.datasets._files import open_plain_or_gzip
from isgd_jax.experiments.datasets._files import read_up_to
from isgd_jax.experiments.errors import data_error

_REMEDY = 'fetch the file again from where it came from'
_MISSING = ('', 'NA')


class CSV:
  r"""The columns of a file that were asked for, as text.

  Attributes:
    path: of the file, for errors.
    columns: by name, a value a row.

  Example:
    >>> table = CSV('a.csv', b'x,y\n1,NA\n2,7\n', ['x', 'y'])
    >>> table.numbers('x'), table.numbers('y', may_miss=True)
    (array([1., 2.]), array([nan,  7.]))
  """

  path: str | os.PathLike[str]
  columns: dict[str, Sequence[str]]

  def __init__(
    self, path: str | os.PathLike[str], data: bytes, names: Collection[str]
  ):
    """Parses a file.

    Args:
      path: of the file, for errors.
      data: its content: a header, then rows of as many values.
      names: columns that it must have; others are passed over.

    Raises:
      DataError: (a `ValueError`) it is no such file; names the line.
    """
    self.path = path
    try:
      rows = list(csv.reader(io.StringIO(data.decode('utf-8')), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
      raise self._refused(f'what is no CSV ({error})') from error
    header = rows[0] if rows else []
    wanted = f'the columns {", ".join(names)}'
    missing = [name for name in names if header.count(name) != 1]
    if missing:
      raise self._refused(f'no column {missing[0]!r} in its first line', wanted)
    if len(rows) < 2:
      raise self._refused('no row below the first line', wanted)
    for line, row in enumerate(rows, 1):
      if len(row) != len(header):
        raise self._refused(
          f'{len(row)} values in line {line}', f'{len(header)} as in the first'
        )
    by_place = list(zip(*rows[1:], strict=True))
    self.columns = {name: by_place[header.index(name)] for name in names}

  def numbers(self, name: str, *, may_miss: bool = False) -> np.ndarray:
    """A column of finite numbers.

    Args:
      name: of the column.
      may_miss: whether '' and 'NA' are numbers that are not known.

    Returns:
      [n] float64, NaN where a number is not known.

    Raises:
      DataError: (a `ValueError`) a value is no finite number; names the line.
    """
    values = self.columns[name]
    is_missing = np.array([may_miss and each in _MISSING for each in values])
    try:
      numbers = np.array(np.where(is_missing, '0', values), np.float64)
    except ValueError:
      numbers = np.array([_number_or_inf(value) for value in values])
    wrong = np.flatnonzero(~np.isfinite(numbers) & ~is_missing)
    if len(wrong):
      raise self.refused_value(name, int(wrong[0]), 'a finite number')
    return np.where(is_missing, np.nan, numbers)

  def refused_value(self, name: str, row: int, expected: str) -> ValueError:
    """The error for a value that cannot be.

    Args:
      name: of its column.
      row: counted from 0.
      expected: what it should be.

    Returns:
      A `DataError`.
    """
    value = self.columns[name][row]
    return self._refused(
      f'{value!r} in line {row + 2}, column {name!r}', expected
    )

  def _refused(
    self, found: str, expected: str = 'comma-separated values'
  ) -> ValueError:
    return data_error(self.path, found, expected, _REMEDY)


def _number_or_inf(text: str) -> float:
  """The number, or infinity where a text is none."""
  try:
    return float(text)
  except ValueError:
    return float('inf')


def read_csv(path: str | os.PathLike[str], names: Collection[str]) -> CSV:
  r"""Reads a file of comma-separated values, plain or gzip.

  Args:
    path: of the file.
    names: columns that it must have.

  Returns:
    Its columns.

  Raises:
    DataError: (a `ValueError`) it cannot be read, or is no such file.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, 'a.csv')
    ...   _ = path.write_text('x,y\n1,2\n')
    ...   read_csv(path, ['y']).numbers('y')
    array([2.])
  """
  with open_plain_or_gzip(path) as (stream, limit):
    data = bytes(read_up_to(stream, limit + 1))
  return CSV(path, data, names)


def find_file(
  data_dir: str | os.PathLike[str], names: Sequence[str], remedy: str
) -> str:
  """The first of several names that a folder has; or a file named itself.

  Args:
    data_dir: a folder, or the file.
    names: that the file may have in the folder.
    remedy: where to get it, for the message.

  Returns:
    Its path.

  Raises:
    DataError: (a `ValueError`) there is none.

  Example:
    >>> try:
    ...   find_file('no/such', ['a.csv', 'a.csv.gz'], 'put it there')
    ... except ValueError as error:
    ...   print(str(error).rpartition(';')[2])
     put it there
  """
  if os.path.isfile(data_dir):
    return os.fspath(data_dir)
  for name in names:
    path = os.path.join(data_dir, name)
    if os.path.isfile(path):
      return path
  raise data_error(
    data_dir, f'no {names[0]}', f'{" or ".join(names)}, or the file', remedy
  )


def package_folder(package: str) -> str | None:
  """Where a package is installed, without importing it.

  Args:
    package: its name.

  Returns:
    Its folder; None where it is not installed.

  Example:
    >>> package_folder('no_such_package') is None
    True
  """
  import importlib.util

  spec = importlib.util.find_spec(package)
  folders = spec.submodule_search_locations if spec else None
  return next(iter(folders), None) if folders else None
