"""Convolutions that are chased fast, Caffe's pooling, AlexNet's normalization.

Flax has none of the three.
"""

from collections.abc import Sequence
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

import isgd_jax

# A layer with the arguments of `nnx.Conv`.
convolution = functools.partial(
  nnx.Conv, conv_general_dilated=isgd_jax.conv_general_dilated
)


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
  padding = _ceil_padding(x.shape[1:3], window, stride)
  return nnx.max_pool(x, (window, window), (stride, stride), padding)


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
  padding = _ceil_padding(x.shape[1:3], window, stride)
  # Flax divides by float32 counts.
  values = x.astype(jnp.float32)
  return nnx.avg_pool(
    values, (window, window), (stride, stride), padding, count_include_pad=False
  ).astype(x.dtype)


def _ceil_padding(sizes: Sequence[int], window: int, stride: int) -> Any:
  """What to add at the end, so that the windows cover every pixel.

  A list of pairs; Flax takes them, but its annotation says a string.
  """
  counts = [-((window - size) // stride) + 1 for size in sizes]
  return [
    (0, max(0, (count - 1) * stride + window - size))
    for count, size in zip(counts, sizes, strict=True)
  ]


def local_response_normalization(
  x: jax.Array,
  *,
  size: int = 5,
  k: float = 2.0,
  alpha: float = 1e-4,
  beta: float = 0.75,
) -> jax.Array:
  """Divides each value by a norm over the neighbouring channels.

  `x[i] / (k + alpha * sum(x[j] ** 2 for |j - i| <= size // 2)) ** beta`, in
  float32. (Caffe divides `alpha` by `size` and has k = 1.)

  Args:
    x: [..., c], floating.
    size: the number of channels in the sum, odd.
    k: what is added to the sum.
    alpha: the factor of the sum.
    beta: the exponent.

  Returns:
    [..., c], of the dtype of `x`.

  References:
    Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep
    Convolutional Neural Networks, NeurIPS 2012, section 3.3.

  Example:
    >>> local_response_normalization(jnp.ones((1, 3)), k=1.0, alpha=1.0, beta=1)
    Array([[0.25, 0.25, 0.25]], dtype=float32)
  """
  values = x.astype(jnp.float32)
  margins = [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)]
  squares = jnp.pad(jnp.square(values), margins)
  num_channels = x.shape[-1]
  # Shifted slices fuse into one kernel, forward and backward.
  total = sum(squares[..., i : i + num_channels] for i in range(size))
  return (values * (k + alpha * total) ** -beta).astype(x.dtype)
