"""Value and gradient of a loss, averaged over a device axis.

The only module with collectives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from isgd_jax import _checks


def value_and_grad(
  fun: Callable[..., Any],
  *,
  axis_name: str | tuple[str, ...] | None = None,
  has_aux: bool = False,
  shard_weight: jax.typing.ArrayLike | None = None,
) -> Callable[..., tuple[Any, Any]]:
  r"""`jax.value_and_grad`, averaged over the devices of a mapped axis.

  With a local loss :math:`\psi_i`, the mean over the :math:`m_i` examples that
  device i of `axis_name` holds, returns on every device

  .. math::
    \frac{\sum_i m_i \psi_i(w)}{\sum_i m_i}, \qquad
    \frac{\sum_i m_i \nabla \psi_i(w)}{\sum_i m_i},

  the loss and gradient of the global batch. Shares are equal unless
  `shard_weight` says otherwise.

  Right in `jax.shard_map` with `check_vma` on and off, `jax.pmap`, and
  `jax.vmap` with an axis name. `jax.lax.pmean(jax.grad(loss))` is not: under
  `check_vma=True` the gradient of replicated parameters is summed over devices
  already, and the result is N times too large. Without an axis name this *is*
  `jax.value_and_grad`, also right for a sharded batch under plain `jax.jit`.

  Value and gradient are reduced together; weights, if any, before them.

  Args:
    fun: loss of the parameters (a pytree of real floating-point arrays, the
      first argument) on this device's share of the batch; returns a real
      scalar, or with `has_aux` a pair of it and auxiliary data. It may use
      collectives of its own, as BatchNorm across devices does.
    axis_name: name or names of the mapped axis, or None.
    has_aux: whether `fun` returns auxiliary data. It is left as each device
      computed it.
    shard_weight: this device's :math:`m_i` >= 0, a real scalar of any dtype:
      the number of examples that `fun` averages over, without padding. A device
      of weight 0 adds nothing, even if its loss is not a number; if all have
      weight 0, so is the result. (An element of its gradient that is not a
      number is left out as a whole.) None for equal shares. Without an axis
      name there is one share, and nothing to weigh.

  Returns:
    A function with the arguments of `fun` that returns `(value, gradient)`, or
    `((value, aux), gradient)`; value and gradient are alike on every device.

  Raises:
    ValueError: from the function, on an axis name that is not bound where it is
      called; from here, on a weight that is negative or no real scalar.

  Examples:
    >>> import jax, jax.numpy as jnp, isgd_jax
    >>> def loss(w, x): return jnp.mean(x * w)
    >>> step = isgd_jax.value_and_grad(loss, axis_name='batch')
    >>> shards = jnp.arange(6.0).reshape(2, 3)
    >>> mapped = jax.vmap(step, in_axes=(None, 0), axis_name='batch')
    >>> value, grad = mapped(2.0, shards)
    >>> print(value, grad)
    [5. 5.] [2.5 2.5]

    Shares of different size, here three examples and one, padded to three:

    >>> def weighted(w, x, mask):
    ...   loss = lambda w: jnp.sum(mask * x * w) / jnp.sum(mask)
    ...   return isgd_jax.value_and_grad(
    ...       loss, axis_name='batch', shard_weight=jnp.sum(mask))(w)
    >>> mask = jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    >>> mapped = jax.vmap(weighted, in_axes=(None, 0, 0), axis_name='batch')
    >>> value, _ = mapped(2.0, shards, mask)
    >>> print(value)  # 2 * (0 + 1 + 2 + 3) / 4
    [3. 3.]
  """
  if shard_weight is not None:
    _checks.check_real_scalar(
      'shard_weight',
      shard_weight,
      "Pass the number of examples in this device's share.",
    )
    _checks.check_number('shard_weight', shard_weight, minimum=0.0)
  if axis_name is None:
    return jax.value_and_grad(fun, has_aux=has_aux)

  def averaged(params: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    _check_bound(axis_name)
    # Varying parameters have a gradient of the local loss, in every mode.
    params = jax.tree.map(lambda p: as_varying(p, axis_name), params)
    share = None if shard_weight is None else _share_of(shard_weight, axis_name)

    def weighted(params):
      """The local loss, weighted before it is differentiated.

      Where `fun` has collectives, its gradient has a part from other devices,
      of their weight and not of this one's.
      """
      result = fun(params, *args, **kwargs)
      value, aux = result if has_aux else (result, None)
      # A loss that `fun` has reduced itself is each device's own again.
      value = as_varying(jnp.asarray(value), axis_name)
      return value if share is None else _times(value, share), aux

    (value, aux), grad = jax.value_and_grad(weighted, has_aux=True)(params)
    if share is not None:
      # All padding: 0 times the gradient of a loss that is not a number.
      grad = jax.tree.map(
        lambda g: jnp.where(
          (share == 0) & ~jnp.isfinite(g), jnp.zeros_like(g), g
        ),
        grad,
      )
    value, grad = jax.lax.pmean((value, grad), axis_name)
    return ((value, aux) if has_aux else value), grad

  return averaged


def averaged_value(
  transformation: str,
  value: Any,
  axis_name: str | tuple[str, ...] | None,
  shard_weight: jax.typing.ArrayLike | None,
  flag: jax.Array | None = None,
) -> tuple[Any, jax.Array | None]:
  """The loss of the whole batch, whether it or each device's own was given.

  Devices that decided by losses of their own would part, or wait for one
  another for ever. Where the type of `value` says that it is the same on every
  device nothing is sent; else a scalar is, or with weights two. A `flag`,
  boolean, goes with them, and comes back true where any device's was.

  Raises:
    ValueError: if the axis is not bound, or with a flag if the type of `value`
      says that no device has one of its own.
  """
  if axis_name is None:
    return value, flag
  _check_bound(axis_name, transformation)
  axes = {axis_name} if isinstance(axis_name, str) else set(axis_name)
  value = jnp.asarray(value)
  manual_axes = set(jax.sharding.get_abstract_mesh().manual_axes)
  is_typed = axes <= manual_axes and _has_types(axis_name)
  if is_typed and not axes & set(jax.typeof(value).manual_axis_type.varying):
    if flag is not None:
      raise ValueError(
        f'any_device=True of {transformation} needs the loss of each device, '
        'got one that is averaged over them already. Pass the loss of this '
        "device's share of the batch as value."
      )
    return value, None
  value = as_varying(value, axis_name)
  if shard_weight is None and flag is None:
    return jax.lax.pmean(value, axis_name), None
  # One reduction, in a dtype that neither product nor sum leaves.
  dtype = jnp.result_type(float)
  if shard_weight is None:
    sent = [value.astype(dtype)]
  else:
    weight = jnp.asarray(shard_weight).astype(dtype)
    weight = as_varying(jnp.maximum(weight, 0), axis_name)
    wide = value.astype(dtype)
    product = jnp.where(weight == 0, jnp.zeros_like(wide), wide * weight)
    sent = [product, weight]
  if flag is None:
    product, weight = jax.lax.pmean((sent[0], sent[1]), axis_name)
    return (product / weight).astype(value.dtype), None
  if shard_weight is not None:
    flag = flag & (sent[1] > 0)
  sent = jnp.stack([*sent, as_varying(flag, axis_name).astype(dtype)])
  received = jax.lax.pmean(sent, axis_name)
  mean = received[0] if shard_weight is None else received[0] / received[1]
  return mean.astype(value.dtype), received[-1] > 0


def _has_types(axis_name: str | tuple[str, ...]) -> bool:
  """Whether types say over which axes a value varies (`check_vma=True`)."""
  index = jax.lax.axis_index(axis_name)
  return bool(jax.typeof(index).manual_axis_type.varying)


def _share_of(
  shard_weight: jax.typing.ArrayLike, axis_name: str | tuple[str, ...]
) -> jax.Array:
  """This device's weight in units of the mean one; NaN where all are 0.

  Of order one, so that no narrow loss or gradient overflows by it.
  """
  # float64 where it is enabled, whatever the weight is counted in.
  weight = jnp.asarray(shard_weight).astype(jnp.result_type(float))
  weight = as_varying(jnp.maximum(weight, 0), axis_name)
  return weight / jax.lax.pmean(weight, axis_name)


def _times(value: jax.Array, share: jax.Array) -> jax.Array:
  """A loss by its share, in the loss's dtype; 0 where the share is."""
  is_wide = jnp.finfo(value.dtype).bits >= 32
  dtype = value.dtype if is_wide else share.dtype
  product = value.astype(dtype) * share.astype(dtype)
  product = jnp.where(share == 0, jnp.zeros_like(product), product)
  return product.astype(value.dtype)


def _check_bound(
  axis_name: str | tuple[str, ...], caller: str = 'this'
) -> None:
  """Raises unless the axis is there to reduce over."""
  try:
    jax.lax.axis_size(axis_name)
  except NameError as error:
    raise ValueError(
      f'axis_name {axis_name!r} is not bound here. Call {caller} inside '
      'jax.shard_map, jax.pmap or jax.vmap over an axis of that name; leave '
      'axis_name out under plain jax.jit, also with sharded arrays.'
    ) from error


def as_varying(param: Any, axis_name: str | tuple[str, ...]) -> Any:
  """Casts `param` to vary over the mesh axes over which it does not yet."""
  axes = (axis_name,) if isinstance(axis_name, str) else axis_name
  # An axis of jax.vmap is not one of a mesh: each lane of it has its local
  # gradient already.
  manual_axes = jax.sharding.get_abstract_mesh().manual_axes
  missing = tuple(
    axis
    for axis in axes
    if axis in manual_axes
    and axis not in jax.typeof(param).manual_axis_type.varying
  )
  return jax.lax.pcast(param, missing, to='varying')


def varying_alike(*arrays: jax.Array) -> list[jax.Array]:
  """Casts arrays to vary over all mesh axes over which any of them does."""
  axes = {
    axis
    for array in arrays
    for axis in jax.typeof(array).manual_axis_type.varying
  }
  return [as_varying(array, tuple(sorted(axes))) for array in arrays]
