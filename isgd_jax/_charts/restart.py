"""Back to Phase I after a level shift that stays."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax import _checks
from isgd_jax._charts import chart as chart_lib
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart


class RestartState(NamedTuple):
  """State of a chart with restarts.

  Attributes:
    chart_state: state of the chart.
    num_flagged_in_a_row: int32 scalar, finite losses out of control since the
      last one in control.
  """

  chart_state: Any
  num_flagged_in_a_row: jax.Array


def with_restart(chart: ControlChart, restart_after: int) -> ControlChart:
  """Has a chart start again after so many out-of-control losses in a row.

  The loss that makes the row full is still flagged; the next one is the first
  of a new Phase I. So a permanent change is acted on at first and accepted in
  the end: of a shift so large that every loss after it is out of control,
  exactly `restart_after` are flagged, and then, while Phase I lasts, none.

  Args:
    chart: any chart; one without Phase I (:func:`fixed_limits`) is unmoved.
    restart_after: losses in a row m >= 1, on either side, finite ones counted.
      With run rules and EWMA and CUSUM charts, whose flags come in rows, take
      it larger than those rows.

  Returns:
    A :class:`ControlChart` of the same kind.

  Raises:
    ValueError: if `restart_after` is not an integer of at least 1.

  Examples:
    >>> import jax, jax.numpy as jnp, isgd_jax
    >>> chart = isgd_jax.with_restart(
    ...     isgd_jax.shewhart(10, flagged_losses='leave_out'), restart_after=3)
    >>> losses = jax.random.normal(jax.random.key(0), (100,))
    >>> losses = losses.at[50:].add(1000.0)
    >>> _, readings = jax.lax.scan(chart.update, chart.init(), losses)
    >>> print(50 + jnp.flatnonzero(readings.is_above[50:60]))
    [50 51 52]
  """
  restart_after = _checks.check_integer(
    'restart_after', restart_after, minimum=1
  )
  if not isinstance(chart, ControlChart):
    raise ValueError(f'chart must be a ControlChart, got {chart!r}.')
  chart_lib.check_single('with_restart', chart)

  def init_fn() -> RestartState:
    return RestartState(chart.init(), jnp.zeros((), jnp.int32))

  def update_fn(
    state: RestartState, loss: jax.typing.ArrayLike
  ) -> tuple[RestartState, ChartReading]:
    chart_state, reading = chart.update(state.chart_state, loss)
    is_out = reading.is_above | reading.is_below
    row = jnp.where(is_out, state.num_flagged_in_a_row + 1, 0)
    row = jnp.where(jnp.isfinite(loss), row, state.num_flagged_in_a_row)
    is_due = row >= restart_after
    return (
      RestartState(
        chart_lib.restart_if(chart, chart_state, is_due),
        jnp.where(is_due, 0, row).astype(jnp.int32),
      ),
      reading,
    )

  def restart_fn(state: RestartState, is_due: jax.Array) -> RestartState:
    return RestartState(
      chart_lib.restart_if(chart, state.chart_state, is_due),
      jnp.where(is_due, jnp.int32(0), state.num_flagged_in_a_row),
    )

  return ControlChart(
    init_fn, update_fn, chart.kind, restart_fn, chart.statistic
  )
