"""Values of the loss that a base optimizer keeps in its state.

Optax's line searches store the loss and the gradient at the parameters that
they left, and `optax.value_and_grad_from_state` hands them out. Where a chase
has moved the parameters and the base state stayed as it was, they are those of
other parameters. An infinite loss is Optax's own mark for "evaluate anew".
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def has_any(state: Any) -> bool:
  """Whether a base state stores a loss and its gradient."""
  return any(map(_is_store, jax.tree.leaves(state, is_leaf=_is_store)))


def invalidate_if(is_moved: jax.Array, state: Any) -> Any:
  """`state`, its stored losses infinite where `is_moved`."""

  def invalidate(node: Any) -> Any:
    if not _is_store(node):
      return node
    value = jnp.asarray(node.value)
    return node._replace(value=jnp.where(is_moved, jnp.inf, value))

  return jax.tree.map(invalidate, state, is_leaf=_is_store)


def _is_store(node: Any) -> bool:
  """Whether a node of a state is a named tuple with a `value` and a `grad`."""
  fields = getattr(node, '_fields', ())
  return 'value' in fields and 'grad' in fields and node.grad is not None
