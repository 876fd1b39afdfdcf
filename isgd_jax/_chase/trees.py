"""One scalar from many: the sum of a scalar of each leaf.

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
