"""The difference chart: each batch of a fixed cycle against its own past."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax import _checks
from isgd_jax._charts import shewhart as shewhart_lib
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart


class DifferenceState(NamedTuple):
  """State of a difference chart.

  Attributes:
    baselines: float[cycle_length], of each batch the average of its losses in
      earlier cycles; `+inf` where it has had none.
    baseline: float scalar, that of the batch that comes next. It is read once
      the one before it is written: read before a write of the same step, it
      would make XLA copy all of them.
    position: int32 scalar, the batch that comes next.
    num_seen: int32 scalar, losses since Phase I began, at most a cycle of them:
      before that many the baselines are not in force.
    chart_state: state of the Shewhart chart of the differences.
  """

  baselines: jax.Array
  baseline: jax.Array
  position: jax.Array
  num_seen: jax.Array
  chart_state: Any


def difference_chart(
  cycle_length: int,
  sigma_multiplier: jax.typing.ArrayLike = 3.0,
  *,
  smoothing: jax.typing.ArrayLike = 0.5,
  window_size: int | None = None,
  sigma_estimator: str = 'std',
  flagged_losses: str = 'keep',
) -> ControlChart:
  r"""Shewhart chart of what each batch of a cycle has changed.

  In a fixed cycle of :math:`n` batches, step :math:`t` sees batch
  :math:`j = t \bmod n`. Its loss is judged against the batch's own baseline
  :math:`b_j`, an average over earlier cycles,

  .. math::
    d_t = \psi_t - b_j, \qquad
    b_j \leftarrow b_j + \lambda (\psi_t - b_j),

  by a Shewhart chart of the last differences. A batch that is merely harder
  than the others differs from them, but not from itself, and is not flagged for
  ever; one that has fallen behind while the others went on is. The first cycle
  sets the baselines, the next fills the window: Phase I takes two cycles.

  The reading is in terms of the loss: centre line and limits are those of the
  differences plus the batch's baseline.

  Args:
    cycle_length: batches in a cycle, n >= 1. `update` must be called once a
      batch, in order: the chart counts.
    sigma_multiplier: width of the limits, in standard deviations of the
      differences.
    smoothing: weight :math:`\lambda` of a batch's newest loss in its baseline,
      in (0, 1]; with 1 the baseline is the loss of one cycle ago.
    window_size: differences in the window, by default one cycle, at least 2.
    sigma_estimator: as in :func:`shewhart`.
    flagged_losses: as in :func:`shewhart`, of differences.

  Returns:
    A :class:`ControlChart`.

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> import jax, jax.numpy as jnp, isgd_jax
    >>> chart = isgd_jax.difference_chart(4, window_size=12)
    >>> noise = 0.01 * jax.random.normal(jax.random.key(0), (10, 4))
    >>> losses = jnp.array([1.0, 1.0, 5.0, 1.0]) + noise  # One is harder.
    >>> losses = losses.at[8, 1].add(1.0).reshape(-1)  # One falls behind.
    >>> _, readings = jax.lax.scan(chart.update, chart.init(), losses)
    >>> print(jnp.flatnonzero(readings.is_above))
    [33]

  References:
    Montgomery, *Introduction to Statistical Quality Control*, Wiley, section
    10.2 (deviations from a part's own nominal value), with baselines of ours.
  """
  cycle_length = _checks.check_integer('cycle_length', cycle_length, minimum=1)
  _checks.check_number('smoothing', smoothing, above=0.0)
  _checks.check_at_most('smoothing', smoothing, 1.0)
  statistics, judge = shewhart_lib.window_and_judge(
    max(2, cycle_length) if window_size is None else window_size,
    sigma_multiplier,
    sigma_estimator=sigma_estimator,
    flagged_losses=flagged_losses,
  )

  def init_fn() -> DifferenceState:
    return DifferenceState(
      baselines=jnp.full(cycle_length, jnp.inf, float),  # Not weakly typed.
      baseline=jnp.full((), jnp.inf, float),
      position=jnp.zeros((), jnp.int32),
      num_seen=jnp.zeros((), jnp.int32),
      chart_state=statistics.init(),
    )

  def update_fn(
    state: DifferenceState, loss: jax.typing.ArrayLike
  ) -> tuple[DifferenceState, ChartReading]:
    eps = shewhart_lib.resolution(loss)
    loss = jnp.asarray(loss).astype(state.baselines.dtype)
    baseline = state.baseline
    is_in_force = state.num_seen >= cycle_length
    has_baseline = is_in_force & jnp.isfinite(baseline)
    is_finite = jnp.isfinite(loss)
    known = jnp.where(has_baseline, baseline, 0.0)
    # Not finite, and so neither judged nor taken in, without a baseline.
    difference = jnp.where(has_baseline, loss - known, jnp.inf)
    chart_state, of_difference = judge(
      state.chart_state, difference, eps, baseline=known
    )
    moved = jnp.where(has_baseline, known + smoothing * (loss - known), loss)
    kept = jnp.where(is_in_force, baseline, jnp.inf)
    baselines = jax.lax.dynamic_update_slice(
      state.baselines,
      jnp.where(is_finite, moved, kept)[None],
      (state.position,),
    )
    upper_limit = jnp.where(
      has_baseline, of_difference.upper_limit + known, jnp.inf
    )
    reading = of_difference._replace(
      mean=of_difference.mean + known,
      lower_limit=jnp.where(
        has_baseline, of_difference.lower_limit + known, -jnp.inf
      ),
      upper_limit=upper_limit,
      statistic=loss,
      loss_limit=upper_limit,
      baseline=known,
    )
    position = state.position + 1
    position = jnp.where(position < cycle_length, position, 0)
    num_seen = jnp.minimum(state.num_seen + 1, cycle_length)
    (baseline,) = jax.lax.dynamic_slice(baselines, (position,), (1,))
    return (
      DifferenceState(baselines, baseline, position, num_seen, chart_state),
      reading,
    )

  def restart_fn(state: DifferenceState, is_due: jax.Array) -> DifferenceState:
    # Old baselines would follow a shift of the level for many cycles, and flag
    # every batch on the way. A counter disables them without touching them.
    return state._replace(
      num_seen=jnp.where(is_due, jnp.int32(0), state.num_seen),
      chart_state=statistics.restart(state.chart_state, is_due),
    )

  return ControlChart(init_fn, update_fn, 'shewhart', restart_fn)
