"""Arithmetic on pytrees that XLA keeps small: sums, norms, dtypes.

XLA fuses a chain of additions into everything that uses its sum. A step of the
chase scales each leaf by a sum over all leaves, so the compiled program grew
with the square of their number: of ResNet-18, with 62 leaves, that was half of
the time that compilation took. A reduction over a vector is computed once. The
barrier keeps XLA from taking the vector apart into the chain again.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def sum_of(
  scalars: Sequence[jax.Array], dtype: jax.typing.DTypeLike
) -> jax.Array:
  """Sum of scalars of `dtype`; zero if there are none."""
  vector = jnp.stack([*scalars, jnp.zeros((), dtype)])
  return jnp.sum(jax.lax.optimization_barrier(vector))


def squared_norm(tree: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
  """Sum of the squares of all elements, accumulated in `dtype`.

  `optax.tree.norm` adds up the leaves in the chain that is to be avoided.
  """
  squares = [
    jnp.sum(jnp.square(leaf.astype(dtype))) for leaf in jax.tree.leaves(tree)
  ]
  return sum_of(squares, dtype)


def inner(
  a: Any, b: Any, is_movable: Any, dtype: jax.typing.DTypeLike
) -> jax.Array:
  """Inner product over the leaves that may move, accumulated in `dtype`.

  The sums are masked, not the leaves, which would be stored once more.
  """
  products = jax.tree.map(
    lambda m, x, y: jnp.where(m, jnp.sum(x.astype(dtype) * y.astype(dtype)), 0),
    is_movable,
    a,
    b,
  )
  return sum_of(jax.tree.leaves(products), dtype)


def all_finite(
  params: Any, is_movable: Any, dtype: jax.typing.DTypeLike
) -> jax.Array:
  """Whether every element of every leaf that may move is finite."""
  # Zero times what is not finite is NaN. A sum is made in one pass; before a
  # conjunction XLA stores a predicate of every element on CPUs.
  zeros = jax.tree.map(
    lambda m, p: jnp.where(m, jnp.sum(0 * p.astype(dtype)), 0),
    is_movable,
    params,
  )
  return sum_of(jax.tree.leaves(zeros), dtype) == 0


def promote(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Both in the narrowest dtype that holds either, also in strict promotion."""
  with jax.numpy_dtype_promotion('standard'):
    dtype = jnp.promote_types(jnp.result_type(a), jnp.result_type(b))
  return jnp.asarray(a, dtype), jnp.asarray(b, dtype)


def difference(new: jax.Array, old: jax.Array) -> jax.Array:
  """`new - old`, zero also where both are the same infinity."""
  return jnp.where(new == old, jnp.zeros_like(new), new - old)


def half_difference(a: jax.Array, b: jax.Array) -> jax.Array:
  """Half of `a - b`, in at least float32."""
  a, _ = promote(a, jnp.zeros((), jnp.float32))
  b, _ = promote(b, jnp.zeros((), jnp.float32))
  return 0.5 * (a - b)
