"""A reaction: larger updates for a while."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax import _checks
from isgd_jax._reactions.reaction import Reaction
from isgd_jax._reactions.reaction import ReactionStep


class RewarmState(NamedTuple):
  """State of the reaction :func:`rewarm`.

  Attributes:
    num_rewarm_steps_left: int32 scalar, steps until the factor is 1 again;
      negative while another flag is not heeded.
    num_rewarms: int32 scalar, how often it has begun.
  """

  num_rewarm_steps_left: jax.Array
  num_rewarms: jax.Array


def rewarm(
  factor: jax.typing.ArrayLike,
  num_steps: int,
  *,
  refractory: int = 0,
) -> Reaction:
  r"""Scales the updates by a factor that comes down to 1 from a flagged batch.

  The :math:`i`-th update from it on, :math:`i = 0, 1, \dots`, is scaled by
  :math:`1 + (f - 1)(1 - i / m)`. A flag while it lasts is not heeded. It moves
  no parameter by itself, and there is no other candidate to judge it by: there
  is no probation of it.

  Args:
    factor: the factor f > 0 of the flagged batch; below 1 the rate falls, and
      warms up again.
    num_steps: steps m >= 1 until the factor is 1.
    refractory: steps >= 0 after that in which no flag is heeded.

  Returns:
    A :class:`Reaction` for :func:`react`.

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> optimizer = isgd_jax.react(
    ...     optax.sgd(1.0), isgd_jax.fixed_limits(1.0, 0.1),
    ...     isgd_jax.rewarm(factor=3.0, num_steps=2))
    >>> params = jnp.zeros(())
    >>> opt_state = optimizer.init(params)
    >>> for loss in (1.0, 9.0, 1.0, 1.0):
    ...   updates, opt_state = optimizer.update(
    ...       jnp.ones(()), opt_state, params, value=loss)
    ...   print(updates)
    -1.0
    -3.0
    -2.0
    -1.0
  """
  _checks.check_number('factor', factor, above=0.0)
  num_steps = _checks.check_integer('num_steps', num_steps, minimum=1)
  refractory = _checks.check_integer('refractory', refractory, minimum=0)

  def init_fn(params: Any) -> RewarmState:
    del params
    return RewarmState(
      jnp.full((), -refractory, jnp.int32), jnp.zeros((), jnp.int32)
    )

  def after_fn(
    state: RewarmState, step: ReactionStep
  ) -> tuple[RewarmState, ReactionStep]:
    left = state.num_rewarm_steps_left
    begins = step.reading.is_above & (left <= -refractory)
    left = jnp.where(begins, num_steps, left)
    dtype = jnp.result_type(float)
    share = left.astype(dtype) / num_steps
    scale = 1 + (jnp.asarray(factor).astype(dtype) - 1) * share
    updates = jax.tree.map(
      lambda u: jnp.where(left > 0, u * scale.astype(u.dtype), u), step.updates
    )
    return (
      RewarmState(
        jnp.maximum(left - 1, -refractory).astype(jnp.int32),
        state.num_rewarms + begins.astype(jnp.int32),
      ),
      step._replace(updates=updates),
    )

  return Reaction('rewarm', init_fn, after=after_fn)
