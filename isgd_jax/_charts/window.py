"""A ring buffer of the last n values, summed up as it is filled."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class WindowState(NamedTuple):
  """A ring buffer of values, summed up by block and by group of blocks.

  A new value changes one block only, whose summary is then made anew from the
  block's own values, and so is its group's from the summaries of its blocks;
  the window's statistics come from those of the groups. Nothing is ever
  subtracted from a running sum, so no rounding error accumulates, and one
  update costs O(n^(1/3)).

  A summary is an anchor, the mean minus the anchor, and the root of the sum of
  squared deviations from the mean. The anchor is one of the values: deviations
  from it keep the digits of small noise on a large loss. The root has the units
  of the loss: squares of small losses would be zero, of large ones infinite.

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


class Place(NamedTuple):
  """Where in a window a value lies: int32 scalars."""

  group: jax.Array
  block: jax.Array
  in_block: jax.Array


def empty(window_size: int) -> WindowState:
  """A window of `window_size` places, none of them filled."""
  num_groups, num_blocks, block_size = _shape(window_size)
  return WindowState(
    window=jnp.zeros((num_groups, num_blocks, block_size)),
    block_summaries=(
      jnp.zeros((num_groups, 3, num_blocks)) if num_blocks > 1 else None
    ),
    group_summaries=jnp.zeros((3, num_groups)),
    num_taken_in=jnp.zeros((), jnp.int32),
  )


def summary(state: WindowState, window_size: int) -> jax.Array:
  """The summary of all values in the window, float[3]."""
  num_groups, num_blocks, block_size = _shape(window_size)
  group_size = num_blocks * block_size
  starts = group_size * jnp.arange(num_groups, dtype=jnp.int32)
  counts = _count_from(state, starts, group_size, window_size)
  return _combine(state.group_summaries, counts)


def take_in(
  state: WindowState,
  loss: jax.Array,
  window_size: int,
  limits: tuple[jax.Array, jax.Array] | None = None,
) -> WindowState:
  """The window with `loss` in place of its oldest value, if it is finite."""
  is_finite = jnp.isfinite(loss)
  loss = bounded(loss, window_size, limits)
  place = _locate(state.num_taken_in, window_size)
  state = _write(state, place, loss, is_finite, window_size)
  return _summarise(state, place, is_finite, window_size)


def _locate(num_taken_in: jax.Array, window_size: int) -> Place:
  """The place of the next value."""
  num_groups, num_blocks, block_size = _shape(window_size)
  group_size = num_blocks * block_size
  position = next_position(num_taken_in, window_size)
  zero = jnp.zeros_like(position)
  if num_groups * num_blocks == 1:
    return Place(zero, zero, position)
  group = jax.lax.div(position, jnp.int32(group_size))
  in_group = position - group * group_size
  block = jax.lax.div(in_group, jnp.int32(block_size))
  return Place(group, block, in_group - block * block_size)


def _write(
  state: WindowState,
  place: Place,
  loss: jax.Array,
  is_taken_in: jax.Array,
  window_size: int,
) -> WindowState:
  """Writes `loss` to its place, where it is taken in, and counts it."""
  old = jax.lax.dynamic_slice(state.window, place, (1, 1, 1))
  # Slices, not gather and scatter: these XLA writes in place, always.
  window = jax.lax.dynamic_update_slice(
    state.window, jnp.where(is_taken_in, loss, old), place
  )
  return state._replace(
    window=window,
    num_taken_in=next_count(state.num_taken_in, is_taken_in, window_size),
  )


def _summarise(
  state: WindowState, place: Place, is_changed: jax.Array, window_size: int
) -> WindowState:
  """Makes the summaries of the place's block and group anew, if changed."""
  _, num_blocks, block_size = _shape(window_size)
  group, block, zero = place.group, place.block, jnp.int32(0)
  start_of_group = group * (num_blocks * block_size)
  losses = jax.lax.dynamic_slice(
    state.window, (group, block, zero), (1, 1, block_size)
  ).reshape(-1)
  start = start_of_group + block * block_size
  new = _of_values(losses, _count_from(state, start, block_size, window_size))
  if state.block_summaries is not None:
    old = jax.lax.dynamic_slice(
      state.block_summaries, (group, zero, block), (1, 3, 1)
    )
    summaries = jax.lax.dynamic_update_slice(
      state.block_summaries,
      jnp.where(is_changed, new[None, :, None], old),
      (group, zero, block),
    )
    state = state._replace(block_summaries=summaries)
    starts = block_size * jnp.arange(num_blocks, dtype=jnp.int32)
    counts = _count_from(
      state, start_of_group + starts, block_size, window_size
    )
    of_group = jax.lax.dynamic_slice(
      summaries, (group, zero, zero), (1, 3, num_blocks)
    )
    new = _combine(of_group[0], counts)
  old = jax.lax.dynamic_slice(state.group_summaries, (zero, group), (3, 1))
  return state._replace(
    group_summaries=jax.lax.dynamic_update_slice(
      state.group_summaries,
      jnp.where(is_changed, new[:, None], old),
      (zero, group),
    )
  )


def _of_values(losses: jax.Array, count: jax.Array) -> jax.Array:
  """The summary, float[3], of the first `count` of `losses`."""
  is_in = jnp.arange(len(losses), dtype=jnp.int32) < count
  anchor = losses[0]
  deviations = jnp.where(is_in, losses - anchor, 0.0)
  total, size = _sum_with_absolute(deviations)
  offset = total / jnp.maximum(count, 1).astype(losses.dtype)
  # Between half and n times the largest deviation, as the anchor is a value.
  scale = jnp.where(size > 0, size, 1.0)
  squares = jnp.square(jnp.where(is_in, (deviations - offset) / scale, 0.0))
  root = scale * jnp.sqrt(jnp.sum(squares))
  return jnp.stack([anchor, offset, root])


@functools.partial(jax.jit, inline=True)  # Outside jit compiled but once.
def _sum_with_absolute(values: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Sums of the values and of their absolute values, in one pass."""
  zero = jnp.zeros((), values.dtype)
  return jax.lax.reduce(
    (values, jnp.abs(values)),
    (zero, zero),
    lambda x, y: (x[0] + y[0], x[1] + y[1]),
    (0,),
  )


def _combine(summaries: jax.Array, counts: jax.Array) -> jax.Array:
  """The summary, float[3], of samples with `summaries`, float[3, m]."""
  counts = counts.astype(summaries.dtype)
  anchors, offsets, roots = summaries
  if len(anchors) == 1:
    return summaries[:, 0]
  total = jnp.maximum(jnp.sum(counts), 1.0)
  # After a restart, what is yet to be filled holds the sums of before it.
  deviations = jnp.where(counts > 0, (anchors - anchors[0]) + offsets, 0.0)
  offset = jnp.sum(counts * deviations) / total
  between = jnp.sqrt(counts) * (deviations - offset)
  within = jnp.where(counts > 0, roots, 0.0)
  root = _norm(between, within)
  return jnp.stack([anchors[0], offset, root])


def _norm(*vectors: jax.Array) -> jax.Array:
  """Root of the sum of squares, none of which under- or overflows."""
  largest = functools.reduce(
    jnp.maximum, [jnp.max(jnp.abs(vector)) for vector in vectors]
  )
  scale = jnp.where(largest > 0, largest, 1.0)
  squares = [jnp.square(vector / scale) for vector in vectors]
  return scale * jnp.sqrt(jnp.sum(sum(squares[1:], squares[0])))


def _count_from(
  state: WindowState,
  start: jax.Array,
  size: int,
  window_size: int,
) -> jax.Array:
  """How many of the `size` places from `start` on hold a value."""
  num_in_window = jnp.minimum(state.num_taken_in, window_size)
  return jnp.clip(num_in_window - start, 0, size)


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


def bounded(
  loss: jax.Array,
  window_size: int,
  limits: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
  """`loss`, if finite within `limits`, and so that n such can be summed up.

  An infinite sigma would hide every batch until the loss has left the window.
  """
  lower, upper = (-jnp.inf, jnp.inf) if limits is None else limits
  largest = float(jnp.finfo(loss.dtype).max) / (16 * window_size)
  lower, upper = jnp.maximum(lower, -largest), jnp.minimum(upper, largest)
  return jnp.where(jnp.isfinite(loss), jnp.clip(loss, lower, upper), loss)


def next_position(num_taken_in: jax.Array, window_size: int) -> jax.Array:
  """Where the next value goes."""
  return jax.lax.rem(num_taken_in, jnp.int32(window_size))


def next_count(
  num_taken_in: jax.Array, is_taken_in: jax.Array, window_size: int
) -> jax.Array:
  """The counter after another value, kept from overflowing."""
  num_taken_in = num_taken_in + is_taken_in.astype(jnp.int32)
  return jnp.where(num_taken_in < 2 * window_size, num_taken_in, window_size)


def forget(state: Any, is_due: jax.Array) -> Any:
  """Empties a window without touching its values."""
  return state._replace(
    num_taken_in=jnp.where(is_due, jnp.int32(0), state.num_taken_in)
  )
