"""Checks of arguments, made before any compute.

Each raises an error that names the argument, its value and the remedy. Values
that are traced (`optax.inject_hyperparams` traces numbers) pass unchecked.
"""

from __future__ import annotations

from collections.abc import Collection
import operator
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

T = TypeVar('T')


def is_traced(value: Any) -> bool:
  """Whether `value` is known only when the program runs."""
  return isinstance(value, jax.core.Tracer)


def check_integer(name: str, value: Any, *, minimum: int) -> int:
  """`value` as a Python integer; raises unless it is one >= `minimum`.

  NumPy's and JAX's integer scalars are taken too, but only here: what goes on
  to count and to shape is never an array.
  """
  if is_traced(value):
    raise ValueError(
      f'{name} must be a concrete integer, got the traced value {value}. It '
      f'sets shapes: under optax.inject_hyperparams, list {name!r} in '
      'static_args.'
    )
  try:
    integer = None if _is_boolean(value) else operator.index(value)
  except TypeError:
    integer = None
  if integer is None or integer < minimum:
    raise ValueError(
      f'{name} must be an integer of at least {minimum}, got {value!r}.'
    )
  return integer


def check_number(
  name: str,
  value: Any,
  *,
  above: float | None = None,
  minimum: float | None = None,
  integer: bool = False,
) -> None:
  """Raises unless `value` is traced, or a finite number within the bounds."""
  if is_traced(value):
    return
  kind = 'an integer' if integer else 'a finite number'
  bound = ''
  if above is not None:
    bound = f' above {above:g}'
  elif minimum is not None:
    bound = f' >= {minimum:g}'
  array = np.asarray(value)
  kinds = (jnp.integer,) if integer else (jnp.integer, jnp.floating)
  is_valid = (
    array.shape == ()
    and any(jnp.issubdtype(array.dtype, k) for k in kinds)
    and bool(np.isfinite(array))
    and (above is None or array > above)
    and (minimum is None or array >= minimum)
  )
  if not is_valid:
    raise ValueError(f'{name} must be {kind}{bound}, got {value!r}.')


def check_at_most(name: str, value: Any, maximum: float) -> None:
  """Raises if `value`, a number, is known and above `maximum`."""
  if not is_traced(value) and value > maximum:
    raise ValueError(f'{name} must be at most {maximum:g}, got {value!r}.')


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
  """Raises unless `value` is one of `choices`."""
  if not isinstance(value, str) or value not in choices:
    expected = ' or '.join(repr(choice) for choice in choices)
    raise ValueError(f'{name} must be {expected}, got {value!r}.')


def check_real_scalar(name: str, value: Any, remedy: str) -> None:
  """Raises unless `value` is a real number without dimensions."""
  if isinstance(value, (jax.Array, np.ndarray, np.generic, float, int)):
    dtype = jnp.result_type(value)
    is_real = any(
      jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer)
    )
    is_valid = is_real and jnp.shape(value) == ()
    got = f'{dtype}{list(jnp.shape(value))}'
  else:
    is_valid, got = False, f'{value!r} of type {type(value).__name__}'
  if not is_valid:
    raise ValueError(f'{name} must be a real scalar, got {got}. {remedy}')


def given(
  name: str, value: T | None, remedy: str, *, transformation: str, call: str
) -> T:
  """Returns `value`; raises if this argument of `update` is missing."""
  if value is None:
    raise ValueError(
      f'{transformation} needs {name}, got None. {remedy} The call is {call}.'
    )
  return value


def check_params(params: Any) -> None:
  """Raises on parameters that isgd cannot chase with."""
  nodes = jax.tree.leaves(params, is_leaf=_is_masked)
  if any(map(_is_masked, nodes)):
    raise ValueError(
      'isgd got parameters with optax.MaskedNode in them: it sits inside '
      'optax.masked or optax.partition, and value_fn cannot take a masked '
      'tree. Put isgd outermost: isgd(optax.partition(...), control_chart).'
    )
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
      raise ValueError(
        f'params{jax.tree_util.keystr(path)} has dtype {dtype}; isgd takes '
        'real floating-point parameters. Keep other leaves out of params.'
      )


def check_same_structure(name: str, tree: Any, params: Any) -> None:
  """Raises unless `tree` has the structure and shapes of `params`."""
  expected, got = jax.tree.structure(params), jax.tree.structure(tree)
  if expected != got:
    raise ValueError(
      f'{name} must have the tree structure of params, {expected}, got {got}. '
      'Take the gradient with respect to the params that update is given.'
    )
  for (path, leaf), param in zip(
    jax.tree_util.tree_leaves_with_path(tree),
    jax.tree.leaves(params),
    strict=True,
  ):
    if jnp.shape(leaf) != jnp.shape(param):
      raise ValueError(
        f'{name}{jax.tree_util.keystr(path)} must have the shape of its '
        f'parameter, {jnp.shape(param)}, got {jnp.shape(leaf)}.'
      )


def nearest_multiples(size: int, divisor: int) -> str:
  """The two positive multiples of `divisor` nearest to `size`, in words."""
  below = max(size // divisor, 1) * divisor
  return f'{below} or {below + divisor}'


def num_parts(sharding: jax.sharding.Sharding) -> int:
  """How many parts `sharding` cuts the leading axis of an array into."""
  # Any length that all axes of its mesh divide will do.
  length = sharding.num_devices
  return length // sharding.shard_shape((length,))[0]


def _is_boolean(value: Any) -> bool:
  """Whether `value` is a truth value, of Python, NumPy or JAX."""
  is_numpy = getattr(value, 'dtype', None) == np.bool_
  return isinstance(value, bool) or is_numpy


def _is_masked(node: Any) -> bool:
  return isinstance(node, optax.MaskedNode)
