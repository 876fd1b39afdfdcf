"""A fixed set of examples, gone through again and again."""

from collections.abc import Iterator

import numpy as np

from isgd_jax.experiments.streams._stream import Stream


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
  _check_batch_size(batch_size, num_images)
  batches_per_epoch = num_images // batch_size

  def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _ in range(num_epochs):
      order = rng.permutation(num_images)
      for i in range(batches_per_epoch):
        chosen = order[i * batch_size : (i + 1) * batch_size]
        yield images[chosen], labels[chosen]

  return Stream(batches(), num_epochs * batches_per_epoch, ())


def fixed_cycle(
  images: np.ndarray,
  labels: np.ndarray,
  *,
  batch_size: int,
  num_epochs: int,
  dirichlet_alpha: float | None = None,
  single_class: bool = False,
  num_lone_batches: int = 0,
  rng: np.random.Generator,
) -> Stream:
  """The paper's sampling: n fixed batches, drawn once, visited in turn.

  The batches are i.i.d. draws without replacement, or have their own class
  mixes: of one class each, or drawn from a Dirichlet distribution, or one class
  in a few batches of its own beside i.i.d. ones of the others. However they are
  composed, the order in which they are visited is random, and the same in each
  epoch. Images that fill no whole batch are left out.

  Args:
    images: [n, h, w, c].
    labels: [n].
    batch_size: images a batch, at most n.
    num_epochs: how often the cycle is gone through.
    dirichlet_alpha: concentration > 0 of each batch's class mix; a small one
      makes most batches of one or two classes. What a class lacks is drawn from
      those that are left. None for i.i.d. batches.
    single_class: whether each batch is of one class.
    num_lone_batches: of the last class, so many batches are of it alone, and it
      is in no other. 0 for none.
    rng: draws the batches, now.

  Returns:
    A `Stream` without drift.

  Raises:
    ValueError: the batch size is not within 1 to n, two compositions are asked
      for, alpha is not positive and finite, no class fills a batch, or the last
      class does not fill its own.

  Example:
    >>> stream = fixed_cycle(np.zeros((40, 8, 8, 1)), np.arange(40) % 2,
    ...   batch_size=10, num_epochs=2, single_class=True,
    ...   rng=np.random.default_rng(0))
    >>> all(len(set(y.tolist())) == 1 for _, y in stream.batches)
    True
  """
  num_images = len(labels)
  _check_batch_size(batch_size, num_images)
  if single_class and dirichlet_alpha is not None:
    raise ValueError(
      f'single_class and dirichlet_alpha={dirichlet_alpha} exclude each other'
    )
  if dirichlet_alpha is not None and not 0 < dirichlet_alpha < np.inf:
    raise ValueError(
      'dirichlet_alpha must be positive and finite (None for i.i.d. batches), '
      f'got {dirichlet_alpha}'
    )
  if num_lone_batches and (single_class or dirichlet_alpha is not None):
    raise ValueError(
      f'num_lone_batches={num_lone_batches} excludes single_class and '
      'dirichlet_alpha; leave one of them out'
    )
  if num_lone_batches:
    cycle = _lone_batches(labels, batch_size, num_lone_batches, rng)
  elif single_class:
    cycle = _single_class_batches(labels, batch_size, rng)
  elif dirichlet_alpha is not None:
    cycle = _dirichlet_batches(labels, batch_size, dirichlet_alpha, rng)
  else:
    whole = num_images // batch_size * batch_size
    cycle = rng.permutation(num_images)[:whole].reshape(-1, batch_size)
  if not len(cycle):
    raise ValueError(
      f'no class has the {batch_size} images of a batch; lower batch_size'
    )
  # Laid out once, in the order of the visits: a batch is then a view.
  inputs, targets = images[cycle], labels[cycle]

  def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _ in range(num_epochs):
      yield from zip(inputs, targets, strict=True)

  return Stream(batches(), num_epochs * len(cycle), ())


def _check_batch_size(batch_size: int, num_images: int) -> None:
  if not 1 <= batch_size <= num_images:
    raise ValueError(
      f'batch_size must lie within 1 and the {num_images} images, got '
      f'{batch_size}'
    )


def _single_class_batches(
  labels: np.ndarray, batch_size: int, rng: np.random.Generator
) -> np.ndarray:
  """[num_batches, batch_size] indices; each row of one class, in any order."""
  rows = []
  for label in np.unique(labels):
    members = rng.permutation(np.flatnonzero(labels == label))
    whole = len(members) // batch_size * batch_size
    rows.append(members[:whole].reshape(-1, batch_size))
  return rng.permutation(np.concatenate(rows))


def _lone_batches(
  labels: np.ndarray, batch_size: int, num_lone: int, rng: np.random.Generator
) -> np.ndarray:
  """[num_batches, batch_size] indices; the last class in rows of its own."""
  is_lone = labels == labels.max()
  lone, others = (
    rng.permutation(np.flatnonzero(where)) for where in (is_lone, ~is_lone)
  )
  if not 0 < num_lone * batch_size <= len(lone):
    raise ValueError(
      f'num_lone_batches={num_lone} of {batch_size} images must be filled by '
      f'the {len(lone)} of class {labels.max()}; lower it or batch_size'
    )
  whole = len(others) // batch_size * batch_size
  rows = np.concatenate([lone[: num_lone * batch_size], others[:whole]])
  return rng.permutation(rows.reshape(-1, batch_size))


def _dirichlet_batches(
  labels: np.ndarray, batch_size: int, alpha: float, rng: np.random.Generator
) -> np.ndarray:
  """[num_batches, batch_size] indices; each row of its own class mix."""
  classes = np.unique(labels)
  pools = [rng.permutation(np.flatnonzero(labels == c)) for c in classes]
  rows = []
  for _ in range(len(labels) // batch_size):
    mix = rng.dirichlet(np.full(len(classes), alpha))
    row = []
    while len(row) < batch_size:
      num_left = np.array([len(pool) for pool in pools])
      # The classes that are used up give their share to the others.
      weights = np.where(num_left > 0, mix + 1e-12, 0.0)
      counts = rng.multinomial(batch_size - len(row), weights / weights.sum())
      for i, count in enumerate(np.minimum(counts, num_left)):
        row.extend(pools[i][:count])
        pools[i] = pools[i][count:]
    rows.append(row)
  # The last ones had to take what was left, so they do not stay last.
  return rng.permutation(np.array(rows))
