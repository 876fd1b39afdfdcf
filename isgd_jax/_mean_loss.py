"""Learning rates driven by the control chart's mean loss.

The chart in the optimizer state already smooths the batch losses over a window;
its centre line is a training loss that a schedule can go by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from isgd_jax import _checks
from isgd_jax._charts import chart as chart_lib


class ScaleByMeanLossState(NamedTuple):
  """State of :func:`scale_by_mean_loss`.

  Attributes:
    scale: float32 scalar in (0, 1], what the updates are multiplied by.
  """

  scale: jax.Array


def scale_by_mean_loss(
  boundaries_and_scales: Mapping[float, float],
) -> optax.GradientTransformationExtraArgs:
  r"""Scales updates down as the chart's mean loss falls below boundaries.

  Like :func:`optax.piecewise_constant_schedule`, with the mean loss in place of
  the step count. With boundaries :math:`b_i`, their scales :math:`s_i` and the
  centre line :math:`\bar\psi_t` of the chart, the updates of step :math:`t` are
  multiplied by

  .. math::
    \prod_{i:\, \min_{u \le t} \bar\psi_u < b_i} s_i.

  The minimum makes it monotone: once passed, a boundary stays passed, and the
  scale never rises again. While the chart fills its window (Phase I, no upper
  limit yet) and where its mean is not finite, the scale stays as it is.

  It goes inside :func:`isgd` or :func:`paper_isgd`, which hand the reading of
  their chart to the base optimizer. Only the base update is scaled, never the
  steps of a chase. Where a chased step freezes the base optimizer's state, the
  scale is frozen with it: a boundary passed just then counts from the next step
  without a chase, if the mean is still below it.

  Args:
    boundaries_and_scales: maps boundaries, positive mean losses in the units of
      the loss, to scales in (0, 1]. A scale takes effect when the mean is below
      its boundary, not at it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with a
    :class:`ScaleByMeanLossState`. Its `update` needs the keyword argument
    ``chart_reading``, a :class:`ChartReading`, which :func:`isgd` provides.
    The updates keep their dtypes.

  Raises:
    ValueError: from the factory, without boundaries, or on a boundary or scale
      out of range; from `update`, without a chart reading.

  Examples:
    AlexNet's rates in the paper: 0.015 for a mean loss of at least 2, 0.0015
    for one in [1.2, 2), 0.00015 below.

    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> base_optimizer = optax.chain(
    ...     optax.sgd(0.015, momentum=0.9),
    ...     isgd_jax.scale_by_mean_loss({2.0: 0.1, 1.2: 0.1}))
    >>> optimizer = isgd_jax.isgd(
    ...     base_optimizer, isgd_jax.shewhart(window_size=4))
    >>> params = jnp.zeros(3)
    >>> opt_state = optimizer.init(params)
    >>> for loss in (1.9, 1.8, 1.7, 1.6, 1.5):
    ...   updates, opt_state = optimizer.update(
    ...       jnp.ones(3), opt_state, params,
    ...       value=loss, value_fn=lambda p: jnp.sum(p))
    >>> print(f"{optax.tree.get(opt_state, 'scale'):.2f}")
    0.10

  References:
    Wang et al., `Accelerating Deep Neural Network Training with Inconsistent
    Stochastic Gradient Descent <https://arxiv.org/abs/1603.05544>`_, Neural
    Networks 93, 2017. That the rate never rises again, and stays during the
    first window, is this project's reading of it.
  """
  boundaries, cumulative_scales = _checked(boundaries_and_scales)

  def init_fn(params: optax.Params) -> ScaleByMeanLossState:
    del params
    return ScaleByMeanLossState(scale=jnp.ones((), jnp.float32))

  def update_fn(
    updates: optax.Updates,
    state: Any,
    params: optax.Params | None = None,
    *,
    chart_reading: chart_lib.ChartReading | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, ScaleByMeanLossState]:
    del params, extra_args
    if not isinstance(chart_reading, chart_lib.ChartReading):
      raise ValueError(
        'scale_by_mean_loss needs chart_reading, a ChartReading, got '
        f'{chart_reading!r}. Put it inside isgd, which provides it: '
        'isgd(optax.chain(base_optimizer, scale_by_mean_loss(...)), chart).'
      )
    mean = chart_reading.mean
    is_known = jnp.isfinite(mean) & jnp.isfinite(chart_reading.upper_limit)
    is_passed = is_known & (mean < jnp.asarray(boundaries, mean.dtype))
    # A running minimum of the scale is the scale of the running minimum.
    scale = jnp.min(
      jnp.where(is_passed, cumulative_scales, state.scale), initial=state.scale
    )
    return _scaled(updates, scale), ScaleByMeanLossState(scale)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _checked(
  boundaries_and_scales: Mapping[float, float],
) -> tuple[np.ndarray, np.ndarray]:
  """Boundaries, falling, and the product of all scales down to each of them."""
  if (
    not isinstance(boundaries_and_scales, Mapping) or not boundaries_and_scales
  ):
    raise ValueError(
      'boundaries_and_scales must map at least one boundary to a scale, got '
      f'{boundaries_and_scales!r}. For a constant rate leave '
      'scale_by_mean_loss out.'
    )
  for boundary, scale in boundaries_and_scales.items():
    _checks.check_number(
      'A boundary in boundaries_and_scales', boundary, above=0.0
    )
    name = f'The scale of boundary {boundary!r} in boundaries_and_scales'
    _checks.check_number(name, scale, above=0.0)
    if scale > 1:
      raise ValueError(
        f'{name} must be at most 1, got {scale!r}: the rate never rises. Start '
        'from a higher learning rate instead.'
      )
  pairs = np.array(sorted(boundaries_and_scales.items(), reverse=True))
  boundaries, scales = pairs.astype(np.float64).T
  cumulative_scales = np.cumprod(scales).astype(np.float32)
  if cumulative_scales[-1] < np.finfo(np.float32).tiny:
    raise ValueError(
      'The scales in boundaries_and_scales must have a product that float32 '
      f'holds, got {boundaries_and_scales!r}. Use larger scales.'
    )
  return boundaries, cumulative_scales


def _scaled(updates: optax.Updates, scale: jax.Array) -> optax.Updates:
  """`scale * updates`, multiplied in float32 or wider, in their own dtypes."""

  def scaled(update: jax.Array) -> jax.Array:
    with jax.numpy_dtype_promotion('standard'):
      dtype = jnp.promote_types(update.dtype, scale.dtype)
    return (scale.astype(dtype) * update.astype(dtype)).astype(update.dtype)

  return jax.tree.map(scaled, updates)
