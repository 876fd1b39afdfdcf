"""A reaction: the base optimizer forgets."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from isgd_jax import _checks
from isgd_jax import _frozen_update
from isgd_jax._reactions.reaction import Reaction
from isgd_jax._reactions.reaction import ReactionStep

_WHAT = ('state', 'moments', 'count')


class ResetState(NamedTuple):
  """State of the reaction :func:`reset`.

  Attributes:
    num_resets: int32 scalar, how often the base optimizer has forgotten.
    num_refractory_steps: int32 scalar, steps until a flag is heeded again.
  """

  num_resets: jax.Array
  num_refractory_steps: jax.Array


def reset(what: str = 'state', *, refractory: int = 0) -> Reaction:
  """Has the base optimizer forget at a flagged batch, then take its step.

  It moves no parameter by itself, and there is no other candidate to judge it
  by: there is no probation of it.

  Args:
    what: what goes back to where `init` had it:

      * ``'state'``: all of the base optimizer's state, with the counts of its
        schedules.
      * ``'moments'``: what it keeps for each parameter: momentum, second
        moments. The count that corrects their bias is left.
      * ``'count'``: that count alone: integer scalars that stand beside
        something kept for each parameter, as Adam's does; the count of a
        schedule does not.

    refractory: steps >= 0 after a reset in which no flag is heeded.

  Returns:
    A :class:`Reaction` for :func:`react`.

  Raises:
    ValueError: on an argument out of range; from `update`, if the base
      optimizer has nothing of that kind.

  Examples:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> optimizer = isgd_jax.react(
    ...     optax.sgd(1.0, momentum=0.5), isgd_jax.fixed_limits(1.0, 0.1),
    ...     isgd_jax.reset('moments'))
    >>> params = jnp.zeros(())
    >>> opt_state = optimizer.init(params)
    >>> for loss in (1.0, 1.0, 9.0):
    ...   updates, opt_state = optimizer.update(
    ...       jnp.ones(()), opt_state, params, value=loss)
    ...   print(updates)
    -1.0
    -1.5
    -1.0

  References:
    Huang et al., `SPAM <https://arxiv.org/abs/2501.06842>`_, 2025 (moments);
    Ellis et al., `Adam on Local Time <https://arxiv.org/abs/2412.17113>`_, 2024
    (the count).
  """
  _checks.check_choice('what', what, _WHAT)
  refractory = _checks.check_integer('refractory', refractory, minimum=0)

  def init_fn(params: Any) -> ResetState:
    del params
    return ResetState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

  def before_fn(
    state: ResetState, step: ReactionStep
  ) -> tuple[ResetState, ReactionStep]:
    left = state.num_refractory_steps
    is_due = step.reading.is_above & (left == 0)
    params: Any = _checks.given(
      'params',
      step.params,
      'The base state is made anew for them.',
      transformation='reset',
      call='optimizer.update(grads, opt_state, params, ...)',
    )
    fresh = step.base.init(params)
    is_meant = _meant(what, step, fresh)
    base_state = jax.tree.map(
      lambda meant, new, old: (
        _frozen_update.keep_if(~is_due, old, new) if meant else old
      ),
      is_meant,
      fresh,
      step.base_state,
    )
    left = jnp.where(is_due, refractory, jnp.maximum(left - 1, 0))
    return (
      ResetState(
        state.num_resets + is_due.astype(jnp.int32), left.astype(jnp.int32)
      ),
      step._replace(base_state=base_state),
    )

  return Reaction('reset', init_fn, before_fn)


def _meant(what: str, step: ReactionStep, fresh: Any) -> Any:
  """Which leaves of the base state are to go back, a pytree of Python bools."""
  if what == 'state':
    return jax.tree.map(lambda _: True, fresh)
  is_of_param = optax.tree.map_params(
    step.base,
    lambda _: True,
    fresh,
    transform_non_params=lambda _: False,
  )
  if what == 'count':
    is_meant = _counts_beside(is_of_param, fresh, step.params)
  else:
    is_meant = is_of_param
  if not any(jax.tree.leaves(is_meant)):
    raise ValueError(
      f'reset({what!r}) finds nothing to reset in the state of the base '
      f'optimizer, a {type(fresh).__name__}. Take a base with one, or '
      "reset('state')."
    )
  return is_meant


def _counts_beside(is_of_param: Any, fresh: Any, params: Any) -> Any:
  """The integer scalars in a node that keeps something for each parameter."""
  ends = {path for path, _ in jax.tree_util.tree_leaves_with_path(params)}
  nodes = set()
  for path, meant in jax.tree_util.tree_leaves_with_path(is_of_param):
    if meant:
      # The path of the node, the name of a field, the path of a parameter.
      nodes |= {
        path[: place - 1]
        for place in range(1, len(path) + 1)
        if path[place:] in ends
      }
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      path[:-1] in nodes
      and jnp.shape(leaf) == ()
      and jnp.issubdtype(jnp.result_type(leaf), jnp.integer)
    ),
    fresh,
  )
