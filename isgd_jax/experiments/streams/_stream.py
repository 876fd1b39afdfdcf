"""A stream: batches, how many, and where their meaning changes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


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
