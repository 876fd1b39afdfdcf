"""Value and gradient of a loss, averaged over a device axis.

The only module with collectives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def value_and_grad(
  fun: Callable[..., Any],
  *,
  axis_name: str | tuple[str, ...] | None = None,
  has_aux: bool = False,
) -> Callable[..., tuple[Any, Any]]:
  r"""`jax.value_and_grad`, averaged over the devices of a mapped axis.

  With a local loss :math:`\psi_i` on each of :math:`N` devices of `axis_name`,
  returns on every device

  .. math::
    \frac{1}{N} \sum_{i=1}^{N} \psi_i(w), \qquad
    \frac{1}{N} \sum_{i=1}^{N} \nabla \psi_i(w).

  Right in `jax.shard_map` with `check_vma` on and off, `jax.pmap`, and
  `jax.vmap` with an axis name. `jax.lax.pmean(jax.grad(loss))` is not: under
  `check_vma=True` the gradient of replicated parameters is summed over devices
  already, and the result is N times too large. Without an axis name this *is*
  `jax.value_and_grad`, also right for a sharded batch under plain `jax.jit`.

  Args:
    fun: loss of the parameters (a pytree of real floating-point arrays, the
      first argument) on this device's share of the batch; returns a real
      scalar, or with `has_aux` a pair of it and auxiliary data.
    axis_name: name or names of the mapped axis, or None.
    has_aux: whether `fun` returns auxiliary data. It is left as each device
      computed it.

  Returns:
    A function with the arguments of `fun` that returns `(value, gradient)`, or
    `((value, aux), gradient)`; value and gradient are alike on every device.

  Examples:
    >>> import jax, jax.numpy as jnp, isgd_jax
    >>> def loss(w, x): return jnp.mean(x * w)
    >>> step = isgd_jax.value_and_grad(loss, axis_name='batch')
    >>> shards = jnp.arange(6.0).reshape(2, 3)
    >>> mapped = jax.vmap(step, in_axes=(None, 0), axis_name='batch')
    >>> value, grad = mapped(2.0, shards)
    >>> print(value, grad)
    [5. 5.] [2.5 2.5]
  """
  if axis_name is None:
    return jax.value_and_grad(fun, has_aux=has_aux)

  def averaged(params: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    # Varying parameters have a gradient of the local loss, in every mode.
    params = jax.tree.map(lambda p: _as_varying(p, axis_name), params)
    result, grad = jax.value_and_grad(fun, has_aux=has_aux)(
      params, *args, **kwargs
    )
    value, aux = result if has_aux else (result, None)
    value, grad = jax.lax.pmean((value, grad), axis_name)
    return ((value, aux) if has_aux else value), grad

  return averaged


def _as_varying(
  param: jax.typing.ArrayLike, axis_name: str | tuple[str, ...]
) -> jax.typing.ArrayLike:
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
