"""One pass over images whose labels or pixels change their meaning."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.streams._stream import Stream

Drift = Literal['labels', 'pixels', 'permuted-labels', 'none']
DRIFTS = ('labels', 'pixels', 'permuted-labels', 'none')


def drifting_stream(
  images: np.ndarray,
  labels: np.ndarray,
  *,
  batch_size: int,
  num_segments: int,
  batches_per_segment: int,
  num_classes: int,
  drift: Drift = 'labels',
  transition_batches: int = 0,
  rng: np.random.Generator,
) -> Stream:
  """One pass over a stream whose meaning changes between segments.

  Within a segment no image comes twice. The next segment draws from all images
  again, under another concept:

  * `'labels'`: label y becomes (y + s) mod num_classes in segment s, so every
    label changes at every change point;
  * `'pixels'`: the pixels of every image are permuted, by one random
    permutation a segment. The first segment is left as it is;
  * `'permuted-labels'`: likewise the labels, by a random permutation of the
    classes, which may leave some as they are;
  * `'none'`: nothing changes but the order.

  Args:
    images: [n, h, w, c].
    labels: [n], in [0, num_classes).
    batch_size: images a batch.
    num_segments: segments, hence `num_segments - 1` change points.
    batches_per_segment: batches between two change points.
    num_classes: the number of classes.
    drift: one of `DRIFTS`.
    transition_batches: batches at the start of a segment, from the second on,
      over which the new concept takes over: each image follows it with a
      probability that rises linearly. 0 changes abruptly.
    rng: draws the orders and permutations; used while the batches are read.

  Returns:
    A `Stream` of `num_segments * batches_per_segment` batches.

  Raises:
    ValueError: a segment needs more images than there are, a size is not
      positive, the transition is longer than a segment, or the drift is
      unknown.

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
  if not 0 <= transition_batches <= batches_per_segment:
    raise ValueError(
      'transition_batches must lie within 0 and batches_per_segment='
      f'{batches_per_segment}, got {transition_batches}'
    )

  def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    as_they_are = np.arange(np.prod(pixels_shape))
    pixels = as_they_are
    classes = np.arange(num_classes)
    for segment in range(num_segments):
      order = rng.permutation(num_images)
      old_pixels, old_classes = pixels, classes
      if drift == 'pixels' and segment > 0:
        pixels = rng.permutation(as_they_are)
      elif drift == 'permuted-labels' and segment > 0:
        classes = rng.permutation(num_classes)
      for i in range(batches_per_segment):
        chosen = order[i * batch_size : (i + 1) * batch_size]
        flat = images[chosen].reshape(batch_size, -1)
        rotation = np.full(batch_size, segment if drift == 'labels' else 0)
        moved, named = flat[:, pixels], classes[labels[chosen]]
        if segment > 0 and i < transition_batches:
          share = (i + 1) / (transition_batches + 1)
          is_old = rng.random(batch_size) >= share
          moved = np.where(is_old[:, None], flat[:, old_pixels], moved)
          named = np.where(is_old, old_classes[labels[chosen]], named)
          rotation -= is_old & (drift == 'labels')
        rotated = ((named + rotation) % num_classes).astype(np.int32)
        yield moved.reshape(batch_size, *pixels_shape), rotated

  change_points = tuple(
    segment * batches_per_segment for segment in range(1, num_segments)
  )
  return Stream(batches(), num_segments * batches_per_segment, change_points)
