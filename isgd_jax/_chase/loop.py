"""The bounded chase: solver steps until the loss is at its target.

Plain functions: none of this needs an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from isgd_jax import _checks
from isgd_jax._chase import control_flow
from isgd_jax._chase import trees
from isgd_jax._chase.subproblem import Subproblem
from isgd_jax._chase.subproblem import SubproblemSolver

# Of the way from the loss found to the target, what a chase must have gone to
# be kept. Rounding alone lowers a loss by a few of its last digits.
_LEAST_SHARE = 0.01


class ChaseResult(NamedTuple):
  """Where a chase ended.

  Attributes:
    left: the parameters it left. If it was reverted, the gradient of the batch
      at the anchor where that was to be recovered, else the anchor.
    loss: last loss evaluated before a revert, floating scalar.
    num_steps: steps taken, int32 scalar.
    num_evaluations: values-and-gradients computed, int32 scalar.
    is_reverted: whether the guard undid the chase, boolean scalar.
    grad: with a probe, the gradient to go on from. None without one.
    judged: with a probe, what was made of its loss. None without one.
  """

  left: optax.Params | optax.Updates
  loss: jax.Array
  num_steps: jax.Array
  num_evaluations: jax.Array
  is_reverted: jax.Array
  grad: Any = None
  judged: Any = None


class Judged(NamedTuple):
  """What is made of the loss of a probe.

  Attributes:
    record: what is kept of it, a pytree.
    is_chosen: whether its gradient is to be gone on from, boolean scalar.
  """

  record: Any
  is_chosen: jax.Array


class Probe(NamedTuple):
  """An evaluation of other parameters in place of a chase.

  Attributes:
    is_due: whether to evaluate them and leave it at that, boolean scalar.
    rival: the other parameters, which are left as they are.
    grad: the gradient to go on from unless theirs is chosen.
    judge: `judge(record, loss) -> Judged`, of the loss that they have.
    record: before it, a pytree.
  """

  is_due: jax.Array
  rival: optax.Params
  grad: optax.Updates
  judge: Callable[[Any, jax.Array], Judged]
  record: Any


class _Carry(NamedTuple):
  """Loop carry of `chase`."""

  result: ChaseResult
  solver_state: Any
  is_over: jax.Array


class _Verdict(NamedTuple):
  """What one evaluation decides; boolean scalars."""

  is_to_step: jax.Array
  is_reverted: jax.Array
  is_over: jax.Array


def chase(
  value_and_grad_fn: Callable[[optax.Params], tuple[jax.Array, optax.Updates]],
  solver: SubproblemSolver,
  subproblem: Subproblem,
  start: optax.Params,
  *,
  loss_found: jax.Array,
  max_steps: jax.typing.ArrayLike,
  tolerance: float = 0.0,
  guard: bool = True,
  start_grad: optax.Updates | None = None,
  recover_grad: bool = False,
  is_refused: jax.Array | None = None,
  probe: Probe | None = None,
) -> ChaseResult:
  """Steps the solver until the loss is at its target, or `max_steps` are taken.

  Every evaluation is one value-and-gradient. Its loss decides whether to stop;
  its gradient takes the next step, if there is one. (To evaluate the loss
  first and the gradient only for a next step was slower and held one more copy
  of the parameters: the residuals must pass through a conditional.)

  Args:
    value_and_grad_fn: loss and gradient of the batch at given parameters. The
      loss is a floating scalar.
    solver: the solver.
    subproblem: anchor, target and damping.
    start: parameters to start from.
    loss_found: loss of the batch at the anchor, floating scalar of the same
      dtype as the loss of `value_and_grad_fn`.
    max_steps: most steps to take, at least 1.
    tolerance: share of the gap between `loss_found` and the target at which the
      target counts as reached.
    guard: whether a chase is reverted to the anchor unless it ends on a finite
      loss that is a hundredth of the way from `loss_found` to the target or
      further, with all that may move finite. Without it, the loss after the
      last allowed step is not evaluated.
    start_grad: gradient at `start`, if it is the anchor and its gradient is
      known; it saves the first evaluation.
    recover_grad: whether a reverted chase that was given `start_grad` is to
      leave the gradient at the anchor, in the dtypes that hold it and the
      parameters. That takes one more evaluation, in place of a copy of the
      gradient held through every chase: one slot has the parameters that are
      chased, and after a revert the gradient.
    is_refused: whether not to begin, boolean scalar: nothing is evaluated, and
      what is left is that of a reverted chase. Needs `guard`.
    probe: other parameters to evaluate in place of the chase, where that is
      due. They share the loop, so that a program has one evaluation for both.

  Returns:
    A :class:`ChaseResult`.
  """
  given_movable = subproblem.is_element_movable
  if given_movable is None:
    given_movable = subproblem.is_movable
  recovers = guard and recover_grad and start_grad is not None
  gap = loss_found - subproblem.target
  enough = subproblem.target + tolerance * gap
  # Without a finite target any decrease will do.
  good_enough = jnp.where(
    jnp.isfinite(gap), loss_found - _LEAST_SHARE * gap, loss_found
  )

  def take_step(params, loss, grad, solver_state, is_movable):
    """One solver step, of what may move; dtypes are kept."""
    stepped, solver_state = solver.step(
      solver_state, subproblem, params, loss, grad
    )
    stepped = jax.tree.map(
      lambda is_movable, new, old: jnp.where(
        is_movable, jnp.asarray(new).astype(old.dtype), old
      ),
      is_movable,
      stepped,
      params,
    )
    return stepped, solver_state

  def movable_at(params):
    """What may move from here: after a first step, all that it has moved.

    So nothing else lives through the chase to tell the elements that may.
    """
    if start_grad is None:
      return given_movable
    return jax.tree.map(
      lambda p, anchor: p != anchor, params, subproblem.anchor
    )

  def judge(
    before: ChaseResult, loss: jax.Array, params: optax.Params
  ) -> _Verdict:
    """Whether a chase that came to `params` steps on, is undone, is over."""
    is_last = (
      (loss <= enough) | ~jnp.isfinite(loss) | (before.num_steps >= max_steps)
    )
    if not guard:
      would_be_last = before.num_steps + 1 >= max_steps
      return _Verdict(~is_last, before.is_reverted, is_last | would_be_last)
    is_good = jnp.isfinite(loss) & (loss < loss_found) & (loss <= good_enough)
    is_good &= trees.all_finite(params, subproblem.is_movable, loss.dtype)
    is_reverted = before.is_reverted | (is_last & ~is_good)
    # One more trip of this loop, at the anchor, recovers the gradient.
    is_over = (
      jnp.where(is_reverted, before.is_reverted, is_last)
      if recovers
      else is_last
    )
    return _Verdict(~is_last & ~before.is_reverted, is_reverted, is_over)

  def what_is_left(
    before: ChaseResult,
    verdict: _Verdict,
    params: optax.Params,
    stepped: optax.Params,
    grad: optax.Updates,
  ) -> optax.Params | optax.Updates:
    """The next parameters of the chase, or what is to be taken from it."""
    left = optax.tree.where(verdict.is_to_step, stepped, params)
    if guard:
      left = optax.tree.where(verdict.is_reverted, subproblem.anchor, left)
    if recovers:
      left = optax.tree.where(
        before.is_reverted,
        optax.tree.cast_like(grad, before.left),
        optax.tree.cast_like(left, before.left),
      )
    return left

  def evaluate_then_step(carry: _Carry) -> _Carry:
    """A trip at the chased parameters, or the one that recovers the gradient.

    The latter comes once a chase is undone: what is left is then the anchor.
    """
    before = carry.result
    params = optax.tree.cast_like(before.left, subproblem.anchor)
    loss, grad = value_and_grad_fn(params)
    verdict = judge(before, loss, params)
    next_grad, judged = before.grad, before.judged
    if probe is not None:
      # Apart: else all of its arithmetic is compiled into the kernel of each
      # leaf of the gradient.
      judge_probe = probe.judge
      judged = control_flow.run_once_if(
        probe.is_due, lambda judged: judge_probe(judged.record, loss), judged
      )
      verdict = _Verdict(
        is_to_step=verdict.is_to_step & ~probe.is_due,
        is_reverted=verdict.is_reverted & ~probe.is_due,
        is_over=verdict.is_over | probe.is_due,
      )
      next_grad = optax.tree.where(
        judged.is_chosen,
        optax.tree.cast_like(grad, before.grad),
        before.grad,
      )
    stepped, solver_state = take_step(
      params, loss, grad, carry.solver_state, movable_at(params)
    )
    result = ChaseResult(
      left=what_is_left(before, verdict, params, stepped, grad),
      loss=jnp.where(before.is_reverted, before.loss, loss),
      num_steps=before.num_steps + verdict.is_to_step.astype(jnp.int32),
      num_evaluations=before.num_evaluations + 1,
      is_reverted=verdict.is_reverted,
      grad=next_grad,
      judged=judged,
    )
    return _Carry(result, solver_state, verdict.is_over)

  solver_state = solver.init(subproblem)
  params, num_steps = start, jnp.zeros((), jnp.int32)
  if start_grad is not None:
    params, solver_state = take_step(
      start, loss_found, start_grad, solver_state, given_movable
    )
    num_steps = num_steps + 1
  if recovers:
    params = jax.tree.map(
      lambda p, g: trees.promote(p, g)[0], params, start_grad
    )
  is_refused = jnp.zeros((), bool) if is_refused is None else is_refused
  if probe is not None:
    is_refused &= ~probe.is_due
    params = optax.tree.where(probe.is_due, probe.rival, params)
    num_steps = jnp.where(probe.is_due, 0, num_steps)
  result = ChaseResult(
    left=optax.tree.where(
      is_refused,
      optax.tree.cast_like(start_grad if recovers else start, params),
      params,
    ),
    loss=loss_found,
    num_steps=jnp.where(is_refused, 0, num_steps),
    num_evaluations=jnp.zeros((), jnp.int32),
    is_reverted=is_refused,
    grad=None if probe is None else probe.grad,
    judged=None
    if probe is None
    else Judged(probe.record, probe.is_due & False),
  )
  carry = control_flow.while_loop(
    lambda carry: ~carry.is_over,
    evaluate_then_step,
    _Carry(result, solver_state, is_refused),
    is_traced=_checks.is_traced(loss_found),
  )
  return carry.result
