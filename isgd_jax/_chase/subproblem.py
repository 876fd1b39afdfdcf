r"""The conservative subproblem, what solves it, and the bounded chase.

An under-trained batch with loss :math:`\psi` is chased down to a target by
minimising

.. math::
  \phi(w) = \tfrac{1}{2} (\psi(w) - \text{target})^2
  + \frac{\varepsilon}{2 n_w} \|w - w_{t-1}\|^2

from the paper, with the weights :math:`w_{t-1}` before the chase as the anchor
and :math:`n_w` their number. Plain functions: none of this needs an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from isgd_jax._chase import trees


class Subproblem(NamedTuple):
  r"""One conservative subproblem: what stays constant during a chase.

  A solver's step is handed this tuple whole, so that a field added to it later
  breaks no solver. What a solver does not read is not computed.

  Attributes:
    anchor: parameters :math:`w_{t-1}` before the chase, pytree of arrays.
    target: loss to chase down to, floating scalar.
    damping: :math:`\varepsilon / n_w`, weight of the conservative constraint
      per parameter, floating scalar.
    num_training_steps: training steps taken before this one, int32 scalar.
    is_movable: which leaves may move, pytree of boolean scalars with the
      structure of the parameters. The chase holds the others still whatever the
      solver returns; a solver that measures the gradient leaves them out.
    base_response: `base_response(grad) -> response`, the part of the base
      update that answers to the gradient, without momentum and weight decay,
      with the sign of the gradient: half of `update(-grad) - update(grad)` from
      the base state that the chase starts with, in the structure of `grad` and
      the dtype of the loss. None where there is no base optimizer.
    base_update_norm: Euclidean length of the base update of this batch,
      floating scalar. None where there is no base optimizer.
  """

  anchor: optax.Params
  target: jax.Array
  damping: jax.Array
  num_training_steps: jax.Array
  is_movable: Any
  base_response: Callable[[optax.Updates], optax.Updates] | None = None
  base_update_norm: jax.Array | None = None


class SubproblemSolver(NamedTuple):
  """An iterative solver of the conservative subproblem: two pure functions.

  Attributes:
    init: `init(subproblem) -> state`, called once at the start of each chase.
    step: `step(state, subproblem, params, loss, grad) -> (params, state)`: one
      step from `params`, where the batch has `loss` and gradient `grad`. `loss`
      is a floating scalar of at least float32; `grad` has the structure of
      `params`, and the new parameters keep shapes and dtypes.

  Examples:
    A solver that takes a step of fixed length along the negative gradient:

    >>> import jax, optax, isgd_jax
    >>> def step(state, subproblem, params, loss, grad):
    ...   length = 0.01 / optax.tree.norm(grad)
    ...   return optax.tree.add_scale(params, -length, grad), state
    >>> solver = isgd_jax.SubproblemSolver(lambda subproblem: (), step)
    >>> optimizer = isgd_jax.isgd(
    ...     optax.sgd(0.1), isgd_jax.shewhart(50), solver=solver)
  """

  init: Callable[[Subproblem], Any]
  step: Callable[
    [Any, Subproblem, optax.Params, jax.Array, optax.Updates],
    tuple[optax.Params, Any],
  ]


class ChaseResult(NamedTuple):
  """Where a chase ended.

  Attributes:
    left: the parameters it left. If it was reverted, the gradient of the batch
      at the anchor where that was to be recovered, else the anchor.
    loss: last loss evaluated before a revert, floating scalar.
    num_steps: steps taken, int32 scalar.
    num_evaluations: values-and-gradients computed, int32 scalar.
    is_reverted: whether the guard undid the chase, boolean scalar.
  """

  left: optax.Params | optax.Updates
  loss: jax.Array
  num_steps: jax.Array
  num_evaluations: jax.Array
  is_reverted: jax.Array


class _ChaseCarry(NamedTuple):
  """Loop carry of `chase`."""

  result: ChaseResult
  solver_state: Any
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
      loss below `loss_found`, with all that may move finite. Without it, the
      loss after the last allowed step is not evaluated.
    start_grad: gradient at `start`, if it is the anchor and its gradient is
      known; it saves the first evaluation.
    recover_grad: whether a reverted chase that was given `start_grad` is to
      leave the gradient at the anchor, in the dtypes that hold it and the
      parameters. That takes one more evaluation, in place of a copy of the
      gradient held through every chase: one slot has the parameters that are
      chased, and after a revert the gradient.

  Returns:
    A :class:`ChaseResult`.
  """
  grad_to_recover = start_grad if guard and recover_grad else None
  enough = subproblem.target + tolerance * (loss_found - subproblem.target)

  def take_step(params, loss, grad, solver_state):
    """One solver step, of the leaves that may move; dtypes are kept."""
    stepped, solver_state = solver.step(
      solver_state, subproblem, params, loss, grad
    )
    stepped = jax.tree.map(
      lambda is_movable, new, old: jnp.where(
        is_movable, jnp.asarray(new).astype(old.dtype), old
      ),
      subproblem.is_movable,
      stepped,
      params,
    )
    return stepped, solver_state

  def is_chasing(carry: _ChaseCarry) -> jax.Array:
    return ~carry.is_over

  def evaluate_then_step(carry: _ChaseCarry) -> _ChaseCarry:
    """Evaluates where the chase stands; stops, reverts, or takes a step."""
    result = carry.result
    params = optax.tree.cast_like(result.left, subproblem.anchor)
    loss, grad = value_and_grad_fn(params)
    is_last = (
      (loss <= enough) | ~jnp.isfinite(loss) | (result.num_steps >= max_steps)
    )
    stepped, solver_state = take_step(params, loss, grad, carry.solver_state)
    left = optax.tree.where(is_last, params, stepped)
    num_steps = result.num_steps + (~is_last).astype(jnp.int32)
    is_over, is_reverted = is_last, result.is_reverted
    if guard:
      is_good = jnp.isfinite(loss) & (loss < loss_found)
      is_good &= _all_finite(params, subproblem.is_movable, loss.dtype)
      is_reverted = result.is_reverted | (is_last & ~is_good)
      left = optax.tree.where(is_reverted, subproblem.anchor, left)
      num_steps = jnp.where(result.is_reverted, result.num_steps, num_steps)
      if grad_to_recover is not None:
        # One more trip of this loop, at the anchor, recovers the gradient.
        is_over = jnp.where(is_reverted, result.is_reverted, is_last)
        left = optax.tree.where(
          result.is_reverted,
          optax.tree.cast_like(grad, result.left),
          optax.tree.cast_like(left, result.left),
        )
    else:
      is_over = is_last | (num_steps >= max_steps)
    return _ChaseCarry(
      ChaseResult(
        left=left,
        loss=jnp.where(result.is_reverted, result.loss, loss),
        num_steps=num_steps,
        num_evaluations=result.num_evaluations + 1,
        is_reverted=is_reverted,
      ),
      solver_state,
      is_over,
    )

  solver_state = solver.init(subproblem)
  params, num_steps = start, jnp.zeros((), jnp.int32)
  if start_grad is not None:
    params, solver_state = take_step(
      start, loss_found, start_grad, solver_state
    )
    num_steps = num_steps + 1
  if grad_to_recover is not None:
    params = jax.tree.map(
      lambda p, g: promote(p, g)[0], params, grad_to_recover
    )
  is_false = jnp.zeros((), bool)
  carry = _ChaseCarry(
    ChaseResult(
      left=params,
      loss=loss_found,
      num_steps=num_steps,
      num_evaluations=jnp.zeros((), jnp.int32),
      is_reverted=is_false,
    ),
    solver_state,
    is_over=is_false,
  )
  return jax.lax.while_loop(is_chasing, evaluate_then_step, carry).result


def promote(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Both in the narrowest dtype that holds either, also in strict promotion."""
  with jax.numpy_dtype_promotion('standard'):
    dtype = jnp.promote_types(jnp.result_type(a), jnp.result_type(b))
  return jnp.asarray(a, dtype), jnp.asarray(b, dtype)


def _all_finite(
  params: optax.Params, is_movable: Any, dtype: jax.typing.DTypeLike
) -> jax.Array:
  """Whether every element of every leaf that may move is finite."""
  # Zero times what is not finite is NaN. A sum is made in one pass; before a
  # conjunction XLA stores a predicate of every element on CPUs.
  zeros = jax.tree.map(
    lambda m, p: jnp.where(m, jnp.sum(0 * p.astype(dtype)), 0),
    is_movable,
    params,
  )
  return trees.sum_of(jax.tree.leaves(zeros), dtype) == 0
