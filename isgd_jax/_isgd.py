"""Inconsistent SGD: extra gradient steps for batches that are out of control.

`isgd` wraps a base optimizer. A control chart in its state judges each batch
loss; a batch above the upper limit is chased inside the jitted step.
"""

from __future__ import annotations

from collections.abc import Callable
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from isgd_jax import _checks
from isgd_jax import _control_chart
from isgd_jax import _data_parallel
from isgd_jax import _frozen_update
from isgd_jax import _subproblem


class ISGDInfo(NamedTuple):
  """What inconsistent SGD saw and did; all arrays are scalars.

  Attributes:
    loss: loss of the last batch as it was found, floating.
    mean: centre line of the chart that judged it, floating.
    sigma: standard deviation of that chart, floating.
    control_limit: its upper control limit, floating; `+inf` in Phase I.
    is_undertrained: whether the loss was above the limit, boolean.
    num_chase_steps: chase steps taken on the last batch, int32.
    final_loss: loss that the chase left, floating; `loss` itself where there
      was no chase or it was reverted. (`paper_isgd` does not evaluate the loss
      after its last allowed step: there, the loss before that step.)
    is_chase_reverted: whether the guard undid the chase and fell back to the
      base update, boolean.
    num_steps: training steps since init, int32.
    num_undertrained: under-trained batches since init, int32.
    num_chases_reverted: chases undone by the guard since init, int32.
    num_gradient_evaluations: values-and-gradients of a batch since init, int32:
      one a training step, and every one inside a chase.
  """

  loss: jax.Array
  mean: jax.Array
  sigma: jax.Array
  control_limit: jax.Array
  is_undertrained: jax.Array
  num_chase_steps: jax.Array
  final_loss: jax.Array
  is_chase_reverted: jax.Array
  num_steps: jax.Array
  num_undertrained: jax.Array
  num_chases_reverted: jax.Array
  num_gradient_evaluations: jax.Array


class ISGDState(NamedTuple):
  """State of inconsistent SGD.

  Attributes:
    base_state: state of the base optimizer.
    chart_state: state of the control chart.
    info: an :class:`ISGDInfo`.
  """

  base_state: optax.OptState
  chart_state: Any
  info: ISGDInfo


class _Settings(NamedTuple):
  """Arguments of `isgd`, with what sets the published algorithm apart."""

  control_chart: _control_chart.ControlChart
  solver: _subproblem.SubproblemSolver
  chase_to: str
  max_chase_steps: jax.typing.ArrayLike
  conservative_weight: jax.typing.ArrayLike
  base_update_when_chasing: bool
  axis_name: str | tuple[str, ...] | None
  has_aux: bool
  guard: bool = True


class _Outcome(NamedTuple):
  """What came of the chase that a step did or did not have; scalars."""

  final_loss: jax.Array
  num_chase_steps: jax.Array
  num_evaluations: jax.Array
  is_chased: jax.Array
  is_reverted: jax.Array


def isgd(
    base_optimizer: optax.GradientTransformation,
    control_chart: _control_chart.ControlChart,
    *,
    solver: _subproblem.SubproblemSolver = _subproblem.gauss_newton(),
    chase_to: str = 'mean',
    max_chase_steps: jax.typing.ArrayLike = 5,
    conservative_weight: jax.typing.ArrayLike = 0.1,
    base_update_when_chasing: bool = False,
    axis_name: str | tuple[str, ...] | None = None,
    has_aux: bool = False,
) -> optax.GradientTransformationExtraArgs:
  r"""Inconsistent SGD around any base optimizer.

  A control chart judges each batch loss :math:`\psi_t`. A batch within the
  limits gets the base update and nothing else. A batch above the upper control
  limit is under-trained and is chased: from the weights :math:`w_{t-1}` it was
  found at, up to `max_chase_steps` steps on the conservative subproblem

  .. math::
    \min_w \; \tfrac{1}{2} (\psi(w) - \text{target})^2
    + \frac{\varepsilon}{2 n_w} \|w - w_{t-1}\|^2

  until its loss is at the target. A chase never hurts its batch: unless it
  ends on a finite loss no higher than :math:`\psi_t`, the step falls back to
  the base update.

  Where it differs from the published algorithm (:func:`paper_isgd`): the chase
  goes to the chart's mean, not to its limit; by Gauss-Newton steps, which need
  no rate; in place of the base update, not after it; and under that guard. On
  a chased step the base optimizer's state is left as it was, so its momentum
  does not take in the odd gradient and its schedule does not count the step;
  with `base_update_when_chasing` it advances on every step.

  Only the parameters that the base optimizer moves are chased: a leaf whose
  base update is zero throughout (frozen by `optax.set_to_zero` or
  `optax.freeze`, say) stays where it is.

  On a step without a chase the optimizer costs the base update, the chart, and
  one scalar predicate: no copy of the parameters, no extra evaluation.

  Args:
    base_optimizer: any Optax optimizer. isgd goes outermost: put
      `optax.masked` or `optax.partition` inside. `optax.MultiSteps` around
      isgd hands it the loss of one micro-batch, and is not supported.
    control_chart: judges the losses, for example :func:`shewhart`.
    solver: takes the chase steps, :func:`gauss_newton` or
      :func:`gradient_descent`.
    chase_to: target of the chase, the chart's `'mean'` or its upper control
      `'limit'`.
    max_chase_steps: most chase steps a batch gets, an integer >= 0. With 0 the
      chart only watches.
    conservative_weight: weight :math:`\varepsilon` >= 0 of the constraint.
    base_update_when_chasing: whether a chased batch also gets the base update,
      before the chase; the chase then costs one evaluation more.
    axis_name: name or names of the device axis that the losses are averaged
      over, as in :func:`value_and_grad`; `value` and `updates` must be averages
      already. Not needed under plain `jax.jit`, sharded or not.
    has_aux: whether `value_fn` returns `(loss, aux)`; the aux of extra
      evaluations is dropped.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs`, whose `update` needs
    `params` and these keyword arguments:

    * ``value``: loss of the batch at `params`, a real scalar.
    * ``value_fn``: function of the parameters that returns the loss of the same
      batch, with the same dropout keys and model state. If it has further
      arguments, they are taken by name from the extra arguments of `update`,
      as Optax's line searches do.
    * ``grad``: gradient of the loss, if `updates` is no longer it because
      something earlier in :func:`optax.chain` has changed it; optional.

    All extra arguments are passed on to the base optimizer.

  Raises:
    ValueError: from the factory, on an argument out of range; from `init`, on
      masked or not floating-point parameters; from `update`, on a missing
      argument, a value that is not a real scalar, or gradients that differ in
      structure from the parameters.

  Examples:
    >>> import jax, jax.numpy as jnp, optax, isgd_jax
    >>> def loss_fn(params, batch):
    ...   x, y = batch
    ...   return jnp.mean((x @ params - y) ** 2)
    >>> optimizer = isgd_jax.isgd(
    ...     optax.sgd(0.05, momentum=0.9), isgd_jax.shewhart(window_size=20))
    >>> @jax.jit
    ... def train_step(params, opt_state, batch):
    ...   loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    ...   updates, opt_state = optimizer.update(
    ...       grads, opt_state, params,
    ...       value=loss, value_fn=lambda p: loss_fn(p, batch))
    ...   return optax.apply_updates(params, updates), opt_state
    >>> params = jnp.zeros(3)
    >>> opt_state = optimizer.init(params)
    >>> for step in range(60):
    ...   x = jax.random.normal(jax.random.key(step), (32, 3))
    ...   shift = 4.0 if step >= 50 else 0.0  # the data change at step 50
    ...   batch = x, x @ jnp.array([1.0, 2.0, 3.0]) + shift * x[:, 0] + 0.1
    ...   params, opt_state = train_step(params, opt_state, batch)
    >>> info = isgd_jax.get_info(opt_state)
    >>> print(info.num_steps, info.num_undertrained > 0)
    60 True

  References:
    Wang et al., `Accelerating Deep Neural Network Training with Inconsistent
    Stochastic Gradient Descent <https://arxiv.org/abs/1603.05544>`_, Neural
    Networks 93, 2017. Not implicit SGD, which is also called ISGD.
  """
  return _make(
      base_optimizer,
      _Settings(
          control_chart=control_chart,
          solver=solver,
          chase_to=chase_to,
          max_chase_steps=max_chase_steps,
          conservative_weight=conservative_weight,
          base_update_when_chasing=base_update_when_chasing,
          axis_name=axis_name,
          has_aux=has_aux,
      ),
  )


def paper_isgd(
    base_optimizer: optax.GradientTransformation,
    *,
    batches_per_epoch: int,
    chase_learning_rate: optax.ScalarOrSchedule,
    axis_name: str | tuple[str, ...] | None = None,
    has_aux: bool = False,
) -> optax.GradientTransformationExtraArgs:
  r"""Inconsistent SGD as published, with nothing of ours in it.

  The chart is the mean plus three population standard deviations of a queue of
  the last epoch's losses, with the loss judged already in it. After the first
  epoch an under-trained batch gets the ordinary base update *and* up to five
  gradient steps of rate :math:`\zeta` on the subproblem with
  :math:`\varepsilon = 0.1`, until its loss is at the limit. There is no guard:
  a rate too large for a batch far above the limit diverges, as published.

  What the paper leaves open is decided so: the rate :math:`\zeta` is an
  argument; the chase starts at the weights after the base update and is
  anchored at those before it; the momentum buffer sees the ordinary update
  alone. (Leaves that the base optimizer does not move stay frozen, as in
  :func:`isgd`.)

  Args:
    base_optimizer: the ordinary optimizer: SGD, with momentum or Nesterov
      momentum in the paper.
    batches_per_epoch: length n >= 11 of the queue. At 10 and below no loss can
      be 3 sigma above the mean of a sample that holds it.
    chase_learning_rate: the rate :math:`\zeta` > 0, or a schedule of the number
      of training steps.
    axis_name: as in :func:`isgd`.
    has_aux: as in :func:`isgd`.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` whose `update` takes the
    arguments of that of :func:`isgd`.

  Raises:
    ValueError: as :func:`isgd`, and if `batches_per_epoch` is too short.

  Examples:
    >>> import optax, isgd_jax
    >>> optimizer = isgd_jax.paper_isgd(
    ...     optax.sgd(0.01, momentum=0.9, nesterov=True),
    ...     batches_per_epoch=469, chase_learning_rate=0.01)

  References:
    Wang et al., `Accelerating Deep Neural Network Training with Inconsistent
    Stochastic Gradient Descent <https://arxiv.org/abs/1603.05544>`_, Neural
    Networks 93, 2017, Algorithms 1 and 2; US patent 10,572,800 B2.
  """
  return _make(
      base_optimizer,
      _Settings(
          control_chart=_control_chart.paper_chart(batches_per_epoch),
          solver=_subproblem.gradient_descent(chase_learning_rate),
          chase_to='limit',
          max_chase_steps=5,
          conservative_weight=0.1,
          base_update_when_chasing=True,
          axis_name=axis_name,
          has_aux=has_aux,
          guard=False,
      ),
  )


def get_info(opt_state: optax.OptState) -> ISGDInfo:
  """The :class:`ISGDInfo` in an optimizer state, wherever it sits.

  Args:
    opt_state: state of a transformation that contains :func:`isgd` once, at any
      depth of `optax.chain`, `optax.inject_hyperparams` and the like.

  Returns:
    The :class:`ISGDInfo`.

  Raises:
    ValueError: if there is none, or more than one.

  Examples:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> optimizer = optax.chain(
    ...     optax.clip_by_global_norm(1.0),
    ...     isgd_jax.isgd(optax.adam(1e-3), isgd_jax.shewhart(50)))
    >>> info = isgd_jax.get_info(optimizer.init(jnp.zeros(3)))
    >>> print(info.num_steps)
    0
  """
  is_info = lambda node: isinstance(node, ISGDInfo)
  infos = [
      node
      for node in jax.tree.leaves(opt_state, is_leaf=is_info)
      if is_info(node)
  ]
  if len(infos) != 1:
    raise ValueError(
        f'opt_state must hold one ISGDInfo, found {len(infos)} in a '
        f'{type(opt_state).__name__}. Pass the state of an optimizer that '
        'contains isgd exactly once.'
    )
  return infos[0]


def _make(
    base_optimizer: optax.GradientTransformation, settings: _Settings
) -> optax.GradientTransformationExtraArgs:
  """The transformation for checked settings."""
  _checks.check_choice('chase_to', settings.chase_to, ('mean', 'limit'))
  _checks.check_number(
      'max_chase_steps', settings.max_chase_steps, minimum=0, integer=True
  )
  _checks.check_number(
      'conservative_weight', settings.conservative_weight, minimum=0.0
  )
  base = optax.with_extra_args_support(base_optimizer)
  only_watches = (
      not _checks.is_traced(settings.max_chase_steps)
      and settings.max_chase_steps == 0
  )

  def init_fn(params: optax.Params) -> ISGDState:
    _checks.check_params(params)
    chart_state = settings.control_chart.init()
    return ISGDState(base.init(params), chart_state, _initial_info(settings))

  def update_fn(
      updates: optax.Updates,
      state: ISGDState,
      params: optax.Params | None = None,
      *,
      value: jax.typing.ArrayLike | None = None,
      value_fn: Callable[..., Any] | None = None,
      grad: optax.Updates | None = None,
      **extra_args: Any,
  ) -> tuple[optax.Updates, ISGDState]:
    _check_update_arguments(updates, params, value, value_fn, grad, settings)
    given = {'value': value, 'value_fn': value_fn, 'grad': grad}
    base_extra_args = extra_args | {
        name: arg for name, arg in given.items() if arg is not None
    }

    def base_update(updates, base_state, params):
      return base.update(updates, base_state, params, **base_extra_args)

    chart_state, reading = settings.control_chart.update(
        state.chart_state, value
    )
    loss = jnp.asarray(value).astype(reading.mean.dtype)
    if only_watches:
      updates, base_state = base_update(updates, state.base_state, params)
      outcome = _no_chase(loss)
    else:
      is_to_mean = settings.chase_to == 'mean'
      batch = _Batch(
          loss=loss,
          grad=grad,
          value_and_grad_fn=_value_and_grad_fn(
              value_fn, extra_args, loss.dtype, settings
          ),
          reading=reading,
          target=reading.mean if is_to_mean else reading.upper_limit,
      )
      step = (
          _update_then_chase
          if settings.base_update_when_chasing
          else _chase_or_update
      )
      updates, base_state, outcome = step(
          settings, base_update, batch, updates, state, params
      )
    info = _next_info(state.info, loss, reading, outcome)
    return updates, ISGDState(base_state, chart_state, info)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Batch(NamedTuple):
  """The batch at hand: what was found, and how to evaluate it again."""

  loss: jax.Array
  grad: optax.Updates | None
  value_and_grad_fn: Callable[[optax.Params], tuple[jax.Array, optax.Updates]]
  reading: _control_chart.ChartReading
  target: jax.Array


def _chase_or_update(settings, base_update, batch, updates, state, params):
  """A chase in place of the base update, or else the base update.

  One slot holds the gradient that the base update is to take, or the update
  that the chase left. It passes through the loop in place, so that a step
  without a chase copies nothing.
  """

  def run(slot):
    """Chases from `params`; leaves its update, or the gradient, in the slot."""
    slot = optax.tree.cast_like(slot, updates)
    base_updates, _ = base_update(slot, state.base_state, params)
    recover_grad = batch.grad is None
    result = _subproblem.chase(
        batch.value_and_grad_fn,
        settings.solver,
        _subproblem_of(settings, batch, state, params),
        params,
        loss_found=batch.loss,
        max_steps=settings.max_chase_steps,
        start_grad=slot if recover_grad else batch.grad,
        recover_grad=recover_grad,
        transform_grad=_keeping_still(base_updates),
    )
    fallback = result.grad if recover_grad else slot
    chased = jax.tree.map(jnp.subtract, result.params, params)
    left = jax.tree.map(
        lambda g, u: jnp.where(
            result.is_reverted, *_promote(g, u)
        ),
        fallback,
        chased,
    )
    return left, _outcome_of(result, batch.loss)

  # Wide enough for both a gradient and an update; a no-op where they agree.
  slot = jax.tree.map(lambda g, p: _promote(g, p)[0], updates, params)
  slot, outcome = _run_once_if(
      _is_chase_due(settings, batch), run, slot, _no_chase(batch.loss)
  )
  is_kept = outcome.is_chased & ~outcome.is_reverted
  base_updates, base_state = _frozen_update.update_unless(
      is_kept,
      base_update,
      optax.tree.cast_like(slot, updates),
      state.base_state,
      params,
  )
  new_updates = jax.tree.map(
      lambda s, u: jnp.where(is_kept, s.astype(u.dtype), u), slot, base_updates
  )
  return new_updates, base_state, outcome


def _update_then_chase(settings, base_update, batch, updates, state, params):
  """The base update, then a chase from where it led."""
  updates, base_state = base_update(updates, state.base_state, params)

  def run(base_updates):
    """Chases from the updated parameters; leaves the sum of both updates."""
    result = _subproblem.chase(
        batch.value_and_grad_fn,
        settings.solver,
        _subproblem_of(settings, batch, state, params),
        optax.apply_updates(params, base_updates),
        loss_found=batch.loss,
        max_steps=settings.max_chase_steps,
        guard=settings.guard,
        transform_grad=_keeping_still(base_updates),
    )
    # Unchanged bit for bit where no step was needed.
    is_unmoved = result.is_reverted | (result.num_steps == 0)
    left = jax.tree.map(
        lambda u, new, old: jnp.where(
            is_unmoved, u, (new - old).astype(u.dtype)
        ),
        base_updates,
        result.params,
        params,
    )
    return left, _outcome_of(result, batch.loss)

  updates, outcome = _run_once_if(
      _is_chase_due(settings, batch), run, updates, _no_chase(batch.loss)
  )
  return updates, base_state, outcome


def _run_once_if(is_due, run, slot, outcome):
  """`run(slot)` if `is_due`, else `slot` and `outcome` as they are.

  A loop of at most one trip, not a `cond`: XLA hands a loop's carry through in
  place, and copies what passes through a conditional.
  """

  def body(carry):
    is_due, slot, _ = carry
    slot, outcome = run(slot)
    return is_due & False, slot, outcome

  _, slot, outcome = jax.lax.while_loop(
      lambda carry: carry[0], body, (is_due, slot, outcome)
  )
  return slot, outcome


def _is_chase_due(settings: _Settings, batch: _Batch) -> jax.Array:
  """Whether the batch is under-trained and there is a target to chase it to."""
  is_allowed = jnp.asarray(settings.max_chase_steps) > 0
  return batch.reading.is_above & jnp.isfinite(batch.target) & is_allowed


def _subproblem_of(settings, batch, state, params) -> _subproblem.Subproblem:
  """The conservative subproblem of this batch."""
  dtype = batch.loss.dtype
  num_params = sum(p.size for p in jax.tree.leaves(params))
  return _subproblem.Subproblem(
      anchor=params,
      target=batch.target,
      damping=jnp.asarray(settings.conservative_weight, dtype) / num_params,
      num_training_steps=state.info.num_steps,
  )


def _keeping_still(base_updates: optax.Updates):
  """Zeroes the gradient of the leaves that the base optimizer does not move."""
  moves = jax.tree.map(lambda u: jnp.any(u != 0), base_updates)

  def mask(grad):
    return jax.tree.map(
        lambda m, g: jnp.where(m, g, jnp.zeros_like(g)), moves, grad
    )

  return mask


def _value_and_grad_fn(value_fn, extra_args, dtype, settings):
  """Evaluates the batch again; checks what `value_fn` returns."""
  try:
    names = inspect.signature(value_fn).parameters
  except ValueError:  # Some built-in callables have no signature.
    names = {}
  kwargs = {name: arg for name, arg in extra_args.items() if name in names}

  def loss_of(params):
    result = value_fn(params, **kwargs)
    loss, aux = result if settings.has_aux else (result, None)
    _checks.check_real_scalar(
        'The result of value_fn',
        loss,
        'Return the mean loss of the batch'
        + (' and aux.' if settings.has_aux else '; has_aux=True allows aux.'),
    )
    return (loss, aux) if settings.has_aux else loss

  evaluate = _data_parallel.value_and_grad(
      loss_of, axis_name=settings.axis_name, has_aux=settings.has_aux
  )

  def value_and_grad_fn(params):
    result, grad = evaluate(params)
    loss = result[0] if settings.has_aux else result
    return loss.astype(dtype), grad

  return value_and_grad_fn


def _check_update_arguments(updates, params, value, value_fn, grad, settings):
  """Raises on a missing or unusable argument of `update`."""
  _checks.check_given('params', params, 'Pass the current parameters.')
  _checks.check_params(params)
  _checks.check_same_structure('updates', updates, params)
  _checks.check_given('value', value, 'Pass the loss of the batch.')
  _checks.check_real_scalar(
      'value', value, 'Pass the mean loss of the batch, without its aux.'
  )
  if _checks.is_traced(settings.max_chase_steps) or settings.max_chase_steps:
    _checks.check_given(
        'value_fn',
        value_fn,
        'Pass a function of the parameters that returns the loss of this batch.',
    )
  if grad is not None:
    _checks.check_same_structure('grad', grad, params)


def _promote(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Both in the narrowest dtype that holds either, also in strict promotion."""
  dtype = jnp.promote_types(jnp.result_type(a), jnp.result_type(b))
  return jnp.asarray(a, dtype), jnp.asarray(b, dtype)


def _no_chase(loss: jax.Array) -> _Outcome:
  """Outcome of a step without a chase."""
  zero = jnp.zeros((), jnp.int32)
  return _Outcome(loss, zero, zero, jnp.zeros((), bool), jnp.zeros((), bool))


def _outcome_of(result: _subproblem.ChaseResult, loss: jax.Array) -> _Outcome:
  return _Outcome(
      final_loss=jnp.where(result.is_reverted, loss, result.loss),
      num_chase_steps=result.num_steps,
      num_evaluations=result.num_evaluations,
      is_chased=jnp.ones((), bool),
      is_reverted=result.is_reverted,
  )


def _initial_info(settings: _Settings) -> ISGDInfo:
  """Zeros, each its own buffer so that the state can be donated."""
  chart = settings.control_chart
  _, reading = jax.eval_shape(lambda: chart.update(chart.init(), 0.0))
  dtype = reading.mean.dtype
  return ISGDInfo(
      loss=jnp.zeros((), dtype),
      mean=jnp.zeros((), dtype),
      sigma=jnp.zeros((), dtype),
      control_limit=jnp.full((), jnp.inf, dtype),
      is_undertrained=jnp.zeros((), bool),
      num_chase_steps=jnp.zeros((), jnp.int32),
      final_loss=jnp.zeros((), dtype),
      is_chase_reverted=jnp.zeros((), bool),
      num_steps=jnp.zeros((), jnp.int32),
      num_undertrained=jnp.zeros((), jnp.int32),
      num_chases_reverted=jnp.zeros((), jnp.int32),
      num_gradient_evaluations=jnp.zeros((), jnp.int32),
  )


def _next_info(
    info: ISGDInfo,
    loss: jax.Array,
    reading: _control_chart.ChartReading,
    outcome: _Outcome,
) -> ISGDInfo:
  """The info after a step; its counters saturate rather than wrap."""
  increment = optax.safe_increment
  count_if = lambda n, condition: jnp.where(condition, increment(n), n)
  num_evaluations = increment(info.num_gradient_evaluations)
  room = jnp.iinfo(jnp.int32).max - num_evaluations
  return ISGDInfo(
      loss=loss,
      mean=reading.mean,
      sigma=reading.sigma,
      control_limit=reading.upper_limit,
      is_undertrained=reading.is_above,
      num_chase_steps=outcome.num_chase_steps,
      final_loss=outcome.final_loss,
      is_chase_reverted=outcome.is_reverted,
      num_steps=increment(info.num_steps),
      num_undertrained=count_if(info.num_undertrained, reading.is_above),
      num_chases_reverted=count_if(
          info.num_chases_reverted, outcome.is_reverted
      ),
      num_gradient_evaluations=num_evaluations
      + jnp.minimum(outcome.num_evaluations, room),
  )
