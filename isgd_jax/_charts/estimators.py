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

Limits = tuple[jax.Array, jax.Array]


class Estimate(NamedTuple):
  """Centre line and sigma, float scalars; zeros while the window is empty.

  Attributes:
    anchor: a loss near the centre line, exactly as it was.
    offset: the centre line minus the anchor. Their sum is rounded to the digits
      of the losses, which on small noise may be a good part of sigma.
    sigma: the standard deviation.
  """

  anchor: jax.Array
  offset: jax.Array
  sigma: jax.Array


class WindowStatistics(NamedTuple):
  """A window of losses with its estimators: pure functions.

  Attributes:
    init: `init() -> state`, an empty window.
    read: `read(state) -> Estimate`.
    take_in: `take_in(state, loss, limits) -> state`; a non-finite loss is left
      out. `limits`, a lower and an upper one or None, are where a loss beyond
      them is clipped to.
    num_taken_in: `num_taken_in(state)`, int32 scalar, exact up to n.
    restart: `restart(state, is_due) -> state`, emptied where `is_due`.
  """

  init: Callable[[], Any]
  read: Callable[[Any], Estimate]
  take_in: Callable[[Any, jax.Array, Limits | None], Any]
  num_taken_in: Callable[[Any], jax.Array]
  restart: Callable[[Any, jax.Array], Any]


class MovingRangeState(NamedTuple):
  """A window of losses, and one of the ranges between consecutive ones.

  Attributes:
    losses: :class:`WindowState` of the n losses.
    ranges: :class:`WindowState` of the n - 1 ranges between them.
    last: float scalar, the loss taken in last, as it was found.
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
    summary = window_lib.summary(state, window_size)
    total = jnp.minimum(state.num_taken_in, window_size)
    # Not 0 / 0: jax_debug_nans is to find the user's NaNs, not ours.
    freedom = jnp.maximum(total - ddof, 1).astype(summary.dtype)
    anchor, offset, root = jnp.where(total > 0, summary, 0.0)
    return Estimate(anchor, offset, root / jnp.sqrt(freedom))

  return WindowStatistics(
    init=lambda: window_lib.empty(window_size),
    read=read,
    take_in=lambda state, loss, limits: window_lib.take_in(
      state, loss, window_size, limits
    ),
    num_taken_in=lambda state: state.num_taken_in,
    restart=window_lib.forget,
  )


def mean_and_moving_range(window_size: int) -> WindowStatistics:
  """Mean, and average range of consecutive losses over 1.128.

  A shift of the level makes one range large and no other, so it hardly
  inflates this sigma. Ranges are those of losses as they were found: losses
  clipped to one limit have none, and limits made from such would close in. The
  range itself is clipped to what two losses within the limits can have.
  """
  losses = mean_and_std(window_size)
  ranges = mean_and_std(window_size - 1)

  def init():
    return MovingRangeState(losses.init(), ranges.init(), jnp.zeros(()))

  def read(state):
    centre = losses.read(state.losses)
    of_ranges = ranges.read(state.ranges)
    mean_range = of_ranges.anchor + of_ranges.offset
    return centre._replace(sigma=mean_range / RANGE_PER_SIGMA)

  def take_in(state, loss, limits):
    is_finite = jnp.isfinite(loss)
    loss = window_lib.bounded(loss, window_size)
    # Not finite, and so not taken in, where there is no loss before this one.
    has_last = state.losses.num_taken_in > 0
    new_range = jnp.where(has_last, jnp.abs(loss - state.last), jnp.inf)
    of_ranges = None
    if limits is not None:
      lower, upper = limits
      of_ranges = (jnp.zeros_like(lower), upper - lower)
    return MovingRangeState(
      losses.take_in(state.losses, loss, limits),
      ranges.take_in(state.ranges, new_range, of_ranges),
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
    anchor, above = state.in_order[low], state.in_order[high]
    anchor = jnp.where(count > 0, anchor, 0.0)
    offset = jnp.where(count > 0, (above - anchor) / 2, 0.0)
    deviations = (state.in_order - anchor) - offset
    padded = jnp.concatenate([deviations, jnp.full_like(deviations, jnp.inf)])

    def deviation(rank):
      """The deviation of that rank: it reaches rank + 1 losses in a row."""
      last = jax.lax.dynamic_slice_in_dim(padded, rank, window_size)
      return jnp.min(jnp.maximum(-deviations, last))

    mad = (deviation(low) + deviation(high)) / 2
    sigma = jnp.where(count > 0, SIGMA_PER_MAD * mad, 0.0)
    return Estimate(anchor, offset, sigma)

  def take_in(state, loss, limits):
    is_finite = jnp.isfinite(loss)
    loss = window_lib.bounded(loss, window_size, limits)
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
