"""The IDX format of MNIST: read no more than its header promises."""

import math
import os
import struct

import numpy as np

from isgd_jax.experiments.datasets._files import Stream
from isgd_jax.experiments.datasets._files import open_plain_or_gzip
from isgd_jax.experiments.datasets._files import read_up_to
from isgd_jax.experiments.errors import data_error

_UINT8 = 0x08
_TYPE_NAMES = {
  0x08: 'uint8',
  0x09: 'int8',
  0x0B: 'int16',
  0x0C: 'int32',
  0x0D: 'float32',
  0x0E: 'float64',
}
# Real files have up to 3 dimensions; np.ndarray would take 64 at most.
_MAX_NDIM = 8
# Four times the largest of the family, EMNIST's 697,932 images.
_MAX_BYTES = 2**31
_REMEDY = 'fetch the file again from where it came from'


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads an IDX file of uint8, plain or compressed with gzip.

  The format: two zero bytes, a byte for the type, a byte for the number of
  dimensions, each dimension as a big-endian uint32, and the elements in C
  order. Whether the file is compressed is seen from its first bytes, not from
  its name. Memory grows with what the file holds, never with what its header
  says, and no more is decompressed than the header promises, plus one byte.

  Args:
    path: of the file.

  Returns:
    A writable uint8 array of the file's shape.

  Raises:
    DataError: (a `ValueError`) the file is missing, unreadable or malformed,
      or not of uint8; the message names it, what was found and expected, and
      the remedy.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, 'labels-idx1-ubyte')
    ...   _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    ...   read_idx(path)
    array([7, 8, 9], dtype=uint8)

  References:
    Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits,
    "File formats for the MNIST database".
  """
  path = os.fspath(path)
  with open_plain_or_gzip(path) as (stream, max_bytes):
    return _read(path, stream, max_bytes)


def _read(path: str, stream: Stream, max_bytes: int) -> np.ndarray:
  """An IDX file from a stream that cannot hold more than `max_bytes`."""
  shape = _read_header(path, stream)
  num_elements = math.prod(shape)
  sizes = ' x '.join(map(str, shape))
  if num_elements > min(max_bytes, _MAX_BYTES):
    raise data_error(
      path,
      f'a header that promises {sizes} = {num_elements} bytes',
      f'no more than the {max_bytes} that the file can hold'
      if max_bytes < _MAX_BYTES
      else f'at most {_MAX_BYTES}',
      _REMEDY,
    )
  elements = read_up_to(stream, num_elements + 1)
  if len(elements) != num_elements:
    surplus = len(elements) > num_elements
    raise data_error(
      path,
      'more bytes' if surplus else f'{len(elements)} bytes after the header',
      f'the {sizes} = {num_elements} that its header promises',
      _REMEDY,
    )
  return np.frombuffer(elements, np.uint8).reshape(shape)


def _read_header(path: str, stream: Stream) -> tuple[int, ...]:
  """The shape, from a header that is checked."""
  header = read_up_to(stream, 4)
  if len(header) < 4:
    raise data_error(
      path, f'{len(header)} bytes', 'an IDX header of 4 or more', _REMEDY
    )
  zero, element_type, ndim = struct.unpack('>HBB', header)
  if zero != 0 or element_type not in _TYPE_NAMES:
    raise data_error(
      path,
      f'the first bytes {header.hex(" ")}',
      '00 00 08 and the number of dimensions, as an IDX file of uint8 begins',
      'check that this is the right file, and fetch it again',
    )
  if element_type != _UINT8:
    raise data_error(
      path,
      f'elements of {_TYPE_NAMES[element_type]}',
      'uint8 (type 0x08), the only type that is read',
      'convert the file',
    )
  if not 1 <= ndim <= _MAX_NDIM:
    raise data_error(
      path, f'{ndim} dimensions', f'1 to {_MAX_NDIM} dimensions', _REMEDY
    )
  sizes = read_up_to(stream, 4 * ndim)
  if len(sizes) < 4 * ndim:
    raise data_error(
      path,
      f'a header of {4 + len(sizes)} bytes',
      f'{4 + 4 * ndim} bytes for {ndim} dimensions',
      _REMEDY,
    )
  shape = struct.unpack(f'>{ndim}I', sizes)
  if 0 in shape:
    raise data_error(
      path, f'the shape {list(shape)}', 'no size of zero', _REMEDY
    )
  return shape
