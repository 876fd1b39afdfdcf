"""Data sets that need no network: small, real, and split once and for all."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from isgd_jax.experiments._errors import check_name
from isgd_jax.experiments._errors import missing_extra

# A fixed split: a run's seed never moves an image between train and test.
_TEST_FRACTION = 0.2


class Dataset(NamedTuple):
  """Images and labels, split into a train and a test part.

  Attributes:
    name: the name that `load_dataset` knows it by.
    train_images: [n, h, w, c] float32 in [0, 1].
    train_labels: [n] int32 in [0, num_classes).
    test_images: [m, h, w, c] float32 in [0, 1].
    test_labels: [m] int32 in [0, num_classes).
    num_classes: the number of classes.
  """

  name: str
  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  num_classes: int


def load_dataset(name: str, seed: int = 0) -> Dataset:
  """Loads a data set.

  Args:
    name: `'digits'`: 1797 handwritten digits of 8x8 pixels that ship inside
      scikit-learn (E. Alpaydin and C. Kaynak, UCI repository, 1998).
    seed: of the split into train (80 %) and test (20 %), which is stratified
      by class.

  Returns:
    A `Dataset`.

  Raises:
    ValueError: the name is unknown; the message gives the nearest valid names.
    ImportError: scikit-learn is missing; the message names the extra.

  Example:
    >>> dataset = load_dataset('digits')
    >>> dataset.train_images.shape, dataset.test_images.shape
    ((1437, 8, 8, 1), (360, 8, 8, 1))
  """
  return _LOADERS[check_name('data set', name, _LOADERS)](seed)


def dataset_names() -> tuple[str, ...]:
  """The names that `load_dataset` knows.

  Returns:
    The names, sorted.

  Example:
    >>> 'digits' in dataset_names()
    True
  """
  return tuple(sorted(_LOADERS))


def hold_out(dataset: Dataset, seed: int) -> Dataset:
  """Splits the train part again, to tune without looking at the test part.

  Args:
    dataset: the data set to split.
    seed: of the split, which is stratified by class.

  Returns:
    A `Dataset` whose train and test parts are 80 % and 20 % of the train part
    of `dataset`.

  Example:
    >>> hold_out(load_dataset('digits'), seed=0).test_images.shape
    (288, 8, 8, 1)
  """
  return _split(
    dataset.name,
    dataset.train_images,
    dataset.train_labels,
    dataset.num_classes,
    seed,
  )


def _split(
  name: str,
  images: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  seed: int,
) -> Dataset:
  """A stratified split into train and test."""
  from sklearn import model_selection

  train, test = model_selection.train_test_split(
    np.arange(len(labels)),
    test_size=_TEST_FRACTION,
    stratify=labels,
    random_state=seed,
  )
  return Dataset(
    name, images[train], labels[train], images[test], labels[test], num_classes
  )


def _load_digits(seed: int) -> Dataset:
  """scikit-learn's digits, with the 17 grey levels scaled to [0, 1]."""
  try:
    from sklearn import datasets
  except ImportError as error:
    raise missing_extra('scikit-learn') from error

  images, labels = datasets.load_digits(return_X_y=True)
  images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
  return _split('digits', images, labels.astype(np.int32), 10, seed)


_LOADERS: dict[str, Callable[[int], Dataset]] = {'digits': _load_digits}
