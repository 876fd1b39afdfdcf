"""One step of inconsistent SGD: the base update, the chase, and how they join.

Two ways to join them, as plain functions: `chase_or_update` leaves the base
optimizer's state alone on a chased step, `update_then_chase` advances it first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from isgd_jax import _frozen_update
from isgd_jax._charts import chart as chart_lib
from isgd_jax._chase import subproblem as subproblem_lib
from isgd_jax._chase import trees


class Settings(NamedTuple):
  """Arguments of `isgd`, with what sets the published algorithm apart."""

  control_chart: chart_lib.ControlChart
  solver: subproblem_lib.SubproblemSolver
  chase_to: str
  max_chase_steps: jax.typing.ArrayLike
  conservative_weight: jax.typing.ArrayLike
  base_update_when_chasing: bool
  base_state_when_chasing: str
  axis_name: str | tuple[str, ...] | None
  has_aux: bool
  # On a locally convex loss a Gauss-Newton step ends just above the target, and
  # all steps would be taken: at 0.01 instead of 0, drifting streams kept their
  # loss and the extra evaluations on a stationary one fell by a third.
  tolerance: float = 0.01
  guard: bool = True


class Batch(NamedTuple):
  """The batch at hand: what was found, and how to evaluate it again."""

  loss: jax.Array
  grad: optax.Updates | None
  value_and_grad_fn: Callable[[optax.Params], tuple[jax.Array, optax.Updates]]
  is_undertrained: jax.Array
  target: jax.Array
  num_training_steps: jax.Array


# Optax's `update`, with the extra arguments bound: (updates, state, params).
BaseUpdate = Callable[
  [optax.Updates, optax.OptState, optax.Params],
  tuple[optax.Updates, optax.OptState],
]


class Outcome(NamedTuple):
  """What came of the chase that a step did or did not have; scalars."""

  final_loss: jax.Array
  num_chase_steps: jax.Array
  num_evaluations: jax.Array
  is_chased: jax.Array
  is_reverted: jax.Array


def chase_or_update(
  settings: Settings,
  base_update: BaseUpdate,
  batch: Batch,
  updates: optax.Updates,
  base_state: optax.OptState,
  params: optax.Params,
) -> tuple[optax.Updates, optax.OptState, Outcome]:
  """A chase in place of the base update, or else the base update.

  One slot holds the gradient that the base update is to take, or the update
  that the chase left. It passes through the loop in place, so that a step
  without a chase copies nothing.
  """

  def run(slot):
    """Chases from `params`; leaves its update, or the gradient, in the slot."""
    grad = optax.tree.cast_like(slot, updates)
    base_updates, _ = base_update(grad, base_state, params)
    dtypes = jax.tree.map(jnp.result_type, updates)

    def respond(grad):
      return _base_response(base_update, base_state, params, dtypes, grad)

    recover_grad = batch.grad is None
    result = subproblem_lib.chase(
      batch.value_and_grad_fn,
      settings.solver,
      _subproblem_of(settings, batch, params, base_updates, respond),
      params,
      loss_found=batch.loss,
      max_steps=settings.max_chase_steps,
      tolerance=settings.tolerance,
      guard=settings.guard,
      start_grad=grad if recover_grad else batch.grad,
      recover_grad=recover_grad,
    )
    chased = optax.tree.cast_like(result.left, params)
    left = jax.tree.map(
      lambda of_anchor, new, old, wide: jnp.where(
        result.is_reverted,
        of_anchor.astype(wide.dtype),
        _difference(new, old).astype(wide.dtype),
      ),
      result.left if recover_grad else grad,
      chased,
      params,
      slot,
    )
    return left, _outcome_of(result, batch.loss)

  # Wide enough for both a gradient and an update; a no-op where they agree.
  slot = jax.tree.map(
    lambda g, p: subproblem_lib.promote(g, p)[0], updates, params
  )
  slot, outcome = _run_once_if(
    _is_chase_due(settings, batch), run, slot, no_chase(batch.loss)
  )
  is_kept = outcome.is_chased & ~outcome.is_reverted
  base_updates, base_state = _frozen_update.update_unless(
    is_kept,
    base_update,
    optax.tree.cast_like(slot, updates),
    base_state,
    params,
  )
  new_updates = jax.tree.map(
    lambda s, u: jnp.where(is_kept, s.astype(u.dtype), u), slot, base_updates
  )
  return new_updates, base_state, outcome


def update_then_chase(
  settings: Settings,
  base_update: BaseUpdate,
  batch: Batch,
  updates: optax.Updates,
  base_state: optax.OptState,
  params: optax.Params,
) -> tuple[optax.Updates, optax.OptState, Outcome]:
  """The base update, then a chase from where it led, or else in its place.

  The base state takes in the gradient that was found, chased or not, before the
  chase: a step without one then has nothing to undo or to copy. A chase in
  place of the base update starts from the gradient at hand, which therefore
  lives through it beside the update: two more copies of the parameters.
  """
  grad = updates if batch.grad is None else batch.grad
  dtypes = jax.tree.map(jnp.result_type, updates)
  updates, base_state = base_update(updates, base_state, params)

  def respond(grad):
    return _base_response(base_update, base_state, params, dtypes, grad)

  def run(base_updates):
    """Chases; leaves all of the step's update, the base update included."""
    if settings.base_update_when_chasing:
      start, start_grad = optax.apply_updates(params, base_updates), None
    else:
      start, start_grad = params, grad
    result = subproblem_lib.chase(
      batch.value_and_grad_fn,
      settings.solver,
      _subproblem_of(settings, batch, params, base_updates, respond),
      start,
      loss_found=batch.loss,
      max_steps=settings.max_chase_steps,
      tolerance=settings.tolerance,
      guard=settings.guard,
      start_grad=start_grad,
    )
    # Unchanged bit for bit where no step was needed.
    is_unmoved = result.is_reverted | (result.num_steps == 0)
    left = jax.tree.map(
      lambda u, new, old: jnp.where(
        is_unmoved, u, _difference(new, old).astype(u.dtype)
      ),
      base_updates,
      result.left,
      params,
    )
    return left, _outcome_of(result, batch.loss)

  updates, outcome = _run_once_if(
    _is_chase_due(settings, batch), run, updates, no_chase(batch.loss)
  )
  return updates, base_state, outcome


def _run_once_if(
  is_due: jax.Array,
  run: Callable[[optax.Updates], tuple[optax.Updates, Outcome]],
  slot: optax.Updates,
  outcome: Outcome,
) -> tuple[optax.Updates, Outcome]:
  """`run(slot)` if `is_due`, else `slot` and `outcome` as they are.

  A loop of at most one trip, not a `cond`: XLA hands a loop's carry through in
  place, and copies what passes through a conditional.
  """

  def body(carry):
    is_due, slot, _ = carry
    slot, outcome = run(slot)
    return is_due & False, slot, outcome

  _, slot, outcome = jax.lax.while_loop(
    lambda carry: carry[0], body, (is_due, slot, outcome)
  )
  return slot, outcome


def _is_chase_due(settings: Settings, batch: Batch) -> jax.Array:
  """Whether the batch is under-trained and there is a target to chase it to."""
  is_allowed = jnp.asarray(settings.max_chase_steps) > 0
  # The average or sum of losses before it can flag a batch that is at its mean.
  is_to_do = jnp.isfinite(batch.target) & (batch.loss > batch.target)
  return batch.is_undertrained & is_to_do & is_allowed


def _subproblem_of(
  settings: Settings,
  batch: Batch,
  params: optax.Params,
  base_updates: optax.Updates,
  base_response: Callable[[optax.Updates], optax.Updates],
) -> subproblem_lib.Subproblem:
  """The conservative subproblem of this batch.

  A leaf that the base optimizer does not move is frozen for the chase too.
  """
  dtype = batch.loss.dtype
  num_params = sum(jnp.size(p) for p in jax.tree.leaves(params))
  return subproblem_lib.Subproblem(
    anchor=params,
    target=batch.target,
    damping=jnp.asarray(settings.conservative_weight, dtype) / num_params,
    num_training_steps=batch.num_training_steps,
    is_movable=jax.tree.map(_is_not_zero, base_updates),
    base_response=lambda grad: optax.tree.cast(base_response(grad), dtype),
    base_update_norm=jnp.sqrt(trees.squared_norm(base_updates, dtype)),
  )


def _is_not_zero(leaf: jax.Array) -> jax.Array:
  """Whether any element is not zero; by a sum, as `_all_finite`."""
  return jnp.sum(jnp.abs(leaf)) != 0


def _base_response(
  base_update: BaseUpdate,
  base_state: optax.OptState,
  params: optax.Params,
  dtypes: Any,
  grad: optax.Updates,
) -> optax.Updates:
  """Half of `update(-grad) - update(grad)`: what is in both of them cancels.

  The probe is the gradient itself. A hundredth of it would leave Adam's second
  moment nearer to what it was (a cosine of 1.00 with that metric, where the
  gradient itself has 0.999 at its usual size and 0.94 at ten times), but is
  lost in rounding (0.96 in bfloat16), and hands the whole step to parameters
  that had no gradient before.
  """
  grad = jax.tree.map(lambda g, dtype: g.astype(dtype), grad, dtypes)
  updates, _ = base_update(grad, base_state, params)
  opposite, _ = base_update(
    jax.tree.map(jnp.negative, grad), base_state, params
  )
  return jax.tree.map(_half_difference, opposite, updates)


def _half_difference(a: jax.Array, b: jax.Array) -> jax.Array:
  """Half of `a - b`, in at least float32."""
  a, _ = subproblem_lib.promote(a, jnp.zeros((), jnp.float32))
  b, _ = subproblem_lib.promote(b, jnp.zeros((), jnp.float32))
  return 0.5 * (a - b)


def _difference(new: jax.Array, old: jax.Array) -> jax.Array:
  """`new - old`, zero also where both are the same infinity."""
  return jnp.where(new == old, jnp.zeros_like(new), new - old)


def no_chase(loss: jax.Array) -> Outcome:
  """Outcome of a step without a chase."""
  zero = jnp.zeros((), jnp.int32)
  return Outcome(loss, zero, zero, jnp.zeros((), bool), jnp.zeros((), bool))


def _outcome_of(result: subproblem_lib.ChaseResult, loss: jax.Array) -> Outcome:
  """Outcome of a chase of a batch found at `loss`."""
  return Outcome(
    final_loss=jnp.where(result.is_reverted, loss, result.loss),
    num_chase_steps=result.num_steps,
    num_evaluations=result.num_evaluations,
    is_chased=jnp.ones((), bool),
    is_reverted=result.is_reverted,
  )
