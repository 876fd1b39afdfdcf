"""From measurements to a batch size: the fits, the predictions, the doubts."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, NamedTuple
import warnings

from isgd_jax import batch_size
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.plan_batch_size import losses
from isgd_jax.experiments.plan_batch_size.config import PlanConfig
from isgd_jax.experiments.plan_batch_size.measure import Pilot

# By name; the first is the one that is recommended by. Fitted to runs, its form
# holds for the steps and the other's does not (docs/batch_size.md, measured).
LAWS = ('critical-batch', 'paper')
LAW_TITLES = {
  'critical-batch': 'critical-batch-size law',
  'paper': "paper's law",
}
TOLERANCE = 0.05
# Sizes between the measured ones are multiples of it, and of the devices.
_GRAIN = 8
# A B_crit with a standard error above this share of it is in doubt.
_DOUBTFUL_SHARE = 0.5


class SizePlan(NamedTuple):
  """What the measurements come to.

  Attributes:
    step_time_model: seconds a step by batch size.
    target_loss: smoothed training loss, nats.
    pilot_steps: that the pilot needed to it.
    critical_batch_size: B_crit, examples.
    laws: steps to the target by batch size, by the names in `LAWS`.
    plans: the optimum of each law.
    learning_rate: that goes with the recommended size, by rule of thumb.
    doubts: what the measurements cannot tell, in words.
  """

  step_time_model: batch_size.StepTimeModel
  target_loss: float
  pilot_steps: int
  critical_batch_size: float
  laws: Mapping[str, batch_size.StepsLaw]
  plans: Mapping[str, batch_size.BatchSizePlan]
  learning_rate: float
  doubts: tuple[str, ...]

  @property
  def recommended(self) -> batch_size.BatchSizePlan:
    """The plan of the law that is recommended by."""
    return self.plans[LAWS[0]]


def make_plan(
  config: PlanConfig, times: batch_size.StepSeconds, pilot: Pilot
) -> SizePlan:
  """Fits both models, and finds the batch size of the least predicted time.

  Args:
    config: what is planned for.
    times: seconds a step.
    pilot: the pilot run.

  Returns:
    The plan; its size lies between the measured ones.

  Raises:
    InputError: times do not grow with the batch, the pilot's loss does not
      fall or does not reach the target, or its gradient is all noise.

  Example:
    >>> import numpy as np
    >>> sizes = np.array([16, 32, 64, 128])
    >>> seconds = 1e-3 + sizes * 1e-5
    >>> times = batch_size.StepSeconds(sizes, seconds, seconds, seconds, None)
    >>> noise = batch_size.NoiseScale(100.0, 9.0, 1.0, 100.0, 128, 24)
    >>> pilot = Pilot(
    ...   np.array([2.0, 1.0]), np.array([2.0, 1.0]),
    ...   [losses.NoisePoint(2, 1.0, noise)])
    >>> plan = make_plan(PlanConfig(), times, pilot)
    >>> plan.recommended.batch_size  # near sqrt(100 x 1e5 x 1e-3)
    104
  """
  try:
    with warnings.catch_warnings():
      # They are in `doubts` too, and are told with the rest.
      warnings.simplefilter('ignore')
      model = batch_size.fit_step_time(times.batch_sizes, times.median)
  except ValueError as error:
    raise InputError(f'the seconds of a step fit no model: {error}') from error
  target, steps = _target(config, pilot)
  critical = losses.critical_batch_size(pilot.points, steps)
  if not math.isfinite(critical):
    raise InputError(
      'the gradient of the pilot run cannot be told from its noise; raise '
      f'--num-noise-batches {config.num_noise_batches} or '
      f'--pilot-batch-size {config.pilot_batch_size}'
    )
  laws = {
    'critical-batch': batch_size.critical_batch_law(
      critical, batch_size=config.pilot_batch_size, steps=steps
    ),
    'paper': batch_size.fit_paper_law(
      [config.pilot_batch_size], [steps], target
    ),
  }
  plans = {
    name: batch_size.optimal_batch_size(
      model,
      law,
      candidates(config, times),
      num_devices=config.num_devices,
      tolerance=TOLERANCE,
    )
    for name, law in laws.items()
  }
  plan = SizePlan(
    step_time_model=model,
    target_loss=target,
    pilot_steps=steps,
    critical_batch_size=critical,
    laws=laws,
    plans=plans,
    learning_rate=batch_size.scale_learning_rate(
      config.learning_rate,
      config.pilot_batch_size,
      plans[LAWS[0]].batch_size,
      rule=config.rate_rule,
    ),
    doubts=(),
  )
  return plan._replace(doubts=_doubts(times, pilot, plan))


def candidates(config: PlanConfig, times: batch_size.StepSeconds) -> list[int]:
  """Sizes to choose from: those measured, and round ones between them.

  Args:
    config: what is planned for.
    times: of the sizes that fit in memory.

  Returns:
    Multiples of the number of devices, ascending.

  Example:
    >>> import numpy as np
    >>> times = batch_size.StepSeconds(np.array([20, 30, 40]), *4 * [None])
    >>> candidates(PlanConfig(num_devices=2), times)
    [20, 24, 30, 32, 40]
  """
  sizes = [int(size) for size in times.batch_sizes]
  grain = math.lcm(_GRAIN, config.num_devices)
  first = -(-sizes[0] // grain) * grain
  return sorted({*sizes, *range(first, sizes[-1] + 1, grain)})


def as_record(
  config: PlanConfig,
  times: batch_size.StepSeconds,
  pilot: Pilot,
  plan: SizePlan,
  scaling: list[batch_size.ScalingRow] | None,
) -> dict[str, Any]:
  """Everything that was measured, fitted and predicted, for JSON.

  Args:
    config: what is planned for.
    times: seconds a step.
    pilot: the pilot run.
    plan: made of these.
    scaling: what several devices bring; None on one.

  Returns:
    Mappings, sequences, strings, numbers and arrays.
  """
  best = plan.recommended
  return {
    'config': dataclasses.asdict(config),
    'step_seconds': times._asdict(),
    'step_time_model': plan.step_time_model._asdict(),
    'pilot': {
      'losses': pilot.losses,
      'smoothed_losses': pilot.smoothed,
      'noise_scale': [
        {'step': p.step, 'loss': p.loss, **p.noise._asdict()}
        for p in pilot.points
      ],
    },
    'target_loss': plan.target_loss,
    'pilot_steps_to_target': plan.pilot_steps,
    'critical_batch_size': plan.critical_batch_size,
    'laws': {name: law._asdict() for name, law in plan.laws.items()},  # pyright: ignore[reportAttributeAccessIssue]
    'plans': {name: p._asdict() for name, p in plan.plans.items()},
    'recommendation': {
      'law': LAWS[0],
      'batch_size': best.batch_size,
      'steps': best.steps,
      'seconds': best.seconds,
      'plateau': best.plateau,
      'tolerance': TOLERANCE,
      'learning_rate': plan.learning_rate,
      'learning_rate_rule': config.rate_rule,
    },
    'scaling': None if scaling is None else [row._asdict() for row in scaling],
    'doubts': plan.doubts,
  }


def _target(config: PlanConfig, pilot: Pilot) -> tuple[float, int]:
  """The target loss, and the steps that the pilot needed to it."""
  first, last = float(pilot.smoothed[0]), float(pilot.smoothed[-1])
  target = config.target_loss
  if target is None:
    if not last < first:
      raise InputError(
        f'the smoothed loss of the pilot run does not fall, from {first:.4g} '
        f'to {last:.4g} nats; lower --learning-rate '
        f'{config.learning_rate:g}, or raise --pilot-steps '
        f'{config.pilot_steps}'
      )
    target = last
  steps = losses.steps_to_target(pilot.smoothed, target)
  if steps is None:
    raise InputError(
      f'--target-loss {target:g} is not reached: the smoothed loss of the '
      f'pilot run came to {pilot.smoothed.min():.4g} nats; raise the target, '
      f'or --pilot-steps {config.pilot_steps}'
    )
  if steps == 1:
    raise InputError(
      f'--target-loss {target:g} is no target: the pilot run begins at '
      f'{first:.4g} nats; lower it'
    )
  return target, steps


def _doubts(
  times: batch_size.StepSeconds, pilot: Pilot, plan: SizePlan
) -> tuple[str, ...]:
  """What the measurements cannot tell, in words."""
  doubts = [f'step time: {doubt}' for doubt in plan.step_time_model.doubts]
  if times.out_of_memory_at is not None:
    doubts.append(
      f'batch size {times.out_of_memory_at} does not fit in memory: larger '
      'ones are left out'
    )
  best, measured = plan.recommended.batch_size, times.batch_sizes
  if best == measured[-1] and times.out_of_memory_at is None:
    doubts.append(
      f'the optimum is the largest measured size, {best}: measure larger ones'
    )
  if best == measured[0] and best > 1:
    doubts.append(
      f'the optimum is the smallest measured size, {best}: measure smaller ones'
    )
  noisy = [
    p
    for p in pilot.points
    if not p.noise.noise_scale_error <= _DOUBTFUL_SHARE * p.noise.noise_scale
  ]
  if noisy:
    doubts.append(
      'the noise scale is uncertain at step '
      f'{", ".join(str(p.step) for p in noisy)}: raise --num-noise-batches'
    )
  low, high = plan.plans['critical-batch'].plateau
  other_low, other_high = plan.plans['paper'].plateau
  if other_low > high or other_high < low:
    doubts.append(
      'the two laws disagree: their plateaus have no size in common'
    )
  return tuple(doubts)
