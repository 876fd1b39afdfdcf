"""Orders in which a training run meets its batches."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from isgd_jax.experiments._errors import check_name

Drift = Literal['labels', 'pixels']
DRIFTS = ('labels', 'pixels')


class Stream(NamedTuple):
  """A finite sequence of batches, to be read once.

  Attributes:
    batches: yields (images [b, h, w, c] float32, labels [b] int32).
    num_batches: how many it yields.
    change_points: the batches (counted from 0) that are the first after a
      drift, in order; empty where nothing drifts.
  """

  batches: Iterator[tuple[np.ndarray, np.ndarray]]
  num_batches: int
  change_points: tuple[int, ...]


def shuffled_epochs(
  images: np.ndarray,
  labels: np.ndarray,
  *,
  batch_size: int,
  num_epochs: int,
  rng: np.random.Generator,
) -> Stream:
  """Ordinary minibatches, over all images in a new order each epoch.

  The last batch of an epoch is dropped where it would be short, so that one
  compiled step serves all; the images in it differ from epoch to epoch.

  Args:
    images: [n, h, w, c].
    labels: [n].
    batch_size: images a batch, at most n.
    num_epochs: how often the images are gone through.
    rng: draws the orders; used while the batches are read.

  Returns:
    A `Stream` of `num_epochs * (n // batch_size)` batches, without drift.

  Raises:
    ValueError: the batch size is not within 1 to n.

  Example:
    >>> stream = shuffled_epochs(np.zeros((10, 8, 8, 1)), np.arange(10),
    ...   batch_size=4, num_epochs=3, rng=np.random.default_rng(0))
    >>> stream.num_batches
    6
  """
  num_images = len(labels)
  if not 1 <= batch_size <= num_images:
    raise ValueError(
      f'batch_size must lie within 1 and the {num_images} images, got '
      f'{batch_size}'
    )
  batches_per_epoch = num_images // batch_size

  def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _ in range(num_epochs):
      order = rng.permutation(num_images)
      for i in range(batches_per_epoch):
        chosen = order[i * batch_size : (i + 1) * batch_size]
        yield images[chosen], labels[chosen]

  return Stream(batches(), num_epochs * batches_per_epoch, ())


def drifting_stream(
  images: np.ndarray,
  labels: np.ndarray,
  *,
  batch_size: int,
  num_segments: int,
  batches_per_segment: int,
  num_classes: int,
  drift: Drift = 'labels',
  rng: np.random.Generator,
) -> Stream:
  """One pass over a stream whose meaning changes abruptly between segments.

  Within a segment no image comes twice. The next segment draws from all images
  again, under another concept:

  * `'labels'`: label y becomes (y + s) mod num_classes in segment s, so every
    label changes at every change point;
  * `'pixels'`: the pixels of every image are permuted, by one random
    permutation a segment. The first segment is left as it is.

  Args:
    images: [n, h, w, c].
    labels: [n], in [0, num_classes).
    batch_size: images a batch.
    num_segments: segments, hence `num_segments - 1` change points.
    batches_per_segment: batches between two change points.
    num_classes: the number of classes.
    drift: `'labels'` or `'pixels'`.
    rng: draws the orders and permutations; used while the batches are read.

  Returns:
    A `Stream` of `num_segments * batches_per_segment` batches.

  Raises:
    ValueError: a segment needs more images than there are, a size is not
      positive, or the drift is unknown.

  Example:
    >>> stream = drifting_stream(np.zeros((10, 8, 8, 1)), np.arange(10),
    ...   batch_size=2, num_segments=3, batches_per_segment=4, num_classes=10,
    ...   rng=np.random.default_rng(0))
    >>> stream.change_points
    (4, 8)
  """
  check_name('drift', drift, DRIFTS)
  num_images, pixels_shape = len(labels), images.shape[1:]
  if min(batch_size, num_segments, batches_per_segment) < 1:
    raise ValueError(
      'batch_size, num_segments and batches_per_segment must be positive, got '
      f'{batch_size}, {num_segments} and {batches_per_segment}'
    )
  if batches_per_segment * batch_size > num_images:
    raise ValueError(
      f'batches_per_segment={batches_per_segment} of batch_size={batch_size} '
      f'need more than the {num_images} images; reduce one of them'
    )

  def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for segment in range(num_segments):
      order = rng.permutation(num_images)
      pixels = np.arange(np.prod(pixels_shape))
      if drift == 'pixels' and segment > 0:
        pixels = rng.permutation(pixels)
      rotation = segment if drift == 'labels' else 0
      for i in range(batches_per_segment):
        chosen = order[i * batch_size : (i + 1) * batch_size]
        flat = images[chosen].reshape(batch_size, -1)[:, pixels]
        rotated = (labels[chosen] + rotation) % num_classes
        yield flat.reshape(batch_size, *pixels_shape), rotated

  change_points = tuple(
    segment * batches_per_segment for segment in range(1, num_segments)
  )
  return Stream(batches(), num_segments * batches_per_segment, change_points)
