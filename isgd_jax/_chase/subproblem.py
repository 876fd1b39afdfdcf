r"""The conservative subproblem, and what a solver of it is.

An under-trained batch with loss :math:`\psi` is chased down to a target by
minimising

.. math::
  \phi(w) = \tfrac{1}{2} (\psi(w) - \text{target})^2
  + \frac{\varepsilon}{2 n_w} \|w - w_{t-1}\|^2

from the paper, with the weights :math:`w_{t-1}` before the chase as the anchor
and :math:`n_w` their number. Plain types: none of this needs an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax


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
    is_element_movable: which elements of those leaves may move, pytree of
      boolean arrays of their shapes. The chase holds the others still too, and
      what its first step from the anchor has not moved. None for all of them.
  """

  anchor: optax.Params
  target: jax.Array
  damping: jax.Array
  num_training_steps: jax.Array
  is_movable: Any
  base_response: Callable[[optax.Updates], optax.Updates] | None = None
  base_update_norm: jax.Array | None = None
  is_element_movable: Any = None


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
