"""Solvers of the conservative subproblem: where a chase steps next."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from isgd_jax import _checks
from isgd_jax._chase import trees
from isgd_jax._chase.subproblem import Subproblem
from isgd_jax._chase.subproblem import SubproblemSolver


class GaussNewtonState(NamedTuple):
  """What the first step of a chase sets the scale of the others by.

  Attributes:
    gap: loss minus target at the first step, float scalar; 0 before it.
    squared_norm: of the gradient over the gap there, float scalar.
  """

  gap: jax.Array
  squared_norm: jax.Array


def gauss_newton(
  *,
  metric: str = 'euclidean',
  max_step_ratio: jax.typing.ArrayLike | None = None,
) -> SubproblemSolver:
  r"""Damped Gauss-Newton steps; no rate to tune.

  Linearising :math:`\psi` inside the subproblem, with Levenberg-Marquardt
  damping about the current weights, gives

  .. math::
    w \leftarrow w - \frac{\psi(w) - \text{target}}
    {\|g\|^2 + \lambda} \, g, \qquad g = \nabla \psi(w), \qquad
    \lambda = \frac{\varepsilon}{n_w} \|g_0\|^2,

  with :math:`g_0` the gradient at the first step of the chase. The damping is
  relative, so that the steps do not depend on the unit of the loss: a loss that
  is multiplied by a constant is chased along the same weights. A step reaches
  the target where :math:`\psi` is linear and the damping small. This is this
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
    {\|g\|^2 + \lambda} \,
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
    >>> state = solver.init(problem)
    >>> params, _ = solver.step(state, problem, jnp.zeros(2), 6.0, grad)
    >>> print(params)  # (6 - 1) / 25 of the gradient
    [-0.6 -0.8]

    A base optimizer that moves the first parameter alone, by 0.1 this time:

    >>> problem = problem._replace(
    ...     base_response=lambda grad: grad * jnp.array([1.0, 0.0]),
    ...     base_update_norm=0.1)
    >>> solver = isgd_jax.gauss_newton(metric='base', max_step_ratio=3.0)
    >>> params, _ = solver.step(state, problem, jnp.zeros(2), 6.0, grad)
    >>> print(params)  # not -5/3, which would reach the target
    [-0.3  0. ]

  References:
    Nocedal & Wright, `Numerical Optimization
    <https://doi.org/10.1007/978-0-387-40065-5>`_, ch. 10.
  """
  _checks.check_choice('metric', metric, ('euclidean', 'base'))
  if max_step_ratio is not None:
    _checks.check_number('max_step_ratio', max_step_ratio, above=0.0)

  def init_fn(subproblem: Subproblem) -> GaussNewtonState:
    zero = jnp.zeros((), jnp.result_type(float, subproblem.target))
    return GaussNewtonState(zero, zero)

  def step_fn(state, subproblem, params, loss, grad):
    dtype = jnp.result_type(loss)
    gap = jnp.asarray(loss - subproblem.target, dtype)
    is_first = state.gap == 0
    # All in units of the first gap: no square of a loss, however it is scaled.
    unit = jnp.where(is_first, gap, state.gap)
    has_unit = (unit != 0) & jnp.isfinite(unit)
    unit = jnp.where(has_unit, unit, 1.0)
    gap = gap / unit

    def in_units(leaf):
      """A gradient over the gap: its square stays in range."""
      return leaf.astype(dtype) / unit

    def inner(a, b):
      return trees.inner(a, b, subproblem.is_movable, dtype)

    in_unit = jax.tree.map(in_units, grad)
    squared_norm = inner(in_unit, in_unit)
    first = jnp.where(is_first, squared_norm, state.squared_norm)
    denominator = squared_norm + subproblem.damping * first
    # Of the gradient as it is, which need not be stored once more.
    scale = jnp.where(denominator > 0, gap / denominator, 0.0) / unit
    direction, length_squared = grad, squared_norm * jnp.square(unit)
    if metric == 'base':
      direction = _base_response(subproblem, grad)
      slope = inner(in_unit, direction)
      is_downhill = (slope > 0) & jnp.isfinite(slope + squared_norm)
      scale *= squared_norm * unit / jnp.where(is_downhill, slope, 1.0)
      # The response too, for zero times infinity is no step of zero.
      direction = jax.tree.map(
        lambda d: jnp.where(is_downhill, d, 0.0), direction
      )
    if max_step_ratio is not None:
      if metric == 'base':
        length_squared = inner(direction, direction)
      longest = jnp.asarray(max_step_ratio, dtype) * jnp.asarray(
        _base_update_norm(subproblem), dtype
      )
      length = jnp.abs(scale) * jnp.sqrt(length_squared)
      is_too_long = length > longest
      scale *= jnp.where(
        is_too_long, longest / jnp.where(is_too_long, length, 1.0), 1.0
      )
    directions = jax.tree.map(lambda d: scale * d.astype(dtype), direction)
    state = GaussNewtonState(jnp.where(has_unit, unit, 0.0), first)
    return _subtract(params, directions), state

  return SubproblemSolver(init_fn, step_fn)


def gradient_descent(
  learning_rate: optax.ScalarOrSchedule,
) -> SubproblemSolver:
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

  def init_fn(subproblem: Subproblem) -> jax.Array:
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

  return SubproblemSolver(init_fn, step_fn)


def _base_response(
  subproblem: Subproblem, grad: optax.Updates
) -> optax.Updates:
  """How the base optimizer answers to `grad`."""
  if subproblem.base_response is None:
    raise ValueError(
      "gauss_newton(metric='base') needs base_response in the Subproblem, got "
      "None. isgd fills it in; elsewhere give it, or take metric='euclidean'."
    )
  return subproblem.base_response(grad)


def _base_update_norm(subproblem: Subproblem) -> jax.Array:
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
