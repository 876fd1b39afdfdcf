"""The exponentially weighted moving average chart: small, lasting shifts."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax import _checks
from isgd_jax._charts import chart as chart_lib
from isgd_jax._charts import standardised
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart


class EwmaState(NamedTuple):
  """State of an EWMA chart.

  Attributes:
    reference_state: state of the chart that gives mean and sigma.
    average: the average of the standardised losses, float scalar, in sigmas.
    remainder: (1 - smoothing)^(2 t) after t losses in Phase II, float scalar:
      what is still missing of the average's full variance.
  """

  reference_state: Any
  average: jax.Array
  remainder: jax.Array


def ewma(
  smoothing: float | jax.Array = 0.3,
  limit_width: float | jax.Array = 4.0,
  *,
  reference: ControlChart,
  clip: float | jax.Array = 8.0,
) -> ControlChart:
  r"""EWMA chart of the standardised losses, with exact limits.

  The reference chart gives mean :math:`\mu` and standard deviation
  :math:`\sigma` of the losses before; with :math:`z_t` the loss in these terms,
  clipped to :math:`\pm c`,

  .. math::
    w_t = (1 - \lambda) w_{t-1} + \lambda z_t, \quad w_0 = 0, \qquad
    |w_t| > L \sqrt{\tfrac{\lambda}{2 - \lambda}
    \left(1 - (1 - \lambda)^{2t}\right)}

  is out of control, t being counted from the end of the reference's Phase I.
  Small smoothing finds small shifts that last, and lets a lone odd batch pass.
  The statistic is :math:`\mu + \sigma w_t`. It stays beyond its limit for a few
  batches after the loss has come back: :func:`isgd` chases only a batch whose
  loss is above its target.

  Args:
    smoothing: weight :math:`\lambda` of the newest loss, in (0, 1].
    limit_width: width L > 0 of the limits, in standard deviations of
      :math:`w_t`.
    reference: gives mean and sigma: a :func:`shewhart` chart, whose own rule
      says what enters its window, or :func:`fixed_limits`.
    clip: largest standardised loss c that is taken at its value, so that one
      monstrous loss is not remembered for ever.

  Returns:
    A :class:`ControlChart`.

  Raises:
    ValueError: on an argument out of range, on limits that no clipped loss can
      reach, or on a reference that is no Shewhart chart.

  Examples:
    >>> import jax, jax.numpy as jnp, isgd_jax
    >>> chart = isgd_jax.ewma(0.1, 2.7, reference=isgd_jax.fixed_limits(0, 1))
    >>> losses = jnp.full(30, 1.0)  # One sigma above the known mean.
    >>> _, readings = jax.lax.scan(chart.update, chart.init(), losses)
    >>> print(jnp.argmax(readings.is_above))
    7

  References:
    Montgomery, *Introduction to Statistical Quality Control*, Wiley, section
    9.2; Lucas, Saccucci, `Exponentially Weighted Moving Average Control Schemes
    <https://doi.org/10.1080/00401706.1990.10484583>`_, 1990 (run lengths).
  """
  _checks.check_number('smoothing', smoothing, above=0.0)
  _checks.check_at_most('smoothing', smoothing, 1.0)
  _checks.check_number('limit_width', limit_width, above=0.0)
  _checks.check_number('clip', clip, above=0.0)
  standardised.check_reference('ewma', reference)
  if not any(map(_checks.is_traced, (smoothing, limit_width, clip))):
    limit = float(limit_width * (smoothing / (2 - smoothing)) ** 0.5)
    if limit >= clip:
      raise ValueError(
        f'limit_width={limit_width} puts the limit at {limit:.3g} sigmas, '
        f'which losses clipped to {clip} never pass. Take a clip above '
        f'{limit:.3g}.'
      )

  def init_fn() -> EwmaState:
    return EwmaState(reference.init(), jnp.zeros(()), jnp.ones(()))

  def update_fn(
    state: EwmaState, loss: jax.typing.ArrayLike
  ) -> tuple[EwmaState, ChartReading]:
    reference_state, given = reference.update(state.reference_state, loss)
    given = chart_lib.as_arrays(given, None, loss)
    is_ready, is_new, z = standardised.standardise(given, loss, clip)
    average = jnp.where(
      is_new, (1 - smoothing) * state.average + smoothing * z, state.average
    )
    remainder = jnp.where(
      is_new, jnp.square(1 - smoothing) * state.remainder, state.remainder
    )
    variance = smoothing / (2 - smoothing) * (1 - remainder)
    limit = limit_width * jnp.sqrt(variance)
    reading = standardised.read_standardised(
      given,
      is_new,
      average,
      limit,
      limit,
      (limit - (1 - smoothing) * state.average) / smoothing,
    )
    # In Phase I, also one entered anew, the average starts again.
    return (
      EwmaState(
        reference_state,
        jnp.where(is_ready, average, 0.0),
        jnp.where(is_ready, remainder, 1.0),
      ),
      reading,
    )

  def restart_fn(state: EwmaState, is_due: jax.Array) -> EwmaState:
    return EwmaState(
      chart_lib.restart_if(reference, state.reference_state, is_due),
      jnp.where(is_due, 0.0, state.average),
      jnp.where(is_due, 1.0, state.remainder),
    )

  return ControlChart(
    init_fn, update_fn, 'ewma', restart_fn, reference.statistic
  )
