"""Flax helpers (the extra `flax`): NNX's `value_fn`, Linen's `TrainState`.

They give the chase of :func:`isgd_jax.isgd` what it needs to evaluate a batch
again, with the BatchNorm statistics and dropout keys of the first evaluation,
and without a trace of the extra evaluations in the model's state. Equinox needs
no helper: its modules are pytrees, and `value_fn` is a lambda.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from isgd_jax import _extras
from isgd_jax import _isgd

try:
  from flax import nnx
  from flax.training import train_state
except ImportError as error:
  raise _extras.missing('isgd_jax.training', 'flax', 'flax', 'flax') from error

from isgd_jax._nnx_microbatched import check_paths
from isgd_jax._nnx_microbatched import is_nnx
from isgd_jax._nnx_microbatched import nnx_microbatched
from isgd_jax._nnx_microbatched import paths

__all__ = ['TrainState', 'nnx_microbatched', 'nnx_value_fn']

# The name under which Flax keeps float8 scales, beside 'params'.
_OVERWRITE_WITH_GRADIENT = '_overwrite_with_gradient'


def nnx_value_fn(
  loss_fn: Callable[..., Any],
  model: nnx.Module,
  *args: Any,
  wrt: Any = nnx.Param,
  has_aux: bool = False,
  **kwargs: Any,
) -> Callable[[Any], Any]:
  """The loss of one batch as a function of an NNX module's parameters.

  Everything else in the module (BatchNorm statistics, dropout keys and counts)
  is kept as it is *now*, and so is every NNX object among the arguments
  (`nnx.Rngs`, a metric, a second module in train mode, a variable), wherever in
  them it is. So call this before the evaluation whose loss goes into `update`
  as `value`: that one moves the statistics and the keys on, and the chase has
  to see the same batch under the same keys. What the extra evaluations do to
  such state is dropped. What `loss_fn` closes over cannot be copied: hand NNX
  objects over as arguments.

  Args:
    loss_fn: `loss_fn(model, *args, **kwargs)` returns the loss, a scalar, or
      `(loss, aux)`.
    model: the module; not changed.
    *args: the batch, and whatever else `loss_fn` takes; not changed.
    wrt: filter of the parameters, as given to `nnx.Optimizer`.
    has_aux: whether `loss_fn` returns `(loss, aux)`. The aux is dropped, so
      `isgd`'s own `has_aux` stays False.
    **kwargs: handed to `loss_fn`.

  Returns:
    A function of the parameters, in the form in which `nnx.Optimizer.update`
    hands them to Optax: the `nnx.State` of `wrt` with plain arrays as leaves.
    It raises a `ValueError` on those of another `wrt`.

  Example:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> from flax import nnx
    >>> model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    >>> optimizer = nnx.Optimizer(
    ...     model,
    ...     isgd_jax.isgd(optax.sgd(0.1), isgd_jax.shewhart(window_size=20)),
    ...     wrt=nnx.Param)
    >>> def loss_fn(model, x, y):
    ...   return jnp.mean((model(x) - y) ** 2)
    >>> @nnx.jit
    ... def train_step(model, optimizer, x, y):
    ...   value_fn = nnx_value_fn(loss_fn, model, x, y)
    ...   loss, grads = nnx.value_and_grad(loss_fn)(model, x, y)
    ...   optimizer.update(model, grads, value=loss, value_fn=value_fn)
    ...   return loss
    >>> loss = train_step(model, optimizer, jnp.ones((4, 3)), jnp.ones((4, 1)))
    >>> int(isgd_jax.get_info(optimizer.opt_state).num_steps)
    1
  """
  leaves, structure = jax.tree.flatten((args, kwargs), is_leaf=is_nnx)
  is_object = [is_nnx(leaf) for leaf in leaves]
  objects = [leaf for leaf in leaves if is_nnx(leaf)]
  is_wrt = nnx.filterlib.to_predicate(wrt)
  # All at once: what they share is shared by their copies too.
  graphdef, params_now, rest = nnx.split(
    (model, *objects),
    lambda path, value: path[0] == 0 and is_wrt(path[1:], value),
    ...,
  )
  # Plain arrays, no Variables: merging these makes new Variables each time, so
  # that no evaluation can write to the caller's, or to another's.
  rest = nnx.as_pure(rest)
  expected = paths(params_now.get(0, {}))

  def value_fn(params: Any) -> Any:
    """The loss of the batch at `params`."""
    check_paths(paths(params), expected, wrt)
    copied, *copies = nnx.merge(graphdef, nnx.State({0: params}), rest)
    copies = iter(copies)
    new_args, new_kwargs = structure.unflatten(
      next(copies) if is_copied else leaf
      for leaf, is_copied in zip(leaves, is_object, strict=True)
    )
    result = loss_fn(copied, *new_args, **new_kwargs)
    return result[0] if has_aux else result

  return value_fn


class TrainState(train_state.TrainState):
  """Flax Linen's `TrainState`, whose optimizer may evaluate the batch again.

  As `flax.training.train_state.TrainState`, and as there to be subclassed for
  further collections (`batch_stats`, say). It takes any Optax optimizer; one
  that wants no `value_fn` ignores it.

  Attributes:
    step: number of updates, an int32 scalar.
    apply_fn: usually `model.apply`.
    params: the parameters.
    tx: the optimizer, such as :func:`isgd_jax.isgd`.
    opt_state: its state.

  Example:
    >>> import jax, jax.numpy as jnp, optax, isgd_jax
    >>> from flax import linen as nn
    >>> model = nn.Dense(1)
    >>> x, y = jnp.ones((4, 3)), jnp.ones((4, 1))
    >>> state = TrainState.create(
    ...     apply_fn=model.apply,
    ...     params=model.init(jax.random.key(0), x)['params'],
    ...     tx=isgd_jax.isgd(optax.sgd(0.1), isgd_jax.shewhart(window_size=20)))
    >>> @jax.jit
    ... def train_step(state, x, y):
    ...   def loss_fn(params):
    ...     return jnp.mean((state.apply_fn({'params': params}, x) - y) ** 2)
    ...   loss, grads = jax.value_and_grad(loss_fn)(state.params)
    ...   return state.apply_gradients(
    ...       grads=grads, value=loss, value_fn=loss_fn)
    >>> state = train_step(state, x, y)
    >>> int(isgd_jax.get_info(state.opt_state).num_steps)
    1
  """

  def apply_gradients(  # pyright: ignore[reportIncompatibleMethodOverride]
    self,
    *,
    grads: Any,
    value: Any = None,
    value_fn: Callable[..., Any] | None = None,
    grad: Any = None,
    **kwargs: Any,
  ) -> TrainState:
    """Updates parameters, optimizer state and step.

    Args:
      grads: gradients in the structure of `params`.
      value: loss of the batch at `params`, a scalar.
      value_fn: function of the parameters that returns that loss. It should
        close over the `batch_stats` and dropout keys of the evaluation that
        gave `value`, and drop what it does to them.
      grad: the raw gradient, if `grads` is not (it was clipped, say). Where
        `isgd` stands behind something else in a chain, `grads` is taken.
      **kwargs: further fields to replace, as `batch_stats=...`.

    Returns:
      The next state.

    Raises:
      ValueError: from the optimizer, on a missing or malformed argument.
    """
    owg = _OVERWRITE_WITH_GRADIENT
    # As Flax does it: float8 scales are overwritten by their gradients.
    overwritten = {owg: grads[owg]} if owg in grads else None
    if overwritten is not None:
      kept, outer_value_fn = self.params[owg], value_fn
      grads, params = grads['params'], self.params['params']
      grad = grad['params'] if grad is not None and 'params' in grad else grad
      if outer_value_fn is not None:
        value_fn = lambda p: outer_value_fn({'params': p, owg: kept})
    else:
      params = self.params
    # As the outermost transformation isgd sees `grads` anyway; a second name
    # for them would be held through the chase.
    is_outermost = isinstance(self.opt_state, _isgd.ISGDState)
    if grad is None and value is not None and not is_outermost:
      grad = grads
    given = {'value': value, 'value_fn': value_fn, 'grad': grad}
    updates, opt_state = optax.with_extra_args_support(self.tx).update(
      grads,
      self.opt_state,
      params,
      **{name: arg for name, arg in given.items() if arg is not None},
    )
    params = optax.apply_updates(params, updates)
    if overwritten is not None:
      params = {'params': params, **overwritten}
    return self.replace(
      step=self.step + 1, params=params, opt_state=opt_state, **kwargs
    )
