"""The user's `value_fn`: checked, freed of its aux, and differentiated."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from isgd_jax import _checks
from isgd_jax._devices import collectives


def loss_only(
  value_fn: Callable[..., Any], has_aux: bool
) -> Callable[..., jax.Array]:
  """`value_fn` that returns the loss alone, and is checked when it does."""
  if not callable(value_fn):
    raise ValueError(
      f'value_fn must be a function of the parameters, got {value_fn!r}. Pass '
      'lambda params: loss_fn(params, batch).'
    )

  def loss_of(*args, **kwargs):
    loss = value_fn(*args, **kwargs)
    if has_aux:
      if not (isinstance(loss, tuple) and len(loss) == 2):
        raise ValueError(
          'value_fn must return a pair (loss, aux) with has_aux=True, got a '
          f'{type(loss).__name__}. Return a pair, or leave has_aux out.'
        )
      loss, _ = loss
    _checks.check_real_scalar(
      'The result of value_fn',
      loss,
      'Return the mean loss of the batch; a pair of it and anything else needs '
      'has_aux=True.',
    )
    return jnp.asarray(loss)  # A constant loss may be a Python number.

  # Some built-in callables have no signature.
  with contextlib.suppress(ValueError):
    # For those who pick its arguments by name, as line searches do.
    loss_of.__signature__ = inspect.signature(value_fn)
  return loss_of


def bind_base_update(
  base: optax.GradientTransformationExtraArgs,
  extra_args: dict[str, Any],
  *,
  value: jax.typing.ArrayLike,
  value_fn: Callable[..., Any] | None = None,
  grad: optax.Updates | None = None,
  chart_reading: Any,
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
  """`base.update` with what this step has for it: what was given, and ours."""
  ours = {
    'value': value,
    'value_fn': None if value_fn is None else _ignoring_reading(value_fn),
    'grad': grad,
    'chart_reading': chart_reading,
  }
  all_args = extra_args | {k: v for k, v in ours.items() if v is not None}
  parameters = inspect.signature(base.update).parameters
  if all(p.kind != inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
    # optax.contrib.sam refuses what it does not know.
    all_args = {k: v for k, v in all_args.items() if k in parameters}

  def base_update(updates, base_state, params):
    return base.update(updates, base_state, params, **all_args)

  return base_update


def _ignoring_reading(value_fn: Callable[..., Any]) -> Callable[..., Any]:
  """`value_fn` for the base optimizer, with a `chart_reading` it ignores.

  Optax's line searches refuse an extra argument that value_fn does not take.
  """
  try:
    parameters = inspect.signature(value_fn).parameters
  except ValueError:  # Some built-in callables have no signature.
    return value_fn
  takes_all = inspect.Parameter.VAR_KEYWORD
  if 'chart_reading' in parameters or any(
    p.kind == takes_all for p in parameters.values()
  ):
    return value_fn

  def loss_of(*args, chart_reading=None, **kwargs):
    del chart_reading
    return value_fn(*args, **kwargs)

  ignored = inspect.Parameter('chart_reading', inspect.Parameter.KEYWORD_ONLY)
  loss_of.__signature__ = inspect.Signature(
    sorted((*parameters.values(), ignored), key=lambda p: p.kind)
  )
  return loss_of


def value_and_grad_fn(
  value_fn: Callable[..., jax.Array],
  params: optax.Params,
  extra_args: dict[str, Any],
  dtype: Any,
  *,
  axis_name: str | tuple[str, ...] | None,
  shard_weight: jax.typing.ArrayLike | None,
) -> Callable[[optax.Params], tuple[jax.Array, optax.Updates]]:
  """Evaluates the batch again, with the extra arguments of its own name."""
  names = inspect.signature(value_fn).parameters
  kwargs = {name: arg for name, arg in extra_args.items() if name in names}
  if not any(map(_checks.is_traced, jax.tree.leaves(params))):
    # Outside jit it may not be called for long: what it returns is seen now.
    jax.eval_shape(lambda params: value_fn(params, **kwargs), params)
  evaluate = collectives.value_and_grad(
    lambda params: value_fn(params, **kwargs),
    axis_name=axis_name,
    shard_weight=shard_weight,
  )

  def evaluate_in(params):
    loss, grad = evaluate(params)
    return loss.astype(dtype), grad

  return evaluate_in
