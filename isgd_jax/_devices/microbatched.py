"""A loss over as many microbatches as a device has.

A device runs through its share in equal microbatches, with no collective in
between, so that devices with shares of unequal size need not wait. One weighted
reduction, that of `value_and_grad`, joins the shares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isgd_jax import _checks


def microbatched(
  fun: Callable[..., Any], *, microbatch_size: int
) -> Callable[..., jax.Array]:
  r"""A loss over a number of microbatches that is known only when it runs.

  With microbatches :math:`d_1, \ldots, d_m` of equal size,

  .. math::
    \psi(w) = \frac{1}{m} \sum_{j=1}^{m} \text{fun}(w, d_j),

  by a loop of m trips, which may differ by device. Value and gradient are
  computed together, one microbatch at a time, so memory is that of one (as in
  gradient accumulation). What the loop leaves out costs no time.

  It is for :func:`value_and_grad` and for `value_fn`, with m the
  `shard_weight`.

  Args:
    fun: `fun(params, microbatch)` returns the mean loss of a microbatch, a real
      scalar, without collectives. `params` is a pytree of floating-point
      arrays.
    microbatch_size: examples in a microbatch.

  Returns:
    `loss(params, batch, num_microbatches)`, where `batch` is a pytree of arrays
    [block, ...] of which the first `num_microbatches * microbatch_size` rows
    count; an int32 scalar, or an array of one. A number that is known only when
    it runs, and that the block does not hold, makes loss and gradient NaN. The
    loss can be differentiated once, in reverse; its gradient with respect to
    the batch is taken to be zero. Sums have at least 32 bits.

  Raises:
    ValueError: on a microbatch_size below 1; from the loss, if it does not
      divide the block, if `fun` returns no real scalar, or on a number of
      microbatches that the block does not hold.

  Examples:
    >>> import jax.numpy as jnp, isgd_jax
    >>> loss = isgd_jax.microbatched(
    ...     lambda w, x: jnp.mean(w * x), microbatch_size=2)
    >>> block = jnp.array([1.0, 2.0, 3.0, 4.0, 4.0, 4.0])
    >>> value, grad = isgd_jax.value_and_grad(loss)(3.0, block, 2)
    >>> print(value, grad)  # of the first four
    7.5 2.5

    A step over devices whose shares are unequal (`shards` from
    :func:`pad_shards`, in :func:`jax.shard_map` over the axis ``'data'``)::

      def step(params, opt_state, shards):
        count = shards.num_microbatches[0]
        loss_fn = lambda p: loss(p, shards.data, count)
        value, grads = isgd_jax.value_and_grad(
            loss_fn, axis_name='data', shard_weight=count)(params)
        updates, opt_state = optimizer.update(
            grads, opt_state, params,
            value=value, value_fn=loss_fn, shard_weight=count)
        return optax.apply_updates(params, updates), opt_state
  """
  microbatch_size = _checks.check_integer(
    'microbatch_size', microbatch_size, minimum=1
  )

  def mean_over(evaluate, params, batch, count):
    """The mean of `evaluate(params, microbatch)`, a pytree, over a block."""

    def evaluate_at(index):
      start = index * microbatch_size
      return evaluate(
        params,
        jax.tree.map(
          lambda x: jax.lax.dynamic_slice_in_dim(x, start, microbatch_size),
          batch,
        ),
      )

    def body(carry):
      """Adds one microbatch."""
      index, total = carry
      total = jax.tree.map(
        lambda t, x: t + x.astype(t.dtype), total, evaluate_at(index)
      )
      return index + 1, total

    # Zeros that vary over devices as the terms do; the values are not computed.
    start = jnp.zeros_like(count)
    term = evaluate_at(start)
    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, _sum_dtype(x)), term)
    _, total = jax.lax.while_loop(
      lambda carry: carry[0] < count, body, (start, zeros)
    )
    rows = jax.tree.leaves(batch)[0].shape[0]
    is_held = (count >= 1) & (count <= rows // microbatch_size)
    divisor = jnp.where(is_held, count.astype(jnp.float32), jnp.nan)
    return jax.tree.map(
      lambda t, x: (t / divisor.astype(t.dtype)).astype(x.dtype), total, term
    )

  def checked_fun(params, batch):
    value = fun(params, batch)
    _checks.check_real_scalar(
      'The result of fun', value, 'Return the mean loss of the microbatch.'
    )
    return value

  @jax.custom_vjp
  def loss(params, batch, count):
    return mean_over(checked_fun, params, batch, count)

  def forward(params, batch, count):
    value, grad = mean_over(
      jax.value_and_grad(checked_fun), params, batch, count
    )
    return value, grad

  def backward(grad, cotangent):
    # In the gradient's dtype, which may be narrower than the loss's.
    scaled = jax.tree.map(lambda g: g * cotangent.astype(g.dtype), grad)
    return scaled, None, None

  loss.defvjp(forward, backward)

  def checked_loss(params, batch, num_microbatches):
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
      if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        raise ValueError(
          'params must be floating-point arrays alone, got '
          f'{jnp.result_type(leaf)} at params{jax.tree_util.keystr(path)}. '
          'Close over the rest of the state (eqx.partition, nnx.split); for an '
          'NNX module take isgd_jax.training.nnx_microbatched.'
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
      if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] % microbatch_size:
        raise ValueError(
          f'microbatch_size {microbatch_size} must divide the rows of batch'
          f'{jax.tree_util.keystr(path)}, of shape {jnp.shape(leaf)}. Lay the '
          'batch out with pad_shards and this microbatch_size.'
        )
    if not _checks.is_traced(num_microbatches):
      most = jnp.shape(jax.tree.leaves(batch)[0])[0] // microbatch_size
      number = np.asarray(num_microbatches).reshape(())
      if not 1 <= number <= most:
        raise ValueError(
          f'num_microbatches must lie within 1 and {most}, as many of '
          f'{microbatch_size} as the batch holds, got {number}. Lay the batch '
          'out with pad_shards and this microbatch_size.'
        )
    count = jnp.asarray(num_microbatches, jnp.int32).reshape(())
    return loss(params, batch, count)

  return checked_loss


def _sum_dtype(x: jax.Array) -> Any:
  """Wide enough to count to more than bfloat16's 256."""
  return x.dtype if jnp.finfo(x.dtype).bits >= 32 else jnp.float32
