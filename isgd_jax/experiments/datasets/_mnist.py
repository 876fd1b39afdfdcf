"""MNIST and Fashion-MNIST: four IDX files in a folder."""

import os

import numpy as np

from isgd_jax.experiments.datasets._dataset import ArraySource
from isgd_jax.experiments.datasets._dataset import Dataset
from isgd_jax.experiments.datasets._idx import read_idx
from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.errors import data_error

_NUM_CLASSES = 10
_IMAGE_SHAPE = (28, 28)
# Where Debian's package dataset-fashion-mnist puts the files.
_FASHION_MNIST_FOLDER = '/usr/share/datasets/fashion-mnist'
_FILES = (
  'train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte '
  'and t10k-labels-idx1-ubyte, each with or without .gz'
)


def load_fashion_mnist(
  data_dir: str | os.PathLike[str] | None = None,
) -> Dataset[ArraySource]:
  """Loads Fashion-MNIST: 70,000 grey 28x28 images of ten kinds of clothes.

  Args:
    data_dir: the folder of the four files; None takes the one where Debian's
      package `dataset-fashion-mnist` puts them.

  Returns:
    A `Dataset` of [28, 28, 1] uint8 images, split as published into 60,000 and
    10,000.

  Raises:
    DataError: (a `ValueError`) as `load_mnist_like`.

  Example:
    >>> try:
    ...   load_fashion_mnist('no/such/folder')
    ... except ValueError as error:
    ...   print(str(error).partition(';')[0])
    no/such/folder: found no train-images-idx3-ubyte[.gz]

  References:
    H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a novel image dataset for
    benchmarking machine learning algorithms, arXiv:1708.07747, 2017.
  """
  return load_mnist_like(
    'fashion-mnist',
    _FASHION_MNIST_FOLDER if data_dir is None else data_dir,
    remedy=(
      'install them (on Debian: apt install dataset-fashion-mnist) or name '
      'their folder by data_dir (from '
      'https://github.com/zalandoresearch/fashion-mnist)'
    ),
  )


def load_mnist(
  data_dir: str | os.PathLike[str] | None = None,
) -> Dataset[ArraySource]:
  """Loads MNIST: 70,000 grey 28x28 images of handwritten digits.

  Args:
    data_dir: the folder of the four files.

  Returns:
    A `Dataset` of [28, 28, 1] uint8 images, split as published into 60,000 and
    10,000.

  Raises:
    DataError: (a `ValueError`) as `load_mnist_like`, or there is no `data_dir`.

  Example:
    >>> try:
    ...   load_mnist()
    ... except ValueError as error:
    ...   print(str(error).partition(':')[0])
    data set 'mnist' needs data_dir

  References:
    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-based learning
    applied to document recognition, Proceedings of the IEEE, 1998.
  """
  if data_dir is None:
    raise DataError(
      f"data set 'mnist' needs data_dir: a folder that holds {_FILES}"
    )
  return load_mnist_like(
    'mnist', data_dir, remedy='put them there, as MNIST is published'
  )


def load_mnist_like(
  name: str, data_dir: str | os.PathLike[str], *, remedy: str
) -> Dataset[ArraySource]:
  """Loads four IDX files of 28x28 grey images in ten classes.

  The files are `{train,t10k}-images-idx3-ubyte` and
  `{train,t10k}-labels-idx1-ubyte`, plain or with `.gz`; `.idx` for `-idx` in
  the names is taken too. A plain file comes before a compressed one.

  Args:
    name: of the data set.
    data_dir: the folder.
    remedy: what to do where files are missing, for the message.

  Returns:
    A `Dataset` of [28, 28, 1] uint8 images. Pixels are scaled to [0, 1] and no
    more, as in Caffe's LeNet.

  Raises:
    DataError: (a `ValueError`) a file is missing or malformed, or images and
      labels do not fit each other; the message names the file and the remedy.

  Example:
    >>> try:
    ...   load_mnist_like('kmnist', 'no/such/folder', remedy='put them there')
    ... except ValueError as error:
    ...   print(str(error).rpartition(';')[2])
     put them there
  """
  train, test = (_load_part(data_dir, part, remedy) for part in _PARTS)
  return Dataset(
    name, train, test, num_classes=_NUM_CLASSES, example_shape=(28, 28, 1)
  )


_PARTS = ('train', 't10k')


def _load_part(
  data_dir: str | os.PathLike[str], part: str, remedy: str
) -> ArraySource:
  """The images and labels of one part, checked against each other."""
  images_path = _find(data_dir, f'{part}-images', 'idx3-ubyte', remedy)
  labels_path = _find(data_dir, f'{part}-labels', 'idx1-ubyte', remedy)
  images, labels = read_idx(images_path), read_idx(labels_path)
  if images.shape[1:] != _IMAGE_SHAPE:
    raise data_error(
      images_path,
      f'an array of shape {list(images.shape)}',
      'images of 28 x 28 pixels, shape [n, 28, 28]',
      'check that this is the right file',
    )
  if labels.shape != images.shape[:1]:
    raise data_error(
      labels_path,
      f'an array of shape {list(labels.shape)}',
      f'[{len(images)}], a label for each image of {images_path}',
      'check that both files are of the same data set',
    )
  if labels.max() >= _NUM_CLASSES:
    raise data_error(
      labels_path,
      f'the label {labels.max()}',
      f'labels of 0 to {_NUM_CLASSES - 1}',
      'check that this is the right file',
    )
  return ArraySource(images[..., np.newaxis], labels)


def _find(
  data_dir: str | os.PathLike[str], stem: str, kind: str, remedy: str
) -> str:
  """The path of one file, under any of its names."""
  for ending in ('', '.gz'):
    for separator in ('-', '.'):
      path = os.path.join(data_dir, f'{stem}{separator}{kind}{ending}')
      if os.path.isfile(path):
        return path
  raise data_error(data_dir, f'no {stem}-{kind}[.gz]', _FILES, remedy)
