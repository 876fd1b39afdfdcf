"""A Shewhart chart whose mean and sigma forget exponentially."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax import _checks
from isgd_jax._charts import chart as chart_lib
from isgd_jax._charts import window as window_lib
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart

_FLAGGED = ('keep', 'winsorize', 'reciprocal', 'leave_out')


class ExponentialState(NamedTuple):
  """State of an exponential chart.

  Attributes:
    moving_mean: float scalar, mean of Phase I, then the moving one.
    moving_sigma: float scalar, likewise the standard deviation.
    num_taken_in: int32 scalar, values taken in, up to `phase_one_size`.
  """

  moving_mean: jax.Array
  moving_sigma: jax.Array
  num_taken_in: jax.Array


def exponential_chart(
  decay: float | jax.Array = 0.97,
  sigma_multiplier: float | jax.Array = 3.0,
  *,
  flagged_losses: str = 'keep',
  phase_one_size: int = 25,
  epsilon: float | jax.Array = 0.0,
) -> ControlChart:
  r"""Shewhart chart of an exponentially weighted mean and variance.

  A loss :math:`\psi_t` is out of control beyond
  :math:`\mu_{t-1} \pm k (\sigma_{t-1} + \epsilon)`, and then

  .. math::
    \mu_t = \alpha \mu_{t-1} + (1 - \alpha) x_t, \qquad
    \sigma_t^2 = \alpha \sigma_{t-1}^2 + (1 - \alpha) (x_t - \mu_t)^2,

  where :math:`x_t` is the loss, or what stands for one that is out of control.
  They start as mean and population variance of the first `phase_one_size`
  losses, on which nothing is flagged. Unlike :func:`ewma`, which smooths what
  is judged, this judges each loss by itself, with three numbers in place of a
  window. Losses that are not finite are neither flagged nor taken in.

  Args:
    decay: weight :math:`\alpha` of the past, in (0, 1); its memory is some
      :math:`1 / (1 - \alpha)` losses.
    sigma_multiplier: width k > 0 of the limits, in standard deviations.
    flagged_losses: what an out-of-control loss is taken in as:

      * ``'keep'``: itself.
      * ``'winsorize'``: the limit that it has passed.
      * ``'reciprocal'``: :math:`\mu + k^2 \sigma / z` for one
        :math:`z > k` sigmas above the mean; itself below the lower limit.
      * ``'leave_out'``: not at all. Put :func:`with_restart` around it, or a
        shift that stays is flagged for ever.

      Where sigma is 0 every loss enters as it is, or none ever would.
    phase_one_size: losses n >= 2 of Phase I.
    epsilon: a number >= 0 in units of the loss that is added to sigma.

  Returns:
    A :class:`ControlChart` of kind `'shewhart'`.

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> import jax, isgd_jax
    >>> chart = isgd_jax.exponential_chart(0.97, 4.0)
    >>> losses = jax.random.normal(jax.random.key(0), (100,)).at[60].set(9.0)
    >>> _, readings = jax.lax.scan(chart.update, chart.init(), losses)
    >>> bool(readings.is_above[60])
    True

  References:
    Kumar et al., `ZClip <https://arxiv.org/abs/2504.02507>`_, 2025 (of gradient
    norms, with ``'reciprocal'``).
  """
  _checks.check_number('decay', decay, above=0.0)
  if not _checks.is_traced(decay) and not decay < 1:
    raise ValueError(f'decay must be below 1, got {decay!r}.')
  _checks.check_number('sigma_multiplier', sigma_multiplier, above=0.0)
  _checks.check_choice('flagged_losses', flagged_losses, _FLAGGED)
  _checks.check_number('epsilon', epsilon, minimum=0.0)
  phase_one_size = _checks.check_integer(
    'phase_one_size', phase_one_size, minimum=2
  )

  def init_fn() -> ExponentialState:
    return ExponentialState(
      jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32)
    )

  def update_fn(
    state: ExponentialState, loss: jax.typing.ArrayLike
  ) -> tuple[ExponentialState, ChartReading]:
    mean = state.moving_mean
    loss = jnp.asarray(loss).astype(mean.dtype)
    is_ready = state.num_taken_in >= phase_one_size
    sigma = state.moving_sigma + jnp.where(is_ready, epsilon, 0.0)
    width = jnp.where(is_ready, sigma_multiplier * sigma, jnp.inf)
    reading = chart_lib.read_limits(
      loss, mean, jnp.zeros_like(mean), sigma, width
    )
    taken_in = _taken_in(flagged_losses, reading, loss, width)
    return _next_state(state, taken_in, decay, phase_one_size), reading

  def restart_fn(
    state: ExponentialState, is_due: jax.Array
  ) -> ExponentialState:
    return jax.tree.map(
      lambda x: jnp.where(is_due, jnp.zeros_like(x), x), state
    )

  return ControlChart(init_fn, update_fn, 'shewhart', restart_fn)


def _taken_in(
  flagged_losses: str, reading: ChartReading, loss: jax.Array, width: jax.Array
) -> jax.Array:
  """What the loss is taken in as; not finite where it is not."""
  has_width = width > 0
  if flagged_losses == 'winsorize':
    clipped = jnp.clip(loss, reading.lower_limit, reading.upper_limit)
    is_out = (reading.is_above | reading.is_below) & has_width
    return jnp.where(is_out, clipped, loss)
  if flagged_losses == 'leave_out':
    is_out = (reading.is_above | reading.is_below) & has_width
    return jnp.where(is_out, jnp.inf, loss)
  if flagged_losses == 'reciprocal':
    is_out = reading.is_above & has_width
    limit = jnp.where(is_out, reading.upper_limit, reading.mean)
    short = chart_lib.reciprocal(
      reading.mean, limit, jnp.where(is_out, loss, reading.mean)
    )
    return jnp.where(is_out, short, loss)
  return loss


def _next_state(
  state: ExponentialState,
  loss: jax.Array,
  decay: float | jax.Array,
  phase_one_size: int,
) -> ExponentialState:
  """The moments with `loss` in them, if it is finite."""
  mean, sigma, count = state
  is_finite = jnp.isfinite(loss)
  loss = jnp.where(is_finite, window_lib.bounded(loss, 1), mean)
  is_ready = count >= phase_one_size
  # Welford's mean and variance are the same recursion, of a decay that grows.
  num = count.astype(mean.dtype)
  weight = jnp.where(is_ready, decay, num / (num + 1)).astype(mean.dtype)
  deviation = loss - mean
  # From the new mean; Welford takes the product of that and the old one's.
  share = jnp.where(is_ready, weight, jnp.sqrt(weight))
  new_sigma = jnp.hypot(
    jnp.sqrt(weight) * sigma, jnp.sqrt(1 - weight) * share * deviation
  )
  new = ExponentialState(
    mean + (1 - weight) * deviation,
    new_sigma,
    jnp.minimum(count + 1, phase_one_size),
  )
  return jax.tree.map(lambda n, o: jnp.where(is_finite, n, o), new, state)
