"""Streams: one pass, seeded, drifting exactly where they say."""

import itertools

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from isgd_jax.experiments import streams

NUM_IMAGES = 40
NUM_CLASSES = 4
# Image i is i, i + 0.1, i + 0.2, i + 0.3: it says who it is, pixel by pixel.
IMAGES = (
  (np.arange(NUM_IMAGES)[:, None] + 0.1 * np.arange(4)[None, :])
  .reshape(NUM_IMAGES, 2, 2, 1)
  .astype(np.float32)
)
LABELS = (np.arange(NUM_IMAGES) % NUM_CLASSES).astype(np.int32)


def identities(images):
  return np.floor(images.reshape(len(images), -1).min(axis=1)).astype(int)


def drifting(seed=0, **kwargs):
  sizes = {
    'batch_size': 4,
    'num_segments': 3,
    'batches_per_segment': 8,
    'num_classes': NUM_CLASSES,
  }
  return streams.drifting_stream(
    IMAGES, LABELS, **sizes | kwargs, rng=np.random.default_rng(seed)
  )


def shuffled(seed=0, **kwargs):
  sizes = {'batch_size': 6, 'num_epochs': 3}
  return streams.shuffled_epochs(
    IMAGES, LABELS, **sizes | kwargs, rng=np.random.default_rng(seed)
  )


def segments(stream):
  """The batches, cut at the stream's own change points."""
  batches = list(stream.batches)
  bounds = [0, *stream.change_points, len(batches)]
  return [batches[a:b] for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize('make', [drifting, shuffled])
def test_same_seed_same_stream_and_other_seed_another(make):
  first, again, other = (list(make(seed).batches) for seed in (3, 3, 4))
  for (images, labels), (images2, labels2) in zip(first, again, strict=True):
    np.testing.assert_array_equal(images, images2)
    np.testing.assert_array_equal(labels, labels2)
  assert any(
    not np.array_equal(a, b)
    for (a, _), (b, _) in zip(first, other, strict=True)
  )


@pytest.mark.parametrize('make', [drifting, shuffled])
def test_num_batches_is_what_the_stream_yields(make):
  stream = make()
  assert len(list(stream.batches)) == stream.num_batches


def test_epochs_visit_each_image_at_most_once_in_a_new_order():
  stream = shuffled()
  batches = [identities(images) for images, _ in stream.batches]
  epochs = np.array(batches).reshape(3, -1)  # 6 batches of 6; 4 images dropped
  for epoch in epochs:
    assert len(set(epoch)) == 36
  assert not np.array_equal(epochs[0], epochs[1])
  assert stream.change_points == ()


def test_epochs_keep_images_and_labels_together():
  for images, labels in shuffled().batches:
    np.testing.assert_array_equal(labels, LABELS[identities(images)])


@settings(deadline=None)
@given(
  seed=st.integers(0, 2**32 - 1),
  drift=st.sampled_from(streams.DRIFTS),
  num_segments=st.integers(1, NUM_CLASSES),
)
def test_no_image_comes_twice_within_a_segment(seed, drift, num_segments):
  stream = drifting(seed, drift=drift, num_segments=num_segments)
  for segment in segments(stream):
    seen = np.concatenate([identities(images) for images, _ in segment])
    assert len(set(seen)) == len(seen)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_segments=st.integers(2, NUM_CLASSES))
def test_label_drift_is_a_bijection_that_changes_at_the_change_points(
  seed, num_segments
):
  mappings = []
  for segment in segments(drifting(seed, num_segments=num_segments)):
    pairs = {
      (int(LABELS[i]), int(label))
      for images, labels in segment
      for i, label in zip(identities(images), labels, strict=True)
    }
    mapping = dict(pairs)
    assert len(pairs) == NUM_CLASSES  # one value for each label ...
    assert set(mapping.values()) == set(range(NUM_CLASSES))  # ... all taken
    mappings.append(mapping)
  for before, after in itertools.pairwise(mappings):
    assert all(before[label] != after[label] for label in before)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_pixel_drift_is_one_permutation_a_segment_and_leaves_labels(seed):
  orders = []
  for segment in segments(drifting(seed, drift='pixels', num_segments=4)):
    pixels = np.concatenate([images for images, _ in segment]).reshape(-1, 4)
    order = np.argsort(pixels, axis=1)
    assert (order == order[0]).all()
    np.testing.assert_allclose(
      np.sort(pixels, axis=1) - np.floor(pixels.min(axis=1, keepdims=True)),
      np.tile([0, 0.1, 0.2, 0.3], (len(pixels), 1)),
      atol=1e-4,
    )
    for images, labels in segment:
      np.testing.assert_array_equal(labels, LABELS[identities(images)])
    orders.append(tuple(order[0]))
  assert orders[0] == (0, 1, 2, 3)


def test_pixel_drift_changes_the_pixels():
  # With 64 pixels two segments agree by chance once in 64! draws.
  images = np.tile(np.arange(64.0).reshape(1, 8, 8, 1), (8, 1, 1, 1))
  stream = streams.drifting_stream(
    images,
    np.zeros(8, np.int32),
    batch_size=4,
    num_segments=3,
    batches_per_segment=2,
    num_classes=10,
    drift='pixels',
    rng=np.random.default_rng(0),
  )
  first = {segment[0][0][0].tobytes() for segment in segments(stream)}
  assert len(first) == 3


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'batches_per_segment': 11}, 'need more than the 40 images'),
    ({'num_segments': 0}, 'must be positive'),
    ({'drift': 'label'}, "did you mean 'labels'"),
  ],
)
def test_bad_drifting_stream_is_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    drifting(**kwargs)


@pytest.mark.parametrize('batch_size', [0, 41])
def test_bad_batch_size_is_refused(batch_size):
  with pytest.raises(ValueError, match=f'got {batch_size}'):
    shuffled(batch_size=batch_size)
