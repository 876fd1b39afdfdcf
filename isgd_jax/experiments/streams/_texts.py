"""One pass over texts in turn, byte by byte."""

from collections.abc import Iterator, Sequence

import numpy as np

from isgd_jax.experiments.streams._stream import Stream


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
    ValueError: there are not two texts, one is too short, or a size is not
      positive.

  Example:
    >>> texts = np.zeros(99, np.uint8), np.ones(99, np.uint8)
    >>> stream = switching_texts(texts, sequence_length=4, batch_size=2,
    ...   num_segments=3, batches_per_segment=2, rng=np.random.default_rng(0))
    >>> [int(tokens[0, 0]) for tokens, _ in stream.batches]
    [0, 0, 1, 1, 0, 0]
  """
  if len(texts) < 2:
    raise ValueError(
      f'texts must be two or more, to switch between them, got {len(texts)}'
    )
  sizes = sequence_length, batch_size, num_segments, batches_per_segment
  if min(sizes) < 1:
    raise ValueError(
      'sequence_length, batch_size, num_segments and batches_per_segment must '
      'be positive, got {}, {}, {} and {}'.format(*sizes)
    )
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
