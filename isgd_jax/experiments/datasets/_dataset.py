"""What a data set is: two sources of records, and what a model must know."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from isgd_jax.experiments.datasets import _fingerprint

# {'image': [h, w, c] uint8 or float32, 'label': int32}, or
# {'tokens': [sequence_length + 1] uint8}.
Record = dict[str, Any]
TrainTransform = Callable[[Record, np.random.Generator], Record]
TestTransform = Callable[[Record], Record]


class Source(Protocol):
  """Records by index, as Grain's `RandomAccessDataSource` has them.

  `fingerprint` tells the records from others, or from these when they were
  changed, as far as that is to be had without reading images.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int, /) -> Record: ...

  def fingerprint(self) -> str: ...


SourceT_co = TypeVar('SourceT_co', bound=Source, covariant=True)


class Dataset(NamedTuple, Generic[SourceT_co]):
  """Two sources of records, and what a model and a training step must know.

  Attributes:
    name: the name that `load_dataset` knows it by.
    train: random access to records; an `ArraySource` where it is in memory.
    test: likewise; disjoint from `train`.
    num_classes: the number of classes; of text, the 256 values of a byte.
    example_shape: of one example as a model takes it, after the transforms:
      [h, w, c], or [sequence_length] for text.
    pixel_mean: one number a channel, of images scaled to [0, 1]; a training
      step takes (x - pixel_mean) / pixel_std. Empty for text.
    pixel_std: likewise.
    train_transform: `train_transform(record, rng)` augments a record, as a pure
      function of the two; None where a record is taken as it is.
    test_transform: `test_transform(record)`, deterministic; or None.

  Records are `{'image': [h, w, c], 'label': int32}`, or for text `{'tokens':
  [sequence_length + 1] uint8}`. Images are uint8, to be divided by 255 on the
  device, or float32 in [0, 1]; those of `shuttle` are standardised features,
  float32 in [-10, 10]. A label of -1 marks a record that counts for nothing.
  Records may be views of the data: do not write to them.

  Example:
    >>> from isgd_jax.experiments import datasets
    >>> digits = datasets.load_dataset('digits')
    >>> digits.example_shape, digits.num_classes, len(digits.train)
    ((8, 8, 1), 10, 1437)
  """

  name: str
  train: SourceT_co
  test: SourceT_co
  num_classes: int
  example_shape: tuple[int, ...]
  pixel_mean: tuple[float, ...] = (0.0,)
  pixel_std: tuple[float, ...] = (1.0,)
  train_transform: TrainTransform | None = None
  test_transform: TestTransform | None = None


class ArraySource:
  """Images and labels in memory, one by one or many at a time.

  Attributes:
    images: [n, h, w, c] uint8, or float32 in [0, 1]; see `Dataset` for the
      exception.
    labels: [n] int32.

  Example:
    >>> source = ArraySource(np.zeros((3, 8, 8, 1), np.uint8), np.arange(3))
    >>> len(source), source[2]['label'].item()
    (3, 2)
    >>> source.__getitems__([0, 2])['image'].shape
    (2, 8, 8, 1)
  """

  images: np.ndarray
  labels: np.ndarray

  def __init__(self, images: np.ndarray, labels: np.ndarray):
    """Holds the arrays; images are not copied.

    Args:
      images: [n, h, w, c] uint8, or float32 in [0, 1].
      labels: [n] of integers.

    Raises:
      ValueError: there are not as many images as labels.
    """
    if len(images) != len(labels):
      raise ValueError(f'{len(images)} images and {len(labels)} labels')
    self.images = images
    self.labels = np.asarray(labels, np.int32)

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, index: int, /) -> Record:
    return {'image': self.images[index], 'label': self.labels[index]}

  def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Record:
    """One gather: `{'image': [b, h, w, c], 'label': [b] int32}`."""
    indices = np.asarray(indices, np.intp)
    return {'image': self.images[indices], 'label': self.labels[indices]}

  def fingerprint(self) -> str:
    """Of every byte of images and labels."""
    return _fingerprint.of_arrays(self.images, self.labels)

  def __repr__(self) -> str:
    # Grain keeps it in its checkpoints, so it must be short and stable.
    return f'ArraySource({self.images.dtype}{list(self.images.shape)})'


class TokenSource:
  """Windows of text in memory, one by one or many at a time.

  Attributes:
    tokens: [n, sequence_length + 1] uint8, one window a row.

  Example:
    >>> source = TokenSource(np.zeros((3, 129), np.uint8))
    >>> len(source), source[0]['tokens'].shape
    (3, (129,))
  """

  tokens: np.ndarray

  def __init__(self, tokens: np.ndarray):
    """Holds the array, which is not copied.

    Args:
      tokens: [n, sequence_length + 1] uint8.
    """
    self.tokens = tokens

  def __len__(self) -> int:
    return len(self.tokens)

  def __getitem__(self, index: int, /) -> Record:
    return {'tokens': self.tokens[index]}

  def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Record:
    """One gather: `{'tokens': [b, sequence_length + 1] uint8}`."""
    return {'tokens': self.tokens[np.asarray(indices, np.intp)]}

  def fingerprint(self) -> str:
    """Of every byte of the windows."""
    return _fingerprint.of_arrays(self.tokens)

  def __repr__(self) -> str:
    return f'TokenSource({self.tokens.dtype}{list(self.tokens.shape)})'
