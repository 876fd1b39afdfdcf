"""A rival: the base optimizer starts afresh where its chart flags a batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import isgd_jax


class ResetState(NamedTuple):
  """State of `reset_out_of_control`.

  Attributes:
    base_state: state of the base optimizer.
    watch_state: state of the control chart.
  """

  base_state: optax.OptState
  watch_state: Any


def reset_out_of_control(
  base_optimizer: optax.GradientTransformation,
  control_chart: isgd_jax.ControlChart,
) -> optax.GradientTransformationExtraArgs:
  """Forgets the base optimizer's state, then takes the flagged batch's step.

  Momentum and second moments, and the count that corrects their bias, are then
  of the flagged batch alone. No evaluation is spent.

  Args:
    base_optimizer: any.
    control_chart: judges the losses.

  Returns:
    The optimizer; its update takes `value`.

  Example:
    >>> chart = isgd_jax.shewhart(window_size=20)
    >>> optimizer = reset_out_of_control(optax.adam(0.1), chart)
  """
  base = optax.with_extra_args_support(base_optimizer)
  watch = isgd_jax.watch(control_chart)

  def init_fn(params: optax.Params) -> ResetState:
    return ResetState(base.init(params), watch.init(params))

  def update_fn(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
    *,
    value: jax.typing.ArrayLike | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, ResetState]:
    assert isinstance(state, ResetState)
    assert params is not None
    _, watch_state = watch.update(
      updates, state.watch_state, params, value=value
    )
    is_flagged = isgd_jax.get_info(watch_state).is_undertrained
    base_state = jax.tree.map(
      lambda new, old: jnp.where(is_flagged, new, old),
      base.init(params),
      state.base_state,
    )
    updates, base_state = base.update(
      updates, base_state, params, value=value, **extra_args
    )
    return updates, ResetState(base_state, watch_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
