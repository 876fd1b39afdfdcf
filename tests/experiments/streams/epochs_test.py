"""A fixed set gone through again and again: reshuffled, or in one cycle."""

import numpy as np
import pytest

from isgd_jax.experiments import streams
from tests.experiments.streams.helpers import IMAGES
from tests.experiments.streams.helpers import LABELS
from tests.experiments.streams.helpers import identities


def shuffled(seed=0, **kwargs):
  sizes = {'batch_size': 6, 'num_epochs': 3}
  return streams.shuffled_epochs(
    IMAGES, LABELS, **sizes | kwargs, rng=np.random.default_rng(seed)
  )


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


def cycle(seed=0, images=IMAGES, labels=LABELS, **kwargs):
  sizes = {'batch_size': 6, 'num_epochs': 3}
  return streams.fixed_cycle(
    images, labels, **sizes | kwargs, rng=np.random.default_rng(seed)
  )


COMPOSITIONS = [
  *({}, {'single_class': True}, {'dirichlet_alpha': 0.3}),
  {'num_lone_batches': 1},
]


@pytest.mark.parametrize('kwargs', COMPOSITIONS)
def test_a_cycle_takes_no_image_twice_and_is_the_same_each_epoch(kwargs):
  stream = cycle(**kwargs)
  visits = np.array([identities(images) for images, _ in stream.batches])
  epochs = visits.reshape(3, -1)
  assert len(set(epochs[0])) == len(epochs[0])
  np.testing.assert_array_equal(epochs, np.tile(epochs[0], (3, 1)))
  assert stream.change_points == ()


@pytest.mark.parametrize('kwargs', COMPOSITIONS)
def test_a_cycle_keeps_images_and_labels_together(kwargs):
  for images, labels in cycle(**kwargs).batches:
    assert (images.shape, labels.shape) == ((6, 2, 2, 1), (6,))
    np.testing.assert_array_equal(images, IMAGES[identities(images)])
    np.testing.assert_array_equal(labels, LABELS[identities(images)])


@pytest.mark.parametrize(
  ('kwargs', 'num_batches'),
  # 40 images, ten a class, in batches of 6.
  [({}, 6), ({'single_class': True}, 4), ({'dirichlet_alpha': 0.3}, 6)],
)
def test_a_cycle_leaves_out_only_what_fills_no_batch(kwargs, num_batches):
  assert cycle(**kwargs).num_batches == 3 * num_batches


def test_single_class_batches_are_of_every_class_that_fills_one():
  # Class 0 fills three batches of 5, class 1 two, class 2 one, class 3 none.
  labels = np.repeat(np.arange(4, dtype=np.int32), [17, 10, 9, 4])
  stream = cycle(labels=labels, batch_size=5, single_class=True, num_epochs=1)
  classes = []
  for _, batch_labels in stream.batches:
    assert (batch_labels == batch_labels[0]).all()
    classes.append(int(batch_labels[0]))
  assert sorted(classes) == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize('num_lone', [1, 3])
def test_a_lone_class_is_in_its_own_batches_and_in_no_other(num_lone):
  # Class 3 has 20 images, the others 40, which fill 8 batches of 5.
  labels = np.repeat(np.arange(4, dtype=np.int32), [13, 14, 13, 20])
  images = np.zeros((60, 1, 1, 1), np.float32)
  orders = set()
  for seed in range(5):
    stream = cycle(
      seed=seed,
      images=images,
      labels=labels,
      batch_size=5,
      num_lone_batches=num_lone,
      num_epochs=1,
    )
    shares = [float((batch == 3).mean()) for _, batch in stream.batches]
    assert sorted(shares) == [0.0] * 8 + [1.0] * num_lone
    orders.add(tuple(shares))
  assert len(orders) > 1


def test_single_class_batches_come_in_random_order():
  orders = {
    tuple(int(labels[0]) for _, labels in cycle(s, single_class=True).batches)
    for s in range(5)
  }
  assert len(orders) > 1


def mixes(alpha):
  """[60, 10] class shares of the batches of one cycle, of ten classes."""
  labels = np.arange(6000, dtype=np.int32) % 10
  stream = cycle(
    images=np.zeros((6000, 1, 1, 1), np.float32),
    labels=labels,
    batch_size=100,
    num_epochs=1,
    dirichlet_alpha=alpha,
  )
  return np.array(
    [np.bincount(labels, minlength=10) / 100 for _, labels in stream.batches]
  )


def test_batches_are_more_mixed_the_larger_alpha_is():
  entropies = []
  for alpha in (0.01, 0.1, 1.0, 10.0, 1000.0):
    shares = mixes(alpha)
    entropies.append(-(shares * np.log(np.maximum(shares, 1e-9))).sum(1).mean())
  assert (np.diff(entropies) > 0).all()
  assert entropies[0] < np.log(2)  # As of fewer than two classes ...
  assert entropies[-1] > 0.95 * np.log(10)  # ... and of nearly all ten.


def test_batches_of_a_large_alpha_resemble_the_population():
  # Pearson's statistic of 100 draws over ten classes has median 8.3, and that
  # of 60 such a standard error of 0.7; of single-class batches it is 900. The
  # median, because the last few batches must take what the others have left.
  statistic = 100 * ((mixes(1e6) - 0.1) ** 2 / 0.1).sum(1)
  assert np.median(statistic) < 8.3 + 5 * 0.7


def test_a_cycle_is_drawn_at_once():
  # The generator may serve something else before the batches are read.
  rng = np.random.default_rng(0)
  stream = streams.fixed_cycle(
    IMAGES, LABELS, batch_size=6, num_epochs=1, rng=rng
  )
  rng.random(10)
  for (images, _), (again, _) in zip(
    stream.batches, cycle(num_epochs=1).batches, strict=True
  ):
    np.testing.assert_array_equal(images, again)


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'batch_size': 0}, 'batch_size must lie within .* got 0'),
    ({'batch_size': 41}, 'got 41'),
    ({'dirichlet_alpha': 0.0}, 'dirichlet_alpha must be positive .* got 0.0'),
    ({'dirichlet_alpha': float('nan')}, 'got nan'),
    ({'dirichlet_alpha': float('inf')}, 'got inf'),
    ({'dirichlet_alpha': 1.0, 'single_class': True}, 'exclude each other'),
    ({'batch_size': 11, 'single_class': True}, 'no class has the 11 images'),
    ({'num_lone_batches': 2}, 'num_lone_batches=2 of 6 images must be filled'),
    ({'num_lone_batches': -1}, 'num_lone_batches=-1 of 6'),
    (
      {'num_lone_batches': 1, 'single_class': True},
      'num_lone_batches=1 excludes single_class',
    ),
    ({'num_lone_batches': 1, 'dirichlet_alpha': 1.0}, 'excludes'),
  ],
)
def test_bad_cycle_is_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    cycle(**kwargs)


@pytest.mark.parametrize('batch_size', [0, 41])
def test_bad_batch_size_is_refused(batch_size):
  with pytest.raises(ValueError, match=f'got {batch_size}'):
    shuffled(batch_size=batch_size)
