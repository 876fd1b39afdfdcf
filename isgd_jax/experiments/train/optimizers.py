"""The optimizer of a training run: base, learning rate, chart, ISGD."""

from typing import Any

import optax

import isgd_jax
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.optimizers.charts import ChartSettings
from isgd_jax.experiments.train.config import IsgdConfig
from isgd_jax.experiments.train.config import OptimizerConfig
from isgd_jax.experiments.train.config import TrainConfig

# Below some 20 losses the chart's sigma is little more than a guess.
_SHORTEST_DEFAULT_WINDOW = 20


def build_optimizer(
  config: TrainConfig, batches_per_cycle: int
) -> optax.GradientTransformationExtraArgs:
  """The optimizer that a configuration asks for.

  The base optimizer's state shows its learning rate under the name
  `learning_rate`. Its schedule counts base updates: a chased step, which has
  none, is not counted.

  Args:
    config: the run, checked.
    batches_per_cycle: batches in one cycle through the data.

  Returns:
    The optimizer.

  Raises:
    ValueError: naming the argument of `isgd_jax` that cannot be.

  Example:
    >>> optimizer = build_optimizer(TrainConfig(), batches_per_cycle=12)
    >>> _ = optimizer.init({'w': 1.0})
  """
  base = _base_optimizer(
    config.optimizer, config.num_steps(batches_per_cycle), batches_per_cycle
  )
  isgd = config.isgd
  if isgd.method == 'base':
    return optax.with_extra_args_support(base)
  if isgd.method == 'paper-isgd':
    return isgd_jax.paper_isgd(
      base,
      batches_per_epoch=isgd.window_size or batches_per_cycle,
      chase_learning_rate=isgd.chase_learning_rate,
    )
  chart = chart_settings(isgd, batches_per_cycle).build()
  if isgd.method == 'skip':
    return isgd_jax.skip_out_of_control(base, chart)
  if isgd.method == 'watch':
    return isgd_jax.isgd(base, chart, max_chase_steps=0)
  solver = (
    isgd_jax.gauss_newton()
    if isgd.solver == 'gauss-newton'
    else isgd_jax.gradient_descent(isgd.chase_learning_rate)
  )
  return isgd_jax.isgd(
    base,
    chart,
    solver=solver,
    chase_to=isgd.chase_to,
    max_chase_steps=isgd.max_chase_steps,
    conservative_weight=isgd.conservative_weight,
    base_update_when_chasing=isgd.base_update_when_chasing,
    # None: wherever it can be.
    probation=None if isgd.probation else False,
  )


def chart_settings(isgd: IsgdConfig, batches_per_cycle: int) -> ChartSettings:
  """The control chart that a configuration asks for.

  Args:
    isgd: the options of ISGD.
    batches_per_cycle: batches in one cycle through the data.

  Returns:
    The settings; their `build` makes the chart.

  Example:
    >>> settings = chart_settings(IsgdConfig(chart='ewma'), 12)
    >>> settings.build().kind
    'ewma'
  """
  weight = 'baseline_smoothing' if isgd.chart == 'difference' else 'smoothing'
  smoothing: dict[str, Any] = (
    {} if isgd.smoothing is None else {weight: isgd.smoothing}
  )
  return ChartSettings(
    kind=isgd.chart,
    window_size=window_size(isgd, batches_per_cycle),
    sigma_multiplier=isgd.sigma_multiplier,
    sigma_estimator=isgd.sigma_estimator,
    flagged_losses=isgd.flagged_losses,
    limit_width=isgd.limit_width,
    allowance=isgd.allowance,
    decision_interval=isgd.decision_interval,
    run_rules=isgd.run_rules,
    restart_after=isgd.restart_after,
    cycle_length=batches_per_cycle,
    **smoothing,
  )


def window_size(isgd: IsgdConfig, batches_per_cycle: int) -> int:
  """The chart's window: as asked for, or one cycle, at least 20 batches.

  Args:
    isgd: the options of ISGD.
    batches_per_cycle: batches in one cycle through the data.

  Returns:
    The number of batch losses.

  Example:
    >>> window_size(IsgdConfig(), 469), window_size(IsgdConfig(), 12)
    (469, 20)
  """
  if isgd.window_size is not None:
    return isgd.window_size
  return max(batches_per_cycle, _SHORTEST_DEFAULT_WINDOW)


def phase_one_length(isgd: IsgdConfig, batches_per_cycle: int) -> int | None:
  """Batches before the chart has limits: Phase I, in which nothing is judged.

  Args:
    isgd: the options of ISGD.
    batches_per_cycle: batches in one cycle through the data.

  Returns:
    The number of batches; None without a chart. A loss that is not finite, or
    `--restart-after`, makes it longer.

  Example:
    >>> phase_one_length(IsgdConfig(), 469)
    469
    >>> phase_one_length(IsgdConfig(chart='difference'), 469)
    938
  """
  if isgd.method == 'base':
    return None
  if isgd.method == 'paper-isgd':
    return isgd.window_size or batches_per_cycle
  window = window_size(isgd, batches_per_cycle)
  # Its first cycle sets the baselines.
  return window + batches_per_cycle if isgd.chart == 'difference' else window


def _base_optimizer(
  config: OptimizerConfig, num_steps: int, batches_per_cycle: int
) -> optax.GradientTransformation:
  """The base optimizer with its learning rate on show."""

  def make(learning_rate):
    if config.base in ('adam', 'adamw'):
      base = (
        optax.adamw(learning_rate, weight_decay=config.weight_decay)
        if config.base == 'adamw'
        else optax.adam(learning_rate)
      )
    else:
      base = optax.sgd(
        learning_rate,
        momentum=None if config.base == 'sgd' else config.momentum,
        nesterov=config.base == 'nesterov',
      )
    if config.weight_decay and config.base != 'adamw':
      base = optax.chain(optax.add_decayed_weights(config.weight_decay), base)
    if config.schedule == 'loss-driven':
      scales = dict.fromkeys(config.rate_boundaries, config.rate_factor)
      base = optax.chain(base, isgd_jax.scale_by_mean_loss(scales))
    return base

  return optax.inject_hyperparams(make)(
    learning_rate=_schedule(config, num_steps, batches_per_cycle)
  )


def _schedule(
  config: OptimizerConfig, num_steps: int, batches_per_cycle: int
) -> optax.ScalarOrSchedule:
  """The learning rate as a function of the number of base updates."""
  rate, warmup = config.learning_rate, config.warmup_steps
  if warmup >= num_steps:
    raise InputError(
      f'--warmup-steps {warmup} must be less than the {num_steps} steps of the '
      'run; lower it, or train for longer'
    )
  if config.schedule == 'cosine':
    after = optax.cosine_decay_schedule(rate, max(1, num_steps - warmup))
  elif config.schedule == 'step':
    scales: dict[int, float] = {}
    for boundary in config.rate_boundaries:
      # Joined schedules count from the end of the warm-up.
      step = round(boundary * batches_per_cycle) - warmup
      if step <= 0:
        raise InputError(
          f'--rate-boundaries {boundary:g} (epochs) lies within the '
          f'--warmup-steps {warmup}; shorten the warm-up, or move it'
        )
      scales[step] = scales.get(step, 1.0) * config.rate_factor
    after = optax.piecewise_constant_schedule(rate, scales)
  else:
    after = optax.constant_schedule(rate)
  if not warmup:
    return after
  rising = optax.linear_schedule(0.0, rate, warmup)
  return optax.join_schedules([rising, after], [warmup])
