"""One chart, and small reactions to what it says, around a base optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from isgd_jax import _frozen_update
from isgd_jax import _info
from isgd_jax._charts import judging
from isgd_jax._charts import statistics
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart
from isgd_jax._chase import control_flow
from isgd_jax._chase import value_fn as value_fns
from isgd_jax._reactions.reaction import Reaction
from isgd_jax._reactions.reaction import ReactionStep

CALL = 'optimizer.update(grads, opt_state, params, value=loss)'


class ReactState(NamedTuple):
  """State of :func:`react`.

  Attributes:
    base_state: state of the base optimizer.
    chart_state: state of the control chart.
    packed_info: what the last step saw and did; :func:`get_info` unpacks it.
    reaction_states: dictionary of the states of the reactions, by their names.
  """

  base_state: optax.OptState
  chart_state: Any
  packed_info: _info.PackedInfo
  reaction_states: dict[str, Any]


def react(
  base_optimizer: optax.GradientTransformation,
  control_chart: ControlChart,
  *reactions: Reaction,
  axis_name: str | tuple[str, ...] | None = None,
  any_device: bool = False,
) -> optax.GradientTransformationExtraArgs:
  r"""A base optimizer, a control chart, and reactions to what it flags.

  The chart is judged once a step, and all reactions see the same reading, each
  what the ones before it in the list left of the step: first what they do
  before the base update (:func:`skip`, :func:`clip`, :func:`reset`), then what
  they do after it (:func:`rewarm`). A step that is not flagged is that of the
  base optimizer, bit for bit op by op.

  A chase is no reaction of this kind: put ``isgd(base_optimizer, chart)``
  inside, with a chart of its own, and pass `params` and ``value_fn``. Its info
  is then that of ``opt_state.base_state``.

  Unlike a chase this looks at no parameter, so it may sit inside
  `optax.partition` and `optax.masked`, one for each group of parameters.

  Args:
    base_optimizer: any Optax optimizer.
    control_chart: judges the losses, for example :func:`shewhart`; or another
      statistic (:func:`chart_of`), or several (:func:`any_of`).
    *reactions: what a flagged batch sets off, in this order; with none the
      chart only watches.
    axis_name: name or names of the device axis that the losses are averaged
      over, so that all devices react alike. `updates` must be averaged already.
      Not needed under plain `jax.jit`, sharded or not.
    any_device: whether a batch is flagged, too, where the chart so finds the
      loss of a single device's share. Needs `axis_name`, and `value` of that
      share. Losses of an n-th of a batch scatter :math:`\sqrt n` times as much
      as its mean, which the limits are made of: take them as much wider.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs`, whose `update` needs what
    the chart judges: ``value``, the loss of the batch, a real scalar, of the
    whole batch or with `axis_name` of this device's share; and each statistic
    of another name by that name. Optional are ``grad``, the gradient where
    `updates` is something else by now, and ``shard_weight`` as in
    :func:`value_and_grad`. All are passed on to the base optimizer, and with
    them ``chart_reading``, the :class:`ChartReading` of this batch.

  Raises:
    ValueError: from the factory, on an argument that cannot be, or a reaction
      whose statistic the chart does not judge; from `update`, if a statistic is
      missing or no real scalar, or on the state of other reactions.

  Examples:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> window = isgd_jax.shewhart(4, 6.0)
    >>> optimizer = isgd_jax.react(
    ...     optax.sgd(0.1, momentum=0.9),
    ...     isgd_jax.any_of(window, isgd_jax.chart_of('gradient_norm', window)),
    ...     isgd_jax.skip(max_consecutive=3))
    >>> params = jnp.zeros(2)
    >>> opt_state = optimizer.init(params)
    >>> for size in (1.0, 1.1, 1.0, 0.9, 50.0):
    ...   updates, opt_state = optimizer.update(
    ...       size * jnp.ones(2), opt_state, params, value=1.0)
    >>> print(updates, isgd_jax.get_info(opt_state).is_skipped)
    [0. 0.] True
    >>> of_loss, of_norm = isgd_jax.get_parts(opt_state)
    >>> print(of_loss.is_above, of_norm.is_above)
    False True
  """
  _check_reactions(control_chart, reactions)
  return around(
    'react',
    base_optimizer,
    control_chart,
    reactions,
    ReactState,
    pack=lambda states: states,
    unpack=lambda state: _checked_states(state, reactions),
    axis_name=axis_name,
    any_device=any_device,
  )


def around(
  transformation: str,
  base_optimizer: optax.GradientTransformation,
  control_chart: ControlChart,
  reactions: tuple[Reaction, ...],
  state_type: Any,
  *,
  pack: Callable[[dict[str, Any]], Any],
  unpack: Callable[[Any], dict[str, Any]],
  axis_name: str | tuple[str, ...] | None,
  any_device: bool,
) -> optax.GradientTransformationExtraArgs:
  """The transformation, its state a `state_type` of four fields.

  `pack` makes the fourth of the reactions' states, `unpack` makes them of the
  whole state.
  """
  statistics.check_chart(
    transformation, control_chart, axis_name=axis_name, any_device=any_device
  )
  base = optax.with_extra_args_support(base_optimizer)
  names = tuple(statistics.names_of(control_chart))

  def init_fn(params: optax.Params) -> Any:
    return state_type(
      base.init(params),
      control_chart.init(),
      _info.initial_info(control_chart),
      pack({reaction.name: reaction.init(params) for reaction in reactions}),
    )

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
  ) -> tuple[optax.Updates, Any]:
    judged = judging.judge(
      transformation,
      control_chart,
      state,
      state_type,
      judging.Given(value, updates, grad, extra_args, shard_weight),
      call=CALL,
      axis_name=axis_name,
      any_device=any_device,
    )
    states = dict(unpack(state))
    step = ReactionStep(
      updates=updates,
      base_state=state.base_state,
      params=params,
      reading=_computed_once(judged.reading),
      statistics=names,
      values=judged.values,
      is_finite=judged.is_finite,
      base=base,
    )
    step = _run('before', reactions, states, step)
    if grad is None and value_fn is not None and step.updates is not updates:
      # What evaluates the batch anew is to know its gradient as it was.
      grad = updates
    base_update = value_fns.bind_base_update(
      base,
      extra_args,
      value=judged.value,
      value_fn=value_fn,
      grad=grad,
      chart_reading=judged.reading,
    )
    is_skipped = step.is_skipped
    base_args = step.updates, step.base_state, params
    if is_skipped is None:
      updates, base_state = base_update(*base_args)
    else:
      updates, base_state = _frozen_update.update_unless(
        is_skipped, base_update, *base_args
      )
      updates = jax.tree.map(
        lambda u: jnp.where(is_skipped, jnp.zeros_like(u), u), updates
      )
    step = step._replace(updates=updates, base_state=base_state)
    step = _run('after', reactions, states, step)
    packed_info = _info.next_info(
      state.packed_info,
      judged.loss,
      judged.reading,
      False if is_skipped is None else is_skipped,
    )
    return step.updates, state_type(
      step.base_state, judged.chart_state, packed_info, pack(states)
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _run(
  hook: str,
  reactions: tuple[Reaction, ...],
  states: dict[str, Any],
  step: ReactionStep,
) -> ReactionStep:
  """Has each reaction act, in order; puts its new state in its place."""
  for reaction in reactions:
    act = getattr(reaction, hook)
    if act is not None:
      states[reaction.name], step = act(states[reaction.name], step)
  return step


def _computed_once(reading: ChartReading) -> ChartReading:
  """Its flags, which reactions broadcast, in kernels of their own."""
  parts = reading.parts
  return reading._replace(
    is_above=control_flow.computed_once(reading.is_above),
    is_below=control_flow.computed_once(reading.is_below),
    parts=None if parts is None else tuple(map(_computed_once, parts)),
  )


def _check_reactions(
  control_chart: ControlChart, reactions: tuple[Reaction, ...]
) -> None:
  """Raises unless they are reactions of different names, and fit the chart."""
  seen = set()
  for reaction in reactions:
    if not isinstance(reaction, Reaction):
      raise ValueError(
        f'reactions must be Reactions, such as skip(), got {reaction!r}.'
      )
    if reaction.name in seen:
      raise ValueError(
        f'reactions must have different names, got two of {reaction.name!r}. '
        'Give one of them another: '
        f"reaction._replace(name='{reaction.name}_2')."
      )
    seen.add(reaction.name)
    names = statistics.names_of(control_chart)
    if reaction.needs and not set(reaction.needs) & set(names):
      raise ValueError(
        f'the reaction {reaction.name!r} needs a chart of '
        f'{" or ".join(map(repr, reaction.needs))}, got one of '
        f'{", ".join(map(repr, names))}. Take '
        f'chart_of({reaction.needs[0]!r}, chart), or join one with any_of.'
      )


def _checked_states(
  state: Any, reactions: tuple[Reaction, ...]
) -> dict[str, Any]:
  """The states of the reactions; raises if they are those of others."""
  names = {reaction.name for reaction in reactions}
  if set(state.reaction_states) != names:
    raise ValueError(
      f'opt_state holds the states of the reactions '
      f'{sorted(state.reaction_states)}, and react was made with '
      f'{sorted(names)}. Is it from a checkpoint of other reactions? Take '
      'those, or carry its base_state and chart_state over into a new state: '
      'init(params)._replace(base_state=..., chart_state=...).'
    )
  return state.reaction_states
