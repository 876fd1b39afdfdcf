"""Gradient accumulation for an NNX module, in the first evaluation and a chase.

Reached by way of `isgd_jax.training`, which says what is missing without Flax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from isgd_jax import _checks


def nnx_microbatched(
  loss_fn: Callable[..., Any],
  *,
  microbatch_size: int,
  wrt: Any = nnx.Param,
  has_aux: bool = False,
) -> Callable[..., tuple[Any, Any, Callable[[Any], jax.Array]]]:
  r"""Gradient accumulation for an NNX module, with the `value_fn` to match.

  With the batch cut into m microbatches :math:`d_j` of equal size,

  .. math::
    \psi(w) = \frac{1}{m} \sum_{j=1}^{m} \text{loss\_fn}(w, d_j),

  one microbatch at a time, value and gradient together, so memory is that of
  one: in the first evaluation, and in each of a chase. BatchNorm statistics and
  dropout keys move on from one microbatch to the next, as in a loop over them.
  The module has them after the first evaluation; a chase goes through the same
  keys again, and what it does to such state is dropped.

  Args:
    loss_fn: `loss_fn(model, *microbatch)` returns the mean loss of the
      microbatch, a real scalar, or `(loss, aux)`.
    microbatch_size: examples in a microbatch.
    wrt: filter of the parameters, as given to `nnx.Optimizer`.
    has_aux: whether `loss_fn` returns `(loss, aux)`.

  Returns:
    `accumulate(model, *batch)`, where `batch` is arrays, or pytrees of arrays,
    with m * `microbatch_size` rows each. It updates the module's state apart
    from its parameters, and returns `(value, grads, value_fn)`: the loss, a
    scalar of at least float32 (with `has_aux` `(loss, aux)`, the aux stacked
    [m, ...]); the gradient, an `nnx.State` of arrays for
    `nnx.Optimizer.update`; and the function of the parameters for `isgd`, which
    can be differentiated once, in reverse.

  Raises:
    ValueError: on a microbatch_size below 1; when it is called, if the size
      does not divide the rows, if these differ, if an NNX object is among the
      batch, or if a call makes state that the module did not have.

  Example:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> from flax import nnx
    >>> model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    >>> optimizer = nnx.Optimizer(
    ...     model,
    ...     isgd_jax.isgd(optax.sgd(0.1), isgd_jax.shewhart(window_size=20)),
    ...     wrt=nnx.Param)
    >>> accumulate = nnx_microbatched(
    ...     lambda model, x, y: jnp.mean((model(x) - y) ** 2),
    ...     microbatch_size=2)
    >>> @nnx.jit
    ... def train_step(model, optimizer, x, y):
    ...   loss, grads, value_fn = accumulate(model, x, y)
    ...   optimizer.update(model, grads, value=loss, value_fn=value_fn)
    ...   return loss
    >>> loss = train_step(model, optimizer, jnp.ones((6, 3)), jnp.ones((6, 1)))
    >>> int(isgd_jax.get_info(optimizer.opt_state).num_steps)
    1
  """
  size = _checks.check_integer('microbatch_size', microbatch_size, minimum=1)

  def accumulate(model, *batch):
    graphdef, variables, rest = nnx.split(model, wrt, ...)
    params, rest = nnx.as_pure(variables), nnx.as_pure(rest)
    microbatches = _cut(batch, size)
    structure = jax.tree.structure(rest)

    def evaluate(params, rest, microbatch):
      """Loss and aux of a microbatch, and the state that it leaves."""
      copy = nnx.merge(graphdef, params, rest)
      result = loss_fn(copy, *microbatch)
      value, aux = result if has_aux else (result, None)
      _checks.check_real_scalar(
        'The result of loss_fn',
        value,
        'Return the mean loss; with has_aux=True, (loss, aux).',
      )
      left = nnx.as_pure(nnx.split(copy, wrt, ...)[2])
      if jax.tree.structure(left) != structure:
        new = ', '.join(sorted(paths(left) ^ paths(rest))[:5])
        raise ValueError(
          f'loss_fn makes state that the module did not have before: {new}. '
          'Make it when the module is made, or take it away (nnx.pop) in '
          'loss_fn.'
        )
      return value, (aux, left)

    def mean_over(params, rest, microbatches):
      """Means of value and gradient; the aux of each, and the state left."""

      def body(carry, microbatch):
        rest, total = carry
        (value, (aux, rest)), grad = jax.value_and_grad(evaluate, has_aux=True)(
          params, rest, microbatch
        )
        total = jax.tree.map(
          lambda t, x: t + x.astype(t.dtype), total, (value, grad)
        )
        return (rest, total), aux

      one = jax.tree.map(lambda x: x[0], microbatches)
      value = jax.eval_shape(evaluate, params, rest, one)[0]
      zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)),
        (value, params),
      )
      (rest, total), aux = jax.lax.scan(body, (rest, zeros), microbatches)
      count = len(jax.tree.leaves(microbatches)[0])
      value, grad = jax.tree.map(lambda t: t / count, total)
      grad = jax.tree.map(lambda g, p: g.astype(p.dtype), grad, params)
      return value, grad, aux, rest

    @jax.custom_vjp
    def mean_value(params, rest, microbatches):
      return mean_over(params, rest, microbatches)[0]

    mean_value.defvjp(
      lambda *args: mean_over(*args)[:2],
      lambda grad, cotangent: (
        jax.tree.map(lambda g: g * cotangent.astype(g.dtype), grad),
        None,
        None,
      ),
    )
    expected = paths(params)

    def value_fn(new_params):
      """The loss of the batch at `new_params`, from the state before it."""
      check_paths(paths(new_params), expected, wrt, 'nnx_microbatched')
      as_here = jax.tree.unflatten(
        jax.tree.structure(params), jax.tree.leaves(new_params)
      )
      return mean_value(as_here, rest, microbatches)

    value, grads, aux, left = mean_over(params, rest, microbatches)
    nnx.update(model, left)
    # As nnx.grad has them: nnx.Optimizer looks for its filter among them.
    grads = jax.tree.unflatten(
      jax.tree.structure(variables), jax.tree.leaves(grads)
    )
    return ((value, aux) if has_aux else value), grads, value_fn

  return accumulate


def _cut(batch: Any, size: int) -> Any:
  """[m * size, ...] arrays as [m, size, ...]."""
  leaves = jax.tree_util.tree_leaves_with_path(batch, is_leaf=is_nnx)
  rows = {jnp.shape(leaf)[:1] for _, leaf in leaves if not is_nnx(leaf)}
  for path, leaf in leaves:
    name = f'batch{jax.tree_util.keystr(path)}'
    if is_nnx(leaf):
      raise ValueError(
        f'{name} is an NNX object, a {type(leaf).__name__}, and a microbatch '
        'is cut out of arrays. Keep such state in the module.'
      )
    if len(rows) != 1 or not jnp.ndim(leaf) or jnp.shape(leaf)[0] % size:
      raise ValueError(
        f'microbatch_size {size} must divide the rows of the batch, of which '
        f'all its arrays have as many; {name} has shape {jnp.shape(leaf)}. '
        'Close over what is no example.'
      )
  return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), batch)


def is_nnx(leaf: Any) -> bool:
  """Whether something is an NNX object, whose state an evaluation may move."""
  return isinstance(leaf, (nnx.Pytree, nnx.Variable))


def paths(params: Any) -> set[str]:
  """Where in a module its parameters are: 'layers.0.kernel'."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='.')
    for path, _ in jax.tree_util.tree_leaves_with_path(nnx.as_pure(params))
  }


def check_paths(
  given: set[str], expected: set[str], wrt: Any, name: str = 'nnx_value_fn'
) -> None:
  """Raises where the parameters are not those that `wrt` names."""
  if given != expected:
    differences = [
      f'{what} {", ".join(sorted(paths)[:5])}'
      for what, paths in (
        ('not', expected - given),
        ('but', given - expected),
      )
      if paths
    ]
    raise ValueError(
      f'wrt must be the filter that nnx.Optimizer has, got {wrt!r}: of the '
      f'parameters it names, the optimizer hands over '
      f'{", ".join(differences)}. Give {name} and nnx.Optimizer the same '
      'wrt.'
    )
