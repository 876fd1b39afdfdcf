"""A convolution whose gradients are fast inside a loop on a CPU too."""

from __future__ import annotations

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax._devices import collectives


class _Geometry(NamedTuple):
  """What a convolution of channels-last operands depends on, beside them.

  Attributes:
    strides: between windows.
    padding: before and after, of each spatial dimension.
    lhs_dilation: of the input.
    rhs_dilation: of the kernel.
    precision: of the products, as `jax.lax` takes it.
  """

  strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]
  lhs_dilation: tuple[int, ...]
  rhs_dilation: tuple[int, ...]
  precision: Any


def conv_general_dilated(
  lhs: jax.typing.ArrayLike,
  rhs: jax.typing.ArrayLike,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  batch_group_count: int = 1,
  precision: Any = None,
  preferred_element_type: jax.typing.DTypeLike | None = None,
  **further: Any,
) -> jax.Array:
  """`jax.lax.conv_general_dilated`, for networks that are chased on a CPU.

  XLA for CPUs has a fast convolution for one layout of its operands, channels
  last. The gradients of a convolution have other layouts; XLA rewrites them,
  but not inside a loop, and a chase is one. There they take several times as
  long (`benchmarks/RESULTS.md` says how long). This function writes them in
  that layout itself, on CPUs alone. Its values, and all it does on other
  devices, are those of `jax.lax`.

  What is not channels last (`'NHWC'` with `'HWIO'`, in any number of spatial
  dimensions, as Flax has it), has groups or another type of result is left to
  `jax.lax` altogether. Of the rest there are derivatives of the first order in
  reverse mode, no others: no `jax.jvp`, no Hessian.

  Args:
    lhs: [b, ..., c], the input.
    rhs: [..., c, d], the kernel.
    window_strides: as these and all further arguments are in
      `jax.lax.conv_general_dilated`.
    padding: `'SAME'`, `'VALID'`, or pairs.
    lhs_dilation: of the input.
    rhs_dilation: of the kernel.
    dimension_numbers: of input, kernel and result.
    feature_group_count: number of groups of channels.
    batch_group_count: number of groups of examples.
    precision: of the products.
    preferred_element_type: of the result.
    **further: what newer versions of JAX take, `out_sharding` say. Where any
      of it is not None the convolution is left to `jax.lax`.

  Returns:
    [b, ..., d], what `jax.lax.conv_general_dilated` returns.

  Raises:
    TypeError: or ValueError, where `jax.lax.conv_general_dilated` does.

  Examples:
    Flax's layers take it as an argument:

    >>> import isgd_jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0),
    ...     conv_general_dilated=isgd_jax.conv_general_dilated)
    >>> layer(jnp.zeros((2, 16, 16, 3))).shape
    (2, 16, 16, 8)
  """
  lhs, rhs = jnp.asarray(lhs), jnp.asarray(rhs)
  numbers = jax.lax.conv_dimension_numbers(
    lhs.shape, rhs.shape, dimension_numbers
  )
  is_left = (
    numbers != _channels_last(lhs.ndim)
    or max(feature_group_count, batch_group_count) > 1
    or (preferred_element_type or lhs.dtype) != lhs.dtype
    or any(argument is not None for argument in further.values())
  )
  if is_left:
    return jax.lax.conv_general_dilated(
      lhs,
      rhs,
      window_strides,
      padding,
      lhs_dilation,
      rhs_dilation,
      numbers,
      feature_group_count,
      batch_group_count,
      precision,
      preferred_element_type,
      **further,
    )
  ones = (1,) * (lhs.ndim - 2)
  rhs_dilation = tuple(rhs_dilation or ones)
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(
      lhs.shape[1:-1],
      _dilated(rhs.shape[:-2], rhs_dilation),
      window_strides,
      padding,
    )
  geometry = _Geometry(
    tuple(window_strides),
    tuple((low, high) for low, high in padding),
    tuple(lhs_dilation or ones),
    rhs_dilation,
    precision,
  )
  # Not inside, where the gradient would miss the sum over the axes.
  return _convolve(*collectives.varying_alike(lhs, rhs), geometry)


def _plain(lhs: jax.Array, rhs: jax.Array, geometry: _Geometry) -> jax.Array:
  """The convolution of channels-last operands without groups."""
  return jax.lax.conv_general_dilated(
    lhs,
    rhs,
    geometry.strides,
    geometry.padding,
    geometry.lhs_dilation,
    geometry.rhs_dilation,
    _channels_last(lhs.ndim),
    precision=geometry.precision,
  )


_convolve = jax.custom_vjp(_plain, nondiff_argnums=(2,))


def _forward(
  lhs: jax.Array, rhs: jax.Array, geometry: _Geometry
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _convolve(lhs, rhs, geometry), (lhs, rhs)


def _backward(
  geometry: _Geometry,
  operands: tuple[jax.Array, jax.Array],
  cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """The cotangents of input and kernel."""
  plain = functools.partial(_plain, geometry=geometry)
  return jax.lax.platform_dependent(
    *operands,
    cotangent,
    cpu=functools.partial(_channels_last_gradients, geometry),
    default=lambda lhs, rhs, cotangent: jax.vjp(plain, lhs, rhs)[1](cotangent),
  )


_convolve.defvjp(_forward, _backward)


def _channels_last_gradients(
  geometry: _Geometry, lhs: jax.Array, rhs: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The cotangents of input and kernel, as channels-last convolutions."""
  space = tuple(range(lhs.ndim - 2))
  lhs_sizes = _dilated(lhs.shape[1:-1], geometry.lhs_dilation)
  rhs_sizes = _dilated(rhs.shape[:-2], geometry.rhs_dilation)
  out_sizes = _dilated(cotangent.shape[1:-1], geometry.strides)
  of_lhs, of_rhs = [], []
  for size, window, result, (low, _) in zip(
    lhs_sizes, rhs_sizes, out_sizes, geometry.padding, strict=True
  ):
    before = window - 1 - low
    of_lhs.append((before, size + window - 1 - result - before))
    of_rhs.append((low, result + window - 1 - size - low))
  # Each element of the input met the kernel at every place: the kernel turned
  # round, its input and output channels exchanged.
  lhs_cotangent = _plain(
    cotangent,
    jnp.flip(rhs, space).swapaxes(-1, -2),
    _Geometry(
      geometry.lhs_dilation,
      tuple(of_lhs),
      geometry.strides,
      geometry.rhs_dilation,
      geometry.precision,
    ),
  )
  # Each element of the kernel met every example: the examples are summed over
  # as channels are, and the channels take their place.
  rhs_cotangent = _plain(
    lhs.swapaxes(0, -1),
    jnp.moveaxis(cotangent, 0, -2),
    _Geometry(
      geometry.rhs_dilation,
      tuple(of_rhs),
      geometry.lhs_dilation,
      geometry.strides,
      geometry.precision,
    ),
  )
  return lhs_cotangent, jnp.moveaxis(rhs_cotangent, 0, -2)


def _channels_last(ndim: int) -> jax.lax.ConvDimensionNumbers:
  """Numbers of `'NHWC'`, `'HWIO'`, `'NHWC'`, or their like."""
  space, last = tuple(range(1, ndim - 1)), ndim - 1
  return jax.lax.ConvDimensionNumbers(
    (0, last, *space),
    (last, last - 1, *range(ndim - 2)),
    (0, last, *space),
  )


def _dilated(sizes: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
  """Sizes with holes between the elements."""
  return tuple(
    (size - 1) * d + 1 if size else 0
    for size, d in zip(sizes, dilation, strict=True)
  )
