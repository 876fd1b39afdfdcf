"""What tells the records of a source from others, without reading images.

Of arrays in memory, all bytes; of files, their paths, sizes and labels. Times
are left out: a copied folder has others.
"""

from collections.abc import Iterable, Sequence
from concurrent import futures
import hashlib
import os

import numpy as np

from isgd_jax.experiments.errors import data_error

_DIGEST_BYTES = 16
# A file system on a network takes its time for each.
_NUM_THREADS = 16
_FILES_AT_ONCE = 1000


def of_arrays(*arrays: np.ndarray) -> str:
  """A fingerprint of arrays: their dtypes, shapes and every byte.

  Args:
    *arrays: of numbers.

  Returns:
    32 hexadecimal digits.

  Example:
    >>> of_arrays(np.arange(3)) == of_arrays(np.arange(3))
    True
    >>> of_arrays(np.arange(3)) == of_arrays(np.array([0, 1, 3]))
    False
  """
  digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
  for array in arrays:
    # Little-endian everywhere, so that another machine finds the same.
    array = np.ascontiguousarray(array, array.dtype.newbyteorder('<'))
    digest.update(f'{array.dtype.str}{array.shape}'.encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


def of_files(
  names: Iterable[str], sizes: np.ndarray, labels: np.ndarray
) -> str:
  """A fingerprint of files in order: their names, sizes and labels.

  Args:
    names: of the files, without what changes where a folder is moved.
    sizes: [n] int64, bytes.
    labels: [n] integers.

  Returns:
    32 hexadecimal digits.

  Example:
    >>> sizes, labels = np.array([9, 7]), np.array([0, 1])
    >>> here = of_files(['a/1.jpg', 'b/1.jpg'], sizes, labels)
    >>> here == of_files(['a/1.jpg', 'b/2.jpg'], sizes, labels)
    False
  """
  # A byte that no name holds keeps ('ab', 'c') from ('a', 'bc').
  joined = '\0'.join(name.replace(os.sep, '/') for name in names)
  raw = joined.encode('utf-8', 'surrogateescape')
  return of_arrays(np.frombuffer(raw, np.uint8), sizes, labels)


def file_sizes(root: str, paths: Sequence[str]) -> np.ndarray:
  """Bytes of each file.

  Args:
    root: the folder that the paths start from.
    paths: of the files.

  Returns:
    [n] int64.

  Raises:
    DataError: (a `ValueError`) a file is not there, or cannot be looked at.

  Example:
    >>> file_sizes('', []).shape
    (0,)
  """

  def look(first: int) -> list[int]:
    """The sizes of the next files."""
    found = []
    for path in paths[first : first + _FILES_AT_ONCE]:
      path = os.path.join(root, path)
      try:
        found.append(os.stat(path).st_size)
      except OSError as error:
        raise data_error(
          path,
          error.strerror or str(error),
          'a readable file',
          'check the path, the disk and its permissions',
        ) from error
    return found

  with futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    parts = pool.map(look, range(0, len(paths), _FILES_AT_ONCE))
    return np.array([size for part in parts for size in part], np.int64)
