"""Orders in which a training run meets its batches."""

from collections.abc import Iterator, Sequence
import queue
import threading
import time
from typing import Literal, NamedTuple

import numpy as np

from isgd_jax.experiments._errors import check_name

Drift = Literal['labels', 'pixels']
DRIFTS = ('labels', 'pixels')


class Stream(NamedTuple):
  """A finite sequence of batches, to be read once.

  Attributes:
    batches: yields (images [b, h, w, c] float32, labels [b] int32), or (tokens
      [b, t], next tokens [b, t]), int32.
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
  transition_batches: int = 0,
  rng: np.random.Generator,
) -> Stream:
  """One pass over a stream whose meaning changes between segments.

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
    pixels = np.arange(np.prod(pixels_shape))
    for segment in range(num_segments):
      order = rng.permutation(num_images)
      old_pixels = pixels
      if drift == 'pixels' and segment > 0:
        pixels = rng.permutation(pixels)
      for i in range(batches_per_segment):
        chosen = order[i * batch_size : (i + 1) * batch_size]
        flat = images[chosen].reshape(batch_size, -1)
        rotation = np.full(batch_size, segment if drift == 'labels' else 0)
        moved = flat[:, pixels]
        if segment > 0 and i < transition_batches:
          share = (i + 1) / (transition_batches + 1)
          is_old = rng.random(batch_size) >= share
          moved = np.where(is_old[:, None], flat[:, old_pixels], moved)
          rotation -= is_old & (drift == 'labels')
        rotated = ((labels[chosen] + rotation) % num_classes).astype(np.int32)
        yield moved.reshape(batch_size, *pixels_shape), rotated

  change_points = tuple(
    segment * batches_per_segment for segment in range(1, num_segments)
  )
  return Stream(batches(), num_segments * batches_per_segment, change_points)


def fixed_cycle(
  images: np.ndarray,
  labels: np.ndarray,
  *,
  batch_size: int,
  num_epochs: int,
  dirichlet_alpha: float | None = None,
  single_class: bool = False,
  rng: np.random.Generator,
) -> Stream:
  """The paper's sampling: n fixed batches, drawn once, visited in turn.

  The batches are i.i.d. draws without replacement, or have their own class
  mixes: of one class each, or drawn from a Dirichlet distribution. However they
  are composed, the order in which they are visited is random, and the same in
  each epoch. Images that fill no whole batch are left out.

  Args:
    images: [n, h, w, c].
    labels: [n].
    batch_size: images a batch, at most n.
    num_epochs: how often the cycle is gone through.
    dirichlet_alpha: concentration > 0 of each batch's class mix; a small one
      makes most batches of one or two classes. What a class lacks is drawn from
      those that are left. None for i.i.d. batches.
    single_class: whether each batch is of one class.
    rng: draws the batches, now.

  Returns:
    A `Stream` without drift.

  Raises:
    ValueError: the batch size is not within 1 to n, both compositions are asked
      for, alpha is not positive, or no class fills a batch.

  Example:
    >>> stream = fixed_cycle(np.zeros((40, 8, 8, 1)), np.arange(40) % 2,
    ...   batch_size=10, num_epochs=2, single_class=True,
    ...   rng=np.random.default_rng(0))
    >>> all(len(set(y.tolist())) == 1 for _, y in stream.batches)
    True
  """
  num_images = len(labels)
  if not 1 <= batch_size <= num_images:
    raise ValueError(
      f'batch_size must lie within 1 and the {num_images} images, got '
      f'{batch_size}'
    )
  if single_class and dirichlet_alpha is not None:
    raise ValueError(
      f'single_class and dirichlet_alpha={dirichlet_alpha} exclude each other'
    )
  if dirichlet_alpha is not None and not dirichlet_alpha > 0:
    raise ValueError(f'dirichlet_alpha must be positive, got {dirichlet_alpha}')
  if single_class:
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


def switching_texts(
  texts: Sequence[np.ndarray],
  *,
  sequence_length: int,
  batch_size: int,
  num_segments: int,
  batches_per_segment: int,
  rng: np.random.Generator,
) -> Stream:
  """One pass over a stream that switches from text to text, in turn.

  The windows of a text come in random order, none of them twice.

  Args:
    texts: two or more, [n] uint8 each.
    sequence_length: inputs of a window, bytes.
    batch_size: windows a batch.
    num_segments: segments, hence `num_segments - 1` change points.
    batches_per_segment: batches between two change points.
    rng: draws the orders, now.

  Returns:
    A `Stream` of (bytes [b, t], next bytes [b, t]), int32.

  Raises:
    ValueError: there are not two texts, or one is too short.

  Example:
    >>> texts = np.zeros(99, np.uint8), np.ones(99, np.uint8)
    >>> stream = switching_texts(texts, sequence_length=4, batch_size=2,
    ...   num_segments=3, batches_per_segment=2, rng=np.random.default_rng(0))
    >>> [int(tokens[0, 0]) for tokens, _ in stream.batches]
    [0, 0, 1, 1, 0, 0]
  """
  if len(texts) < 2:
    raise ValueError(f'needs two texts or more to switch between, got {texts}')
  windows = []
  for i, text in enumerate(texts):
    length = sequence_length + 1
    whole = text[: len(text) // length * length].reshape(-1, length)
    visits = len(range(i, num_segments, len(texts)))
    needed = visits * batches_per_segment * batch_size
    if needed > len(whole):
      raise ValueError(
        f'text {i} has {len(whole)} windows of {length} bytes, but '
        f'{needed} are asked for; lower num_segments, batches_per_segment or '
        'batch_size'
      )
    windows.append(iter(rng.permutation(whole)[:needed].astype(np.int32)))

  def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for segment in range(num_segments):
      for _ in range(batches_per_segment):
        source = windows[segment % len(texts)]
        batch = np.stack([next(source) for _ in range(batch_size)])
        yield batch[:, :-1], batch[:, 1:]

  change_points = tuple(
    segment * batches_per_segment for segment in range(1, num_segments)
  )
  return Stream(batches(), num_segments * batches_per_segment, change_points)


def throttled(stream: Stream, seconds_per_batch: float) -> Stream:
  """The same stream from a slow source, read ahead by a thread of its own.

  Args:
    stream: the batches.
    seconds_per_batch: between the arrivals of two batches.

  Returns:
    The `Stream`; the source starts when the first batch is asked for, and holds
    at most two that nobody has taken.

  Example:
    >>> stream = Stream(iter([(1, 1), (2, 2)]), 2, ())
    >>> [x for x, _ in throttled(stream, 0.001).batches]
    [1, 2]
  """

  def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    ready = queue.Queue(maxsize=2)
    is_over = threading.Event()

    def read() -> None:
      due = time.perf_counter()
      for batch in stream.batches:
        due = max(due, time.perf_counter() - seconds_per_batch)
        due += seconds_per_batch
        time.sleep(max(0.0, due - time.perf_counter()))
        while not is_over.is_set():
          try:
            ready.put(batch, timeout=0.1)
            break
          except queue.Full:
            continue
        if is_over.is_set():
          return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
      for _ in range(stream.num_batches):
        yield ready.get()
    finally:
      is_over.set()
      thread.join()

  return stream._replace(batches=batches())


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
