"""Comparing pytrees, with a message for the rule that is broken."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check(is_kept: Any, rule: str) -> None:
  """Raises AssertionError with the rule unless it is kept."""
  if not is_kept:
    raise AssertionError(rule)


def check_arrays(tree: Any, rule: str) -> None:
  """Raises unless all leaves are arrays of types of their own."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    where = jax.tree_util.keystr(path)
    check(
      isinstance(leaf, jax.Array) and not leaf.weak_type,
      f'{rule}: {where or "it"} is {leaf!r}. Make it of jnp.zeros or the like, '
      'with its dtype: what is weakly typed, as Python numbers are, has '
      'another type after one step, and the step is compiled again.',
    )


def check_alike(before: Any, after: Any, rule: str) -> None:
  """Raises unless structure, shapes and dtypes are the same."""
  structures = jax.tree.structure(before), jax.tree.structure(after)
  check(
    structures[0] == structures[1],
    f'{rule}: the structure goes from {structures[0]} to {structures[1]}.',
  )
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(before),
    jax.tree.leaves(after),
    strict=True,
  )
  for (path, old), new in pairs:
    check(
      jnp.shape(old) == jnp.shape(new)
      and jnp.result_type(old) == jnp.result_type(new),
      f'{rule}: {jax.tree_util.keystr(path) or "it"} goes from '
      f'{jnp.result_type(old)}{list(jnp.shape(old))} to '
      f'{jnp.result_type(new)}{list(jnp.shape(new))}.',
    )


def check_equal(
  expected: Any, got: Any, rule: str, *, rtol: float = 0.0
) -> None:
  """Raises unless the leaves are equal, floats to `rtol`; NaN equals NaN."""
  check_alike(expected, got, rule)
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(expected),
    jax.tree.leaves(got),
    strict=True,
  )
  for (path, a), b in pairs:
    is_floating = jnp.issubdtype(jnp.result_type(a), jnp.floating)
    a, b = (
      np.asarray(jnp.asarray(x, float) if is_floating else x) for x in (a, b)
    )
    is_equal = (
      np.allclose(a, b, rtol=rtol, atol=rtol, equal_nan=True)
      if is_floating and rtol
      else np.array_equal(a, b, equal_nan=is_floating)
    )
    check(
      is_equal,
      f'{rule}: {jax.tree_util.keystr(path) or "it"} is {b} and not {a}.',
    )


def check_compiled_once(traces: list[None]) -> None:
  """Raises unless a jitted function was traced once."""
  check(
    len(traces) == 1,
    f'it is compiled once, got {len(traces)} times: what it returns has not '
    'the types that it was given',
  )


def copied(tree: Any) -> Any:
  """The tree by way of NumPy, as a checkpoint stores it."""
  return jax.tree.map(
    lambda x: jnp.array(np.array(x), jnp.result_type(x)), tree
  )
