"""A chart whose flags come from outside: an oracle's, a drift detector's."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import isgd_jax


class GivenFlagsState(NamedTuple):
  """State of `given_flags`.

  Attributes:
    chart_state: of the chart that only watches.
    is_flagged: whether the next batch is to be flagged, boolean scalar.
  """

  chart_state: Any
  is_flagged: jax.Array


def given_flags(chart: isgd_jax.ControlChart) -> isgd_jax.ControlChart:
  """The chart, but it flags what `set_flag` says and nothing else.

  Mean, sigma and limits stay those of the chart, so that a chase has a target.

  Args:
    chart: any.

  Returns:
    A chart of the same kind.

  Example:
    >>> chart = given_flags(isgd_jax.shewhart(window_size=20))
    >>> _, reading = chart.update(set_flag(chart.init(), True), 1.0)
    >>> bool(reading.is_above)
    True
  """

  def init_fn() -> GivenFlagsState:
    return GivenFlagsState(chart.init(), jnp.zeros((), bool))

  def update_fn(
    state: GivenFlagsState, loss: jax.typing.ArrayLike
  ) -> tuple[GivenFlagsState, isgd_jax.ChartReading]:
    chart_state, reading = chart.update(state.chart_state, loss)
    # The shape that `loss` has, where it is mapped over.
    is_above = jnp.broadcast_to(state.is_flagged, jnp.shape(reading.is_above))
    reading = reading._replace(
      is_above=is_above, is_below=jnp.zeros_like(reading.is_below)
    )
    return state._replace(chart_state=chart_state), reading

  return isgd_jax.ControlChart(init_fn, update_fn, chart.kind)


def set_flag(state: Any, is_flagged: jax.typing.ArrayLike) -> Any:
  """Says whether the next batch is flagged.

  Args:
    state: of an optimizer or a chart; every `GivenFlagsState` in it is told.
    is_flagged: boolean scalar, may be traced.

  Returns:
    The state.
  """

  def is_ours(node: Any) -> bool:
    return isinstance(node, GivenFlagsState)

  def told(node: Any) -> Any:
    if not is_ours(node):
      return node
    return node._replace(is_flagged=jnp.asarray(is_flagged, bool))

  return jax.tree.map(told, state, is_leaf=is_ours)
