"""Rules that other frameworks carry, each as a chart and a reaction to it.

Their decisions, step by step, on finite statistics. On a loss or a norm that is
not finite they differ: what those frameworks take into their window or moving
average spoils every decision until it has left. Here it never enters.
"""

from __future__ import annotations

from typing import Any

import optax

from isgd_jax import _checks
from isgd_jax._charts import exponential
from isgd_jax._charts import joined
from isgd_jax._charts import shewhart as shewhart_lib
from isgd_jax._reactions import clip as clip_lib
from isgd_jax._reactions import react as react_lib
from isgd_jax._reactions import skip as skip_lib

_AxisName = str | tuple[str, ...] | None


def olmo_core_skip_step(
  base_optimizer: optax.GradientTransformation,
  *,
  rolling_interval_length: int = 128,
  sigma_factor: float = 6.0,
  axis_name: _AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  """The rule of OLMo-core's `SkipStepOptimizer`, around any base.

  A batch is skipped where its loss or its gradient norm is above the mean plus
  so many sample standard deviations of those of the last so many steps, skipped
  ones among them, without a bound on how many in a row; from half of them on,
  this step counted, and not before 20.

  A statistic that is not finite: skipped by both. There it then enters the
  window, and all batches are skipped until it has left; here it does not, and
  such a batch is skipped in Phase I too.

  Args:
    base_optimizer: any Optax optimizer.
    rolling_interval_length: steps m >= 20 of the window.
    sigma_factor: standard deviations above the mean, > 0.
    axis_name: as in :func:`react`.

  Returns:
    The optimizer, a :func:`react`; its `update` needs ``value``.

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> import optax, isgd_jax
    >>> optimizer = isgd_jax.olmo_core_skip_step(optax.adamw(4e-4))

  References:
    `olmo_core/optim/skip_step_optimizer.py
    <https://github.com/allenai/OLMo-core>`_ (a14de85; one version, 067267c,
    skips what lies as far below the mean, too).
  """
  size = _checks.check_integer(
    'rolling_interval_length', rolling_interval_length, minimum=20
  )
  return _skip_on_spike(
    base_optimizer,
    axis_name,
    window_size=size,
    sigma_multiplier=sigma_factor,
    sigma_estimator='sample_std',
    phase_one_size=max(20, size // 2) - 1,
  )


def maxtext_skip_on_spike(
  base_optimizer: optax.GradientTransformation,
  *,
  interval: int = 128,
  scaling_factor: float = 6.0,
  axis_name: _AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  """The rule of MaxText's `skip_step_on_spikes`, around any base.

  As :func:`olmo_core_skip_step`, but in force from half of the interval on
  whatever that is. What is said there of statistics that are not finite holds
  here too.

  Args:
    base_optimizer: any Optax optimizer.
    interval: steps m >= 6 of the window.
    scaling_factor: standard deviations above the mean, > 0.
    axis_name: as in :func:`react`.

  Returns:
    The optimizer, a :func:`react`; its `update` needs ``value``.

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> import optax, isgd_jax
    >>> optimizer = isgd_jax.maxtext_skip_on_spike(optax.adamw(4e-4))

  References:
    `maxtext/optimizers/optimizers.py
    <https://github.com/AI-Hypercomputer/maxtext>`_.
  """
  size = _checks.check_integer('interval', interval, minimum=6)
  return _skip_on_spike(
    base_optimizer,
    axis_name,
    window_size=size,
    sigma_multiplier=scaling_factor,
    sigma_estimator='sample_std',
    phase_one_size=size // 2 - 1,
  )


def levanter_skip_step(
  base_optimizer: optax.GradientTransformation,
  *,
  rolling_interval_length: int = 128,
  sigma_factor: float = 6.0,
  axis_name: _AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  """The rule of Levanter's `SkipStepConfig`, around any base.

  As :func:`olmo_core_skip_step`, but with the population standard deviation,
  at least 1e-6, and in force after half of the interval, this step not counted.
  A statistic that is not finite: skipped by both. There NaN skips all batches
  until it has left the window, `+inf` lets all of them pass; here neither
  enters.

  Args:
    base_optimizer: any Optax optimizer.
    rolling_interval_length: steps m >= 4 of the window.
    sigma_factor: standard deviations above the mean, > 0.
    axis_name: as in :func:`react`.

  Returns:
    The optimizer, a :func:`react`; its `update` needs ``value`` (Levanter's own
    takes it as ``loss``).

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> import optax, isgd_jax
    >>> optimizer = isgd_jax.levanter_skip_step(optax.adamw(4e-4))

  References:
    `levanter/optim/skipstep.py <https://github.com/marin-community/marin>`_
    (303c88f; an older version has a window of one step more).
  """
  size = _checks.check_integer(
    'rolling_interval_length', rolling_interval_length, minimum=4
  )
  return _skip_on_spike(
    base_optimizer,
    axis_name,
    window_size=size,
    sigma_multiplier=sigma_factor,
    phase_one_size=size // 2,
    min_sigma=1e-6,
  )


def zclip(
  base_optimizer: optax.GradientTransformation,
  *,
  alpha: float = 0.97,
  z_thresh: float = 2.5,
  max_grad_norm: float | None = 1.0,
  eps: float = 1e-6,
  warmup_steps: int = 25,
) -> optax.GradientTransformationExtraArgs:
  r"""ZClip: gradient norms clipped by their z-score, around any base.

  A norm :math:`g` whose :math:`z = (g - \mu) / (\sigma + \epsilon)` is above
  :math:`k` is clipped to :math:`\mu + k^2 (\sigma + \epsilon) / z`, and taken
  into the moving mean and variance as that (:func:`exponential_chart`). What is
  left above `max_grad_norm` is then clipped to it, as it is in the warm-up.

  The published code has :math:`\sigma` in place of :math:`\sigma + \epsilon` in
  the target, and divides by the norm plus 1e-6. A norm that is not finite makes
  all of its statistics, and from then on all gradients, NaN; here it neither
  enters nor is clipped: put :func:`skip` with `skip_non_finite` beside
  :func:`clip`, or `optax.apply_if_finite` around it.

  Args:
    base_optimizer: any Optax optimizer.
    alpha: decay of the moving mean and variance, in (0, 1).
    z_thresh: the z-score k > 0 above which a norm is clipped.
    max_grad_norm: norm > 0 that nothing is left above, or None.
    eps: added to sigma, >= 0, in units of the norm.
    warmup_steps: norms n >= 2 that mean and variance start from.

  Returns:
    The optimizer, a :func:`react`; its `update` needs no ``value``.

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> optimizer = isgd_jax.zclip(optax.sgd(0.1, momentum=0.9))
    >>> params = jnp.zeros(3)
    >>> updates, opt_state = optimizer.update(
    ...     jnp.ones(3), optimizer.init(params), params)

  References:
    Kumar et al., `ZClip: Adaptive Spike Mitigation for LLM Pre-Training
    <https://arxiv.org/abs/2504.02507>`_, 2025; `code
    <https://github.com/bluorion-com/ZClip>`_.
  """
  chart = exponential.exponential_chart(
    alpha,
    z_thresh,
    flagged_losses='reciprocal',
    phase_one_size=warmup_steps,
    epsilon=eps,
  )
  if max_grad_norm is not None:
    _checks.check_number('max_grad_norm', max_grad_norm, above=0.0)
    base_optimizer = optax.chain(
      optax.clip_by_global_norm(max_grad_norm), base_optimizer
    )
  return react_lib.react(
    base_optimizer,
    joined.chart_of('gradient_norm', chart),
    clip_lib.clip('reciprocal'),
  )


def _skip_on_spike(
  base_optimizer: optax.GradientTransformation,
  axis_name: _AxisName,
  **of_chart: Any,
) -> optax.GradientTransformationExtraArgs:
  """Skips where loss or gradient norm are above the limits of such a chart."""
  chart = shewhart_lib.shewhart(**of_chart)
  return react_lib.react(
    base_optimizer,
    joined.any_of(chart, joined.chart_of('gradient_norm', chart)),
    skip_lib.skip(None, skip_non_finite=True),
    axis_name=axis_name,
  )
