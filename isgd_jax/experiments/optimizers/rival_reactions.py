"""Rivals of the chase: what else a base optimizer may do at a flagged batch.

None of them but the echo takes an evaluation. They run over any base, where
`isgd_jax.reset` refuses one with nothing to reset, and a flag begins a higher
rate anew, where `isgd_jax.rewarm` lets it run out. The reset of all of the base
state is the library's (`algorithms`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import isgd_jax
from isgd_jax.experiments.errors import check_name

REACTIONS = ('moments', 'count', 'rewarm', 'shrink', 'echo')


class RivalState(NamedTuple):
  """State of `react_out_of_control`.

  Attributes:
    base_state: state of the base optimizer.
    watch_state: state of the control chart.
    num_since: int32 scalar, steps since the last flag; large before the first.
    initial_params: that `'shrink'` goes to; empty for the others.
    num_extra: int32 scalar, evaluations of the last step beyond its first.
  """

  base_state: optax.OptState
  watch_state: Any
  num_since: jax.Array
  initial_params: Any
  num_extra: jax.Array


def react_out_of_control(
  base_optimizer: optax.GradientTransformation,
  control_chart: isgd_jax.ControlChart,
  reaction: str,
  *,
  factor: float = 10.0,
  num_steps: int = 20,
  weight: float = 0.2,
) -> optax.GradientTransformationExtraArgs:
  """Has the base optimizer react to a flagged batch, then take its step.

  Args:
    base_optimizer: any.
    control_chart: judges the losses.
    reaction: `'moments'`, the moments of the base state are those of its
      start, its counts go on; `'count'`, the counts are, the moments go on (for
      Adam the local time of Adam-Rel); `'rewarm'`, updates are `factor` times
      as long at the flagged batch, and over `num_steps` steps come down to
      their length in a straight line; `'shrink'`, the parameters w are moved to
      (1 - `weight`) w + `weight` w_0, w_0 the initial ones, before the base
      update, whose gradient is still that at w; `'echo'`, one more base update
      on the flagged batch, at one evaluation.
    factor: of `'rewarm'`.
    num_steps: of `'rewarm'`.
    weight: of `'shrink'`.

  Returns:
    The optimizer; its update takes `value`, and for `'echo'` `value_fn`.

  Raises:
    ValueError: the reaction is unknown.

  References:
    Ellis et al., `Adam on Local Time <https://arxiv.org/abs/2412.17113>`_,
    2024 (`'count'`); Ash and Adams, `On Warm-Starting Neural Network Training
    <https://arxiv.org/abs/1910.08475>`_, 2020 (`'shrink'`).

  Example:
    >>> chart = isgd_jax.shewhart(window_size=20)
    >>> optimizer = react_out_of_control(optax.adam(0.1), chart, 'moments')
  """
  check_name('reaction', reaction, REACTIONS)
  base = optax.with_extra_args_support(base_optimizer)
  watch = isgd_jax.watch(control_chart)

  def init_fn(params: optax.Params) -> RivalState:
    return RivalState(
      base.init(params),
      watch.init(params),
      jnp.asarray(num_steps, jnp.int32),
      jax.tree.map(jnp.array, params) if reaction == 'shrink' else (),
      jnp.zeros((), jnp.int32),
    )

  def update_fn(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
    *,
    value: jax.typing.ArrayLike | None = None,
    value_fn: Callable[..., Any] | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, RivalState]:
    assert isinstance(state, RivalState)
    assert params is not None
    _, watch_state = watch.update(
      updates, state.watch_state, params, value=value
    )
    is_flagged = isgd_jax.get_info(watch_state).is_undertrained
    num_since = jnp.where(is_flagged, 0, state.num_since)
    base_state = state.base_state
    if reaction in ('moments', 'count'):
      base_state = _start_again(
        is_flagged, base.init(params), base_state, reaction == 'count'
      )
    updates, base_state = base.update(
      updates, base_state, params, value=value, **extra_args
    )
    num_extra = jnp.zeros((), jnp.int32)
    match reaction:
      case 'rewarm':
        left = jnp.maximum(1 - num_since / num_steps, 0.0)
        scale = 1 + (factor - 1) * left
        updates = jax.tree.map(lambda u: (scale * u).astype(u.dtype), updates)
      case 'shrink':
        share = jnp.where(is_flagged, weight, 0.0)
        updates = jax.tree.map(
          lambda u, p, p_0: (u + share * (p_0 - p)).astype(u.dtype),
          updates,
          params,
          state.initial_params,
        )
      case 'echo':
        assert value_fn is not None
        updates, base_state = _echo(
          is_flagged, base, updates, base_state, params, value_fn, extra_args
        )
        num_extra = is_flagged.astype(jnp.int32)
    return updates, RivalState(
      base_state,
      watch_state,
      jnp.minimum(num_since + 1, num_steps).astype(jnp.int32),
      state.initial_params,
      num_extra,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _start_again(
  is_flagged: jax.Array, fresh: Any, state: Any, are_counts: bool
) -> Any:
  """The counts (integers) of a state, or all but them, as they were at first.

  Optax's counts are integers, its moments and traces are not.
  """

  def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
    if jnp.issubdtype(jnp.result_type(old), jnp.integer) != are_counts:
      return old
    return jnp.where(is_flagged, new, old)

  return jax.tree.map(chosen, fresh, state)


def _echo(
  is_flagged: jax.Array,
  base: optax.GradientTransformationExtraArgs,
  updates: optax.Updates,
  base_state: optax.OptState,
  params: optax.Params,
  value_fn: Callable[..., Any],
  extra_args: Any,
) -> tuple[optax.Updates, optax.OptState]:
  """One more base update from where the first one led, if flagged."""

  def again(carry: tuple[Any, Any]) -> tuple[Any, Any]:
    updates, base_state = carry
    there = optax.apply_updates(params, updates)
    value, grad = jax.value_and_grad(value_fn)(there)
    more, base_state = base.update(
      grad, base_state, there, value=value, **extra_args
    )
    return jax.tree.map(jnp.add, updates, more), base_state

  return jax.lax.cond(
    is_flagged, again, lambda carry: carry, (updates, base_state)
  )
