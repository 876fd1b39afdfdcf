"""Convolutions that are chased fast, and AlexNet's normalization.

Flax has neither.
"""

import functools

from flax import nnx
import jax
import jax.numpy as jnp

import isgd_jax

# A layer with the arguments of `nnx.Conv`.
convolution = functools.partial(
  nnx.Conv, conv_general_dilated=isgd_jax.conv_general_dilated
)


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
