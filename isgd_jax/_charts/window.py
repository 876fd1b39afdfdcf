"""The last n losses and their statistics: what a chart's limits are built from.

A `WindowStatistics` is a window with one way to estimate its centre and its
standard deviation. Those that average cost O(n^(1/3)) an update, the median
O(n).
"""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Of a normal variable with standard deviation 1: the expected range of two
# (Montgomery, table VI, d2), and one over the median absolute deviation.
RANGE_PER_SIGMA = 1.128
SIGMA_PER_MAD = 1.4826


class WindowState(NamedTuple):
  """A ring buffer of values, summed up by block and by group of blocks.

  A new value changes one block only, whose summary is then made anew from the
  block's own values, and so is its group's from the summaries of its blocks;
  the window's statistics come from those of the groups. Nothing is ever
  subtracted from a running sum, so no rounding error accumulates, and one
  update costs O(n^(1/3)).

  A summary is an anchor, the mean minus the anchor, and the sum of squared
  deviations from the mean. The anchor is one of the values: deviations from it
  keep the digits of small noise on a large loss.

  The fields are few because each leaf of an optimizer state costs a microsecond
  or two whenever a step is dispatched.

  Attributes:
    window: values, float[num_groups, num_blocks, block_size].
    block_summaries: float[num_groups, 3, num_blocks]; None where a group is one
      block.
    group_summaries: float[3, num_groups].
    num_taken_in: int32 scalar, values taken in so far; from 2 n on, less as
      many whole windows as bring it below that.
  """

  window: jax.Array
  block_summaries: jax.Array | None
  group_summaries: jax.Array
  num_taken_in: jax.Array


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


def mean_and_std(window_size: int, ddof: int = 0) -> WindowStatistics:
  """Mean, and standard deviation with `ddof` degrees of freedom taken off.

  References:
    Chan, Golub, LeVeque, `Algorithms for Computing the Sample Variance
    <https://doi.org/10.1080/00031305.1983.10483115>`_, 1983 (how the summaries
    of two samples combine).
  """
  shape = num_groups, num_blocks, block_size = _shape(window_size)
  group_size = num_blocks * block_size
  zero = jnp.int32(0)

  def init():
    return WindowState(
      window=jnp.zeros(shape),
      block_summaries=(
        jnp.zeros((num_groups, 3, num_blocks)) if num_blocks > 1 else None
      ),
      group_summaries=jnp.zeros((3, num_groups)),
      num_taken_in=jnp.zeros((), jnp.int32),
    )

  def count_from(state, start, size):
    """How many of the `size` places from `start` on hold a value."""
    num_in_window = jnp.minimum(state.num_taken_in, window_size)
    return jnp.clip(num_in_window - start, 0, size)

  def read(state):
    start = group_size * jnp.arange(num_groups, dtype=jnp.int32)
    counts = count_from(state, start, group_size)
    anchor, offset, squares = _combine(state.group_summaries, counts)
    total = jnp.minimum(state.num_taken_in, window_size)
    # Not 0 / 0: jax_debug_nans is to find the user's NaNs, not ours.
    freedom = jnp.maximum(total - ddof, 1).astype(squares.dtype)
    mean = jnp.where(total > 0, anchor + offset, 0.0)
    return mean, jnp.where(total > 0, jnp.sqrt(squares / freedom), 0.0)

  def take_in(state, loss):
    is_finite = jnp.isfinite(loss)
    loss = _bounded(loss, window_size)
    position = _position(state.num_taken_in, window_size)
    group = jax.lax.div(position, jnp.int32(group_size))
    in_group = position - group * group_size
    block = jax.lax.div(in_group, jnp.int32(block_size))
    place = (group, block, in_group - block * block_size)
    old = jax.lax.dynamic_slice(state.window, place, (1, 1, 1))
    # Slices, not gather and scatter: these XLA writes in place, always.
    window = jax.lax.dynamic_update_slice(
      state.window, jnp.where(is_finite, loss, old), place
    )
    state = state._replace(
      window=window,
      num_taken_in=_count(state.num_taken_in, is_finite, window_size),
    )
    losses = jax.lax.dynamic_slice(
      window, (group, block, zero), (1, 1, block_size)
    ).reshape(-1)
    start = group * group_size + block * block_size
    count = count_from(state, start, block_size)
    is_in = jnp.arange(block_size, dtype=jnp.int32) < count
    anchor = losses[0]
    deviations = jnp.where(is_in, losses - anchor, 0.0)
    offset = jnp.sum(deviations) / jnp.maximum(count, 1).astype(losses.dtype)
    squares = jnp.sum(jnp.where(is_in, jnp.square(deviations - offset), 0.0))
    summary = jnp.stack([anchor, offset, squares])
    if state.block_summaries is not None:
      summaries = jax.lax.dynamic_update_slice(
        state.block_summaries, summary[None, :, None], (group, zero, block)
      )
      state = state._replace(block_summaries=summaries)
      starts = block_size * jnp.arange(num_blocks, dtype=jnp.int32)
      counts = count_from(state, group * group_size + starts, block_size)
      of_group = jax.lax.dynamic_slice(
        summaries, (group, zero, zero), (1, 3, num_blocks)
      )
      summary = _combine(of_group[0], counts)
    return state._replace(
      group_summaries=jax.lax.dynamic_update_slice(
        state.group_summaries, summary[:, None], (zero, group)
      )
    )

  return WindowStatistics(
    init, read, take_in, lambda state: state.num_taken_in, _forget
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
    loss = _bounded(loss, window_size)
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
    loss = _bounded(loss, window_size)
    position = _position(state.num_taken_in, window_size)
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
      num_taken_in=_count(state.num_taken_in, is_finite, window_size),
    )

  def restart(state, is_due):
    return _forget(state, is_due)._replace(
      in_order=jnp.where(is_due, jnp.inf, state.in_order)
    )

  return WindowStatistics(
    init, read, take_in, lambda state: state.num_taken_in, restart
  )


def _shape(window_size: int) -> tuple[int, int, int]:
  """Groups, blocks in a group and values in a block, for a window of n."""
  # Up to here one block costs less than the summaries of several.
  if window_size <= 512:
    return 1, 1, window_size
  block_size = math.isqrt(window_size - 1) + 1
  # And up to here one group than several.
  if block_size <= 128:
    return 1, math.ceil(window_size / block_size), block_size
  block_size = math.ceil(window_size ** (1 / 3))
  return math.ceil(window_size / block_size**2), block_size, block_size


def _combine(summaries: jax.Array, counts: jax.Array) -> jax.Array:
  """The summary, float[3], of samples with `summaries`, float[3, m]."""
  counts = counts.astype(summaries.dtype)
  anchors, offsets, squares = summaries
  if len(anchors) == 1:
    return summaries[:, 0]
  total = jnp.maximum(jnp.sum(counts), 1.0)
  # After a restart, what is yet to be filled holds the sums of before it.
  deviations = jnp.where(counts > 0, (anchors - anchors[0]) + offsets, 0.0)
  offset = jnp.sum(counts * deviations) / total
  between = jnp.sum(counts * jnp.square(deviations - offset))
  within = jnp.sum(jnp.where(counts > 0, squares, 0.0))
  return jnp.stack([anchors[0], offset, within + between])


def _bounded(loss: jax.Array, window_size: int) -> jax.Array:
  """`loss`, if finite no larger than n such squares can be summed up.

  An infinite sigma would hide every batch until the loss has left the window.
  """
  largest = math.sqrt(float(jnp.finfo(loss.dtype).max) / window_size) / 4
  bounded = jnp.clip(loss, -largest, largest)
  return jnp.where(jnp.isfinite(loss), bounded, loss)


def _position(num_taken_in: jax.Array, window_size: int) -> jax.Array:
  """Where the next value goes."""
  return jax.lax.rem(num_taken_in, jnp.int32(window_size))


def _count(
  num_taken_in: jax.Array, is_taken_in: jax.Array, window_size: int
) -> jax.Array:
  """The counter after another value, kept from overflowing."""
  num_taken_in = num_taken_in + is_taken_in.astype(jnp.int32)
  return jnp.where(num_taken_in < 2 * window_size, num_taken_in, window_size)


def _forget(state: Any, is_due: jax.Array) -> Any:
  """Empties a window without touching its values."""
  return state._replace(
    num_taken_in=jnp.where(is_due, jnp.int32(0), state.num_taken_in)
  )
