"""Inconsistent SGD: extra gradient steps for batches that are out of control.

`isgd` wraps a base optimizer. A control chart in its state judges each batch
loss; a batch above the upper limit is chased inside the jitted step.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from isgd_jax import _checks
from isgd_jax import _info
from isgd_jax._charts import judging
from isgd_jax._charts import shewhart as shewhart_lib
from isgd_jax._charts import statistics
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart
from isgd_jax._charts.chart import loss_limit_of
from isgd_jax._chase import probation_step
from isgd_jax._chase import solvers
from isgd_jax._chase import step as chase_step
from isgd_jax._chase import value_fn as value_fns
from isgd_jax._chase.probation import DEFAULT_RULES
from isgd_jax._chase.probation import Rules
from isgd_jax._chase.subproblem import SubproblemSolver

_DEFAULT_SOLVER = solvers.gauss_newton()
_CALL = (
  'optimizer.update(grads, opt_state, params, value=loss, '
  'value_fn=loss_of_params)'
)
_NO_VALUE_FN = (
  'Pass a function of the parameters that returns the loss of the batch.'
)


class ISGDState(NamedTuple):
  """State of inconsistent SGD.

  Attributes:
    base_state: state of the base optimizer.
    chart_state: state of the control chart.
    packed_info: what the last step saw and did; :func:`get_info` unpacks it.
    probation_state: the candidate that is not in use, and what is on record of
      the chases; empty without probation.
  """

  base_state: optax.OptState
  chart_state: Any
  packed_info: _info.PackedInfo
  probation_state: Any = ()


def isgd(
  base_optimizer: optax.GradientTransformation,
  control_chart: ControlChart,
  *,
  solver: SubproblemSolver = _DEFAULT_SOLVER,
  chase_to: str = 'mean',
  max_chase_steps: jax.typing.ArrayLike = 5,
  conservative_weight: jax.typing.ArrayLike = 0.1,
  base_update_when_chasing: bool = False,
  base_state_when_chasing: str | None = None,
  guard: bool = True,
  probation: bool | None = None,
  axis_name: str | tuple[str, ...] | None = None,
  any_device: bool = False,
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

  until 99 % of the way from :math:`\psi_t` to the target are gone. A chase
  never hurts its batch: unless it ends on a finite loss at least a hundredth of
  the way from :math:`\psi_t` to the target, the step falls back to the base
  update.

  Whether it was right shows on the batches after it, and there it is judged
  (`probation`). Until chases have lowered the losses after them, and more than
  by their scatter, they are tried in the shadow: evaluated, not used. Then they
  lead, and are undone once they have lost what was gained.

  Where it differs from the published algorithm (:func:`paper_isgd`): the chase
  goes to the chart's mean, not to its limit; by Gauss-Newton steps, which need
  no rate; in place of the base update, not after it; and under that guard. On
  a chased step the base optimizer's state is left as it was, so its momentum
  does not take in the odd gradient and its schedule does not count the step;
  `base_state_when_chasing='advanced'` lets it take both in, on every step.
  :math:`\varepsilon` is relative to the squared gradient
  (:func:`gauss_newton`), so that nothing depends on the unit of the loss.

  Why these defaults: in the ablation (`RESULTS.md`, over SGD, momentum and
  Adam, with chases that lead at once) a chase to the limit, of one or two
  steps, or by gradient descent left more loss on drifting streams; ten steps
  left a little less than five, for more evaluations. The metric of the base
  optimizer left more with Adam on one stream and less on the other, and as much
  with SGD; an advanced base state and a base update that is kept made little
  difference. So did the conservative weight, from 0 to 10^5 (then in absolute
  terms), and the guard, which costs an evaluation a chase and is there for the
  batches that the ablation did not have.
  :func:`default_chart` says why that chart.

  Only what the base optimizer moves is chased: an element whose base update is
  zero (frozen by `optax.set_to_zero`, `optax.freeze` or a mask) stays where it
  is. Constraints and projections (`optax.keep_params_nonnegative`) go outside,
  in :func:`optax.chain` after isgd. A base optimizer that climbs along its
  gradient, since the sign stands outside, is not chased with, and counted.

  On a step with neither chase nor probation the optimizer costs the base
  update, the chart, and one scalar predicate: no extra evaluation, and no copy
  of the parameters where the state is donated.

  Args:
    base_optimizer: any Optax optimizer. isgd goes outermost: put
      `optax.masked` or `optax.partition` inside. `optax.MultiSteps` around
      isgd hands it the loss of one micro-batch, and is not supported. A line
      search as the base also runs on chased steps, where its result is not
      used and its evaluations are not counted.
    control_chart: judges the losses: :func:`default_chart`, which the evidence
      supports for all uses, :func:`shewhart`, :func:`ewma`, :func:`cusum`,
      :func:`difference_chart`, or one of your own; or several joined, one of
      them of the loss (:func:`any_of`). A batch that it finds out of control
      upwards is chased if its loss is above the target of the chart of the
      loss.
    solver: takes the chase steps, :func:`gauss_newton` or
      :func:`gradient_descent`.
    chase_to: target of the chase, the chart's `'mean'` or its upper control
      `'limit'`.
    max_chase_steps: most chase steps a batch gets, an integer >= 0. With 0 the
      chart only watches.
    conservative_weight: weight :math:`\varepsilon` >= 0 of the constraint.
    base_update_when_chasing: whether a chased batch also gets the base update,
      before the chase; the chase then costs one evaluation more.
    base_state_when_chasing: what a chased step does to the state of the base
      optimizer: nothing (`'frozen'`), or what any step does with the gradient
      that was found (`'advanced'`), although a chase in place of the base
      update does not apply that update. None stands for `'frozen'`, and with
      `base_update_when_chasing` for `'advanced'`, the only choice there. A
      chase in place of the update, with an advanced state, raises the peak
      memory by two more copies of the parameters (measured with SGD and Adam);
      a reverted one costs one evaluation less.
    guard: whether a chase that does not lower the loss of its batch is undone,
      in favour of the base update. Without it the loss after the last allowed
      step is not evaluated, and a chase may leave the batch worse, or not
      finite.
    probation: whether chases must prove themselves. A chase then leads only
      while those before it lowered the losses of the batches *after* them; else
      it is tried in the shadow, and the parameters are those of the base
      optimizer (op by op to the bit, under jit to rounding). One evaluation
      more on each of the four batches after a chase that is judged, one copy of
      the parameters more in the state, and a chase only where all extra
      evaluations stay within 20 % of the training steps (four more, of its
      probation, may follow). None stands for True where chases are in place of
      the base update, under the guard and with a frozen base state; elsewhere
      it cannot be.
    axis_name: name or names of the device axis that the losses are averaged
      over, as in :func:`value_and_grad`; `updates` must be an average already,
      `value` may be. Not needed under plain `jax.jit`, sharded or not.
    any_device: as in :func:`react`; the batch is chased where its loss, of all
      devices, is above the target.
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
    * ``grad``: gradient of the loss. Optional where `updates` is just that;
      needed where something earlier in :func:`optax.chain` (clipping, say) has
      changed `updates`. Without it the chase takes `updates` for the gradient,
      and a reverted chase computes it anew, without that change.
    * ``shard_weight``: this device's share of the batch, as in
      :func:`value_and_grad`. Needed where `axis_name` is given and the shares
      are not equal.

    All extra arguments but the last are passed on to the base optimizer, and
    with them ``chart_reading``, the :class:`ChartReading` of this batch.

  Raises:
    ValueError: from the factory, on an argument out of range, or two that
      contradict each other; from `init`, on masked or not floating-point
      parameters; from `update`, on a missing argument, a value that is not a
      real scalar, or gradients that differ in structure from the parameters.

  Examples:
    >>> import jax, jax.numpy as jnp, optax, isgd_jax
    >>> def loss_fn(params, batch):
    ...   x, y = batch
    ...   return jnp.mean((x @ params - y) ** 2)
    >>> optimizer = isgd_jax.isgd(
    ...     optax.sgd(0.05, momentum=0.9),
    ...     isgd_jax.default_chart(window_size=20))
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
  if base_state_when_chasing is None:
    base_state_when_chasing = (
      'advanced' if base_update_when_chasing else 'frozen'
    )
  can_be_judged = base_state_when_chasing == 'frozen' and guard
  if probation is None:
    probation = can_be_judged
  elif probation and not can_be_judged:
    raise ValueError(
      'probation=True needs a chase in place of the base update, with a guard: '
      f'got base_state_when_chasing={base_state_when_chasing!r} and '
      f'guard={guard!r}. Leave probation out, or those two.'
    )
  return _make(
    base_optimizer,
    chase_step.Settings(
      control_chart=control_chart,
      solver=solver,
      chase_to=chase_to,
      max_chase_steps=max_chase_steps,
      conservative_weight=conservative_weight,
      base_update_when_chasing=base_update_when_chasing,
      base_state_when_chasing=base_state_when_chasing,
      axis_name=axis_name,
      any_device=any_device,
      has_aux=has_aux,
      guard=guard,
      probation=bool(probation),
      # Only the ablation of the comparisons hands others over.
      rules=probation if isinstance(probation, Rules) else DEFAULT_RULES,
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
  if not callable(chase_learning_rate):
    _checks.check_number('chase_learning_rate', chase_learning_rate, above=0.0)
  return _make(
    base_optimizer,
    chase_step.Settings(
      control_chart=shewhart_lib.paper_chart(batches_per_epoch),
      solver=solvers.gradient_descent(chase_learning_rate),
      chase_to='limit',
      max_chase_steps=5,
      conservative_weight=0.1,
      base_update_when_chasing=True,
      base_state_when_chasing='advanced',
      axis_name=axis_name,
      any_device=False,
      has_aux=has_aux,
      tolerance=0.0,
      guard=False,
    ),
  )


def _make(
  base_optimizer: optax.GradientTransformation, settings: chase_step.Settings
) -> optax.GradientTransformationExtraArgs:
  """The transformation for checked settings."""
  _checks.check_choice('chase_to', settings.chase_to, ('mean', 'limit'))
  statistics.check_chart(
    'isgd',
    settings.control_chart,
    axis_name=settings.axis_name,
    any_device=settings.any_device,
  )
  names = statistics.names_of(settings.control_chart)
  if statistics.LOSS not in names:
    raise ValueError(
      'isgd needs a chart of the loss, whose mean it chases the loss to, got '
      f'one of {", ".join(map(repr, names))}. Join it to one with any_of or '
      'all_of, or take react for other reactions than a chase.'
    )
  _checks.check_number(
    'max_chase_steps', settings.max_chase_steps, minimum=0, integer=True
  )
  _checks.check_number(
    'conservative_weight', settings.conservative_weight, minimum=0.0
  )
  _checks.check_choice(
    'base_state_when_chasing',
    settings.base_state_when_chasing,
    ('frozen', 'advanced'),
  )
  is_frozen = settings.base_state_when_chasing == 'frozen'
  if is_frozen and settings.base_update_when_chasing:
    raise ValueError(
      "base_state_when_chasing must be 'advanced' with "
      "base_update_when_chasing=True, got 'frozen': a base update advances the "
      'state. Leave one of the two out.'
    )
  base = optax.with_extra_args_support(base_optimizer)
  step = (
    chase_step.chase_or_update if is_frozen else chase_step.update_then_chase
  )
  only_watches = (
    not _checks.is_traced(settings.max_chase_steps)
    and settings.max_chase_steps == 0
  )
  has_probation = settings.probation and not only_watches

  def init_fn(params: optax.Params) -> ISGDState:
    _checks.check_params(params)
    chart_state = settings.control_chart.init()
    info = _info.initial_info(settings.control_chart)
    probation_state = (
      probation_step.initial_state(params, info.floats.dtype)
      if has_probation
      else ()
    )
    return ISGDState(base.init(params), chart_state, info, probation_state)

  def update_fn(
    updates: optax.Updates,
    state: Any,
    params: optax.Params | None = None,
    *,
    value: jax.typing.ArrayLike | None = None,
    value_fn: Callable[..., Any] | None = None,
    grad: optax.Updates | None = None,
    shard_weight: jax.typing.ArrayLike | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, ISGDState]:
    params = _checked_params(params, updates, grad)
    judged = judging.judge(
      'isgd',
      settings.control_chart,
      state,
      ISGDState,
      judging.Given(value, updates, grad, extra_args, shard_weight),
      call=_CALL,
      axis_name=settings.axis_name,
      any_device=settings.any_device,
    )
    if value_fn is not None:
      value_fn = value_fns.loss_only(value_fn, settings.has_aux)
    base_update = value_fns.bind_base_update(
      base,
      extra_args,
      value=judged.value,
      value_fn=value_fn,
      grad=grad,
      chart_reading=judged.reading,
    )
    probation_state = state.probation_state
    packed_info = _info.next_info(
      state.packed_info, judged.loss, judged.reading
    )
    if only_watches:
      updates, base_state = base_update(updates, state.base_state, params)
    else:
      value_and_grad_fn = value_fns.value_and_grad_fn(
        _given('value_fn', value_fn, _NO_VALUE_FN),
        params,
        extra_args,
        judged.loss.dtype,
        axis_name=settings.axis_name,
        shard_weight=shard_weight,
      )
      info = _info.unpack(packed_info)
      batch = chase_step.Batch(
        loss=judged.loss,
        grad=grad,
        value_and_grad_fn=value_and_grad_fn,
        is_undertrained=judged.reading.is_above,
        target=_target(settings.chase_to, judged.reading),
        sigma=judged.reading.sigma,
        num_training_steps=info.num_steps - 1,
        num_extra_evaluations=info.num_gradient_evaluations - info.num_steps,
      )
      args = updates, state.base_state, params, packed_info
      if has_probation:
        updates, base_state, packed_info, probation_state = (
          probation_step.chase_on_probation(
            settings, base_update, batch, *args, probation_state
          )
        )
      else:
        updates, base_state, packed_info = step(
          settings, base_update, batch, *args
        )
    return updates, ISGDState(
      base_state, judged.chart_state, packed_info, probation_state
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


_given = functools.partial(_checks.given, transformation='isgd', call=_CALL)


def _checked_params(
  params: optax.Params | None,
  updates: optax.Updates,
  grad: optax.Updates | None,
) -> optax.Params:
  """The parameters as arrays; raises unless all that comes with them fits."""
  params = _given('params', params, 'Pass the current parameters.')
  _checks.check_params(params)
  _checks.check_same_structure('updates', updates, params)
  if grad is not None:
    _checks.check_same_structure('grad', grad, params)
  return jax.tree.map(jnp.asarray, params)


def _target(chase_to: str, reading: ChartReading) -> jax.Array:
  """The loss that a chase goes down to."""
  return reading.mean if chase_to == 'mean' else loss_limit_of(reading)
