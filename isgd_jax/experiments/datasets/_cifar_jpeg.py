"""CIFAR-10 as JPEG images in one archive: nearly the published pixels."""

from collections.abc import Iterator
import contextlib
import gzip
import lzma
import os
import tarfile
from typing import Any
import zlib

import numpy as np

from isgd_jax.experiments.datasets import _cifar
from isgd_jax.experiments.datasets._dataset import ArraySource
from isgd_jax.experiments.datasets._dataset import Dataset
from isgd_jax.experiments.datasets._decode import decode_image
from isgd_jax.experiments.datasets._files import Stream
from isgd_jax.experiments.datasets._transforms import PadCropFlip
from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.errors import data_error

ARCHIVE = 'cifar-10-jpeg.tar.xz'
# In the order of the published labels, which is that of the alphabet.
CLASSES = (
  *('airplane', 'automobile', 'bird', 'cat', 'deer'),
  *('dog', 'frog', 'horse', 'ship', 'truck'),
)
_PARTS = ('train', 'test')
_ENDINGS = ('.jpg', '.jpeg')
_SHAPE = (32, 32, 3)
_LAYOUT = 'train/CLASS/*.jpg and test/CLASS/*.jpg of the ten classes'
_SOURCE = 'fetch it again, or pack the folders train and test into one'
# The published images: 60,000, of a kilobyte each as JPEG and as many of header
# and padding in an archive.
_MAX_IMAGES = 60_000
_MAX_IMAGE_BYTES = 2**16
_MAX_BYTES = 2**28
_XZ_MAGIC, _GZIP_MAGIC = b'\xfd7zXZ\0', b'\x1f\x8b'
# What the readers raise where bytes are missing, or have changed.
_BROKEN = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError)


def is_cifar10_archive(data_dir: str | os.PathLike[str] | None) -> bool:
  """Whether a path is of the JPEG images, not of the binary version.

  Args:
    data_dir: a file, or a folder that may hold `cifar-10-jpeg.tar.xz`.

  Returns:
    True for a file, and for a folder with the archive and without the binary
    version.

  Example:
    >>> is_cifar10_archive('no/such/folder')
    False
  """
  if data_dir is None:
    return False
  path = _find(data_dir)
  return path is not None and not os.path.isfile(
    os.path.join(data_dir, _cifar.TEST_FILE)
  )


def load_cifar10_jpeg(
  data_dir: str | os.PathLike[str] | None = None, *, augment: bool = False
) -> Dataset[ArraySource]:
  """Loads CIFAR-10 from an archive of JPEG images, decoded at once.

  JPEG is lossy: these are not the published pixels, so say it beside any
  number. The archive is read in order, in memory, and nothing is unpacked.

  Args:
    data_dir: a tar archive, plain or compressed by xz or gzip, with
      `train/CLASS/*.jpg` and `test/CLASS/*.jpg`; or the folder that holds it as
      `cifar-10-jpeg.tar.xz`.
    augment: as of `load_cifar10`.

  Returns:
    A `Dataset` of [32, 32, 3] uint8 images, by class and name.

  Raises:
    DataError: (a `ValueError`) there is no archive, or it is broken, or has
      other files or images in these folders; the message names them and the
      remedy.
    ImportError: Pillow is missing; the message names the extra.

  Example:
    >>> try:
    ...   load_cifar10_jpeg('no/such/folder')
    ... except ValueError as error:
    ...   print(str(error).partition(';')[0])
    no/such/folder: found no cifar-10-jpeg.tar.xz
  """
  if data_dir is None:
    raise DataError(
      f"data set 'cifar10-jpeg' needs data_dir: the archive {ARCHIVE}, or the "
      f'folder that holds it; it has {_LAYOUT}'
    )
  path = _find(data_dir)
  if path is None:
    raise data_error(
      data_dir, f'no {ARCHIVE}', f'it there, with {_LAYOUT}', 'check the path'
    )
  found: dict[str, dict[tuple[int, str], np.ndarray]] = {
    part: {} for part in _PARTS
  }
  for name, content in _images(path):
    part, label, file = _place(path, name)
    if sum(map(len, found.values())) == _MAX_IMAGES:
      raise _unfit(path, f'more than {_MAX_IMAGES} images')
    where = f'{path}: {name}'
    image = decode_image(content, where)
    if image.shape != _SHAPE:
      raise data_error(
        where,
        f'{image.shape[1]} x {image.shape[0]} pixels',
        'images of 32 x 32',
        'check that this is CIFAR-10',
      )
    found[part][label, file] = image
  train, test = (_source(path, part, found[part]) for part in _PARTS)
  return Dataset(
    'cifar10-jpeg',
    train,
    test,
    num_classes=len(CLASSES),
    example_shape=_SHAPE,
    pixel_mean=_cifar.MEAN,
    pixel_std=_cifar.STD,
    train_transform=PadCropFlip(padding=4) if augment else None,
  )


def _find(data_dir: str | os.PathLike[str]) -> str | None:
  """The path of the archive, or None."""
  data_dir = os.fspath(data_dir)
  for path in (data_dir, os.path.join(data_dir, ARCHIVE)):
    if os.path.isfile(path):
      return path
  return None


def _source(
  path: str, part: str, images: dict[tuple[int, str], np.ndarray]
) -> ArraySource:
  """The images of a part, by class and name; each class has some."""
  missing = set(range(len(CLASSES))) - {label for label, _ in images}
  if missing:
    names = ', '.join(CLASSES[label] for label in sorted(missing))
    raise _unfit(path, f'no image of {names} in {part}')
  keys = sorted(images)
  return ArraySource(
    np.stack([images[key] for key in keys]),
    np.array([label for label, _ in keys], np.int32),
  )


def _place(path: str, name: str) -> tuple[str, int, str]:
  """Part, label and file of an image, from the end of its name."""
  parts = name.split('/')[-3:]
  if len(parts) < 3 or parts[0] not in _PARTS or parts[1] not in CLASSES:
    raise _unfit(path, f'the image {name!r}')
  return parts[0], CLASSES.index(parts[1]), parts[2]


def _images(path: str) -> Iterator[tuple[str, bytes]]:
  """Names and contents of the images, in the archive's order."""
  try:
    with (
      _decompressed(path) as stream,
      tarfile.open(fileobj=_as_file(path, stream), mode='r|') as archive,
    ):
      for member in archive:
        if not member.isfile() or not member.name.lower().endswith(_ENDINGS):
          continue
        if member.size > _MAX_IMAGE_BYTES:
          raise _unfit(path, f'{member.name!r} of {member.size} bytes')
        file = archive.extractfile(member)
        assert file is not None  # It is a file.
        content = file.read()
        if len(content) < member.size:
          raise EOFError(f'{member.name!r} is cut short')
        yield member.name, content
  except _BROKEN as error:
    raise data_error(
      path, f'a broken archive ({error})', 'a whole one', _SOURCE
    ) from error
  except OSError as error:
    raise data_error(
      path,
      error.strerror or str(error),
      'a readable tar archive, plain or compressed by xz or gzip',
      'check the path, the disk and its permissions',
    ) from error


@contextlib.contextmanager
def _decompressed(path: str) -> Iterator[Stream]:
  """The bytes of the tar archive; the first ones tell how it is compressed."""
  with open(path, 'rb') as file:
    magic = file.read(len(_XZ_MAGIC))
    file.seek(0)
    if magic == _XZ_MAGIC:
      with lzma.open(file) as stream:
        yield stream
    elif magic.startswith(_GZIP_MAGIC):
      with gzip.open(file) as stream:
        yield stream
    else:
      yield file


def _as_file(path: str, stream: Stream) -> Any:
  """What `tarfile` reads a stream from; it calls nothing but `read`."""
  return _Bounded(path, stream)


class _Bounded:
  """A stream that ends in an error where it is longer than CIFAR-10."""

  def __init__(self, path: str, stream: Stream):
    self._path, self._stream, self._num_left = path, stream, _MAX_BYTES

  def read(self, size: int, /) -> bytes:
    data = self._stream.read(size)
    self._num_left -= len(data)
    if self._num_left < 0:
      raise _unfit(self._path, f'more than {_MAX_BYTES} bytes')
    return data


def _unfit(path: str, found: str) -> DataError:
  """The error for an archive of something else."""
  return data_error(path, found, _LAYOUT, 'check that this is CIFAR-10')
