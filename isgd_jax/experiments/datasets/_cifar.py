"""CIFAR-10, from the binary version of its files."""

import os

import numpy as np

from isgd_jax.experiments.datasets._dataset import ArraySource
from isgd_jax.experiments.datasets._dataset import Dataset
from isgd_jax.experiments.datasets._transforms import PadCropFlip
from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.errors import data_error

# Of the 50,000 train images; as in K. Jordan, 94% on CIFAR-10 in 3.29 seconds
# on a single GPU, arXiv:2404.00498, 2024.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

_TRAIN_FILES = tuple(f'data_batch_{i}.bin' for i in range(1, 6))
TEST_FILE = 'test_batch.bin'
_NUM_CLASSES = 10
_RECORD_BYTES = 1 + 3 * 32 * 32
# As published: a longer file is not one of these.
_MAX_RECORDS = 10_000
_SOURCE = (
  'fetch and unpack the binary version (cifar-10-binary.tar.gz, from '
  'https://www.cs.toronto.edu/~kriz/cifar.html)'
)


def load_cifar10(
  data_dir: str | os.PathLike[str] | None = None, *, augment: bool = False
) -> Dataset[ArraySource]:
  """Loads CIFAR-10: 60,000 colour 32x32 images in ten classes.

  The binary version, in which a record is a label and the red, green and blue
  plane. The Python version is a pickle, which could run any code: it is not
  read.

  Args:
    data_dir: the folder of `data_batch_1.bin` to `data_batch_5.bin` and
      `test_batch.bin`, or the one that holds their `cifar-10-batches-bin`.
    augment: whether train images are padded by 4, cropped at random and
      flipped, see `PadCropFlip`.

  Returns:
    A `Dataset` of [32, 32, 3] uint8 images, split as published into 50,000 and
    10,000.

  Raises:
    DataError: (a `ValueError`) there is no `data_dir`, or a file is missing or
      malformed; the message names it and the remedy.

  Example:
    >>> try:
    ...   load_cifar10('no/such/folder')
    ... except ValueError as error:
    ...   print(str(error).partition(';')[0])
    no/such/folder: found no data_batch_1.bin

  References:
    A. Krizhevsky, Learning multiple layers of features from tiny images,
    technical report, University of Toronto, 2009.
  """
  if data_dir is None:
    raise DataError(
      "data set 'cifar10' needs data_dir: a folder that holds "
      f'data_batch_1.bin to data_batch_5.bin and {TEST_FILE}; {_SOURCE}'
    )
  folder = _find_folder(data_dir)
  parts = [_read_batch(os.path.join(folder, name)) for name in _TRAIN_FILES]
  images, labels = (
    np.concatenate(arrays) for arrays in zip(*parts, strict=True)
  )
  return Dataset(
    'cifar10',
    ArraySource(images, labels),
    ArraySource(*_read_batch(os.path.join(folder, TEST_FILE))),
    num_classes=_NUM_CLASSES,
    example_shape=(32, 32, 3),
    pixel_mean=MEAN,
    pixel_std=STD,
    train_transform=PadCropFlip(padding=4) if augment else None,
  )


def _find_folder(data_dir: str | os.PathLike[str]) -> str:
  """The folder of the files, or what is wrong with it."""
  data_dir = os.fspath(data_dir)
  for folder in (data_dir, os.path.join(data_dir, 'cifar-10-batches-bin')):
    names = [*_TRAIN_FILES, TEST_FILE]
    missing = [
      name for name in names if not os.path.isfile(os.path.join(folder, name))
    ]
    if not missing:
      return folder
    if len(missing) < len(names):
      raise data_error(
        folder, f'no {", ".join(missing)}', 'all six files', _SOURCE
      )
  pickles = ('data_batch_1', os.path.join('cifar-10-batches-py', 'test_batch'))
  if any(os.path.isfile(os.path.join(data_dir, name)) for name in pickles):
    raise data_error(
      data_dir,
      'the Python version, whose pickles could run any code',
      f'{_TRAIN_FILES[0]} and so on',
      _SOURCE,
    )
  raise data_error(
    data_dir,
    f'no {_TRAIN_FILES[0]}',
    f'{_TRAIN_FILES[0]} to {_TRAIN_FILES[-1]} and {TEST_FILE}, there or in '
    'cifar-10-batches-bin',
    _SOURCE,
  )


def _read_batch(path: str) -> tuple[np.ndarray, np.ndarray]:
  """Images [n, 32, 32, 3] uint8 and labels [n] uint8 of one file."""
  max_bytes = _MAX_RECORDS * _RECORD_BYTES
  try:
    with open(path, 'rb') as file:
      # The size before the content: what is not of these is not read.
      num_bytes = os.fstat(file.fileno()).st_size
      data = file.read(max_bytes) if num_bytes <= max_bytes else b''
  except OSError as error:
    raise data_error(
      path, f'{error.strerror or error}', 'a readable file', 'check the path'
    ) from error
  if num_bytes > max_bytes or not data or len(data) % _RECORD_BYTES:
    raise data_error(
      path,
      f'{num_bytes} bytes',
      f'1 to {_MAX_RECORDS} records of {_RECORD_BYTES} bytes',
      _SOURCE,
    )
  records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD_BYTES)
  labels = records[:, 0]
  if labels.max() >= _NUM_CLASSES:
    raise data_error(
      path,
      f'the label {labels.max()} in record {labels.argmax()}',
      f'labels of 0 to {_NUM_CLASSES - 1}',
      _SOURCE,
    )
  planes = records[:, 1:].reshape(-1, 3, 32, 32)
  return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels
