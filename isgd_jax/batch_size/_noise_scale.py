"""The gradient noise scale: how many examples a gradient needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class NoiseScale(NamedTuple):
  """The gradient noise scale, and what it is made of.

  Attributes:
    noise_scale: float, examples, the trace over the squared norm; infinite
      where the gradient cannot be told from noise.
    noise_scale_error: float, standard error (jackknife); infinite likewise.
    squared_gradient_norm: float, of the true gradient, without bias; can come
      out negative where there is little of it.
    trace_covariance: float, of one example's gradient, without bias.
    batch_size: int, examples in each of the batches.
    num_batches: int, how many there were.
  """

  noise_scale: float
  noise_scale_error: float
  squared_gradient_norm: float
  trace_covariance: float
  batch_size: int
  num_batches: int


def gradient_noise_scale(
  value_and_grad_fn: Callable[[Any, Any], tuple[Any, Any]],
  params: Any,
  batches: Sequence[Any],
) -> NoiseScale:
  r"""Measures the gradient noise scale at one point of the training.

  With g the gradient of one example, of mean G and covariance :math:`\Sigma`,

  .. math::
    B_{noise} = \frac{\operatorname{tr} \Sigma}{|G|^2},

  which estimates the critical batch size: much smaller batches waste steps,
  much bigger ones examples. From k batches of b examples each, with gradients
  :math:`g_i` (small) and their mean :math:`\bar g` (large), without bias,

  .. math::
    |G|^2 \approx \frac{k |\bar g|^2 - \overline{|g|^2}}{k - 1}, \qquad
    \operatorname{tr} \Sigma \approx b \, \frac{k}{k - 1}
    \left(\overline{|g|^2} - |\bar g|^2\right).

  It grows as the loss falls: measure it at several points of a run. Each batch
  is evaluated twice (the second time for the standard error), so that only two
  gradients are held at once.

  Args:
    value_and_grad_fn: `value_and_grad_fn(params, batch)` returns the mean loss
      of a batch (or anything) and its gradient, a pytree of floating-point
      arrays. It is compiled here, once for the same function.
    params: pytree of arrays; it may hold more than the gradient has.
    batches: at least three, pytrees of arrays [batch, ...] of one size, drawn
      independently. A few dozen give an error of some 20 %.

  Returns:
    A :class:`NoiseScale`.

  Raises:
    ValueError: on fewer than three batches, or batches of different size.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from isgd_jax import batch_size
    >>> def loss_fn(w, x): return jnp.mean(x @ w)  # gradient: the mean of x
    >>> x = 1.0 + 2.0 * jax.random.normal(jax.random.key(0), (100, 16, 3))
    >>> noise = batch_size.gradient_noise_scale(
    ...     jax.value_and_grad(loss_fn), jnp.ones(3), list(x))
    >>> bool(3.0 < noise.noise_scale < 5.0)  # tr 12 over norm 3
    True

  References:
    McCandlish et al., `An Empirical Model of Large-Batch Training
    <https://arxiv.org/abs/1812.06162>`_, 2018, appendix A.1.
  """
  batches = list(batches)
  size = _checked_batch_size(batches)
  count = len(batches)

  shapes = jax.eval_shape(
    lambda *args: _wide(value_and_grad_fn(*args)[1]), params, batches[0]
  )
  total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  squares = []
  for batch in batches:
    total, square = _add_gradient(value_and_grad_fn, total, params, batch)
    squares.append(square)
  projections = [
    _project(value_and_grad_fn, total, params, batch) for batch in batches
  ]
  squares = np.asarray(jax.device_get(squares), np.float64)
  projections = np.asarray(jax.device_get(projections), np.float64)
  squared_total = projections.sum()

  norm, trace = _estimates(squared_total, squares.sum(), count, size)
  # Without each batch in turn.
  norms, traces = _estimates(
    squared_total - 2.0 * projections + squares,
    squares.sum() - squares,
    count - 1,
    size,
  )
  scale = _ratio(trace, norm)
  scales = _ratio(traces, norms)
  error = float('inf')
  if np.isfinite(scale) and np.isfinite(scales).all():
    variance = (count - 1) / count * np.sum((scales - scales.mean()) ** 2)
    error = float(np.sqrt(variance))
  return NoiseScale(float(scale), error, float(norm), float(trace), size, count)


@functools.partial(jax.jit, static_argnums=0)
def _add_gradient(
  value_and_grad_fn: Callable[[Any, Any], tuple[Any, Any]],
  total: Any,
  params: Any,
  batch: Any,
) -> tuple[Any, jax.Array]:
  """Sum of gradients, and the squared norm of this one."""
  grad = _wide(value_and_grad_fn(params, batch)[1])
  return optax.tree.add(total, grad), optax.tree.norm(grad, squared=True)


@functools.partial(jax.jit, static_argnums=0)
def _project(
  value_and_grad_fn: Callable[[Any, Any], tuple[Any, Any]],
  total: Any,
  params: Any,
  batch: Any,
) -> jax.Array:
  """The inner product of a sum of gradients with this one."""
  grad = _wide(value_and_grad_fn(params, batch)[1])
  return jnp.asarray(optax.tree.vdot(total, grad))


def _estimates(
  squared_total: Any, sum_of_squares: Any, count: int, size: int
) -> tuple[Any, Any]:
  """Squared norm of the gradient and trace of its covariance, unbiased."""
  # Products of different batches have no noise in common.
  norm = (squared_total - sum_of_squares) / (count * (count - 1))
  return norm, size * (sum_of_squares / count - norm)


def _ratio(trace: Any, norm: Any) -> Any:
  """The noise scale; infinite without a gradient."""
  positive = np.where(norm > 0, norm, 1.0)
  return np.where(norm > 0, np.maximum(trace, 0.0) / positive, np.inf)


def _wide(tree: Any) -> Any:
  """Leaves of at least 32 bits, for sums and norms."""

  def widen(x):
    is_wide = jnp.finfo(x.dtype).bits >= 32
    return x if is_wide else x.astype(jnp.float32)

  return jax.tree.map(widen, tree)


def _checked_batch_size(batches: list[Any]) -> int:
  """Examples in each batch; raises unless all have as many."""
  if len(batches) < 3:
    raise ValueError(
      f'batches must be at least three, got {len(batches)}. A few dozen give '
      'an error of some 20 %.'
    )
  sizes = {
    np.shape(leaf)[:1] for batch in batches for leaf in jax.tree.leaves(batch)
  }
  if len(sizes) != 1 or sizes in ({()}, {(0,)}):
    raise ValueError(
      'batches must hold arrays of one number of examples, at least 1, got '
      f'leading axes {sorted(sizes)}. Leave out a short last batch.'
    )
  ((size,),) = sizes
  return int(size)
