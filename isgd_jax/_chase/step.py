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

from isgd_jax import _info
from isgd_jax._charts import chart as chart_lib
from isgd_jax._chase import base as base_lib
from isgd_jax._chase import control_flow
from isgd_jax._chase import loop
from isgd_jax._chase import stored_values
from isgd_jax._chase import trees
from isgd_jax._chase.base import Base
from isgd_jax._chase.base import BaseUpdate
from isgd_jax._chase.base import Status
from isgd_jax._chase.probation import DEFAULT_RULES
from isgd_jax._chase.probation import Rules
from isgd_jax._chase.subproblem import Subproblem
from isgd_jax._chase.subproblem import SubproblemSolver


class Settings(NamedTuple):
  """Arguments of `isgd`, with what sets the published algorithm apart."""

  control_chart: chart_lib.ControlChart
  solver: SubproblemSolver
  chase_to: str
  max_chase_steps: jax.typing.ArrayLike
  conservative_weight: jax.typing.ArrayLike
  base_update_when_chasing: bool
  base_state_when_chasing: str
  axis_name: str | tuple[str, ...] | None
  any_device: bool
  has_aux: bool
  # On a locally convex loss a Gauss-Newton step ends just above the target, and
  # all steps would be taken: at 0.01 instead of 0, drifting streams kept their
  # loss and the extra evaluations on a stationary one fell by a third.
  tolerance: float = 0.01
  guard: bool = True
  probation: bool = False
  rules: Rules = DEFAULT_RULES


class Batch(NamedTuple):
  """The batch at hand: what was found, and how to evaluate it again."""

  loss: jax.Array
  grad: optax.Updates | None
  value_and_grad_fn: Callable[[optax.Params], tuple[jax.Array, optax.Updates]]
  is_undertrained: jax.Array
  target: jax.Array
  sigma: jax.Array
  num_training_steps: jax.Array
  num_extra_evaluations: jax.Array

  def inside(self, packed_info: _info.PackedInfo, chase_to: str) -> Batch:
    """The same, to be read in a loop that carries the info of this step.

    Else XLA hoists what is made of these numbers alone out of the loop: a dozen
    kernels, which every step would then run.
    """
    info = _info.unpack(packed_info)
    target = info.mean
    if chase_to != 'mean':
      _, target = jax.lax.optimization_barrier(
        (packed_info.integers, self.target)
      )
    return self._replace(
      loss=info.loss,
      is_undertrained=info.is_undertrained,
      target=target,
      sigma=info.sigma,
      num_training_steps=info.num_steps - 1,
      num_extra_evaluations=info.num_gradient_evaluations - info.num_steps,
    )


class _Carry(NamedTuple):
  """Carry of the loop around a chase, of one trip."""

  status: jax.Array
  slot: optax.Updates
  base_state: optax.OptState
  packed_info: _info.PackedInfo


def chase_or_update(
  settings: Settings,
  base_update: BaseUpdate,
  batch: Batch,
  updates: optax.Updates,
  base_state: optax.OptState,
  params: optax.Params,
  packed_info: _info.PackedInfo,
) -> tuple[optax.Updates, optax.OptState, _info.PackedInfo]:
  """A chase in place of the base update, or else the base update.

  One slot holds the gradient that the base update is to take, or the update
  that the step is. It passes through the loop in place, so that a step without
  a chase copies nothing.
  """
  recover_grad = batch.grad is None
  is_ahead = base_lib.goes_ahead(base_state, params)

  def take_base_update(slot_and_state):
    slot, state = slot_and_state
    base_updates, state = base_update(
      optax.tree.cast_like(slot, updates), state, params
    )
    return optax.tree.cast_like(base_updates, slot), state

  def trip(carry: _Carry) -> _Carry:
    """Chases from `params`; leaves its update, or the gradient, in the slot."""
    inner = batch.inside(carry.packed_info, settings.chase_to)
    frozen_state = base_lib.kept_inside(carry.base_state, carry.status)
    grad = optax.tree.cast_like(carry.slot, updates)
    result = chase_from(
      settings,
      Base(base_update, frozen_state, params, grad),
      inner,
      grad,
      base_update(grad, frozen_state, params)[0],
      start=params,
      start_grad=grad if recover_grad else batch.grad,
      recover_grad=recover_grad,
    )
    chased = optax.tree.cast_like(result.left, params)
    left = jax.tree.map(
      lambda of_anchor, new, old, wide: jnp.where(
        result.is_reverted,
        of_anchor.astype(wide.dtype),
        trees.difference(new, old).astype(wide.dtype),
      ),
      result.left if recover_grad else grad,
      chased,
      params,
      carry.slot,
    )
    new_state = carry.base_state
    if is_ahead:
      # A loop of its own: a chase that is kept needs no base update.
      left, new_state = control_flow.run_once_if(
        result.is_reverted, take_base_update, (left, new_state)
      )
    outcome = outcome_of(result, inner.loss)
    return _Carry(
      Status.after(~result.is_reverted),
      left,
      new_state,
      _info.with_chase(carry.packed_info, outcome),
    )

  is_due = is_chase_due(settings, batch)
  start = base_lib.before_loop(
    is_ahead, is_due, base_update, updates, base_state, params
  )
  carry = _run_if_due(
    trip,
    _Carry(Status.before(is_due), start.slot, start.base_state, packed_info),
  )
  new_updates, base_state = base_lib.after_loop(
    is_ahead,
    carry.status == Status.MOVED,
    base_update,
    start.like,
    carry.slot,
    carry.base_state,
    params,
  )
  return new_updates, base_state, carry.packed_info


def _run_if_due(trip: Callable[[_Carry], _Carry], carry: _Carry) -> _Carry:
  """A trip, where one is due."""
  return control_flow.run_once_if(carry.status == Status.DUE, trip, carry)


def update_then_chase(
  settings: Settings,
  base_update: BaseUpdate,
  batch: Batch,
  updates: optax.Updates,
  base_state: optax.OptState,
  params: optax.Params,
  packed_info: _info.PackedInfo,
) -> tuple[optax.Updates, optax.OptState, _info.PackedInfo]:
  """The base update, then a chase from where it led, or else in its place.

  The base state takes in the gradient that was found, chased or not, before the
  chase: a step without one then has nothing to undo or to copy. A chase in
  place of the base update starts from the gradient at hand, which therefore
  lives through it beside the update: two more copies of the parameters.
  """
  grad = updates if batch.grad is None else batch.grad
  base = Base(base_update, base_state, params, updates)
  base_updates, base_state = base_update(updates, base_state, params)
  base = base._replace(state=base_state)

  def trip(carry: _Carry) -> _Carry:
    """Chases; leaves all of the step's update, the base update included."""
    base_updates = carry.slot
    inner = batch.inside(carry.packed_info, settings.chase_to)
    of_trip = base._replace(
      state=base_lib.kept_inside(carry.base_state, carry.status)
    )
    if settings.base_update_when_chasing:
      start, start_grad = optax.apply_updates(params, base_updates), None
    else:
      start, start_grad = params, grad
    result = chase_from(
      settings,
      of_trip,
      inner,
      updates,
      base_updates,
      start=start,
      start_grad=start_grad,
    )
    # Unchanged bit for bit where no step was needed.
    is_unmoved = result.is_reverted | (result.num_steps == 0)
    left = jax.tree.map(
      lambda u, new, old: jnp.where(
        is_unmoved, u, trees.difference(new, old).astype(u.dtype)
      ),
      base_updates,
      result.left,
      params,
    )
    outcome = outcome_of(result, inner.loss)
    return _Carry(
      Status.after((result.num_steps > 0) & ~result.is_reverted),
      left,
      carry.base_state,
      _info.with_chase(carry.packed_info, outcome),
    )

  carry = _run_if_due(
    trip,
    _Carry(
      Status.before(is_chase_due(settings, batch)),
      base_updates,
      base_state,
      packed_info,
    ),
  )
  base_state = stored_values.invalidate_if(
    carry.status == Status.MOVED, carry.base_state
  )
  return carry.slot, base_state, carry.packed_info


def chase_from(
  settings: Settings,
  base: Base,
  batch: Batch,
  updates: optax.Updates,
  base_updates: optax.Updates,
  *,
  start: optax.Params,
  start_grad: optax.Updates | None,
  recover_grad: bool = False,
  probe: loop.Probe | None = None,
) -> loop.ChaseResult:
  """Chases the batch; nothing moves that the base update leaves alone."""
  dtype = batch.loss.dtype
  answer = _ask_base(settings, base, batch, updates, base_updates)
  num_params = sum(float(jnp.size(p)) for p in jax.tree.leaves(base.params))
  subproblem = Subproblem(
    anchor=base.params,
    target=batch.target,
    # A float: an integer of 2^31 or more does not enter traced arithmetic.
    damping=jnp.asarray(settings.conservative_weight, dtype)
    / max(num_params, 1.0),
    num_training_steps=batch.num_training_steps,
    is_movable=jax.tree.map(jnp.any, answer.is_moved),
    base_response=lambda grad: optax.tree.cast(base.response(grad), dtype),
    base_update_norm=jnp.sqrt(trees.squared_norm(base_updates, dtype)),
    is_element_movable=answer.is_moved,
  )
  return loop.chase(
    batch.value_and_grad_fn,
    settings.solver,
    subproblem,
    start,
    loss_found=batch.loss,
    max_steps=settings.max_chase_steps,
    tolerance=settings.tolerance,
    guard=settings.guard,
    start_grad=start_grad,
    recover_grad=recover_grad,
    probe=probe,
    is_refused=answer.is_uphill if settings.guard else None,
  )


class _Answer(NamedTuple):
  """What the base optimizer does with this batch.

  Attributes:
    is_moved: which elements its update moves, pytree of booleans.
    is_uphill: whether it climbs along the gradient, boolean scalar.
  """

  is_moved: Any
  is_uphill: jax.Array


def _ask_base(
  settings: Settings,
  base: Base,
  batch: Batch,
  updates: optax.Updates,
  base_updates: optax.Updates,
) -> _Answer:
  """Asks the base optimizer, of a batch that is to be chased.

  Without the loop, of one trip, XLA would keep the update itself, and the other
  two that it takes to know the slope, through the chase.
  """
  is_uphill = jnp.zeros((), bool)

  def ask(_):
    grad = updates if batch.grad is None else batch.grad
    return _Answer(
      jax.tree.map(lambda u: u != 0, base_updates),
      base.points_uphill(updates, grad, batch.loss.dtype)
      if settings.guard
      else is_uphill,
    )

  is_moved = jax.tree.map(lambda u: jnp.zeros_like(u, bool), base_updates)
  return control_flow.run_once_if(
    batch.is_undertrained, ask, _Answer(is_moved, is_uphill)
  )


def is_chase_due(settings: Settings, batch: Batch) -> jax.Array:
  """Whether the batch is under-trained and there is a target to chase it to."""
  is_allowed = jnp.asarray(settings.max_chase_steps) > 0
  # The average or sum of losses before it can flag a batch that is at its mean.
  is_to_do = jnp.isfinite(batch.target) & (batch.loss > batch.target)
  return batch.is_undertrained & is_to_do & is_allowed


def outcome_of(result: loop.ChaseResult, loss: jax.Array) -> _info.Outcome:
  """Outcome of a chase of a batch found at `loss`."""
  is_refused = result.is_reverted & (result.num_evaluations == 0)
  return _info.Outcome(
    final_loss=jnp.where(result.is_reverted, loss, result.loss),
    num_chase_steps=result.num_steps,
    num_evaluations=result.num_evaluations,
    is_reverted=result.is_reverted & ~is_refused,
    is_refused=is_refused,
  )
