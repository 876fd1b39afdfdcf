"""Shewhart charts: each loss by itself, against the losses before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isgd_jax import _checks
from isgd_jax._charts import chart as chart_lib
from isgd_jax._charts import estimators
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart

_STATISTICS = {
  'std': estimators.mean_and_std,
  'sample_std': lambda n: estimators.mean_and_std(n, ddof=1),
  'moving_range': estimators.mean_and_moving_range,
  'mad': estimators.median_and_mad,
}
_FLAGGED = ('keep', 'winsorize', 'leave_out')
# Losses clipped to fewer sigmas would spread less each time, down to nothing.
_LEAST_WINSORIZED = 2.0


def shewhart(
  window_size: int,
  sigma_multiplier: jax.typing.ArrayLike = 3.0,
  *,
  sigma_estimator: str = 'std',
  flagged_losses: str = 'keep',
  phase_one_size: int | None = None,
  min_sigma: jax.typing.ArrayLike = 0.0,
) -> ControlChart:
  r"""Shewhart chart of the last `window_size` losses.

  A loss :math:`\psi_t` is judged against the :math:`n` losses before it,

  .. math::
    \bar\psi = \frac{1}{n} \sum_{i=1}^{n} \psi_{t-i}, \qquad
    \sigma^2 = \frac{1}{n} \sum_{i=1}^{n} (\psi_{t-i} - \bar\psi)^2, \qquad
    \bar\psi \pm k \sigma,

  and is out of control beyond a limit. Until the window is full (Phase I) the
  limits are infinite and nothing is flagged. Non-finite losses never enter the
  window. The statistics have JAX's default floating dtype (float32, or float64
  under `jax_enable_x64`), whatever the dtype of the losses. In Phase II, sigma
  is at least half the distance of neighbouring numbers of *their* dtype at the
  mean: losses that are all rounded to one or two have no spread to measure.

  Judging a loss against the losses *before* it differs from the published
  algorithm, which has it in its own window: there the largest possible
  z-score is :math:`\sqrt{n - 1}`, and no loss is ever beyond 3 sigma for
  :math:`n \le 10`.

  Args:
    window_size: number of losses in the window, n >= 2. One epoch's batches on
      fixed-cycle data; on a stream, about as many batches as it takes the loss
      to settle.
    sigma_multiplier: width k > 0 of the limits, in standard deviations.
    sigma_estimator: where the centre line and sigma come from:

      * ``'std'``: mean and population standard deviation, as above.
      * ``'sample_std'``: the same with n - 1 in place of n.
      * ``'moving_range'``: mean, and the average range of consecutive losses
        over 1.128. A shift of the level hardly inflates it; a trend or a slow
        wave makes it too small.
      * ``'mad'``: median, and 1.4826 times the median absolute deviation from
        it. No share of odd losses below a half moves either far. It costs
        O(n) an update where the others cost O(n^(1/3)): for long windows take
        ``'moving_range'``.
    flagged_losses: what an out-of-control loss leaves in the window:

      * ``'keep'``: itself.
      * ``'winsorize'``: the limit that it has passed, at least two sigmas from
        the centre, so that a shift cannot inflate the window that is to detect
        it. The window then follows a shift by its own width at a time: with
        limits of three sigmas, one of 20 sigmas is flagged for 0.6 of a window
        with ``'std'``, 0.9 with ``'mad'`` and 3 windows with
        ``'moving_range'``, whose sigma it hardly inflates.
      * ``'leave_out'``: nothing. A permanent shift is then flagged for ever:
        put :func:`with_restart` around it. With limits below two sigmas the
        spread of what is left shrinks without end.

      Where sigma is 0 every loss enters as it is, or none ever would.
    phase_one_size: losses before the limits are in force, 2 to `window_size`;
      None waits for the whole window.
    min_sigma: a number >= 0 in units of the loss that sigma is at least, once
      the limits are in force.

  Returns:
    A :class:`ControlChart`. Its state holds `window_size` floats and a few
    more (twice as many for ``'moving_range'`` and ``'mad'``); donate it to the
    jitted step, or the window is copied at each step.

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> import jax, isgd_jax
    >>> chart = isgd_jax.shewhart(window_size=8)
    >>> losses = jax.random.normal(jax.random.key(0), (50,)).at[40].set(9.0)
    >>> _, readings = jax.lax.scan(chart.update, chart.init(), losses)
    >>> bool(readings.is_above[40])
    True

  References:
    Montgomery, *Introduction to Statistical Quality Control*, Wiley, ch. 6.
  """
  statistics, judge = window_and_judge(
    window_size,
    sigma_multiplier,
    sigma_estimator=sigma_estimator,
    flagged_losses=flagged_losses,
    phase_one_size=phase_one_size,
    min_sigma=min_sigma,
  )

  def update_fn(
    state: Any, loss: jax.typing.ArrayLike
  ) -> tuple[Any, ChartReading]:
    return judge(state, loss, resolution(loss))

  return ControlChart(
    statistics.init, update_fn, 'shewhart', statistics.restart
  )


def window_and_judge(
  window_size: int,
  sigma_multiplier: jax.typing.ArrayLike,
  *,
  sigma_estimator: str,
  flagged_losses: str,
  phase_one_size: int | None = None,
  min_sigma: jax.typing.ArrayLike = 0.0,
) -> tuple[estimators.WindowStatistics, Callable[..., Any]]:
  """The window of a Shewhart chart, and what judges a loss by it.

  It is `judge(state, loss, eps, baseline=0.0) -> (state, reading)`, for a
  `loss` that is one of relative resolution `eps` less a `baseline`.
  """
  window_size = _checks.check_integer('window_size', window_size, minimum=2)
  _checks.check_number('sigma_multiplier', sigma_multiplier, above=0.0)
  _checks.check_number('min_sigma', min_sigma, minimum=0.0)
  _checks.check_choice('sigma_estimator', sigma_estimator, _STATISTICS)
  _checks.check_choice('flagged_losses', flagged_losses, _FLAGGED)
  if phase_one_size is None:
    phase_one_size = window_size
  phase_one_size = _checks.check_integer(
    'phase_one_size', phase_one_size, minimum=2
  )
  if phase_one_size > window_size:
    raise ValueError(
      f'phase_one_size must be at most window_size={window_size}, got '
      f'{phase_one_size}.'
    )
  statistics = _STATISTICS[sigma_estimator](window_size)

  def judge(state, loss, eps, baseline=0.0):
    anchor, offset, sigma = statistics.read(state)
    loss = jnp.asarray(loss).astype(sigma.dtype)
    is_ready = statistics.num_taken_in(state) >= phase_one_size
    sigma = jnp.where(
      is_ready, _floored(sigma, baseline + anchor + offset, eps), sigma
    )
    if _checks.is_traced(min_sigma) or np.greater(min_sigma, 0):
      sigma = jnp.where(is_ready, jnp.maximum(sigma, min_sigma), sigma)
    width = jnp.where(is_ready, sigma_multiplier * sigma, jnp.inf)
    reading = chart_lib.read_limits(loss, anchor, offset, sigma, width)
    has_width = sigma > 0
    limits = None
    if flagged_losses == 'winsorize':
      limits = reading.lower_limit, reading.upper_limit
      least = _LEAST_WINSORIZED
      if _checks.is_traced(sigma_multiplier) or np.less(
        sigma_multiplier, least
      ):
        widest = jnp.maximum(width, least * sigma)
        limits = chart_lib.limits_around(anchor, offset, widest)
      # A window of equal losses has no width: clipped to it, none would enter.
      limits = (
        jnp.where(has_width, limits[0], -jnp.inf),
        jnp.where(has_width, limits[1], jnp.inf),
      )
    elif flagged_losses == 'leave_out':
      # Not NaN: jax_debug_nans is to find the user's, not ours.
      is_out = (reading.is_above | reading.is_below) & has_width
      loss = jnp.where(is_out, jnp.inf, loss)
    return statistics.take_in(state, loss, limits), reading

  return statistics, judge


def resolution(loss: jax.typing.ArrayLike) -> float:
  """Distance of neighbouring numbers near 1 in the loss's own dtype."""
  dtype = jnp.result_type(loss)
  is_floating = jnp.issubdtype(dtype, jnp.floating)
  return float(jnp.finfo(dtype).eps) if is_floating else 0.0


def _floored(sigma: jax.Array, level: jax.Array, eps: float) -> jax.Array:
  """`sigma`, but at least half the distance of neighbouring losses there.

  Rounded losses whose spread is below their distance are nearly all equal, and
  their deviation says nothing of how soon a neighbour will come. With half of
  it, false alarms stay at or below those of normal losses, at k = 3 and 4,
  whatever the spread (by simulation; the error of rounding alone, the distance
  over the root of 12, leaves ten times as many at k = 3).
  """
  floor = 0.5 * eps * jnp.abs(level)
  if eps > jnp.finfo(sigma.dtype).eps:
    return jnp.maximum(sigma, floor)
  # Of equal losses in full precision any rise is out of control.
  return jnp.where(sigma > 0, jnp.maximum(sigma, floor), sigma)


def default_chart(window_size: int) -> ControlChart:
  """The chart that the evidence supports for :func:`isgd`, one for all uses.

  A :func:`shewhart` chart with limits at four sigmas, in whose window a flagged
  loss enters as the limit that it has passed. RESULTS.md has the comparison
  with other charts. Against the usual three sigmas, four flag next to nothing
  on shuffled or unevenly mixed batches, where a chase can only cost, and find
  a shift of the data nearly as well, for fewer gradient evaluations. An
  :func:`ewma` chart finds gradual shifts better, for more of them. Losses that
  entered the window as they are would raise the limit that is to find the next.

  Args:
    window_size: as in :func:`shewhart`.

  Returns:
    A :class:`ControlChart`.

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> import optax, isgd_jax
    >>> optimizer = isgd_jax.isgd(
    ...     optax.adam(1e-3), isgd_jax.default_chart(window_size=50))
  """
  return shewhart(window_size, 4.0, flagged_losses='winsorize')


def fixed_limits(
  mean: jax.typing.ArrayLike,
  sigma: jax.typing.ArrayLike,
  sigma_multiplier: jax.typing.ArrayLike = 3.0,
) -> ControlChart:
  r"""Shewhart chart of known mean and standard deviation.

  It has no Phase I and no memory: a loss beyond :math:`\mu \pm k \sigma` is out
  of control. As the reference of :func:`ewma` and :func:`cusum` it gives them
  known parameters.

  Args:
    mean: centre line, a finite number in units of the loss.
    sigma: standard deviation > 0, in units of the loss.
    sigma_multiplier: width k > 0 of the limits, in standard deviations.

  Returns:
    A :class:`ControlChart`.

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> import isgd_jax
    >>> chart = isgd_jax.fixed_limits(mean=2.0, sigma=0.5)
    >>> _, reading = chart.update(chart.init(), 3.6)
    >>> print(reading.upper_limit, reading.is_above)
    3.5 True

  References:
    Montgomery, *Introduction to Statistical Quality Control*, Wiley, ch. 6.
  """
  _checks.check_number('mean', mean)
  _checks.check_number('sigma', sigma, above=0.0)
  _checks.check_number('sigma_multiplier', sigma_multiplier, above=0.0)

  def update_fn(
    state: tuple[()], loss: jax.typing.ArrayLike
  ) -> tuple[tuple[()], ChartReading]:
    dtype = jnp.zeros(()).dtype
    loss, centre, deviation = (
      jnp.asarray(x).astype(dtype) for x in (loss, mean, sigma)
    )
    width = jnp.asarray(sigma_multiplier).astype(dtype) * deviation
    return state, chart_lib.read_limits(
      loss, centre, jnp.zeros_like(centre), deviation, width
    )

  return ControlChart(tuple, update_fn, 'shewhart', lambda state, is_due: state)


def paper_chart(batches_per_epoch: int) -> ControlChart:
  """The published chart: mean + 3 sigma of a queue that holds the loss judged.

  The queue is first filled (one epoch); then each loss replaces the oldest one
  *before* mean and sigma are taken.
  """
  # A sample of n has no z-score above sqrt(n - 1): 3 is out of reach at 10.
  batches_per_epoch = _checks.check_integer(
    'batches_per_epoch', batches_per_epoch, minimum=11
  )
  statistics = estimators.mean_and_std(batches_per_epoch)

  def update_fn(
    state: Any, loss: jax.typing.ArrayLike
  ) -> tuple[Any, ChartReading]:
    is_full = statistics.num_taken_in(state) >= batches_per_epoch
    loss = jnp.asarray(loss).astype(state.window.dtype)
    state = statistics.take_in(state, loss, None)
    anchor, offset, sigma = statistics.read(state)
    width = jnp.where(is_full, 3.0 * sigma, jnp.inf)
    return state, chart_lib.read_limits(loss, anchor, offset, sigma, width)

  return ControlChart(
    statistics.init, update_fn, 'shewhart', statistics.restart
  )
