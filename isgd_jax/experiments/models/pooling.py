"""Pooling: Caffe's, and of maxima with a gradient that is fast on a CPU too.

Flax has neither.
"""

from collections.abc import Sequence
import functools
from typing import Any

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

# Pixels added before and after, of height and width.
Padding = tuple[tuple[int, int], tuple[int, int]]
NO_PADDING: Padding = ((0, 0), (0, 0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(
  x: jax.Array, window: int, stride: int, padding: Padding = NO_PADDING
) -> jax.Array:
  """`nnx.max_pool`, with a gradient that is fast on a CPU too.

  XLA scatters the gradient, window after window: on CPUs up to a third of a
  step of a small convolutional network. Here each pixel gathers it from the
  windows whose first maximum it is, the one that XLA takes. There is no forward
  mode.

  Args:
    x: [b, h, w, c], floating.
    window: height and width of a window, in pixels.
    stride: between windows, in pixels.
    padding: pixels added, which never are a maximum.

  Returns:
    [b, h', w', c], of the dtype of `x`.

  Example:
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> max_pool(x, 2, 2)[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
  """
  return _plain_max_pool(x, window, stride, padding)


def caffe_max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
  """Max-pooling whose last window may reach over the border (ceil mode).

  Args:
    x: [b, h, w, c], floating.
    window: height and width of a window, in pixels.
    stride: between windows, in pixels.

  Returns:
    [b, ceil((h - window) / stride) + 1, ..., c], of the dtype of `x`.

  References:
    `PoolingLayer` in Caffe's `src/caffe/layers/pooling_layer.cpp`.

  Example:
    >>> caffe_max_pool(jnp.zeros((1, 32, 32, 3)), 3, 2).shape
    (1, 16, 16, 3)
  """
  return max_pool(
    x, window, stride, _ceil_padding(x.shape[1:3], window, stride)
  )


def caffe_average_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
  """Average-pooling whose last window may reach over the border (ceil mode).

  A window over the border averages the pixels inside the image, as Caffe's
  does where the layer itself has no padding.

  Args:
    x: [b, h, w, c], floating.
    window: height and width of a window, in pixels.
    stride: between windows, in pixels.

  Returns:
    [b, ceil((h - window) / stride) + 1, ..., c], of the dtype of `x`.

  References:
    `PoolingLayer` in Caffe's `src/caffe/layers/pooling_layer.cpp`.

  Example:
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> caffe_average_pool(x, 3, 2)[0, :, :, 0].tolist()
    [[5.0, 6.5], [11.0, 12.5]]
  """
  # Its annotation of the padding says a string, and it takes pairs.
  padding: Any = _ceil_padding(x.shape[1:3], window, stride)
  # Flax divides by float32 counts.
  values = x.astype(jnp.float32)
  return nnx.avg_pool(
    values, (window, window), (stride, stride), padding, count_include_pad=False
  ).astype(x.dtype)


def _ceil_padding(sizes: Sequence[int], window: int, stride: int) -> Padding:
  """What to add at the end, so that the windows cover every pixel."""

  def at_end(size: int) -> int:
    count = -((window - size) // stride) + 1
    return max(0, (count - 1) * stride + window - size)

  height, width = sizes
  return (0, at_end(height)), (0, at_end(width))


def _plain_max_pool(
  x: jax.Array, window: int, stride: int, padding: Padding
) -> jax.Array:
  # Its annotation of the padding says a string, and it takes pairs.
  pairs: Any = padding
  return nnx.max_pool(x, (window, window), (stride, stride), pairs)


def _max_pool_forward(
  x: jax.Array, window: int, stride: int, padding: Padding
) -> tuple[jax.Array, jax.Array]:
  return max_pool(x, window, stride, padding), x


def _max_pool_backward(
  window: int,
  stride: int,
  padding: Padding,
  x: jax.Array,
  cotangent: jax.Array,
) -> tuple[jax.Array]:
  plain = functools.partial(
    _plain_max_pool, window=window, stride=stride, padding=padding
  )
  return (
    lax.platform_dependent(
      x,
      cotangent,
      cpu=functools.partial(_gathered, window, stride, padding),
      default=lambda x, cotangent: jax.vjp(plain, x)[1](cotangent)[0],
    ),
  )


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _gathered(
  window: int,
  stride: int,
  padding: Padding,
  x: jax.Array,
  cotangent: jax.Array,
) -> jax.Array:
  """The cotangent of `x`: of each pixel, from the windows that it won.

  Pixels that lie alike towards the windows, one in `stride` each way, are in
  the same places of the windows that they are in.
  """
  winners = _first_maxima(window, stride, padding, x, cotangent.shape)
  # Windows before the first that reach the pixels from the first on.
  num_before = (window - 1) // stride
  sizes = [
    -(-(low + size + high) // stride)
    for size, (low, high) in zip(x.shape[1:3], padding, strict=True)
  ]
  widths = [
    (num_before, max(0, size - count))
    for size, count in zip(sizes, cotangent.shape[1:3], strict=True)
  ]
  widths = ((0, 0), *widths, (0, 0))
  winners = jnp.pad(winners, widths, constant_values=-1)
  cotangent = jnp.pad(cotangent, widths)

  def won(place: int, rows: int, columns: int) -> jax.Array:
    """What the windows so many before a pixel's own give to it."""
    at = (
      slice(None),
      slice(num_before - rows, num_before - rows + sizes[0]),
      slice(num_before - columns, num_before - columns + sizes[1]),
    )
    return jnp.where(winners[at] == place, cotangent[at], 0)

  def of_pixels(row: int, column: int) -> jax.Array:
    """The cotangent of every pixel that lies so towards the windows."""
    return sum(
      (
        won(i * window + j, i // stride, j // stride)
        for i in range(row, window, stride)
        for j in range(column, window, stride)
      ),
      start=jnp.zeros((), cotangent.dtype),
    )

  shape = (len(x), sizes[0], sizes[1], x.shape[-1])
  together = jnp.stack(
    [
      jnp.stack(
        [
          jnp.broadcast_to(of_pixels(row, column), shape)
          for column in range(stride)
        ],
        axis=3,
      )
      for row in range(stride)
    ],
    axis=2,
  )
  together = together.reshape(
    len(x), sizes[0] * stride, sizes[1] * stride, x.shape[-1]
  )
  (top, _), (left, _) = padding
  return together[:, top : top + x.shape[1], left : left + x.shape[2]]


def _first_maxima(
  window: int,
  stride: int,
  padding: Padding,
  x: jax.Array,
  shape: Sequence[int],
) -> jax.Array:
  """The place of each window's first maximum in it, int32 of `shape`."""
  lowest = jnp.asarray(-jnp.inf, x.dtype)
  pairs = [(0, 0), *padding, (0, 0)]
  padded = lax.pad(x, lowest, [(low, high, 0) for low, high in pairs])
  rows, columns = ((size - 1) * stride + 1 for size in shape[1:3])

  def at(place: int) -> jax.Array:
    """What is in this place of every window."""
    i, j = divmod(place, window)
    return padded[:, i : i + rows : stride, j : j + columns : stride]

  best, winners = at(0), jnp.zeros(shape, jnp.int32)
  for place in range(1, window * window):
    is_more = at(place) > best
    best = jnp.where(is_more, at(place), best)
    winners = jnp.where(is_more, place, winners)
  return winners
