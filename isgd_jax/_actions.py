"""What else a control chart can do: skip a step, or only watch."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from isgd_jax import _info
from isgd_jax._charts import judging
from isgd_jax._charts import statistics
from isgd_jax._charts.chart import ControlChart
from isgd_jax._reactions import react as react_lib
from isgd_jax._reactions import skip as skip_lib


class WatchState(NamedTuple):
  """State of :func:`watch`.

  Attributes:
    chart_state: state of the control chart.
    packed_info: what the last step saw; :func:`get_info` unpacks it.
  """

  chart_state: Any
  packed_info: _info.PackedInfo


class SkipState(NamedTuple):
  """State of :func:`skip_out_of_control`.

  Attributes:
    base_state: state of the base optimizer.
    chart_state: state of the control chart.
    packed_info: what the last step saw and did; :func:`get_info` unpacks it.
    num_above_in_a_row: int32 scalar, finite losses above the limit since the
      last one that was not.
  """

  base_state: optax.OptState
  chart_state: Any
  packed_info: _info.PackedInfo
  num_above_in_a_row: jax.Array


def watch(
  control_chart: ControlChart,
  *,
  axis_name: str | tuple[str, ...] | None = None,
  any_device: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """A control chart of the losses that changes nothing.

  An identity transformation, for any place in :func:`optax.chain`: updates pass
  as they are, and :func:`get_info` reads the chart from the state.

  Args:
    control_chart: judges the losses, for example :func:`shewhart`; or another
      statistic (:func:`chart_of`), or several (:func:`any_of`).
    axis_name: name or names of the device axis that the losses are averaged
      over, so that all devices have one chart. Not needed under plain
      `jax.jit`, sharded or not.
    any_device: as in :func:`react`.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs`, whose `update` needs the
    keyword argument ``value``, the loss of the batch, a real scalar: of the
    whole batch, or with `axis_name` of this device's share, whose
    ``shard_weight`` is as in :func:`value_and_grad`; or what else the chart
    judges, as in :func:`react`.

  Raises:
    ValueError: from `update`, if `value` is missing or no real scalar.

  Examples:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> optimizer = optax.chain(
    ...     isgd_jax.watch(isgd_jax.shewhart(window_size=2)), optax.sgd(0.1))
    >>> params = jnp.zeros(3)
    >>> opt_state = optimizer.init(params)
    >>> for loss in (1.0, 1.1, 5.0):
    ...   grads = jnp.ones(3)
    ...   updates, opt_state = optimizer.update(
    ...       grads, opt_state, params, value=loss)
    >>> print(isgd_jax.get_info(opt_state).is_undertrained)
    True
  """
  statistics.check_chart(
    'watch', control_chart, axis_name=axis_name, any_device=any_device
  )

  def init_fn(params: optax.Params) -> WatchState:
    del params
    return WatchState(control_chart.init(), _info.initial_info(control_chart))

  def update_fn(
    updates: optax.Updates,
    state: Any,
    params: optax.Params | None = None,
    *,
    value: jax.typing.ArrayLike | None = None,
    grad: optax.Updates | None = None,
    shard_weight: jax.typing.ArrayLike | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, WatchState]:
    del params
    judged = judging.judge(
      'watch',
      control_chart,
      state,
      WatchState,
      judging.Given(value, updates, grad, extra_args, shard_weight),
      call=react_lib.CALL,
      axis_name=axis_name,
      any_device=any_device,
    )
    packed_info = _info.next_info(
      state.packed_info, judged.loss, judged.reading
    )
    return updates, WatchState(judged.chart_state, packed_info)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def skip_out_of_control(
  base_optimizer: optax.GradientTransformation,
  control_chart: ControlChart,
  *,
  max_consecutive: jax.typing.ArrayLike | None = 10,
  axis_name: str | tuple[str, ...] | None = None,
  any_device: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """Drops batches whose loss is above the upper control limit.

  Their updates are zero and the base optimizer's state stays as it was. After
  `max_consecutive` batches above the limit in a row the next ones are let
  through, until one is within it: what stays is no spike. A loss that is not
  finite is not judged; put :func:`optax.apply_if_finite` around this for those.

  It is :func:`react` with the one reaction :func:`skip`, in a state of its own.

  Meant for charts whose statistic is the loss itself (:func:`shewhart`). A sum
  or an average (:func:`cusum`, :func:`ewma`) flags good batches too, while it
  comes down.

  The rule that several training frameworks carry, mean + 6 sample standard
  deviations of the last 128 losses, spikes included, in force from 64 losses
  on, is ``shewhart(128, 6.0, sigma_estimator='sample_std', phase_one_size=64)``
  with ``max_consecutive=None``.

  Args:
    base_optimizer: any Optax optimizer.
    control_chart: judges the losses, for example :func:`shewhart`.
    max_consecutive: most batches >= 1 dropped in a row; None for no bound.
    axis_name: name or names of the device axis that the losses are averaged
      over, so that all devices skip alike. Not needed under plain `jax.jit`,
      sharded or not.
    any_device: as in :func:`react`.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs`, whose `update` needs the
    keyword argument ``value``, the loss of the batch, a real scalar: of the
    whole batch, or with `axis_name` of this device's share, whose
    ``shard_weight`` is as in :func:`value_and_grad`. Extra arguments are passed
    on to the base optimizer, and with them `value` and ``chart_reading``, the
    :class:`ChartReading` of this batch.

  Raises:
    ValueError: from the factory, on an argument out of range; from `update`, if
      `value` is missing or no real scalar.

  Examples:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> optimizer = isgd_jax.skip_out_of_control(
    ...     optax.sgd(0.1), isgd_jax.shewhart(window_size=2))
    >>> params = jnp.zeros(3)
    >>> opt_state = optimizer.init(params)
    >>> for loss in (1.0, 1.1, 5.0):
    ...   updates, opt_state = optimizer.update(
    ...       jnp.ones(3), opt_state, params, value=loss)
    >>> print(updates, isgd_jax.get_info(opt_state).num_skipped)
    [0. 0. 0.] 1

  References:
    OLMo et al., `2 OLMo 2 Furious <https://arxiv.org/abs/2501.00656>`_, 2025
    (on loss spikes and skipping).
  """
  return react_lib.around(
    'skip_out_of_control',
    base_optimizer,
    control_chart,
    (skip_lib.skip(max_consecutive),),
    SkipState,
    pack=lambda states: states['skip'].num_above_in_a_row,
    unpack=lambda state: {
      'skip': skip_lib.SkippingState(state.num_above_in_a_row)
    },
    axis_name=axis_name,
    any_device=any_device,
  )
