"""Loops that XLA runs in place, and Python where the answer is known.

Outside `jax.jit` a predicate is a number: branching on it in Python compiles
nothing, where a loop of closures would be compiled anew at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from isgd_jax import _checks

T = TypeVar('T')


def run_once_if(is_due: jax.Array, run: Callable[[T], T], carry: T) -> T:
  """`run(carry)` if `is_due`, else `carry` as it is.

  A loop of at most one trip, not a `cond`: XLA hands a loop's carry through in
  place, and copies what passes through a conditional.
  """
  if not _checks.is_traced(is_due):
    return run(carry) if is_due else carry

  def body(state: tuple[jax.Array, T]) -> tuple[jax.Array, T]:
    is_due, carry = state
    return is_due & False, run(carry)

  return jax.lax.while_loop(lambda state: state[0], body, (is_due, carry))[1]


def while_loop(
  condition: Callable[[Any], jax.Array],
  body: Callable[[T], T],
  carry: T,
  *,
  is_traced: bool,
) -> T:
  """`jax.lax.while_loop`, or a Python loop while nothing is traced."""
  if not is_traced:
    while not _checks.is_traced(goes_on := condition(carry)):
      if not goes_on:
        return carry
      carry = body(carry)
  return jax.lax.while_loop(condition, body, carry)


def computed_once(flag: jax.Array) -> jax.Array:
  """`flag`, a boolean scalar, in a kernel of its own.

  XLA repeats a scalar in each kernel that broadcasts it, with all that it is
  made of: a chart's limit, say, in a kernel for each leaf of the parameters.
  What it holds to be expensive, as a root, it computes once.
  """
  if not _checks.is_traced(flag):
    return flag
  return jnp.sqrt(flag.astype(jnp.float32)) > 0
