"""A reaction: the gradients are scaled down to a limit that the chart knows."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax import _checks
from isgd_jax._charts import chart as chart_lib
from isgd_jax._charts import statistics
from isgd_jax._charts.chart import ChartReading
from isgd_jax._reactions.reaction import Reaction
from isgd_jax._reactions.reaction import ReactionStep

_TARGETS = ('limit', 'reciprocal', 'mean')


class ClipState(NamedTuple):
  """State of the reaction :func:`clip`.

  Attributes:
    num_clipped: int32 scalar, batches whose gradients were scaled down.
  """

  num_clipped: jax.Array


def clip(to: str = 'limit') -> Reaction:
  r"""Scales gradients whose norm is above the limit of its chart down to it.

  All of them by one factor, target over norm, so that the direction stays. It
  looks at the first chart of a norm: whether another one, joined to it, flags
  the batch is nothing to it.

  Args:
    to: the norm that is left:

      * ``'limit'``: the upper control limit.
      * ``'reciprocal'``: :math:`\mu + k^2 \sigma / z`, where the limit is
        :math:`\mu + k \sigma` and the norm :math:`\mu + z \sigma`, :math:`z >
        k`: the further beyond the limit, the shorter, down to the mean.
      * ``'mean'``: the centre line.

  Returns:
    A :class:`Reaction` for :func:`react`, whose chart must judge the
    `'gradient_norm'` or the `'update_norm'`.

  Raises:
    ValueError: on another `to`.

  Examples:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> chart = isgd_jax.chart_of(
    ...     'gradient_norm', isgd_jax.fixed_limits(mean=4.0, sigma=1.0))
    >>> optimizer = isgd_jax.react(optax.sgd(1.0), chart, isgd_jax.clip())
    >>> params = jnp.zeros(2)
    >>> updates, _ = optimizer.update(
    ...     jnp.array([6.0, 8.0]), optimizer.init(params), params)
    >>> print(updates)  # The limit is 7, the norm was 10.
    [-4.2 -5.6]

  References:
    Kumar et al., `ZClip <https://arxiv.org/abs/2504.02507>`_, 2025 (the
    reciprocal).
  """
  _checks.check_choice('to', to, _TARGETS)

  def init_fn(params: Any) -> ClipState:
    del params
    return ClipState(jnp.zeros((), jnp.int32))

  def before_fn(
    state: ClipState, step: ReactionStep
  ) -> tuple[ClipState, ReactionStep]:
    reading, norm = _reading_of_norm(step)
    target = target_norm(to, reading, norm)
    factor = target / jnp.where(norm > 0, norm, 1.0)
    is_clipped = reading.is_above & (factor < 1)
    updates = jax.tree.map(
      lambda u: jnp.where(is_clipped, u * factor.astype(u.dtype), u),
      step.updates,
    )
    num_clipped = state.num_clipped + is_clipped.astype(jnp.int32)
    return ClipState(num_clipped), step._replace(updates=updates)

  return Reaction('clip', init_fn, before_fn, needs=statistics.NORMS)


def target_norm(to: str, reading: ChartReading, norm: jax.Array) -> jax.Array:
  """The norm that is left of a flagged one."""
  if to == 'mean':
    return reading.mean
  limit = chart_lib.loss_limit_of(reading)
  if to == 'limit':
    return limit
  return chart_lib.reciprocal(reading.mean, limit, norm)


def _reading_of_norm(step: ReactionStep) -> tuple[ChartReading, jax.Array]:
  """The reading of the first norm that is judged, and that norm."""
  place = next(
    place
    for place, name in enumerate(step.statistics)
    if name in statistics.NORMS
  )
  reading = statistics.leaf_readings(step.reading)[place]
  return reading, step.values[place].astype(reading.mean.dtype)
