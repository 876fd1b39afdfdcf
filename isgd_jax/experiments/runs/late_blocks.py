"""Step reports on their way from the device, fetched a block late.

By then the device has the steps of the next block to work on.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

# Reports are fetched this many at a time.
BLOCK_SIZE = 32


class Block(NamedTuple):
  """Reports that are on the host.

  Attributes:
    packed: [num_steps, number of fields] float32.
    notes: what was noted of each step.
  """

  packed: np.ndarray
  notes: list[Any]


class LateBlocks:
  """The block that the device is at, and the one before it."""

  def __init__(self):
    """Nothing is under way."""
    self._in_flight: list[tuple[jax.Array, Any]] = []
    self._dispatched: list[tuple[jax.Array, Any]] = []

  @property
  def num_unknown(self) -> int:
    """Steps whose reports are not on the host."""
    return len(self._in_flight) + len(self._dispatched)

  def add(self, packed: jax.Array, note: Any = None) -> None:
    """One step's report, which the device may still be at."""
    self._dispatched.append((packed, note))

  def turn(self) -> Block | None:
    """Ends a block; the one before it, if there is one."""
    before, self._in_flight = self._in_flight, self._dispatched
    self._dispatched = []
    if not before:
      return None
    reports, notes = zip(*before, strict=True)
    return Block(np.stack(jax.device_get(list(reports))), list(notes))
