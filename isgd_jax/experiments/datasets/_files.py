"""Files, plain or compressed: read in bounds, with errors that name them."""

from collections.abc import Iterator
import contextlib
import gzip
import os
from typing import Protocol
import zlib

from isgd_jax.experiments.errors import data_error

_GZIP_MAGIC = b'\x1f\x8b'
# Deflate cannot shrink further than 1032 to 1 (zlib's technical notes).
MAX_COMPRESSION = 1032
_CHUNK_BYTES = 2**20


class Stream(Protocol):
  """Bytes to be read in order."""

  def read(self, size: int, /) -> bytes: ...


@contextlib.contextmanager
def open_plain_or_gzip(
  path: str | os.PathLike[str],
) -> Iterator[tuple[Stream, int]]:
  """Opens a file for reading, decompressed where gzip has compressed it.

  The first bytes tell which, not the name.

  Args:
    path: of the file.

  Yields:
    The stream, and a number of bytes that it cannot exceed.

  Raises:
    DataError: (a `ValueError`) the file cannot be opened, or is found broken
      while it is read; the message names it and the remedy.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, 'a')
    ...   _ = path.write_bytes(gzip.compress(b'123'))
    ...   with open_plain_or_gzip(path) as (stream, _):
    ...     read_up_to(stream, 10)
    bytearray(b'123')
  """
  try:
    with open(path, 'rb') as file:
      num_bytes = os.fstat(file.fileno()).st_size
      is_gzip = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
      file.seek(0)
      if is_gzip:
        with gzip.GzipFile(fileobj=file) as stream:
          yield stream, num_bytes * MAX_COMPRESSION
      else:
        yield file, num_bytes
  # What GzipFile raises where a file is cut short or a bit has changed.
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise data_error(
      path,
      f'a broken gzip stream ({error})',
      'a whole one',
      'fetch the file again from where it came from',
    ) from error
  except OSError as error:
    raise data_error(
      path,
      error.strerror or str(error),
      'a readable file',
      'check the path, the disk and its permissions',
    ) from error


def read_up_to(stream: Stream, num_bytes: int) -> bytearray:
  """Reads in chunks, for one read of n bytes may allocate n at once.

  Args:
    stream: to read from.
    num_bytes: how many at most.

  Returns:
    The bytes; fewer where the stream ends.

  Example:
    >>> import io
    >>> read_up_to(io.BytesIO(b'12345'), 3)
    bytearray(b'123')
  """
  data = bytearray()
  while len(data) < num_bytes:
    chunk = stream.read(min(num_bytes - len(data), _CHUNK_BYTES))
    if not chunk:
      break
    data += chunk
  return data


def read_file(path: str | os.PathLike[str]) -> bytes:
  """The content of a file, as it is on disk.

  Args:
    path: of the file.

  Returns:
    Its bytes.

  Raises:
    DataError: (a `ValueError`) it cannot be read.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, 'a')
    ...   _ = path.write_bytes(b'123')
    ...   read_file(path)
    b'123'
  """
  try:
    with open(path, 'rb') as file:
      return file.read()
  except OSError as error:
    raise data_error(
      path,
      error.strerror or str(error),
      'a readable file',
      'check the path, the disk and its permissions',
    ) from error
