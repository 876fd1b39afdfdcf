"""Drifting streams: one pass, drifting exactly where and as they say."""

import itertools

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from isgd_jax.experiments import streams
from tests.experiments.streams.helpers import IMAGES
from tests.experiments.streams.helpers import LABELS
from tests.experiments.streams.helpers import NUM_CLASSES
from tests.experiments.streams.helpers import identities
from tests.experiments.streams.helpers import segments


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
    ({'transition_batches': 9}, 'transition_batches must lie within .* got 9'),
    ({'transition_batches': -1}, 'got -1'),
  ],
)
def test_bad_drifting_stream_is_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    drifting(**kwargs)


def abrupt(images, labels, batch_size, num_segments, length, drift, rng):
  """The definition, for streams that change abruptly: the oracle."""
  for segment in range(num_segments):
    order = rng.permutation(len(labels))
    pixels = np.arange(images[0].size)
    classes = np.arange(NUM_CLASSES)
    if drift == 'permuted-labels' and segment > 0:
      classes = rng.permutation(classes)
    if drift == 'pixels' and segment > 0:
      pixels = rng.permutation(pixels)
    for i in range(length):
      chosen = order[i * batch_size : (i + 1) * batch_size]
      flat = images[chosen].reshape(batch_size, -1)[:, pixels]
      rotation = segment if drift == 'labels' else 0
      yield (
        flat.reshape(batch_size, *images.shape[1:]),
        ((classes[labels[chosen]] + rotation) % NUM_CLASSES).astype(np.int32),
      )


@pytest.mark.parametrize('drift', streams.DRIFTS)
@pytest.mark.parametrize('kwargs', [{}, {'transition_batches': 0}])
def test_without_a_transition_it_is_the_abrupt_stream_bit_by_bit(drift, kwargs):
  stream = drifting(5, num_segments=4, drift=drift, **kwargs)
  rng = np.random.default_rng(5)
  expected = abrupt(IMAGES, LABELS, 4, 4, 8, drift, rng)
  for batch, expected_batch in zip(stream.batches, expected, strict=True):
    for array, expected_array in zip(batch, expected_batch, strict=True):
      assert array.dtype == expected_array.dtype
      np.testing.assert_array_equal(array, expected_array)


BATCH_SIZE = 2000
TRANSITION = 9


def gradual(drift):
  """[2 transitions, 12 batches, BATCH_SIZE]: what follows the old concept."""
  # Pixels rise within an image, so their order is the permutation.
  images = np.tile(np.arange(16.0, dtype=np.float32), (12 * BATCH_SIZE, 1))
  labels = np.arange(len(images)) % NUM_CLASSES
  images[:, 0] -= labels + 1  # Still the least; says the label.
  stream = streams.drifting_stream(
    images.reshape(-1, 4, 4, 1),
    labels,
    batch_size=BATCH_SIZE,
    num_segments=3,
    batches_per_segment=12,
    num_classes=NUM_CLASSES,
    drift=drift,
    transition_batches=TRANSITION,
    rng=np.random.default_rng(0),
  )
  concepts = []
  for segment in segments(stream):
    concepts.append([])
    for inputs, targets in segment:
      flat = inputs.reshape(BATCH_SIZE, -1)
      true_labels = -flat.min(1).astype(int) - 1
      rotation = (targets - true_labels) % NUM_CLASSES
      order = np.argsort(flat, axis=1)
      concepts[-1].append(np.column_stack([rotation, order]))
  old = []
  for before, after in itertools.pairwise(concepts):
    # After its transition a segment shows its own concept alone.
    is_old = (np.array(after) == before[-1][0]).all(-1)
    is_new = (np.array(after) == after[-1][0]).all(-1)
    assert (is_old ^ is_new).all()
    old.append(is_old)
  return np.array(old)


def test_a_permutation_of_labels_fades_linearly_too():
  num_images = 12 * BATCH_SIZE
  images = np.arange(num_images).reshape(-1, 1, 1, 1)
  labels = np.arange(num_images) % NUM_CLASSES
  stream = streams.drifting_stream(
    images,
    labels,
    batch_size=BATCH_SIZE,
    num_segments=2,
    batches_per_segment=12,
    num_classes=NUM_CLASSES,
    drift='permuted-labels',
    transition_batches=TRANSITION,
    rng=np.random.default_rng(0),
  )
  _, after = segments(stream)
  true, targets = (
    np.array(each)
    for each in zip(*((labels[x.ravel()], y) for x, y in after), strict=True)
  )
  mapping = dict(zip(true[-1].tolist(), targets[-1].tolist(), strict=True))
  assert sorted(mapping) == sorted(mapping.values())
  for label, new in mapping.items():
    assert np.isin(targets[true == label], (label, new)).all()
    assert (targets[TRANSITION:][true[TRANSITION:] == label] == new).all()
  moved = [label for label, new in mapping.items() if label != new]
  assert moved
  for i in range(TRANSITION):
    mine = np.isin(true[i], moved)
    share = (targets[i] == true[i])[mine].mean()
    expected = 1 - (i + 1) / (TRANSITION + 1)
    assert abs(share - expected) < 5 * np.sqrt(0.25 / mine.sum())


@pytest.mark.parametrize('drift', ['labels', 'pixels'])
def test_the_old_concept_fades_linearly_and_then_is_gone(drift):
  shares = gradual(drift).mean(-1)
  expected = 1 - np.arange(1, TRANSITION + 1) / (TRANSITION + 1)
  # Five standard deviations of a binomial share.
  tolerance = 5 * np.sqrt(expected * (1 - expected) / BATCH_SIZE)
  assert (abs(shares[:, :TRANSITION] - expected) < tolerance).all()
  assert (shares[:, TRANSITION:] == 0).all()


@pytest.mark.parametrize('drift', streams.DRIFTS)
def test_the_first_segment_has_no_transition(drift):
  stream = drifting(1, num_segments=2, drift=drift, transition_batches=8)
  for images, labels in segments(stream)[0]:
    chosen = identities(images)
    np.testing.assert_array_equal(images, IMAGES[chosen])
    np.testing.assert_array_equal(labels, LABELS[chosen])


@pytest.mark.parametrize('drift', streams.DRIFTS)
@pytest.mark.parametrize('transition_batches', [0, 8])
@pytest.mark.parametrize('dtype', [np.uint8, np.int32, np.int64])
def test_labels_are_int32_whatever_they_were(drift, transition_batches, dtype):
  stream = streams.drifting_stream(
    IMAGES,
    LABELS.astype(dtype),
    batch_size=4,
    num_segments=3,
    batches_per_segment=8,
    num_classes=NUM_CLASSES,
    drift=drift,
    transition_batches=transition_batches,
    rng=np.random.default_rng(0),
  )
  batches = list(stream.batches)
  assert {labels.dtype for _, labels in batches} == {np.dtype(np.int32)}
  assert {images.dtype for images, _ in batches} == {np.dtype(np.float32)}
