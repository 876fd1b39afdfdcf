"""scikit-learn's digits: small, real, and there without a file."""

import numpy as np

from isgd_jax.experiments.datasets._dataset import ArraySource
from isgd_jax.experiments.datasets._dataset import Dataset
from isgd_jax.experiments.datasets._split import split_arrays
from isgd_jax.experiments.errors import missing_extra


def load_digits(seed: int) -> Dataset[ArraySource]:
  """Loads 1797 handwritten digits, with the 17 grey levels scaled to [0, 1].

  Args:
    seed: of the split into train (80 %) and test (20 %), stratified by class.

  Returns:
    A `Dataset` of [8, 8, 1] float32 images.

  Raises:
    ImportError: scikit-learn is missing; the message names the extra.

  Example:
    >>> load_digits(seed=0).train.images.shape
    (1437, 8, 8, 1)

  References:
    E. Alpaydin and C. Kaynak, Optical recognition of handwritten digits, UCI
    Machine Learning Repository, 1998.
  """
  try:
    from sklearn import datasets
  except ImportError as error:
    raise missing_extra('scikit-learn') from error

  images, labels = map(np.asarray, datasets.load_digits(return_X_y=True))
  images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
  train, test = split_arrays(images, labels.astype(np.int32), seed)
  return Dataset('digits', train, test, num_classes=10, example_shape=(8, 8, 1))
