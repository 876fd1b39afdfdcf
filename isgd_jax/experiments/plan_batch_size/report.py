"""A plan as a table and in words."""

from collections.abc import Iterable, Sequence
import textwrap

import jax
import numpy as np

from isgd_jax import batch_size
from isgd_jax.experiments.plan_batch_size.config import PlanConfig
from isgd_jax.experiments.plan_batch_size.measure import Pilot
from isgd_jax.experiments.plan_batch_size.plan import LAW_TITLES
from isgd_jax.experiments.plan_batch_size.plan import TOLERANCE
from isgd_jax.experiments.plan_batch_size.plan import SizePlan

_WIDTH = 80


def report(
  config: PlanConfig,
  times: batch_size.StepSeconds,
  pilot: Pilot,
  plan: SizePlan,
  scaling: Sequence[batch_size.ScalingRow] | None,
) -> str:
  """The measurements as tables, the recommendation in words.

  Args:
    config: what was planned for.
    times: seconds a step.
    pilot: the pilot run.
    plan: made of these.
    scaling: what several devices bring, or None.

  Returns:
    Lines; the words are wrapped at 80 characters.
  """
  parts = [
    _size_table(times, plan),
    _wrapped(_step_time_words(plan.step_time_model)),
    _noise_table(pilot, plan),
  ]
  if scaling is not None:
    parts.append(_scaling_table(scaling))
  parts += [_wrapped(text) for text in _recommendation(config, plan)]
  if plan.doubts:
    parts.append(
      'In doubt:\n'
      + '\n'.join(
        textwrap.fill(
          doubt, _WIDTH, initial_indent='- ', subsequent_indent='  '
        )
        for doubt in plan.doubts
      )
    )
  return '\n\n'.join(parts)


def _size_table(times: batch_size.StepSeconds, plan: SizePlan) -> str:
  """A line for each measured size."""
  critical, paper = plan.laws['critical-batch'], plan.laws['paper']
  model = plan.step_time_model
  rows = [
    (
      f'{size}',
      milliseconds(median),
      f'({milliseconds(low)} to {milliseconds(high)})',
      f'{size / median:,.0f}',
      f'{critical.steps(size):,.0f}',
      f'{paper.steps(size):,.0f}',
      f'{batch_size.time_to_loss(size, model, critical):.3g}',
      f'{batch_size.time_to_loss(size, model, paper):.3g}',
    )
    for size, median, low, high in zip(*times[:4], strict=True)
  ]
  heading = (
    'batch|ms a||examples|steps to||seconds to|',
    'size|step|(quartiles)|a second|target|(paper)|target|(paper)',
  )
  return _table((*(line.split('|') for line in heading), *rows))


def _step_time_words(model: batch_size.StepTimeModel) -> str:
  """The step-time model in a sentence."""
  knee = (
    'no saturation knee was seen (t = b / C1 + C2)'
    if model.knee == 0
    else f'below {model.knee:.0f} +- {model.knee_error:.0f} examples it is '
    'not busy, and adding examples is free'
  )
  return (
    f'A step takes C2 = {milliseconds(model.overhead_seconds)} +- '
    f'{milliseconds(model.overhead_seconds_error)} ms whatever its batch, and '
    f'the machine then does C1 = {model.examples_per_second:,.0f} +- '
    f'{model.examples_per_second_error:,.0f} examples a second; {knee}. The '
    f'fit is off by {model.relative_deviation:.1%} on average.'
  )


def _noise_table(pilot: Pilot, plan: SizePlan) -> str:
  """The noise scale over the pilot run."""
  rows = [
    (
      f'{p.step}',
      f'{p.loss:.4g}',
      f'{p.noise.noise_scale:,.0f}',
      f'+- {p.noise.noise_scale_error:,.0f}',
    )
    for p in pilot.points
  ]
  words = (
    f'Critical batch size: {plan.critical_batch_size:,.0f}, the median over '
    'the later half of the points up to the target. It grows as the loss '
    'falls, and so does the best batch size: for a lower target, measure on '
    'the way to that. Where it was checked it came out too low, and the size '
    'with it (docs/batch_size.md): when in doubt, take the larger.'
  )
  table = _table((('pilot step', 'loss', 'noise scale (examples)', ''), *rows))
  return f'{table}\n\n{_wrapped(words)}'


def _scaling_table(scaling: Sequence[batch_size.ScalingRow]) -> str:
  """Parallel efficiency and what synchronisation takes."""
  kinds = {'global': 'global batch fixed', 'local': 'share fixed'}
  rows = [
    (
      kinds[row.kind],
      f'{row.num_devices}',
      f'{row.batch_size}',
      milliseconds(row.step_seconds),
      milliseconds(row.synchronisation_seconds),
      f'{row.efficiency:.0%}',
    )
    for row in scaling
  ]
  heading = ('', 'devices', 'batch size', 'ms a step', 'of it sync.')
  table = _table(((*heading, 'efficiency'), *rows))
  if jax.default_backend() != 'cpu':
    return table
  return f'{table}\n\n' + _wrapped(
    'Virtual devices of one CPU share its cores: their efficiency says nothing '
    'about real ones.'
  )


def _recommendation(config: PlanConfig, plan: SizePlan) -> Iterable[str]:
  """What to do, a paragraph each."""
  best, paper = plan.recommended, plan.plans['paper']
  low, high = best.plateau
  is_alone = low == high
  yield (
    f'Recommended batch size: {best.batch_size}'
    + (f' ({config.num_devices} devices)' if config.num_devices > 1 else '')
    + f'. Predicted: {best.steps:,.0f} steps and {best.seconds:.3g} s of '
    f'steps to a smoothed training loss of {plan.target_loss:.4g} nats, by the '
    f'{LAW_TITLES["critical-batch"]}; '
    + (
      f'no other size is within {TOLERANCE:.0%} of that.'
      if is_alone
      else f'from {low} to {high} it is within {TOLERANCE:.0%} of that.'
    )
    + f' By the {LAW_TITLES["paper"]} it would be {paper.batch_size} '
    f'({paper.plateau[0]} to {paper.plateau[1]}).'
  )
  rule = {'linear': 'linear', 'sqrt': 'square-root'}[config.rate_rule]
  yield (
    f'Learning rate there: {plan.learning_rate:.3g}, by the {rule} rule of '
    f'thumb from {config.learning_rate:g} at {config.pilot_batch_size}; tune '
    'from it.'
  )


def milliseconds(seconds: float) -> str:
  """Seconds as milliseconds, to three digits.

  Args:
    seconds: a time.

  Returns:
    The number, without its unit.

  Example:
    >>> milliseconds(0.0123456), milliseconds(1.5), milliseconds(0.0)
    ('12.3', '1500', '0')
  """
  value = 1e3 * seconds
  return f'{value:.0f}' if value >= 100 else f'{value:#.3g}' if value else '0'


def _table(rows: Sequence[Sequence[str]]) -> str:
  """Right-aligned columns."""
  widths = np.array([[len(cell) for cell in row] for row in rows]).max(axis=0)
  return '\n'.join(
    '  '.join(
      cell.rjust(width) for cell, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in rows
  )


def _wrapped(text: str) -> str:
  return textwrap.fill(text, _WIDTH)
