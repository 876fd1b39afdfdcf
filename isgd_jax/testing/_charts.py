"""The rules that every control chart keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isgd_jax._charts import statistics
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart
from isgd_jax.testing import _trees

_BAD = (np.nan, np.inf, -np.inf)
# jit may fuse what op by op is rounded in between.
_RTOL = 1e-4
_SAME_TYPES = 'the state keeps structure, shapes and dtypes'


def check_control_chart(
  chart: ControlChart,
  *,
  losses: Sequence[float] | None = None,
  counts_all: bool = False,
) -> None:
  """Puts a control chart through the rules that every chart keeps.

  * its state is a pytree of arrays, whose structure, shapes and dtypes never
    change, whatever the dtype of the losses: nothing is compiled twice;
  * its readings are :class:`ChartReading` of real scalars, of at least float32;
  * nothing is flagged on a side whose limit is infinite (Phase I), and a chart
    of kind `'shewhart'` flags just what lies beyond its limits;
  * a loss that is not finite is not flagged and changes nothing, bit for bit;
  * a huge finite loss makes no limit NaN;
  * it is a pure function: called twice it says the same, under `jax.jit`, in
    `jax.lax.scan` and under `jax.vmap` what it says op by op, and from a copy
    of its state it goes on as from the state itself;
  * `restart`, if it has one, does nothing where it is not due, and else takes
    it back to where it began.

  Args:
    chart: the chart, of one statistic or joined from several.
    losses: what it judges in the trials, at least 20 finite numbers; by default
      40 normal ones of mean 3, with spikes on either side.
    counts_all: whether a loss that is not finite may change the state after
      all, as in a chart with a position in a cycle (:func:`difference_chart`).

  Raises:
    AssertionError: on the first rule that it breaks; the message says which.
    ValueError: on something else than a chart, or too few losses.

  Examples:
    >>> import isgd_jax, isgd_jax.testing
    >>> isgd_jax.testing.check_control_chart(isgd_jax.shewhart(10))
  """
  if not isinstance(chart, ControlChart):
    raise ValueError(f'chart must be a ControlChart, got {chart!r}.')
  series = np.asarray(
    _default_losses() if losses is None else losses, np.float32
  )
  if series.ndim != 1 or len(series) < 20 or not np.isfinite(series).all():
    raise ValueError('losses must be at least 20 finite numbers.')
  _trees.check_arrays(chart.init(), 'the state of init is of arrays')
  states, readings = _run(chart, series)
  _check_readings(chart, series, readings)
  _check_dtypes(chart, states)
  _check_non_finite(chart, states, counts_all)
  _check_huge(chart, states[-1])
  _check_pure(chart, series, states, readings)
  _check_restart(chart, series, states, readings)


def _default_losses() -> np.ndarray:
  losses = np.random.default_rng(0).normal(3.0, 0.2, 40)
  losses[[22, 31, 32]] = 9.0, 7.0, 8.0
  losses[[27, 37]] = -4.0, 0.5
  return losses


def _of(chart: ControlChart, loss: Any) -> Any:
  """What the chart's `update` takes where every statistic is `loss`."""
  return jax.tree.map(lambda _: loss, chart.statistic)


def _update(chart: ControlChart, state: Any, loss: Any) -> Any:
  """`update`, with the leaves of the reading as arrays."""
  result = chart.update(state, _of(chart, loss))
  _trees.check(
    isinstance(result, tuple) and len(result) == 2,
    'update returns a pair of state and reading',
  )
  state, reading = result
  _trees.check(
    isinstance(reading, ChartReading), 'update returns a ChartReading second'
  )
  return state, jax.tree.map(jnp.asarray, reading)


def _run(
  chart: ControlChart, losses: np.ndarray
) -> tuple[list[Any], list[Any]]:
  """States, the first one among them, and readings; op by op."""
  states, readings = [chart.init()], []
  for loss in losses:
    state, reading = _update(chart, states[-1], jnp.float32(loss))
    # At once: a state that grows would soon fill the memory.
    _trees.check_alike(states[-1], state, _SAME_TYPES)
    states.append(state)
    readings.append(reading)
  return states, readings


def _check_readings(
  chart: ControlChart, losses: np.ndarray, readings: list[ChartReading]
) -> None:
  for loss, whole in zip(losses, readings, strict=True):
    for reading in statistics.leaf_readings(whole):
      for name, field in reading._replace(parts=None)._asdict().items():
        if field is None:
          continue
        is_flag = name in ('is_above', 'is_below')
        kind = jnp.integer if name == 'violated_rules' else jnp.floating
        _trees.check(
          field.shape == ()
          and (
            field.dtype == bool
            if is_flag
            else jnp.issubdtype(field.dtype, kind)
          ),
          f'{name} of a reading is a scalar, and a boolean, a float or an '
          f'integer as ChartReading says, got {field!r}',
        )
        _trees.check(
          kind is jnp.integer or is_flag or jnp.finfo(field.dtype).bits >= 32,
          f'{name} of a reading is at least float32, got {field.dtype}',
        )
      for side, limit in (('above', 'upper'), ('below', 'lower')):
        is_flagged = bool(getattr(reading, f'is_{side}'))
        bound = float(getattr(reading, f'{limit}_limit'))
        _trees.check(
          not (is_flagged and np.isinf(bound)),
          'nothing is flagged on a side whose limit is infinite (Phase I), got '
          f'is_{side} of {loss} at the {limit}_limit {bound}',
        )
        beyond = loss > bound if side == 'above' else loss < bound
        _trees.check(
          chart.kind != 'shewhart' or is_flagged == bool(beyond),
          "a chart of kind 'shewhart' flags what lies beyond its limits, got "
          f'is_{side}={is_flagged} of {loss} at the {limit}_limit {bound}',
        )


def _check_dtypes(chart: ControlChart, states: list[Any]) -> None:
  for after in states:
    _trees.check_arrays(after, 'the state of update is of arrays')
  for loss in (3.0, 3, *(jnp.asarray(3, d) for d in ('bfloat16', 'float16'))):
    for state in (states[0], states[-1]):
      after, _ = _update(chart, state, loss)
      what = getattr(loss, 'dtype', type(loss).__name__)
      _trees.check_alike(
        state, after, f'{_SAME_TYPES}, with a loss of type {what}'
      )
      _trees.check_arrays(after, f'the state is of arrays, after a {what}')


def _check_non_finite(
  chart: ControlChart, states: list[Any], counts_all: bool
) -> None:
  for state in (states[0], states[1], states[-1]):
    for bad in _BAD:
      after, reading = _update(chart, state, jnp.float32(bad))
      if not counts_all:
        _trees.check_equal(
          state, after, f'a loss of {bad} changes nothing in the state'
        )
      for leaf in (reading, *statistics.leaf_readings(reading)):
        _trees.check(
          not leaf.is_above and not leaf.is_below,
          f'a loss of {bad} is not flagged',
        )


def _check_huge(chart: ControlChart, state: Any) -> None:
  huge = jnp.float32(jnp.finfo(jnp.float32).max)
  for loss in (huge, -huge, jnp.float32(3.0), jnp.float32(3.0)):
    state, whole = _update(chart, state, loss)
    for reading in statistics.leaf_readings(whole):
      for name in ('mean', 'sigma', 'lower_limit', 'upper_limit'):
        _trees.check(
          not np.isnan(getattr(reading, name)),
          f'no huge finite loss makes the {name} NaN',
        )


def _check_pure(
  chart: ControlChart,
  losses: np.ndarray,
  states: list[Any],
  readings: list[Any],
) -> None:
  again = _run(chart, losses)
  _trees.check_equal((states, readings), again, 'called twice it says the same')
  middle = len(losses) // 2
  state = _trees.copied(states[middle])
  for loss, expected in zip(losses[middle:], readings[middle:], strict=True):
    state, reading = _update(chart, state, jnp.float32(loss))
    _trees.check_equal(
      expected, reading, 'from a copy of its state it goes on as before'
    )
  traces = []

  @jax.jit
  def step(state: Any, loss: jax.Array) -> Any:
    traces.append(None)
    return _update(chart, state, loss)

  state = chart.init()
  for loss, expected in zip(losses, readings, strict=True):
    state, reading = step(state, jnp.float32(loss))
    _trees.check_equal(
      expected, reading, 'under jax.jit it says the same', rtol=_RTOL
    )
  _trees.check_compiled_once(traces)

  def scan(losses: jax.Array) -> Any:
    return jax.lax.scan(
      lambda state, loss: _update(chart, state, loss), chart.init(), losses
    )[1]

  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *readings)
  _trees.check_equal(
    stacked,
    jax.jit(scan)(losses),
    'in jax.lax.scan it says the same',
    rtol=_RTOL,
  )
  other = losses[::-1].copy()
  lanes = jax.jit(jax.vmap(scan))(jnp.stack([losses, other]))
  _trees.check_equal(
    jax.tree.map(lambda *xs: jnp.stack(xs), stacked, jax.jit(scan)(other)),
    lanes,
    'under jax.vmap it says the same',
    rtol=_RTOL,
  )


def _check_restart(
  chart: ControlChart,
  losses: np.ndarray,
  states: list[Any],
  readings: list[Any],
) -> None:
  if chart.restart is None:
    return
  last = states[-1]
  _trees.check_equal(
    last,
    chart.restart(last, jnp.bool(False)),
    'restart does nothing where it is not due',
  )
  state = chart.restart(last, jnp.bool(True))
  _trees.check_alike(last, state, 'restart keeps shapes and dtypes')
  for loss, expected in zip(losses, readings, strict=True):
    state, reading = _update(chart, state, jnp.float32(loss))
    _trees.check_equal(
      (expected.upper_limit, expected.is_above, expected.is_below),
      (reading.upper_limit, reading.is_above, reading.is_below),
      'after restart it is as it began',
      rtol=_RTOL,
    )
