"""Stratified splits: every class gives its share to both parts."""

import numpy as np

from isgd_jax.experiments.datasets._dataset import ArraySource
from isgd_jax.experiments.datasets._dataset import Dataset
from isgd_jax.experiments.datasets._dataset import Source
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import missing_extra

_TEST_FRACTION = 0.2
_HELD_OUT_FRACTION = 0.1


def hold_out(dataset: Dataset[Source], seed: int) -> Dataset[ArraySource]:
  """Splits the train part again, to tune without looking at the test part.

  Args:
    dataset: an in-memory data set of images.
    seed: of the split, which is stratified by class.

  Returns:
    A `Dataset` whose train and test parts are 80 % and 20 % of the train part
    of `dataset`, and which is as `dataset` otherwise.

  Raises:
    ValueError: the data set is not in memory.
    ImportError: scikit-learn is missing; the message names the extra.

  Example:
    >>> from isgd_jax.experiments import datasets
    >>> digits = datasets.load_dataset('digits')
    >>> hold_out(digits, seed=0).test.images.shape
    (288, 8, 8, 1)
  """
  if not isinstance(dataset.train, ArraySource):
    raise InputError(
      f'hold_out needs a data set of images in memory; {dataset.name!r} is '
      f'read by {type(dataset.train).__name__}'
    )
  train, test = split_arrays(dataset.train.images, dataset.train.labels, seed)
  return Dataset(
    name=dataset.name,
    train=train,
    test=test,
    num_classes=dataset.num_classes,
    example_shape=dataset.example_shape,
    pixel_mean=dataset.pixel_mean,
    pixel_std=dataset.pixel_std,
    train_transform=dataset.train_transform,
    test_transform=dataset.test_transform,
  )


def split_arrays(
  images: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[ArraySource, ArraySource]:
  """A stratified split into train (80 %) and test (20 %)."""
  try:
    from sklearn import model_selection
  except ImportError as error:
    raise missing_extra('scikit-learn') from error

  train, test = model_selection.train_test_split(
    np.arange(len(labels)),
    test_size=_TEST_FRACTION,
    stratify=labels,
    random_state=seed,
  )
  return (
    ArraySource(images[train], labels[train]),
    ArraySource(images[test], labels[test]),
  )


def held_out_tenth(
  labels: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """A tenth of every class is test: for data that come without a test part.

  A class of two or more gives one at least, a class of one gives none.

  Args:
    labels: [n] of integers.
    seed: of the choice.

  Returns:
    The indices of the train and of the test part, both in rising order.

  Example:
    >>> train, test = held_out_tenth(np.repeat([0, 1], 20), seed=0)
    >>> len(train), len(test)
    (36, 4)
  """
  rng = np.random.default_rng(seed)
  is_test = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    share = round(len(members) * _HELD_OUT_FRACTION)
    num_test = min(max(share, 1), len(members) - 1)
    is_test[rng.permutation(members)[:num_test]] = True
  return np.flatnonzero(~is_test), np.flatnonzero(is_test)
