"""One step of inconsistent SGD whose chases must prove themselves.

As `step.chase_or_update`, with a rival beside the parameters: `probation` has
the rule, this module the parameters that it moves.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from isgd_jax import _checks
from isgd_jax import _info
from isgd_jax._chase import base as base_lib
from isgd_jax._chase import control_flow
from isgd_jax._chase import loop
from isgd_jax._chase import probation
from isgd_jax._chase import step as chase_step
from isgd_jax._chase import trees
from isgd_jax._chase.base import Base
from isgd_jax._chase.base import BaseUpdate
from isgd_jax._chase.base import Status


class ProbationState(NamedTuple):
  """State of probation and trust.

  Attributes:
    rival: the candidate that is not in use, parameters. Means nothing while
      there is none.
    packed_trust: what is on record of the chases.
  """

  rival: optax.Params
  packed_trust: probation.PackedTrust


class _Carry(NamedTuple):
  """Carry of the loop over the trips of a step: a probe, then a chase."""

  status: jax.Array
  # As in `base.Start`, or an update that stands in the place of the base's.
  slot: optax.Updates
  base_state: optax.OptState
  rival: optax.Params
  packed_trust: probation.PackedTrust
  packed_info: _info.PackedInfo


class _Decision(NamedTuple):
  """What a trip makes of the records.

  Attributes:
    status: of the step.
    leads: whether the chase of this trip leads, boolean scalar.
    packed_trust: the record of chases.
    packed_info: what is reported.
  """

  status: jax.Array
  leads: jax.Array
  packed_trust: probation.PackedTrust
  packed_info: _info.PackedInfo


def initial_state(
  params: optax.Params, dtype: jax.typing.DTypeLike
) -> ProbationState:
  """No rival and no record."""
  return ProbationState(
    optax.tree.zeros_like(params), probation.initial_trust(dtype)
  )


def chase_on_probation(
  settings: chase_step.Settings,
  base_update: BaseUpdate,
  batch: chase_step.Batch,
  updates: optax.Updates,
  base_state: optax.OptState,
  params: optax.Params,
  packed_info: _info.PackedInfo,
  state: ProbationState,
) -> tuple[optax.Updates, optax.OptState, _info.PackedInfo, ProbationState]:
  """A base update, or a chase that leads, or the return from one that failed.

  A step with neither rival nor chase passes slot and rival through the loop in
  place. A chase moves in the place of the rival, which there is none of when
  one begins, so the gradient lives through it and is never computed anew.
  """
  rules = settings.rules
  is_ahead = base_lib.goes_ahead(base_state, params)

  def trip(carry: _Carry) -> _Carry:
    """Evaluates the rival, or chases."""
    is_probe = carry.status == Status.PROBE
    inner = batch.inside(carry.packed_info, settings.chase_to)
    is_flagged = chase_step.is_chase_due(settings, inner)
    frozen_state = base_lib.kept_inside(carry.base_state, carry.status)
    grad = optax.tree.cast_like(carry.slot, updates)

    def judge_rival(packed_trust, loss):
      """The record with the rival's loss in it, and whether it takes over."""
      trust = probation.unpack(packed_trust)
      observed = probation.observe(trust, inner.loss, loss)
      settled, is_undone = probation.settle(
        observed, is_flagged, inner.sigma, rules
      )
      return loop.Judged(probation.pack(settled), is_undone)

    result = chase_step.chase_from(
      settings,
      Base(base_update, frozen_state, params, grad),
      inner,
      grad,
      base_update(grad, frozen_state, params)[0],
      start=params,
      start_grad=grad if inner.grad is None else inner.grad,
      probe=loop.Probe(
        is_due=is_probe,
        rival=carry.rival,
        grad=grad,
        judge=judge_rival,
        record=carry.packed_trust,
      ),
    )
    is_undone = result.judged.is_chosen

    def decide(before: _Decision) -> _Decision:
      """After a probe, whether to chase; after a chase, who leads."""
      admitted, is_to_chase = probation.admit(
        probation.unpack(result.judged.record),
        is_flagged & ~is_undone,
        inner.num_training_steps,
        inner.num_extra_evaluations + result.num_evaluations,
        settings.max_chase_steps,
      )
      begun, leads = probation.begin(
        probation.unpack(before.packed_trust),
        ~is_probe & ~result.is_reverted,
        inner.loss - result.loss,
        rules,
      )
      trust = optax.tree.where(is_probe, admitted, begun)
      is_to_chase &= is_probe
      status = jnp.where(
        is_to_chase,
        Status.DUE,
        Status.after(is_undone | leads),
      )
      return _Decision(
        status,
        leads,
        probation.pack(trust),
        _reported(
          before.packed_info, is_probe, is_undone, leads, result, trust
        ),
      )

    # Apart, as a loop of one trip: else all of this is compiled into the kernel
    # of each leaf.
    is_due = carry.status >= Status.DUE
    decision = control_flow.run_once_if(
      is_due,
      decide,
      _Decision(
        carry.status, is_due & False, carry.packed_trust, carry.packed_info
      ),
    )
    at = optax.tree.where(is_undone, result.left, params)
    is_base = decision.status == Status.DONE
    if is_ahead:
      base_updates, new_state = base_lib.advance_if(
        is_base, base_update, result.grad, frozen_state, at
      )
    else:
      base_updates, _ = base_update(result.grad, frozen_state, at)
      new_state = carry.base_state
    slot, rival = _place_candidates(
      base_updates,
      params,
      carry.slot,
      result,
      is_probe=is_probe,
      is_undone=is_undone,
      leads=decision.leads,
      is_base=is_base if is_ahead else None,
    )
    return _Carry(
      decision.status,
      slot,
      new_state,
      rival,
      decision.packed_trust,
      decision.packed_info,
    )

  def trip_or_count(carry: _Carry) -> _Carry:
    """A trip, or one refusal less in the record of a pause."""
    is_refused = carry.status == Status.REFUSED
    carry = control_flow.run_once_if(~is_refused, trip, carry)
    return carry._replace(
      status=jnp.where(is_refused, Status.DONE, carry.status),
      packed_trust=probation.count_refused(carry.packed_trust, is_refused),
    )

  trust = probation.unpack(state.packed_trust)
  admitted, is_to_chase = probation.admit(
    trust,
    chase_step.is_chase_due(settings, batch),
    batch.num_training_steps,
    batch.num_extra_evaluations,
    settings.max_chase_steps,
  )
  status = jnp.where(
    trust.is_on_probation,
    Status.PROBE,
    jnp.where(
      admitted.pause < trust.pause,
      Status.REFUSED,
      Status.before(is_to_chase),
    ),
  )
  start = base_lib.before_loop(
    is_ahead,
    # As its status says; made of less, and so known earlier.
    trust.is_on_probation | is_to_chase,
    base_update,
    updates,
    base_state,
    params,
  )
  carry = control_flow.while_loop(
    lambda carry: carry.status >= Status.DUE,
    trip_or_count,
    _Carry(
      status=status,
      slot=start.slot,
      base_state=start.base_state,
      rival=state.rival,
      packed_trust=state.packed_trust,
      packed_info=packed_info,
    ),
    is_traced=_checks.is_traced(batch.loss),
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
  return (
    new_updates,
    base_state,
    carry.packed_info,
    ProbationState(carry.rival, carry.packed_trust),
  )


def _reported(
  packed_info: _info.PackedInfo,
  is_probe: jax.Array,
  is_undone: jax.Array,
  leads: jax.Array,
  result: loop.ChaseResult,
  trust: probation.Trust,
) -> _info.PackedInfo:
  """The info with this trip in it."""
  info = _info.unpack(packed_info)
  outcome = chase_step.outcome_of(result, info.loss)
  outcome = outcome._replace(
    final_loss=jnp.where(leads, outcome.final_loss, info.loss)
  )
  no_chase = _info.Outcome(
    final_loss=info.loss,
    num_chase_steps=info.num_chase_steps,
    num_evaluations=result.num_evaluations,
    is_reverted=is_probe & False,
    is_refused=is_probe & False,
  )
  packed_info = _info.with_chase(
    packed_info, optax.tree.where(is_probe, no_chase, outcome)
  )
  return _info.replace(
    packed_info,
    trust=trust.ratio,
    mean_chase_gain=trust.mean_gain,
    is_on_probation=trust.is_on_probation,
    is_chase_undone=info.is_chase_undone | is_undone,
    num_chases_judged=trust.num_judged,
    num_chases_paid=trust.num_paid,
    num_chases_undone=trust.num_undone,
  )


def _place_candidates(
  base_updates: optax.Updates,
  params: optax.Params,
  slot: optax.Updates,
  result: loop.ChaseResult,
  *,
  is_probe: jax.Array,
  is_undone: jax.Array,
  leads: jax.Array,
  is_base: jax.Array | None,
) -> tuple[optax.Updates, optax.Params]:
  """What goes into the slot, and the rival that the next batch meets.

  * A rival that has won: its base update, from where it stands, is the step.
  * A rival that has not: it takes the base update of the leader along.
  * A chase that leads: the step is the chase, and the rival the base update.
  * A chase in the shadow: the rival is where it led.

  Args:
    base_updates: the base update of whoever is in use now.
    params: the parameters.
    slot: as it was.
    result: of the trip.
    is_probe: whether the trip evaluated the rival, boolean scalar.
    is_undone: whether the rival has won, boolean scalar.
    leads: whether a chase leads, boolean scalar.
    is_base: whether the step is a base update, which then goes into the slot,
      boolean scalar. None leaves the gradient there.

  Returns:
    The slot and the rival.
  """

  def added(left: jax.Array, base: jax.Array) -> jax.Array:
    """As `optax.apply_updates`, also where gradients are wider."""
    wide, base = trees.promote(left, base)
    return (wide + base).astype(left.dtype)

  def next_slot(slot, grad, left, base, old):
    won = trees.difference(added(left, base), old)
    moved = jnp.where(is_undone, won, trees.difference(left, old))
    stays = grad.astype(slot.dtype)
    if is_base is not None:
      stays = jnp.where(is_base, base.astype(slot.dtype), stays)
    return jnp.where(is_undone | leads, moved.astype(slot.dtype), stays)

  def next_rival(left, base, old):
    start = jnp.where(leads, old, left)
    is_to_follow = leads | is_probe
    return jnp.where(is_to_follow, added(start, base), start)

  slot = jax.tree.map(
    next_slot, slot, result.grad, result.left, base_updates, params
  )
  rival = jax.tree.map(next_rival, result.left, base_updates, params)
  return slot, rival
