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
from isgd_jax._chase import control_flow
from isgd_jax._chase import loop
from isgd_jax._chase import probation
from isgd_jax._chase import step as chase_step
from isgd_jax._chase import trees
from isgd_jax._chase.step import Status


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
  # The gradient that the base update is to take or, once moved, an update that
  # stands in its place.
  slot: optax.Updates
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
  base_update: chase_step.BaseUpdate,
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

  def trip(carry: _Carry) -> _Carry:
    """Evaluates the rival, or chases."""
    is_probe = carry.status == Status.PROBE
    inner = batch.inside(carry.packed_info, settings.chase_to)
    is_flagged = chase_step.is_chase_due(settings, inner)
    frozen_state = chase_step.kept_inside(base_state, carry.status)
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
      chase_step.Base(base_update, frozen_state, params, grad),
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
    slot, rival = _place_candidates(
      base_update,
      frozen_state,
      params,
      carry.slot,
      result,
      is_probe,
      is_undone,
      decision.leads,
    )
    return _Carry(
      decision.status, slot, rival, decision.packed_trust, decision.packed_info
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
  carry = control_flow.while_loop(
    lambda carry: carry.status >= Status.DUE,
    trip_or_count,
    _Carry(
      status=jnp.where(
        trust.is_on_probation,
        Status.PROBE,
        jnp.where(
          admitted.pause < trust.pause,
          Status.REFUSED,
          Status.before(is_to_chase),
        ),
      ),
      slot=jax.tree.map(lambda g, p: trees.promote(g, p)[0], updates, params),
      rival=state.rival,
      packed_trust=state.packed_trust,
      packed_info=packed_info,
    ),
    is_traced=_checks.is_traced(batch.loss),
  )
  new_updates, base_state = chase_step.base_update_unless(
    carry.status == Status.MOVED,
    base_update,
    updates,
    carry.slot,
    base_state,
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
  base_update: chase_step.BaseUpdate,
  base_state: optax.OptState,
  params: optax.Params,
  slot: optax.Updates,
  result: loop.ChaseResult,
  is_probe: jax.Array,
  is_undone: jax.Array,
  leads: jax.Array,
) -> tuple[optax.Updates, optax.Params]:
  """What goes into the slot, and the rival that the next batch meets.

  * A rival that has won: its base update, from where it stands, is the step.
  * A rival that has not: it takes the base update of the leader along.
  * A chase that leads: the step is the chase, and the rival the base update.
  * A chase in the shadow: the rival is where it led.
  """
  at = optax.tree.where(is_undone, result.left, params)
  base_updates, _ = base_update(result.grad, base_state, at)

  def added(left: jax.Array, base: jax.Array) -> jax.Array:
    """As `optax.apply_updates`, also where gradients are wider."""
    wide, base = trees.promote(left, base)
    return (wide + base).astype(left.dtype)

  def next_slot(slot, grad, left, base, old):
    won = trees.difference(added(left, base), old)
    moved = jnp.where(is_undone, won, trees.difference(left, old))
    return jnp.where(
      is_undone | leads, moved.astype(slot.dtype), grad.astype(slot.dtype)
    )

  def next_rival(left, base, old):
    start = jnp.where(leads, old, left)
    is_to_follow = leads | is_probe
    return jnp.where(is_to_follow, added(start, base), start)

  slot = jax.tree.map(
    next_slot, slot, result.grad, result.left, base_updates, params
  )
  rival = jax.tree.map(next_rival, result.left, base_updates, params)
  return slot, rival
