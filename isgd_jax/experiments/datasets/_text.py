"""Text as bytes, cut into windows."""

import os

import numpy as np

from isgd_jax.experiments.datasets._dataset import Dataset
from isgd_jax.experiments.datasets._dataset import TokenSource
from isgd_jax.experiments.datasets._files import open_plain_or_gzip
from isgd_jax.experiments.datasets._files import read_up_to
from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import data_error

_ENDINGS = ('.txt', '.gz')
# Of all files together: a small gzip file can unpack to any size.
_MAX_BYTES = 2**32


def load_text(
  data_dir: str | os.PathLike[str] | None = None, *, sequence_length: int = 128
) -> Dataset[TokenSource]:
  """Loads text as bytes, in windows of `sequence_length + 1`.

  All files below `data_dir` that end in .txt or .gz, in any case, in the order
  of their paths; names that begin with a dot are passed over. What is
  compressed is seen from a file's first bytes. The last tenth of each file is
  the test part.

  A window's inputs are its bytes 0 to sequence_length - 1, its targets 1 to
  sequence_length: the two overlap in all but one byte, while windows share no
  byte with each other and none spans two files or two parts. So the first byte
  of a window is nobody's target, and up to `sequence_length` bytes at the end
  of each file's part are dropped.

  Args:
    data_dir: the folder, or one file of any ending.
    sequence_length: inputs (and targets) a window, bytes.

  Returns:
    A `Dataset` of records `{'tokens': [sequence_length + 1] uint8}`.

  Raises:
    DataError: (a `ValueError`) there is no `data_dir`, no file, a file that
      cannot be read or is not text, more than 4 GiB, or too little text for one
      window of each part; the message names the path and the remedy.
    ValueError: `sequence_length` is not positive.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   _ = pathlib.Path(folder, 'a.txt').write_text('0123456789' * 10)
    ...   dataset = load_text(folder, sequence_length=4)
    >>> dataset.train[1]['tokens'].tobytes(), len(dataset.test)
    (b'56789', 2)
  """
  if data_dir is None:
    raise DataError(
      "data set 'text' needs data_dir: a folder with files that end in "
      f'{" or ".join(_ENDINGS)}, or one file'
    )
  if sequence_length < 1:
    raise InputError(f'sequence_length must be positive, got {sequence_length}')
  data_dir = os.fspath(data_dir)
  paths = [data_dir] if os.path.isfile(data_dir) else find_texts(data_dir)
  length = sequence_length + 1
  train, test = [], []
  num_bytes = 0
  for path in paths:
    data = read_text(path, _MAX_BYTES - num_bytes)
    num_bytes += len(data)
    num_test = len(data) // 10
    num_train = len(data) - num_test
    train.append(_windows(data[:num_train], length))
    test.append(_windows(data[num_train:], length))
  parts = {'train': np.concatenate(train), 'test': np.concatenate(test)}
  for part, windows in parts.items():
    if not len(windows):
      raise data_error(
        data_dir,
        f'{num_bytes} bytes of text in {len(paths)} file(s), too few for one '
        f'window in the {part} part',
        f'a file of {10 * length} bytes or more (windows of {length}, a tenth '
        'of each file for testing)',
        'add text, join small files, or lower sequence_length',
      )
  return Dataset(
    'text',
    TokenSource(parts['train']),
    TokenSource(parts['test']),
    num_classes=256,
    example_shape=(sequence_length,),
    pixel_mean=(),
    pixel_std=(),
  )


def find_texts(
  folder: str | os.PathLike[str], endings: tuple[str, ...] = _ENDINGS
) -> list[str]:
  """The text files below a folder; names that begin with a dot do not count.

  Args:
    folder: where to look, at any depth.
    endings: of the names, in lower case; names may have them in any.

  Returns:
    Their paths, sorted; at least one.

  Raises:
    DataError: (a `ValueError`) there is none.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   _ = pathlib.Path(folder, 'a.TXT').write_text('abc')
    ...   [os.path.basename(path) for path in find_texts(folder)]
    ['a.TXT']
  """
  paths = []
  for path, folders, files in os.walk(folder):
    folders[:] = [name for name in folders if not name.startswith('.')]
    paths += [
      os.path.join(path, name)
      for name in files
      if name.lower().endswith(endings) and not name.startswith('.')
    ]
  if not paths:
    exists = os.path.isdir(folder)
    raise data_error(
      folder,
      'no text file' if exists else 'no such file or folder',
      f'files that end in {" or ".join(endings)}, or one file',
      'add text, or name another data_dir',
    )
  return sorted(paths)


def read_text(
  path: str | os.PathLike[str], max_bytes: int = _MAX_BYTES
) -> np.ndarray:
  """Reads one file of text, plain or compressed.

  Args:
    path: of the file.
    max_bytes: the most that it may unpack to.

  Returns:
    Its bytes, uncompressed: [n] uint8.

  Raises:
    DataError: (a `ValueError`) it cannot be read, is not text or too long.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, 'a.txt')
    ...   _ = path.write_text('abc')
    ...   read_text(path).tolist()
    [97, 98, 99]
  """
  with open_plain_or_gzip(path) as (stream, _):
    data = read_up_to(stream, max_bytes + 1)
  if len(data) > max_bytes:
    raise data_error(
      path,
      f'text that takes the total above {_MAX_BYTES} bytes',
      'less',
      'remove some files',
    )
  if 0 in data:
    raise data_error(
      path,
      'a byte of 0',
      'text in UTF-8 or another encoding of 8 bits',
      'convert the file, or remove it',
    )
  return np.frombuffer(data, np.uint8)


def _windows(data: np.ndarray, length: int) -> np.ndarray:
  """All whole windows: [n, length]."""
  return data[: len(data) // length * length].reshape(-1, length)
