"""Charts of other statistics than the loss, and of several at once."""

from __future__ import annotations

from collections.abc import Callable
import functools
import operator
from typing import Any

import jax

from isgd_jax._charts import chart as chart_lib
from isgd_jax._charts import statistics
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart


def chart_of(statistic: str, chart: ControlChart) -> ControlChart:
  """A chart that judges another scalar of the step than the loss.

  Args:
    statistic: what it judges:

      * ``'loss'``: `value`, the loss of the batch, as every chart does by
        itself.
      * ``'gradient_norm'``: global Euclidean norm of the gradient, accumulated
        in float32 or wider: of `grad` where `update` is given it, else of the
        `updates` that come in. Inside `optax.partition` and `optax.masked` it
        is the norm of that group. Under an axis name gradients must be averaged
        over the devices already; under plain `jax.jit` they may be sharded.
      * ``'update_norm'``: likewise of the `updates` that come in, whatever they
        are. After a base optimizer in :func:`optax.chain` these are what it is
        about to do to the parameters. There is no other place for it: before
        its update a base optimizer has no update to judge.
      * any other name: the keyword argument of that name of `update`, a real
        scalar, passed on to the base optimizer too. Under an axis name it is
        averaged over the devices as the loss is.
    chart: a chart of a single statistic.

  Returns:
    A :class:`ControlChart` of the same kind and state.

  Raises:
    ValueError: on a name that cannot be, or a chart joined from several.

  Examples:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> chart = isgd_jax.chart_of('gradient_norm', isgd_jax.shewhart(3))
    >>> optimizer = optax.chain(isgd_jax.watch(chart), optax.sgd(0.1))
    >>> params = jnp.zeros(2)
    >>> opt_state = optimizer.init(params)
    >>> for size in (3.0, 3.1, 2.9, 30.0):
    ...   _, opt_state = optimizer.update(
    ...       jnp.array([0.6, 0.8]) * size, opt_state, params)
    >>> info = isgd_jax.get_info(opt_state)
    >>> print(f'{info.statistic:.1f} {info.is_undertrained}')
    30.0 True
  """
  statistics.check_name(statistic)
  _check_is_chart(chart)
  chart_lib.check_single('chart_of', chart)
  return chart._replace(statistic=statistic)


def any_of(*charts: ControlChart) -> ControlChart:
  """Several charts as one, which flags what any of them does.

  Every chart judges and takes in its own statistic, on its own side of this:
  whether others flag a batch is nothing to it. The reading has theirs in
  `parts`; what it says itself of mean, sigma and limits is that of the first
  chart of the loss, or where there is none of the first chart.

  Args:
    *charts: two or more, of one statistic (:func:`chart_of`) or joined.

  Returns:
    A :class:`ControlChart`, whose `update` takes a tuple of scalars.
    :func:`get_parts` reads its parts from a state.

  Raises:
    ValueError: on fewer than two charts, or something else than charts.

  Examples:
    >>> import isgd_jax
    >>> chart = isgd_jax.any_of(
    ...     isgd_jax.fixed_limits(1.0, 0.1),
    ...     isgd_jax.chart_of('gradient_norm', isgd_jax.fixed_limits(5.0, 1.0)))
    >>> _, reading = chart.update(chart.init(), (1.1, 9.0))
    >>> print(reading.is_above, [bool(p.is_above) for p in reading.parts])
    True [False, True]
  """
  return _joined('any_of', charts, operator.or_)


def all_of(*charts: ControlChart) -> ControlChart:
  """Several charts as one, which flags only what all of them do.

  As :func:`any_of` otherwise.

  Args:
    *charts: two or more, of one statistic (:func:`chart_of`) or joined.

  Returns:
    A :class:`ControlChart`, whose `update` takes a tuple of scalars.

  Raises:
    ValueError: on fewer than two charts, or something else than charts.

  Examples:
    >>> import isgd_jax
    >>> chart = isgd_jax.all_of(
    ...     isgd_jax.fixed_limits(1.0, 0.1),
    ...     isgd_jax.chart_of('gradient_norm', isgd_jax.fixed_limits(5.0, 1.0)))
    >>> _, reading = chart.update(chart.init(), (1.1, 9.0))
    >>> print(reading.is_above)
    False
  """
  return _joined('all_of', charts, operator.and_)


def _joined(
  kind: str, charts: tuple[ControlChart, ...], join: Callable[[Any, Any], Any]
) -> ControlChart:
  """The charts as one, whose flags are joined by `join`."""
  if len(charts) < 2:
    raise ValueError(
      f'{kind} joins two charts or more, got {len(charts)}. One chart needs no '
      'joining.'
    )
  for chart in charts:
    _check_is_chart(chart)
  names = [name for chart in charts for name in statistics.names_of(chart)]
  primary = statistics.primary_of(names)

  def init_fn() -> tuple[Any, ...]:
    return tuple(chart.init() for chart in charts)

  def update_fn(
    state: tuple[Any, ...], values: tuple[Any, ...]
  ) -> tuple[tuple[Any, ...], ChartReading]:
    states, parts = [], []
    for chart, old, value in zip(charts, state, values, strict=True):
      new, part = chart.update(old, value)
      if part.parts is None:
        part = chart_lib.as_arrays(part, None, value)
      states.append(new)
      parts.append(part)
    leaves = [leaf for part in parts for leaf in statistics.leaf_readings(part)]
    return tuple(states), leaves[primary]._replace(
      is_above=functools.reduce(join, [part.is_above for part in parts]),
      is_below=functools.reduce(join, [part.is_below for part in parts]),
      parts=tuple(parts),
    )

  def restart_fn(state: tuple[Any, ...], is_due: jax.Array) -> tuple[Any, ...]:
    return tuple(
      chart_lib.restart_if(chart, old, is_due)
      for chart, old in zip(charts, state, strict=True)
    )

  return ControlChart(
    init_fn,
    update_fn,
    kind,
    restart_fn,
    tuple(chart.statistic for chart in charts),
  )


def _check_is_chart(chart: Any) -> None:
  if not isinstance(chart, ControlChart):
    raise ValueError(
      f'a ControlChart is needed, such as shewhart(128), got {chart!r}.'
    )
