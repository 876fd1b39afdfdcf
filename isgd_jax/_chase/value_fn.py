"""The user's `value_fn`: checked, freed of its aux, and differentiated."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import inspect
from typing import Any

import jax
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
    return loss

  # Some built-in callables have no signature.
  with contextlib.suppress(ValueError):
    # For those who pick its arguments by name, as line searches do.
    loss_of.__signature__ = inspect.signature(value_fn)
  return loss_of


def ignoring_reading(
  value_fn: Callable[..., jax.Array],
) -> Callable[..., jax.Array]:
  """`value_fn` for the base optimizer, with a `chart_reading` it ignores.

  Optax's line searches refuse an extra argument that value_fn does not take.
  """
  parameters = inspect.signature(value_fn).parameters
  if 'chart_reading' in parameters:
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
  extra_args: dict[str, Any],
  dtype: Any,
  *,
  axis_name: str | tuple[str, ...] | None,
  shard_weight: jax.typing.ArrayLike | None,
) -> Callable[[optax.Params], tuple[jax.Array, optax.Updates]]:
  """Evaluates the batch again, with the extra arguments of its own name."""
  names = inspect.signature(value_fn).parameters
  kwargs = {name: arg for name, arg in extra_args.items() if name in names}
  evaluate = collectives.value_and_grad(
    lambda params: value_fn(params, **kwargs),
    axis_name=axis_name,
    shard_weight=shard_weight,
  )

  def evaluate_in(params):
    loss, grad = evaluate(params)
    return loss.astype(dtype), grad

  return evaluate_in
