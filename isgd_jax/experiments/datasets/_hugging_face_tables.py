"""What is in a data set of Hugging Face: splits, columns, labels, images."""

from collections.abc import Mapping
import os
from typing import Any

import numpy as np

from isgd_jax.experiments.datasets import _fingerprint
from isgd_jax.experiments.datasets._decode import UndecodableError
from isgd_jax.experiments.datasets._decode import decode_image
from isgd_jax.experiments.datasets._decode import probe_image
from isgd_jax.experiments.datasets._files import read_file
from isgd_jax.experiments.errors import data_error
from isgd_jax.experiments.errors import missing_extra

# The library's readers that give images and unpickle nothing; 'cache' reads
# what one of them has prepared before.
_READERS = ('arrow', 'cache', 'imagefolder', 'parquet')
# Headers that are looked at to tell grey data from colour.
_NUM_PROBES = 32


def load_splits(name: str) -> Mapping[str, Any]:
  """All splits of a data set, prepared in the library's cache.

  Args:
    name: on the hub, or a folder.

  Returns:
    Tables by the name of their split; images are left undecoded.

  Raises:
    DataError: (a `ValueError`) the library cannot load it, or it is in a format
      that is not read.
    ImportError: `datasets` is missing; the message names the extra.
  """
  try:
    import datasets
  except ImportError as error:
    raise missing_extra('datasets', 'hf') from error

  full_name = f'hf:{name}'
  path = os.path.expanduser(name)
  is_folder = os.path.isdir(path)
  if not is_folder and (os.path.isabs(path) or name.startswith(('.', '~'))):
    raise data_error(
      full_name, 'no such folder', 'a folder or a name on the hub', 'check it'
    )
  try:
    builder = datasets.load_dataset_builder(path if is_folder else name)
    reader = type(builder).__module__.split('.')[-1]
    if reader in _READERS:
      builder.download_and_prepare()
      return _undecoded(builder.as_dataset())
  except ImportError:
    raise
  # The library, the hub's client and Arrow raise errors of their own.
  except Exception as error:
    reason = ' '.join(str(error).split())
    raise data_error(
      full_name,
      f'what cannot be loaded ({type(error).__name__}: {reason})',
      'a data set on the hub that can be reached, or a folder of Parquet files '
      'or images',
      'check the name, the network and HF_HUB_OFFLINE',
    ) from error
  raise data_error(
    full_name,
    f'data in the format {reader!r}',
    'Parquet, Arrow or folders of images',
    'convert it',
  )


def find_columns(features: Mapping[str, Any], name: str) -> tuple[str, str]:
  """The image column and the label column.

  Args:
    features: of the table, by column.
    name: of the data set, for errors.

  Returns:
    The names of the only Image and of the only ClassLabel.

  Raises:
    DataError: (a `ValueError`) there is none, or several; the message lists the
      columns.
  """
  found = []
  for feature in ('Image', 'ClassLabel'):
    columns = [c for c, f in features.items() if type(f).__name__ == feature]
    if len(columns) != 1:
      listing = ', '.join(
        f'{column!r} ({type(f).__name__})' for column, f in features.items()
      )
      raise data_error(
        name,
        f'{len(columns)} columns of the type {feature} among {listing}',
        'one Image and one ClassLabel',
        'cast or remove columns (datasets.Dataset.cast_column, '
        'remove_columns), save the result as Parquet, and name its folder',
      )
    found += columns
  return found[0], found[1]


def read_labels(rows: Any, label_column: str) -> np.ndarray:
  """Labels of a table.

  Args:
    rows: the table.
    label_column: of the type ClassLabel.

  Returns:
    [n] int32; -1 where there is none.
  """
  labels = rows.select_columns([label_column])[:][label_column]
  return np.array([-1 if y is None else y for y in labels], np.int32)


def read_image(
  rows: Any, image_column: str, index: int, name: str
) -> tuple[bytes, str]:
  """The undecoded bytes of an image, and what errors should call it.

  Args:
    rows: the table.
    image_column: of undecoded images.
    index: of the row.
    name: of the data set.

  Returns:
    The bytes (none where the row has no image) and the name.

  Raises:
    DataError: (a `ValueError`) the image is in a file that cannot be read.

  Example:
    >>> rows = [{'image': {'bytes': b'GIF89a', 'path': None}}]
    >>> read_image(rows, 'image', 0, 'hf:mnist')
    (b'GIF89a', 'hf:mnist, row 0')
  """
  image = rows[int(index)][image_column] or {}
  data, path = image.get('bytes'), image.get('path')
  if data is None and path:
    data = read_file(path)
  where = f'{name}, row {index}'
  return data or b'', f'{where} ({path})' if path else where


def image_sizes(rows: Any, image_column: str) -> tuple[list[str], np.ndarray]:
  """The names and sizes of all images of a split; reads no image.

  Args:
    rows: the table; rows that were selected from it count as all of it.
    image_column: of undecoded images.

  Returns:
    The names without folders, '' where there is none, and [n] int64, bytes.

  Raises:
    DataError: (a `ValueError`) an image that is in a file is not there.
  """
  import pyarrow.compute as pc

  paths, sizes = [], []
  for chunk in rows.data.column(image_column).chunks:
    paths += chunk.field('path').to_pylist()
    # Lengths alone: they lie beside the bytes, which stay on the disk.
    lengths = pc.call_function('binary_length', [chunk.field('bytes')])
    sizes += lengths.to_pylist()
  in_files = [i for i, size in enumerate(sizes) if size is None and paths[i]]
  found = _fingerprint.file_sizes('', [paths[i] for i in in_files])
  for i, size in zip(in_files, found.tolist(), strict=True):
    sizes[i] = size
  names = [os.path.basename(path or '') for path in paths]
  return names, np.array([size or 0 for size in sizes], np.int64)


def find_image_shape(
  rows: Any, image_column: str, name: str, *, skip_undecodable: bool = False
) -> tuple[int, int, int]:
  """The shape of the first image; grey where all that are looked at are.

  Args:
    rows: the table.
    image_column: of undecoded images.
    name: of the data set.
    skip_undecodable: whether images that cannot be decoded are passed over, as
      long as there is another one.

  Returns:
    [h, w, c] with 1 or 3 channels.

  Raises:
    DataError: (a `ValueError`) an image cannot be decoded.
  """
  probes = np.unique(np.linspace(0, len(rows) - 1, _NUM_PROBES).astype(int))
  size, is_grey, failure = None, True, None
  for index in probes.tolist():
    data, path = read_image(rows, image_column, index, name)
    try:
      is_grey = probe_image(data, path)[1] and is_grey
      # The header's size is before the orientation in EXIF is applied.
      size = size or decode_image(data, path).shape[:2]
    except UndecodableError as error:
      failure = error
      if not skip_undecodable:
        raise
  if size is None:
    raise failure or ValueError(f'{name} is empty')
  return size[0], size[1], 1 if is_grey else 3


def _undecoded(splits: Any) -> Mapping[str, Any]:
  """The same tables, with images as bytes: decoding is this library's."""
  import datasets

  return {
    name: _cast(rows, datasets.Image(decode=False))
    for name, rows in splits.items()
  }


def _cast(rows: Any, undecoded: Any) -> Any:
  """The table with its image columns cast."""
  for column, feature in rows.features.items():
    if type(feature) is type(undecoded):
      rows = rows.cast_column(column, undecoded)
  return rows
