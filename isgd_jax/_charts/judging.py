"""Judging a batch: what every action of a chart does with the loss first."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax import _checks
from isgd_jax._charts import chart as chart_lib
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart
from isgd_jax._devices import collectives


class Judgement(NamedTuple):
  """What a chart says of a batch.

  Attributes:
    chart_state: state of the chart with the loss in it.
    value: loss of the whole batch, as it was given or averaged.
    loss: the same in the dtype of the chart.
    reading: what the chart read.
  """

  chart_state: Any
  value: jax.typing.ArrayLike
  loss: jax.Array
  reading: ChartReading


def judge(
  transformation: str,
  control_chart: ControlChart,
  state: Any,
  state_type: type,
  value: jax.typing.ArrayLike | None,
  *,
  call: str,
  axis_name: str | tuple[str, ...] | None = None,
  shard_weight: jax.typing.ArrayLike | None = None,
) -> Judgement:
  """Checks state and loss, and has the chart judge the loss.

  Args:
    transformation: who asks, for messages.
    control_chart: the chart.
    state: of the transformation, with a `chart_state`.
    state_type: what it must be.
    value: loss of the batch.
    call: of `update`, for messages.
    axis_name: of the devices that the loss is averaged over.
    shard_weight: this device's share of the batch.

  Returns:
    A :class:`Judgement`, alike on every device.

  Raises:
    ValueError: naming what is missing or of the wrong kind.
  """
  given: Any = _checks.given(
    'value',
    value,
    'Pass the loss of the batch.',
    transformation=transformation,
    call=call,
  )
  _checks.check_real_scalar(
    'value', given, 'Pass the mean loss of the batch, without its aux.'
  )
  if not isinstance(state, state_type):
    name = state_type.__name__
    article = 'an' if name[0] in 'AEIO' else 'a'
    raise ValueError(
      f'opt_state must be {article} {name}, made by init of this '
      f'{transformation}, got a {type(state).__name__}.'
    )
  given = collectives.averaged_value(
    transformation, given, axis_name, shard_weight
  )
  chart_lib.check_state(control_chart, state.chart_state)
  # A chart has no derivative, and should stand in the way of none.
  fixed = jax.lax.stop_gradient(given)
  chart_state, read = control_chart.update(state.chart_state, fixed)
  reading = chart_lib.as_arrays(read, None, given)
  loss = jnp.asarray(given).astype(reading.mean.dtype)
  return Judgement(chart_state, given, loss, reading)
