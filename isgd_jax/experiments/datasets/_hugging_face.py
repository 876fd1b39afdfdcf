"""Image classification data from the Hugging Face hub, or in its formats."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from isgd_jax.experiments.datasets import _fingerprint
from isgd_jax.experiments.datasets._dataset import Dataset
from isgd_jax.experiments.datasets._dataset import Record
from isgd_jax.experiments.datasets._decode import UndecodableError
from isgd_jax.experiments.datasets._decode import decode_image
from isgd_jax.experiments.datasets._decode import probe_image
from isgd_jax.experiments.datasets._hugging_face_tables import find_columns
from isgd_jax.experiments.datasets._hugging_face_tables import find_image_shape
from isgd_jax.experiments.datasets._hugging_face_tables import image_sizes
from isgd_jax.experiments.datasets._hugging_face_tables import load_splits
from isgd_jax.experiments.datasets._hugging_face_tables import read_image
from isgd_jax.experiments.datasets._hugging_face_tables import read_labels
from isgd_jax.experiments.datasets._image_folder import IMAGENET_MEAN
from isgd_jax.experiments.datasets._image_folder import IMAGENET_STD
from isgd_jax.experiments.datasets._image_folder import undecodable_record
from isgd_jax.experiments.datasets._split import held_out_tenth
from isgd_jax.experiments.datasets._transforms import AUGMENTED_SHARE
from isgd_jax.experiments.datasets._transforms import CentreCrop
from isgd_jax.experiments.datasets._transforms import RandomResizedCrop
from isgd_jax.experiments.errors import data_error

_TEST_SPLITS = ('test', 'validation', 'val', 'valid')


class HuggingFaceSource:
  """Rows of a table on disk, whose images are decoded when asked for.

  Attributes:
    labels: [n] int32.

  Example:
    >>> HuggingFaceSource('hf:mnist', [], 'image', np.zeros(0), (28, 28, 1))
    HuggingFaceSource('hf:mnist', 0 images)
  """

  labels: np.ndarray

  def __init__(
    self,
    name: str,
    rows: Any,
    image_column: str,
    labels: np.ndarray,
    image_shape: tuple[int, int, int],
    *,
    is_any_size: bool = False,
    skip_undecodable: bool = False,
  ):
    """Reads nothing yet.

    Args:
      name: of the data set, for errors.
      rows: [n], each a dictionary with the image as `{'bytes', 'path'}`.
      image_column: where in a row the image is.
      labels: [n], one a row.
      image_shape: [h, w, c] that images have, or that zeros have which stand
        for what cannot be decoded.
      is_any_size: whether images may have other sizes; channels are checked.
      skip_undecodable: whether an image that cannot be decoded becomes zeros
        with the label -1, instead of an error.
    """
    self.labels = np.asarray(labels, np.int32)
    self._name = name
    self._rows = rows
    self._image_column = image_column
    self._image_shape = image_shape
    self._is_any_size = is_any_size
    self._skip_undecodable = skip_undecodable

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, index: int, /) -> Record:
    data, path = read_image(self._rows, self._image_column, index, self._name)
    height, width, num_channels = self._image_shape
    try:
      image = decode_image(data, path, num_channels)
      is_colour = num_channels == 1 and not probe_image(data, path)[1]
    except UndecodableError:
      if not self._skip_undecodable:
        raise
      return undecodable_record(height, width, num_channels)
    if is_colour:
      raise data_error(
        path,
        'an image in colour',
        'a grey one, as the images that were looked at first',
        'convert all images to one mode',
      )
    if not self._is_any_size and image.shape[:2] != (height, width):
      raise data_error(
        path,
        f'an image of {image.shape[0]} x {image.shape[1]} pixels',
        f'{height} x {width}, as the first image has',
        'give image_size, which all images are then resized to',
      )
    return {'image': image, 'label': self.labels[index]}

  def fingerprint(self) -> str:
    """Of every label, and of the name and size of every image of the split.

    A part held out has the images of the whole split, and its own labels.
    """
    names, sizes = image_sizes(self._rows, self._image_column)
    return _fingerprint.of_files(names, sizes, self.labels)

  def __repr__(self) -> str:
    return f'HuggingFaceSource({self._name!r}, {len(self)} images)'


def load_hugging_face(
  name: str,
  *,
  seed: int = 0,
  image_size: int | None = None,
  augment: bool = False,
  skip_undecodable: bool = False,
) -> Dataset[HuggingFaceSource]:
  """Loads images and labels through Hugging Face's `datasets`.

  The image column is the one of the type Image, the label column the one of the
  type ClassLabel. The test part is the split `test`, or else `validation`,
  where its labels are published; without one, a tenth of each class of `train`
  is held out. No code of a data set is run, and only Parquet, Arrow and folders
  of images are read. The library downloads what is on the hub, unless its
  `HF_HUB_OFFLINE` is set, and keeps its cache in `HF_HOME`.

  Args:
    name: on the hub (`'ylecun/mnist'`), or a folder of Parquet files or images.
    seed: of the tenth that is held out.
    image_size: height and width that a model sees, pixels; None takes images as
      they are, which must then have one size.
    augment: whether train images are `RandomResizedCrop`, and test images
      `CentreCrop` of 224/256, to `image_size` or else to the shorter side of
      the first image. Otherwise `image_size` makes all `CentreCrop` of 1, the
      whole middle square.
    skip_undecodable: whether an image that cannot be decoded is zeros with the
      label -1, instead of an error.

  Returns:
    A `Dataset` of [h, w, 1] uint8 images where the images that are looked at
    are all grey, and of [h, w, 3] otherwise. Pixels of colour images are
    standardised by ImageNet's constants, grey ones only scaled.

  Raises:
    DataError: (a `ValueError`) the library cannot load `name`, it is in
      another format, a column or split is missing or there are several, or the
      first image cannot be decoded; when a record is read: an image cannot be
      decoded or has another size than the first.
    ImportError: `datasets` is missing; the message names the extra.

  References:
    Q. Lhoest et al., Datasets: a community library for natural language
    processing, EMNLP 2021.
  """
  full_name = f'hf:{name}'
  splits = load_splits(name)
  train_rows = splits.get('train')
  if train_rows is None or not len(train_rows):
    raise data_error(
      full_name,
      f'the splits {", ".join(splits)}' if splits else 'no split',
      "a split 'train' with images",
      'rename the split, or choose another data set',
    )
  image_column, label_column = find_columns(train_rows.features, full_name)
  num_classes = train_rows.features[label_column].num_classes
  (train_rows, train_labels), (test_rows, test_labels) = _choose_rows(
    splits, label_column, seed
  )
  for labels in (train_labels, test_labels):
    if not len(labels) or not 0 <= labels.max() < num_classes:
      raise data_error(
        full_name,
        f'labels up to {labels.max()}' if len(labels) else 'no test image',
        f'labels of 0 to {num_classes - 1} in the train and the test part',
        'choose another data set',
      )

  image_shape = find_image_shape(
    train_rows, image_column, full_name, skip_undecodable=skip_undecodable
  )
  size = image_size
  if size is None and augment:
    size = min(image_shape[:2])
  if size is not None:
    image_shape = (size, size, image_shape[2])

  def source(rows: Any, labels: np.ndarray) -> HuggingFaceSource:
    return HuggingFaceSource(
      full_name,
      rows,
      image_column,
      labels,
      image_shape,
      is_any_size=size is not None,
      skip_undecodable=skip_undecodable,
    )

  # Train images that are seen whole ask for test images that are.
  share = AUGMENTED_SHARE if augment else 1.0
  crop = None if size is None else CentreCrop(size, share)
  is_grey = image_shape[2] == 1
  return Dataset(
    full_name,
    source(train_rows, train_labels),
    source(test_rows, test_labels),
    num_classes=num_classes,
    example_shape=image_shape,
    pixel_mean=(0.0,) if is_grey else IMAGENET_MEAN,
    pixel_std=(1.0,) if is_grey else IMAGENET_STD,
    train_transform=RandomResizedCrop(size) if augment and size else crop,
    test_transform=crop,
  )


def _choose_rows(
  splits: Mapping[str, Any], label_column: str, seed: int
) -> tuple[tuple[Any, np.ndarray], tuple[Any, np.ndarray]]:
  """Rows and labels of the train part and of the test part."""
  rows = splits['train']
  labels = read_labels(rows, label_column)
  for split in _TEST_SPLITS:
    if split in splits and len(splits[split]):
      test_labels = read_labels(splits[split], label_column)
      # Benchmarks publish the images of their test part, and -1 for labels.
      if (test_labels >= 0).any():
        return (rows, labels), (splits[split], test_labels)
  train, test = held_out_tenth(labels, seed)
  return (
    (rows.select(train), labels[train]),
    (rows.select(test), labels[test]),
  )
