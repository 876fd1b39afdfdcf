"""The cumulative sum chart: a shift of known size, found as fast as can be."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax import _checks
from isgd_jax._charts import chart as chart_lib
from isgd_jax._charts import standardised
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart


class CusumState(NamedTuple):
  """State of a CUSUM chart.

  Attributes:
    reference_state: state of the chart that gives mean and sigma.
    high: the upper sum, float scalar >= 0, in sigmas.
    low: the lower sum, float scalar >= 0, in sigmas.
  """

  reference_state: Any
  high: jax.Array
  low: jax.Array


def cusum(
  allowance: float | jax.Array = 0.5,
  decision_interval: float | jax.Array = 5.0,
  *,
  reference: ControlChart,
  clip: float | jax.Array = 8.0,
  reset_when_flagged: bool = False,
) -> ControlChart:
  r"""Two-sided tabular CUSUM chart of the standardised losses.

  The reference chart gives mean and standard deviation of the losses before;
  with :math:`z_t` the loss in these terms, clipped to :math:`\pm c`,

  .. math::
    C^+_t = \max(0, C^+_{t-1} + z_t - k), \qquad
    C^-_t = \max(0, C^-_{t-1} - z_t - k),

  and the process is out of control where a sum exceeds :math:`h`. The statistic
  is the mean plus sigma times the larger sum (:math:`C^-` with a minus). A sum
  needs time to come down: :func:`isgd` chases only a batch whose loss is above
  its target.

  Args:
    allowance: slack k >= 0, in sigmas: half the shift to be found.
    decision_interval: limit h > 0 of the sums, in sigmas.
    reference: gives mean and sigma: a :func:`shewhart` chart, whose own rule
      says what enters its window, or :func:`fixed_limits`.
    clip: largest standardised loss c that is taken at its value, so that one
      monstrous loss is not remembered for ever.
    reset_when_flagged: whether a sum starts again from 0 once it has flagged a
      batch; else it flags until it has come down.

  Returns:
    A :class:`ControlChart`.

  Raises:
    ValueError: on an argument out of range, on a clip at which no sum can grow,
      or on a reference that is no Shewhart chart.

  Examples:
    >>> import jax, jax.numpy as jnp, isgd_jax
    >>> chart = isgd_jax.cusum(0.5, 5.0, reference=isgd_jax.fixed_limits(0, 1))
    >>> losses = jnp.full(30, 1.0)  # One sigma above the known mean.
    >>> _, readings = jax.lax.scan(chart.update, chart.init(), losses)
    >>> print(jnp.argmax(readings.is_above))
    10

  References:
    Montgomery, *Introduction to Statistical Quality Control*, Wiley, section
    9.1; Page, `Continuous Inspection Schemes
    <https://doi.org/10.1093/biomet/41.1-2.100>`_, 1954.
  """
  _checks.check_number('allowance', allowance, minimum=0.0)
  _checks.check_number('decision_interval', decision_interval, above=0.0)
  _checks.check_number('clip', clip, above=0.0)
  if not isinstance(reset_when_flagged, bool):
    raise ValueError(
      f'reset_when_flagged must be True or False, got {reset_when_flagged!r}.'
    )
  standardised.check_reference('cusum', reference)
  is_known = not any(map(_checks.is_traced, (allowance, clip)))
  if is_known and allowance >= clip:
    raise ValueError(
      f'allowance={allowance} is more than losses clipped to {clip} ever add: '
      f'no sum can grow. Take a clip above {allowance}.'
    )

  def init_fn() -> CusumState:
    return CusumState(reference.init(), jnp.zeros(()), jnp.zeros(()))

  def update_fn(
    state: CusumState, loss: jax.typing.ArrayLike
  ) -> tuple[CusumState, ChartReading]:
    reference_state, given = reference.update(state.reference_state, loss)
    given = chart_lib.as_arrays(given, None, loss)
    is_ready, is_new, z = standardised.standardise(given, loss, clip)
    high = jnp.maximum(state.high + z - allowance, 0.0)
    low = jnp.maximum(state.low - z - allowance, 0.0)
    high = jnp.where(is_new, high, state.high)
    low = jnp.where(is_new, low, state.low)
    limit = jnp.asarray(decision_interval).astype(given.mean.dtype)
    reading = standardised.read_standardised(
      given,
      is_new,
      jnp.where(high >= low, high, -low),
      limit,
      limit,
      limit + allowance - state.high,
    )
    reading = reading._replace(
      is_above=is_new & (high > limit), is_below=is_new & (low > limit)
    )
    # In Phase I, also one entered anew, the sums start again.
    starts_high = ~is_ready | (reset_when_flagged & reading.is_above)
    starts_low = ~is_ready | (reset_when_flagged & reading.is_below)
    return (
      CusumState(
        reference_state,
        jnp.where(starts_high, 0.0, high),
        jnp.where(starts_low, 0.0, low),
      ),
      reading,
    )

  def restart_fn(state: CusumState, is_due: jax.Array) -> CusumState:
    return CusumState(
      chart_lib.restart_if(reference, state.reference_state, is_due),
      jnp.where(is_due, 0.0, state.high),
      jnp.where(is_due, 0.0, state.low),
    )

  return ControlChart(
    init_fn, update_fn, 'cusum', restart_fn, reference.statistic
  )
