"""What holds of every stream."""

import numpy as np
import pytest

from isgd_jax.experiments import streams
from tests.experiments.streams.helpers import IMAGES
from tests.experiments.streams.helpers import LABELS
from tests.experiments.streams.helpers import NUM_CLASSES

EPOCHS = {'batch_size': 6, 'num_epochs': 3}
SEGMENTS = {'num_segments': 3, 'batches_per_segment': 8}


def shuffled(rng):
  return streams.shuffled_epochs(IMAGES, LABELS, **EPOCHS, rng=rng)


def cycle(rng):
  return streams.fixed_cycle(IMAGES, LABELS, **EPOCHS, rng=rng)


def single_class(rng):
  return streams.fixed_cycle(
    IMAGES, LABELS, **EPOCHS, single_class=True, rng=rng
  )


def dirichlet(rng):
  return streams.fixed_cycle(
    IMAGES, LABELS, **EPOCHS, dirichlet_alpha=0.3, rng=rng
  )


def drifting(rng, transition_batches=0):
  return streams.drifting_stream(
    IMAGES,
    LABELS,
    **SEGMENTS,
    batch_size=4,
    num_classes=NUM_CLASSES,
    drift='pixels',
    transition_batches=transition_batches,
    rng=rng,
  )


def gradual(rng):
  return drifting(rng, transition_batches=5)


def texts(rng):
  return streams.switching_texts(
    [np.arange(240, dtype=np.uint8), np.arange(240, dtype=np.uint8)],
    **SEGMENTS,
    sequence_length=4,
    batch_size=2,
    rng=rng,
  )


def throttled(rng):
  return streams.throttled(shuffled(rng), 0.0)


every_stream = pytest.mark.parametrize(
  'make',
  [
    *(shuffled, cycle, single_class, dirichlet),
    *(drifting, gradual, texts, throttled),
  ],
)


@every_stream
def test_same_seed_same_stream_and_other_seed_another(make):
  first, again, other = (
    list(make(np.random.default_rng(seed)).batches) for seed in (3, 3, 4)
  )
  for batch, batch_again in zip(first, again, strict=True):
    for array, array_again in zip(batch, batch_again, strict=True):
      np.testing.assert_array_equal(array, array_again)
  assert any(
    not np.array_equal(a, b)
    for (a, _), (b, _) in zip(first, other, strict=True)
  )


@every_stream
def test_num_batches_is_what_the_stream_yields(make):
  stream = make(np.random.default_rng(0))
  assert len(list(stream.batches)) == stream.num_batches


@every_stream
def test_batches_are_of_one_shape_with_int32_labels(make):
  shapes = set()
  for inputs, labels in make(np.random.default_rng(0)).batches:
    assert labels.dtype == np.int32
    shapes.add((inputs.shape, inputs.dtype, labels.shape))
  assert len(shapes) == 1


@pytest.mark.parametrize('make', [drifting, gradual, texts])
def test_every_segment_but_the_first_starts_at_a_change_point(make):
  assert make(np.random.default_rng(0)).change_points == (8, 16)


def test_all_names_are_there():
  assert all(hasattr(streams, name) for name in streams.__all__)
