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

  is_due: jax.Array
  is_probe: jax.Array
  # The gradient that the base update is to take or, where `is_moved`, an update
  # that stands in its place.
  slot: optax.Updates
  is_moved: jax.Array
  rival: optax.Params
  packed_trust: probation.PackedTrust
  outcome: _info.Outcome


class _Decision(NamedTuple):
  """What a trip makes of the record.

  Attributes:
    packed_trust: the record.
    is_to_chase: whether a chase follows, boolean scalar.
    leads: whether the chase of this trip leads, boolean scalar.
  """

  packed_trust: probation.PackedTrust
  is_to_chase: jax.Array
  leads: jax.Array


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
  state: ProbationState,
) -> tuple[optax.Updates, optax.OptState, _info.Outcome, ProbationState]:
  """A base update, or a chase that leads, or the return from one that failed.

  A step with neither rival nor chase passes slot and rival through the loop in
  place. A chase moves in the place of the rival, which there is none of when
  one begins, so the gradient lives through it and is never computed anew.
  """
  rules = settings.rules

  def trip(carry: _Carry) -> _Carry:
    """Evaluates the rival, or chases."""
    inner = batch.inside(carry.is_probe)
    is_flagged = chase_step.is_chase_due(settings, inner)
    # As in `Batch.inside`: a product with the state, of the size of parameters.
    _, frozen_state = jax.lax.optimization_barrier((carry.is_probe, base_state))
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
        is_due=carry.is_probe,
        rival=carry.rival,
        grad=grad,
        judge=judge_rival,
        record=carry.packed_trust,
      ),
    )
    is_undone = result.judged.is_chosen
    num_evaluations = carry.outcome.num_evaluations + result.num_evaluations

    def decide(before: _Decision) -> _Decision:
      """After a probe, whether to chase; after a chase, who leads."""
      admitted, is_to_chase = probation.admit(
        probation.unpack(result.judged.record),
        is_flagged & ~is_undone,
        inner.num_training_steps,
        inner.num_extra_evaluations + num_evaluations,
        settings.max_chase_steps,
      )
      begun, leads = probation.begin(
        probation.unpack(before.packed_trust),
        ~carry.is_probe & ~result.is_reverted,
        inner.loss - result.loss,
        rules,
      )
      record = optax.tree.where(carry.is_probe, admitted, begun)
      return _Decision(
        probation.pack(record), carry.is_probe & is_to_chase, leads
      )

    # Apart, as a loop of one trip: else all of this is compiled into the kernel
    # of each leaf.
    decision = control_flow.run_once_if(
      carry.is_due,
      decide,
      _Decision(
        carry.packed_trust, carry.is_probe & False, carry.is_probe & False
      ),
    )
    leads = decision.leads
    slot, rival = _place_candidates(
      base_update, frozen_state, params, carry, result, is_undone, leads
    )
    outcome = chase_step.outcome_of(result, inner.loss)
    outcome = outcome._replace(
      final_loss=jnp.where(leads, outcome.final_loss, inner.loss)
    )
    return _Carry(
      is_due=decision.is_to_chase,
      is_probe=carry.is_probe & False,
      slot=slot,
      is_moved=is_undone | leads,
      rival=rival,
      packed_trust=decision.packed_trust,
      outcome=optax.tree.where(carry.is_probe, carry.outcome, outcome)._replace(
        num_evaluations=num_evaluations,
        is_undone=carry.outcome.is_undone | is_undone,
      ),
    )

  trust, is_to_chase = probation.admit(
    probation.unpack(state.packed_trust),
    chase_step.is_chase_due(settings, batch),
    batch.num_training_steps,
    batch.num_extra_evaluations,
    settings.max_chase_steps,
  )
  carry = control_flow.while_loop(
    lambda carry: carry.is_due,
    trip,
    _Carry(
      is_due=trust.is_on_probation | is_to_chase,
      is_probe=trust.is_on_probation,
      slot=jax.tree.map(lambda g, p: trees.promote(g, p)[0], updates, params),
      is_moved=is_to_chase & False,
      rival=state.rival,
      packed_trust=probation.pack(trust),
      outcome=_info.no_chase(batch.loss),
    ),
    is_traced=_checks.is_traced(batch.loss),
  )
  new_updates, base_state = chase_step.base_update_unless(
    carry.is_moved, base_update, updates, carry.slot, base_state, params
  )
  trust = probation.unpack(carry.packed_trust)
  outcome = carry.outcome._replace(trust=probation.report(trust))
  return (
    new_updates,
    base_state,
    outcome,
    ProbationState(carry.rival, carry.packed_trust),
  )


def _place_candidates(
  base_update: chase_step.BaseUpdate,
  base_state: optax.OptState,
  params: optax.Params,
  carry: _Carry,
  result: loop.ChaseResult,
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
    is_to_follow = leads | carry.is_probe
    return jnp.where(is_to_follow, added(start, base), start)

  slot = jax.tree.map(
    next_slot, carry.slot, result.grad, result.left, base_updates, params
  )
  rival = jax.tree.map(next_rival, result.left, base_updates, params)
  return slot, rival
