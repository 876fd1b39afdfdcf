"""One pass over texts in the order in which they were written, byte by byte."""

from collections.abc import Iterator, Sequence

import numpy as np

from isgd_jax.experiments.streams._stream import Stream


def texts_in_order(
  texts: Sequence[np.ndarray],
  *,
  sequence_length: int,
  batch_size: int,
  rng: np.random.Generator | None = None,
) -> Stream:
  """One pass over texts, window after window; none of them comes twice.

  Args:
    texts: in time order, [n] uint8 each.
    sequence_length: inputs of a window, bytes.
    batch_size: windows a batch; the last ones that fill none are left out.
    rng: shuffles the windows of all texts, so that nothing drifts: the control
      of the same windows in time order. None keeps that order.

  Returns:
    A `Stream` of (bytes [b, t], next bytes [b, t]), int32. Language drifts
    slowly, so it has no change points.

  Raises:
    ValueError: the texts fill no batch, or a size is not positive.

  Example:
    >>> texts = [np.full(10, year, np.uint8) for year in (1, 2)]
    >>> stream = texts_in_order(texts, sequence_length=4, batch_size=2)
    >>> [tokens.tolist() for tokens, _ in stream.batches]
    [[[1, 1, 1, 1], [1, 1, 1, 1]], [[2, 2, 2, 2], [2, 2, 2, 2]]]
  """
  if min(sequence_length, batch_size) < 1:
    raise ValueError(
      'sequence_length and batch_size must be positive, got '
      f'{sequence_length} and {batch_size}'
    )
  length = sequence_length + 1
  windows = np.concatenate(
    [
      np.empty((0, length), np.uint8),
      # No window holds the end of one text and the beginning of another.
      *(
        text[: len(text) // length * length].reshape(-1, length)
        for text in texts
      ),
    ]
  )
  num_batches = len(windows) // batch_size
  if num_batches < 1:
    raise ValueError(
      f'texts have {len(windows)} windows of {length} bytes, fewer than '
      f'batch_size={batch_size}; lower it, or sequence_length'
    )
  if rng is not None:
    windows = rng.permutation(windows)

  def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for i in range(num_batches):
      batch = windows[i * batch_size : (i + 1) * batch_size].astype(np.int32)
      yield batch[:, :-1], batch[:, 1:]

  return Stream(batches(), num_batches, ())
