"""How a window of losses gives a chart its centre line and its sigma.

A `WindowStatistics` is a window with one way to estimate both. Those that
average cost O(n^(1/3)) an update, the median O(n).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax._charts import window as window_lib
from isgd_jax._charts.window import WindowState

# Of a normal variable with standard deviation 1: the expected range of two
# (Montgomery, table VI, d2), and one over the median absolute deviation.
RANGE_PER_SIGMA = 1.128
SIGMA_PER_MAD = 1.4826


class WindowStatistics(NamedTuple):
  """A window of losses with its estimators: pure functions.

  Attributes:
    init: `init() -> state`, an empty window.
    read: `read(state) -> (mean, sigma)`; zeros while it is empty.
    take_in: `take_in(state, loss) -> state`; a non-finite loss is left out.
    num_taken_in: `num_taken_in(state)`, int32 scalar, exact up to n.
    restart: `restart(state, is_due) -> state`, emptied where `is_due`.
  """

  init: Callable[[], Any]
  read: Callable[[Any], tuple[jax.Array, jax.Array]]
  take_in: Callable[[Any, jax.Array], Any]
  num_taken_in: Callable[[Any], jax.Array]
  restart: Callable[[Any, jax.Array], Any]


class MovingRangeState(NamedTuple):
  """A window of losses, and one of the ranges between consecutive ones.

  Attributes:
    losses: :class:`WindowState` of the n losses.
    ranges: :class:`WindowState` of the n - 1 ranges between them.
    last: float scalar, the loss taken in last.
  """

  losses: WindowState
  ranges: WindowState
  last: jax.Array


class MedianState(NamedTuple):
  """A window of losses, and the same losses in order.

  Attributes:
    window: float[n], the losses as a ring buffer.
    in_order: float[n], the losses in ascending order, then `+inf`.
    num_taken_in: int32 scalar, as in :class:`WindowState`.
  """

  window: jax.Array
  in_order: jax.Array
  num_taken_in: jax.Array


def mean_and_std(window_size: int, ddof: int = 0) -> WindowStatistics:
  """Mean, and standard deviation with `ddof` degrees of freedom taken off.

  References:
    Chan, Golub, LeVeque, `Algorithms for Computing the Sample Variance
    <https://doi.org/10.1080/00031305.1983.10483115>`_, 1983 (how the summaries
    of two samples combine).
  """

  def read(state):
    anchor, offset, squares = window_lib.summary(state, window_size)
    total = jnp.minimum(state.num_taken_in, window_size)
    # Not 0 / 0: jax_debug_nans is to find the user's NaNs, not ours.
    freedom = jnp.maximum(total - ddof, 1).astype(squares.dtype)
    mean = jnp.where(total > 0, anchor + offset, 0.0)
    return mean, jnp.where(total > 0, jnp.sqrt(squares / freedom), 0.0)

  return WindowStatistics(
    init=lambda: window_lib.empty(window_size),
    read=read,
    take_in=lambda state, loss: window_lib.take_in(state, loss, window_size),
    num_taken_in=lambda state: state.num_taken_in,
    restart=window_lib.forget,
  )


def mean_and_moving_range(window_size: int) -> WindowStatistics:
  """Mean, and average range of consecutive losses over 1.128.

  A shift of the level makes one range large and no other, so it hardly
  inflates this sigma.
  """
  losses = mean_and_std(window_size)
  ranges = mean_and_std(window_size - 1)

  def init():
    return MovingRangeState(losses.init(), ranges.init(), jnp.zeros(()))

  def read(state):
    mean, _ = losses.read(state.losses)
    mean_range, _ = ranges.read(state.ranges)
    return mean, mean_range / RANGE_PER_SIGMA

  def take_in(state, loss):
    is_finite = jnp.isfinite(loss)
    loss = window_lib.bounded(loss, window_size)
    # Not finite, and so not taken in, where there is no loss before this one.
    has_last = state.losses.num_taken_in > 0
    new_range = jnp.where(has_last, jnp.abs(loss - state.last), jnp.inf)
    return MovingRangeState(
      losses.take_in(state.losses, loss),
      ranges.take_in(state.ranges, new_range),
      jnp.where(is_finite, loss, state.last),
    )

  def restart(state, is_due):
    return MovingRangeState(
      losses.restart(state.losses, is_due),
      ranges.restart(state.ranges, is_due),
      state.last,
    )

  return WindowStatistics(
    init, read, take_in, lambda state: state.losses.num_taken_in, restart
  )


def median_and_mad(window_size: int) -> WindowStatistics:
  """Median, and 1.4826 times the median absolute deviation from it.

  The losses are kept in order, so that nothing is sorted: a loss leaves and
  another enters by one shift of what lies between them.
  """
  index = jnp.arange(window_size, dtype=jnp.int32)

  def init():
    return MedianState(
      window=jnp.zeros(window_size),
      in_order=jnp.full(window_size, jnp.inf, float),  # Not weakly typed.
      num_taken_in=jnp.zeros((), jnp.int32),
    )

  def middle(count):
    """Ranks, from 0, of the one or two losses in the middle of `count`."""
    count = jnp.maximum(count, 1)
    return (count - 1) // 2, count // 2

  def read(state):
    count = jnp.minimum(state.num_taken_in, window_size)
    low, high = middle(count)
    median = (state.in_order[low] + state.in_order[high]) / 2
    median = jnp.where(count > 0, median, 0.0)
    padded = jnp.concatenate(
      [state.in_order, jnp.full_like(state.in_order, jnp.inf)]
    )

    def deviation(rank):
      """The deviation of that rank: it reaches rank + 1 losses in a row."""
      last = jax.lax.dynamic_slice_in_dim(padded, rank, window_size)
      return jnp.min(jnp.maximum(median - state.in_order, last - median))

    mad = (deviation(low) + deviation(high)) / 2
    return median, jnp.where(count > 0, SIGMA_PER_MAD * mad, 0.0)

  def take_in(state, loss):
    is_finite = jnp.isfinite(loss)
    loss = window_lib.bounded(loss, window_size)
    position = window_lib.next_position(state.num_taken_in, window_size)
    is_full = state.num_taken_in >= window_size
    oldest = jnp.where(is_full, state.window[position], jnp.inf)
    old = state.in_order
    removed = jnp.sum(old < oldest, dtype=jnp.int32)
    inserted = jnp.sum(old < loss, dtype=jnp.int32)
    inserted = jnp.where(removed < inserted, inserted - 1, inserted)
    before = jnp.concatenate([old[:1], old[:-1]])
    after = jnp.concatenate([old[1:], old[-1:]])
    new = jnp.where((index >= removed) & (index < inserted), after, old)
    new = jnp.where((index > inserted) & (index <= removed), before, new)
    new = jnp.where(index == inserted, loss, new)
    entering = jnp.where(is_finite, loss, state.window[position])
    return MedianState(
      window=state.window.at[position].set(entering, mode='promise_in_bounds'),
      in_order=jnp.where(is_finite, new, old),
      num_taken_in=window_lib.next_count(
        state.num_taken_in, is_finite, window_size
      ),
    )

  def restart(state, is_due):
    return window_lib.forget(state, is_due)._replace(
      in_order=jnp.where(is_due, jnp.inf, state.in_order)
    )

  return WindowStatistics(
    init, read, take_in, lambda state: state.num_taken_in, restart
  )
