"""Solvers of the conservative subproblem: where a chase steps next."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from isgd_jax import _checks
from isgd_jax._chase import subproblem as subproblem_lib
from isgd_jax._chase import trees


def gauss_newton(
  *,
  metric: str = 'euclidean',
  max_step_ratio: jax.typing.ArrayLike | None = None,
) -> subproblem_lib.SubproblemSolver:
  r"""Damped Gauss-Newton steps; no rate to tune.

  Linearising :math:`\psi` inside the subproblem, with Levenberg-Marquardt
  damping about the current weights, gives

  .. math::
    w \leftarrow w - \frac{\psi(w) - \text{target}}
    {\|g\|^2 + \varepsilon / n_w} \, g, \qquad g = \nabla \psi(w).

  It reaches the target in one step where :math:`\psi` is linear. This is this
  library's solver, not the paper's: see :func:`gradient_descent`.

  With `metric='base'` the step has the geometry of the base optimizer, without
  its momentum. The base optimizer is asked for its update of :math:`g` and of
  :math:`-g`, from the same state; half their difference, the response
  :math:`D g`, holds no momentum, weight decay or noise, which are in both. For
  SGD it is the rate times :math:`g`; for Adam it is :math:`g` over the root of
  the second moment that takes in :math:`g^2` too, as in Adam's own step. The
  length is still that of the linearised subproblem, whose :math:`\|w -
  w_{t-1}\|^2` is measured by :math:`D^{-1}`, with :math:`D` scaled so that
  :math:`\langle g, D g \rangle = \|g\|^2`. So the learning rate has no say, the
  damping keeps its unit, and with SGD, with or without momentum, both metrics
  agree:

  .. math::
    w \leftarrow w - \frac{\psi(w) - \text{target}}
    {\|g\|^2 + \varepsilon / n_w} \,
    \frac{\|g\|^2}{\langle g, D g \rangle} \, D g.

  There is no step where :math:`\langle g, D g \rangle` is not positive and
  finite. Each step asks for two base updates, which raised the peak memory by
  one copy of the parameters with SGD and by five with Adam. An update that is
  normalised as a whole after its momentum (LAMB, Muon) leaves some of it in the
  response; a line search would run twice a step: keep to `'euclidean'` with
  one.

  Args:
    metric: `'euclidean'`, or `'base'` for the geometry of the base optimizer.
    max_step_ratio: longest chase step > 0, as a multiple of the length of the
      base update of this batch. Both lengths are Euclidean, in either metric,
      over the parameters that may move. None sets no bound.

  Returns:
    A :class:`SubproblemSolver`.

  Raises:
    ValueError: if `metric` is neither of the two, or `max_step_ratio` is not a
      positive number; from a step, if the subproblem lacks what they need.

  Examples:
    >>> import jax.numpy as jnp, isgd_jax
    >>> problem = isgd_jax.Subproblem(
    ...     anchor=jnp.zeros(2), target=1.0, damping=0.0,
    ...     num_training_steps=0, is_movable=True)
    >>> grad = jnp.array([3.0, 4.0])
    >>> solver = isgd_jax.gauss_newton()
    >>> params, _ = solver.step((), problem, jnp.zeros(2), 6.0, grad)
    >>> print(params)  # (6 - 1) / 25 of the gradient
    [-0.6 -0.8]

    A base optimizer that moves the first parameter alone, by 0.1 this time:

    >>> problem = problem._replace(
    ...     base_response=lambda grad: grad * jnp.array([1.0, 0.0]),
    ...     base_update_norm=0.1)
    >>> solver = isgd_jax.gauss_newton(metric='base', max_step_ratio=3.0)
    >>> params, _ = solver.step((), problem, jnp.zeros(2), 6.0, grad)
    >>> print(params)  # not -5/3, which would reach the target
    [-0.3  0. ]

  References:
    Nocedal & Wright, `Numerical Optimization
    <https://doi.org/10.1007/978-0-387-40065-5>`_, ch. 10.
  """
  _checks.check_choice('metric', metric, ('euclidean', 'base'))
  if max_step_ratio is not None:
    _checks.check_number('max_step_ratio', max_step_ratio, above=0.0)

  def init_fn(subproblem: subproblem_lib.Subproblem) -> tuple[()]:
    del subproblem
    return ()

  def step_fn(state, subproblem, params, loss, grad):
    dtype = jnp.result_type(loss)
    is_movable = subproblem.is_movable
    squared_norm = _inner(grad, grad, is_movable, dtype)
    denominator = subproblem.damping + squared_norm
    gap = loss - subproblem.target
    scale = jnp.where(denominator > 0, gap / denominator, 0.0)
    direction, direction_squared = grad, squared_norm
    if metric == 'base':
      direction = _base_response(subproblem, grad)
      slope = _inner(grad, direction, is_movable, dtype)
      is_downhill = (slope > 0) & jnp.isfinite(slope + squared_norm)
      scale *= squared_norm / jnp.where(is_downhill, slope, 1.0)
      # The response too, for zero times infinity is no step of zero.
      direction = jax.tree.map(
        lambda d: jnp.where(is_downhill, d, 0.0), direction
      )
    if max_step_ratio is not None:
      if metric == 'base':
        direction_squared = _inner(direction, direction, is_movable, dtype)
      longest = jnp.asarray(max_step_ratio, dtype) * jnp.asarray(
        _base_update_norm(subproblem), dtype
      )
      length = jnp.abs(scale) * jnp.sqrt(direction_squared)
      is_too_long = length > longest
      scale *= jnp.where(
        is_too_long, longest / jnp.where(is_too_long, length, 1.0), 1.0
      )
    directions = jax.tree.map(lambda d: scale * d.astype(dtype), direction)
    return _subtract(params, directions), state

  return subproblem_lib.SubproblemSolver(init_fn, step_fn)


def gradient_descent(
  learning_rate: optax.ScalarOrSchedule,
) -> subproblem_lib.SubproblemSolver:
  r"""Gradient steps on the subproblem: the paper's Algorithm 2.

  .. math::
    w \leftarrow w - \zeta \left( (\psi(w) - \text{target}) \nabla \psi(w)
    + \frac{\varepsilon}{n_w} (w - w_{t-1}) \right).

  The paper leaves :math:`\zeta` and its relation to the main rate open. The
  step shrinks with the gap, so a rate near the base optimizer's moves very
  little, and a much larger one diverges on a batch far above its target.

  Args:
    learning_rate: the rate :math:`\zeta` > 0, or a schedule of the number of
      training steps taken before (not of chase steps).

  Returns:
    A :class:`SubproblemSolver`.

  Raises:
    ValueError: if `learning_rate` is neither a schedule nor a positive number.

  Examples:
    >>> import optax, isgd_jax
    >>> schedule = optax.exponential_decay(0.1, 1_000, 0.5)
    >>> solver = isgd_jax.gradient_descent(schedule)

  References:
    Wang et al., `Accelerating Deep Neural Network Training with Inconsistent
    Stochastic Gradient Descent <https://arxiv.org/abs/1603.05544>`_, 2017.
  """
  if not callable(learning_rate):
    _checks.check_number('learning_rate', learning_rate, above=0.0)

  def init_fn(subproblem: subproblem_lib.Subproblem) -> jax.Array:
    rate = learning_rate
    if callable(rate):
      rate = rate(subproblem.num_training_steps)
    return jnp.asarray(rate, jnp.result_type(subproblem.target))

  def step_fn(state, subproblem, params, loss, grad):
    dtype = jnp.result_type(loss)
    gap = loss - subproblem.target

    def direction(g, w, anchor):
      away = w.astype(dtype) - anchor.astype(dtype)
      return state * (gap * g.astype(dtype) + subproblem.damping * away)

    directions = jax.tree.map(direction, grad, params, subproblem.anchor)
    return _subtract(params, directions), state

  return subproblem_lib.SubproblemSolver(init_fn, step_fn)


def _base_response(
  subproblem: subproblem_lib.Subproblem, grad: optax.Updates
) -> optax.Updates:
  """How the base optimizer answers to `grad`."""
  if subproblem.base_response is None:
    raise ValueError(
      "gauss_newton(metric='base') needs base_response in the Subproblem, got "
      "None. isgd fills it in; elsewhere give it, or take metric='euclidean'."
    )
  return subproblem.base_response(grad)


def _base_update_norm(subproblem: subproblem_lib.Subproblem) -> jax.Array:
  """Length of the base update of this batch."""
  if subproblem.base_update_norm is None:
    raise ValueError(
      'gauss_newton(max_step_ratio=...) needs base_update_norm in the '
      'Subproblem, got None. isgd fills it in; elsewhere give it, or leave '
      'max_step_ratio out.'
    )
  return subproblem.base_update_norm


def _subtract(params: optax.Params, directions: optax.Updates) -> optax.Params:
  """`params - directions`, in the dtype of the directions, then cast back."""
  return jax.tree.map(
    lambda w, d: (w.astype(d.dtype) - d).astype(w.dtype), params, directions
  )


def _inner(
  a: optax.Updates, b: optax.Updates, is_movable: Any, dtype: Any
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
  return trees.sum_of(jax.tree.leaves(products), dtype)
