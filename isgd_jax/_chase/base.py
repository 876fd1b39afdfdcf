"""The base optimizer in a step with a chase: advanced, left as it was, asked.

A base update goes ahead of the loop of a step, or comes after it. After it, one
slot hands the gradient through the loop, and a step without a chase neither
copies nor writes more than the base alone. But the new state is then all ready
at once, where XLA on CPUs runs kernels one after the other until more than
eight are ready, and then hands half of them to another thread: 5 to 15
microseconds a step, which may be more than the step itself. Ahead of the loop
they follow the gradient leaf by leaf, as in the base alone; the slot hands the
update through, which is written and read once more than in the base alone, and
what is left after the loop is to add it to the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from isgd_jax import _frozen_update
from isgd_jax._chase import control_flow
from isgd_jax._chase import stored_values
from isgd_jax._chase import trees

# Kernels that XLA leaves to one thread; one for each leaf.
_MOST_READY = 8
# With 26,000 parameters a step is a tenth faster so; with 100,000 the second
# pass over the update makes it a quarter slower.
_FEW_PARAMS = 2**15

# Optax's `update`, with the extra arguments bound: (updates, state, params).
BaseUpdate = Callable[
  [optax.Updates, optax.OptState, optax.Params],
  tuple[optax.Updates, optax.OptState],
]


class Status:
  """Where a step is; int32 numbers, carried through its loop.

  One number and not booleans, and made of the loss: a constant that a loop
  begins with is a kernel of its own, which waits for nothing and so counts
  among those that are ready at once. The same is why nothing but the base
  update may be left to do after the loop.
  """

  DONE = np.int32(0)
  # There is an update in the place of the gradient.
  MOVED = np.int32(1)
  # A chase is due.
  DUE = np.int32(2)
  # A rival is due to be evaluated, before any chase.
  PROBE = np.int32(3)
  # A chase was due and is put off, which is to be counted.
  REFUSED = np.int32(4)

  @staticmethod
  def before(is_due: jax.Array) -> jax.Array:
    """Of a step that may have a chase before it."""
    return jnp.where(is_due, Status.DUE, Status.DONE)

  @staticmethod
  def after(is_moved: jax.Array) -> jax.Array:
    """Of a step that has no further trip before it."""
    return jnp.where(is_moved, Status.MOVED, Status.DONE)


def goes_ahead(base_state: optax.OptState, params: optax.Params) -> bool:
  """Whether the base update goes ahead of the loop of a step.

  So it does where the leaves of its state, ready at once after the loop, would
  be too many for one thread and those of the parameters are not: Adam's of a
  network of two to four layers, and with a single moment none. With more leaves
  two threads are of use.

  Args:
    base_state: state of the base optimizer.
    params: the parameters.

  Returns:
    A fact of the shapes, so a Python boolean, also under jit.
  """
  sizes = [jnp.size(leaf) for leaf in jax.tree.leaves(params)]
  num_state_leaves = len(jax.tree.leaves(base_state))
  has_to_gain = len(sizes) <= _MOST_READY < num_state_leaves
  return has_to_gain and sum(sizes) <= _FEW_PARAMS


class Start(NamedTuple):
  """What a loop begins with.

  Attributes:
    slot: the gradient or, where the base update goes ahead and no trip follows,
      the update. Wide enough for both, and for what a chase leaves.
    base_state: after that update; as it was, where there is none yet.
    like: has the dtypes of what `after_loop` is to find in the slot.
  """

  slot: optax.Updates
  base_state: optax.OptState
  like: optax.Updates


def before_loop(
  is_ahead: bool,
  is_later: jax.Array,
  base_update: BaseUpdate,
  updates: optax.Updates,
  base_state: optax.OptState,
  params: optax.Params,
) -> Start:
  """The base update, where it goes ahead.

  Args:
    is_ahead: as `goes_ahead` says.
    is_later: whether a trip is to decide on this step, boolean scalar; the trip
      then sees to the base update by `advance_if`, if the step is one.
    base_update: of the base optimizer.
    updates: the gradient.
    base_state: state of the base optimizer.
    params: the parameters.

  Returns:
    A :class:`Start`.
  """
  # A no-op where they agree.
  slot = jax.tree.map(lambda g, p: trees.promote(g, p)[0], updates, params)
  if not is_ahead:
    return Start(slot, base_state, updates)
  is_later = control_flow.computed_once(is_later)
  base_updates, base_state = _frozen_update.update_unless(
    is_later, base_update, updates, base_state, params
  )
  slot = jax.tree.map(
    lambda g, u: jnp.where(is_later, *trees.promote(g, u)), slot, base_updates
  )
  return Start(slot, base_state, base_updates)


def advance_if(
  is_base: jax.Array,
  base_update: BaseUpdate,
  grad: optax.Updates,
  base_state: optax.OptState,
  params: optax.Params,
) -> tuple[optax.Updates, optax.OptState]:
  """The base update, and the state, advanced where `is_base`.

  Unlike `_frozen_update`, for a trip of a loop: the update holds in any case.
  """
  updates, new_state = base_update(grad, base_state, params)
  is_kept = ~is_base
  keep = lambda old, new: _frozen_update.keep_if(is_kept, old, new)
  return updates, jax.tree.map(keep, base_state, new_state)


def after_loop(
  is_ahead: bool,
  is_moved: jax.Array,
  base_update: BaseUpdate,
  like: optax.Updates,
  slot: optax.Updates,
  base_state: optax.OptState,
  params: optax.Params,
) -> tuple[optax.Updates, optax.OptState]:
  """The base update of the gradient in the slot, or the update that is there.

  Args:
    is_ahead: as `goes_ahead` says; the slot then has an update in any case.
    is_moved: whether a chase has left its update there, boolean scalar. The
      base state is then left as it was, and the values of the loss in it are
      those of other parameters.
    base_update: of the base optimizer.
    like: of the `Start`.
    slot: from the loop.
    base_state: from the loop.
    params: the parameters.

  Returns:
    The updates and the base state.
  """
  left = optax.tree.cast_like(slot, like)
  if not is_ahead:
    base_updates, base_state = _frozen_update.update_unless(
      is_moved, base_update, left, base_state, params
    )
    left = jax.tree.map(
      lambda s, u: jnp.where(is_moved, s.astype(u.dtype), u), slot, base_updates
    )
  return left, stored_values.invalidate_if(is_moved, base_state)


def kept_inside(state: optax.OptState, status: jax.Array) -> optax.OptState:
  """The base state, for a loop that carries `status`.

  As in `Batch.inside`: a product with the state, of the size of parameters.
  """
  return jax.lax.optimization_barrier((status, state))[1]


class Base(NamedTuple):
  """The base optimizer at this step, to be asked and not to be advanced."""

  update: BaseUpdate
  state: optax.OptState
  params: optax.Params
  updates: optax.Updates

  def response(self, grad: optax.Updates) -> optax.Updates:
    """Half of `update(-grad) - update(grad)`: what is in both of them cancels.

    The probe is the gradient itself. A hundredth of it would leave Adam's
    second moment nearer to what it was (a cosine of 1.00 with that metric,
    where the gradient itself has 0.999 at its usual size and 0.94 at ten
    times), but is lost in rounding (0.96 in bfloat16), and hands the whole step
    to parameters that had no gradient before.
    """
    grad = optax.tree.cast_like(grad, self.updates)
    updates, _ = self.update(grad, self.state, self.params)
    opposite, _ = self.update(
      jax.tree.map(jnp.negative, grad), self.state, self.params
    )
    return jax.tree.map(trees.half_difference, opposite, updates)

  def points_uphill(
    self, updates: optax.Updates, grad: optax.Updates, dtype: Any
  ) -> jax.Array:
    """Whether the base optimizer's answer to `updates` climbs along `grad`.

    So it does where the sign and the rate come after `isgd` in a chain. Its
    update alone does not tell: old momentum may climb, and often does where a
    chase is due. (L-BFGS, whose memory takes in the difference to the gradient
    before, may seem to climb too, and is then not chased with.)
    """
    if stored_values.has_any(self.state):
      # A line search sees to its own direction, and is dear to ask.
      return jnp.zeros((), bool)
    response = self.response(updates)
    slope = jax.tree.map(
      lambda g, r: jnp.sum(g.astype(dtype) * r.astype(dtype)), grad, response
    )
    return trees.sum_of(jax.tree.leaves(slope), dtype) < 0
