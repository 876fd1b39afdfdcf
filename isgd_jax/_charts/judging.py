"""Judging a batch: what every action of a chart does first."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax import _checks
from isgd_jax._charts import chart as chart_lib
from isgd_jax._charts import statistics
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart
from isgd_jax._devices import collectives


class Judgement(NamedTuple):
  """What a chart says of a batch.

  Attributes:
    chart_state: state of the chart with the batch in it.
    value: loss of the whole batch, as it was given or averaged; None where the
      chart does not judge it and it was not given.
    loss: the same in the dtype of the chart; the statistic where there is none.
    reading: what the chart read.
    values: what it judges, a tuple of scalars.
    is_finite: whether all of it is finite, boolean.
  """

  chart_state: Any
  value: Any
  loss: jax.Array
  reading: ChartReading
  values: tuple[jax.Array, ...]
  is_finite: jax.Array


class Given(NamedTuple):
  """What `update` was given that a chart may judge."""

  value: Any
  updates: Any = None
  grad: Any = None
  extra_args: dict[str, Any] | None = None
  shard_weight: Any = None


def judge(
  transformation: str,
  control_chart: ControlChart,
  state: Any,
  state_type: type,
  given: Given,
  *,
  call: str,
  axis_name: str | tuple[str, ...] | None = None,
  any_device: bool = False,
) -> Judgement:
  """Checks state and statistics, and has the chart judge them.

  Args:
    transformation: who asks, for messages.
    control_chart: the chart.
    state: of the transformation, with a `chart_state`.
    state_type: what it must be.
    given: what `update` was given.
    call: of `update`, for messages.
    axis_name: of the devices that losses are averaged over.
    any_device: whether a batch is flagged upwards also where the chart so finds
      the share of a single device.

  Returns:
    A :class:`Judgement`, alike on every device.

  Raises:
    ValueError: naming what is missing or of the wrong kind.
  """
  names = list(dict.fromkeys(statistics.names_of(control_chart)))
  value: Any = given.value
  if statistics.LOSS in names or value is not None:
    value = _checks.given(
      'value',
      value,
      'Pass the loss of the batch.',
      transformation=transformation,
      call=call,
    )
    _checks.check_real_scalar(
      'value', value, 'Pass the mean loss of the batch, without its aux.'
    )
  if not isinstance(state, state_type):
    name = state_type.__name__
    article = 'an' if name[0] in 'AEIO' else 'a'
    raise ValueError(
      f'opt_state must be {article} {name}, made by init of this '
      f'{transformation}, got a {type(state).__name__}.'
    )
  chart_lib.check_state(control_chart, state.chart_state)
  # Each statistic once, however many charts ask for it.
  own = {
    name: value
    if name == statistics.LOSS
    else statistics.statistic_of(
      transformation,
      name,
      updates=given.updates,
      grad=given.grad,
      extra_args=given.extra_args or {},
    )
    for name in names
  }
  if value is not None:
    own[statistics.LOSS] = value
  is_above_own = None
  if any_device:
    is_above_own = _is_above_on_this_device(
      control_chart, state.chart_state, own, axis_name
    )
  averaged, is_above_anywhere = dict(own), None
  for name in own:
    if name in statistics.NORMS:
      continue
    averaged[name], anywhere = collectives.averaged_value(
      transformation, own[name], axis_name, given.shard_weight, is_above_own
    )
    if is_above_own is not None:
      # The flag has travelled with the first of them.
      is_above_own, is_above_anywhere = None, anywhere
  # A chart has no derivative, and should stand in the way of none.
  fixed = _arranged(control_chart, jax.lax.stop_gradient(averaged))
  chart_state, read = control_chart.update(state.chart_state, fixed)
  primary: Any = averaged[names[statistics.primary_of(names)]]
  reading = chart_lib.as_arrays(read, None, primary)
  if is_above_anywhere is not None:
    reading = reading._replace(is_above=reading.is_above | is_above_anywhere)
  value = averaged.get(statistics.LOSS)
  loss = jnp.asarray(primary if value is None else value)
  return Judgement(
    chart_state,
    value,
    loss.astype(reading.mean.dtype),
    reading,
    tuple(jnp.asarray(x) for x in jax.tree.leaves(fixed)),
    statistics.is_finite(fixed),
  )


def _arranged(control_chart: ControlChart, values: dict[str, Any]) -> Any:
  """The statistics as the chart's `update` takes them."""
  return jax.tree.map(lambda name: values[name], control_chart.statistic)


def _is_above_on_this_device(
  control_chart: ControlChart,
  chart_state: Any,
  own: dict[str, Any],
  axis_name: str | tuple[str, ...] | None,
) -> jax.Array:
  """Whether the chart would flag a batch like this device's share upwards."""
  assert axis_name is not None
  state, values = jax.tree.map(
    lambda x: collectives.as_varying(jnp.asarray(x), axis_name),
    jax.lax.stop_gradient((chart_state, _arranged(control_chart, own))),
  )
  _, reading = control_chart.update(state, values)
  return jnp.asarray(reading.is_above).astype(bool)
