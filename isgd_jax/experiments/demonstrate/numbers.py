"""The demonstrations in numbers: spreads, shares of variance, one text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isgd_jax.experiments import figures
from isgd_jax.experiments.errors import InputError

_BASE_TITLES = {'sgd': 'SGD', 'momentum': 'Momentum', 'nesterov': 'Nesterov'}
# Points at either end of a run: the spread of ten losses is itself uncertain.
_NUM_END_POINTS = 5


def base_title(record: Mapping[str, Any]) -> str:
  """The base optimizer of a run, as it is written in a title.

  Args:
    record: with `base`.

  Returns:
    The title.

  Example:
    >>> base_title({'base': 'sgd'})
    'SGD'
  """
  base = str(record['base'])
  return _BASE_TITLES.get(base, base)


def method_title(record: Mapping[str, Any]) -> str:
  """The method of a run, as it is written in a title.

  Args:
    record: with `base` and `method`.

  Returns:
    The title.

  Example:
    >>> method_title({'base': 'sgd', 'method': 'reshuffled'})
    'SGD, reshuffled in each epoch'
  """
  base = base_title(record)
  match record['method']:
    case 'base':
      return f'{base} alone'
    case 'reshuffled':
      return f'{base}, reshuffled in each epoch'
    case method:
      return f'{base} with {figures.METHOD_STYLES[method].title}'


def panel_title(record: Mapping[str, Any]) -> str:
  """The method of a run, and how many of its batches the chart flagged.

  Args:
    record: with `base`, `method` and `summary`.

  Returns:
    The title.

  Example:
    >>> panel_title({
    ...   'base': 'sgd', 'method': 'isgd',
    ...   'summary': {'num_undertrained': 3, 'num_steps': 300}})
    'SGD with ISGD: 3 of 300 flagged'
  """
  title = method_title(record)
  if record['method'] in ('base', 'reshuffled'):
    return title
  summary = record['summary']
  num_flagged, num_steps = summary['num_undertrained'], summary['num_steps']
  return f'{title}: {num_flagged:,} of {num_steps:,} flagged'


def epoch_losses(record: Mapping[str, Any]) -> np.ndarray:
  """The batch losses of a run.

  Args:
    record: with `losses` or `sorted_losses`.

  Returns:
    [num_epochs, n] float64, nats; what is not finite is infinite.

  Example:
    >>> epoch_losses({'losses': [[0.5, None]]})
    array([[0.5, inf]])
  """
  rows = record.get('losses') or record['sorted_losses']
  losses = np.array(rows, np.float64)
  return np.where(np.isnan(losses), np.inf, losses)


def spread_ratios(single_class: np.ndarray, iid: np.ndarray) -> np.ndarray:
  """How much wider the losses of batches of one class are spread.

  Args:
    single_class: [num_classes, num_points] losses.
    iid: [num_batches, num_points] losses, likewise two batches or more.

  Returns:
    [num_points]: sample standard deviation over classes / over i.i.d. batches;
    NaN where a loss is not finite.

  Example:
    >>> spread_ratios(np.array([[0.0], [4.0]]), np.array([[1.0], [2.0]]))
    array([4.])
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    return np.std(single_class, axis=0, ddof=1) / np.std(iid, axis=0, ddof=1)


def position_share(losses: np.ndarray) -> float:
  """Share of the variance within epochs that the place in the cycle explains.

  One-way analysis of variance of the losses less their epoch's mean. Its eta
  squared is above 0 even for losses that do not depend on the place; corrected
  for the degrees of freedom (epsilon squared, Kelley 1935), it is 0 on average.

  Args:
    losses: [num_epochs, cycle_length], two of each or more.

  Returns:
    The share, at most 1, below 0 by chance; NaN where a loss is not finite or
    all are the same.

  Raises:
    InputError: (a `ValueError`) there are fewer epochs or positions than two.

  Example:
    >>> position_share(np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 3.0]]))
    1.0
  """
  num_epochs, num_positions = losses.shape
  if min(losses.shape) < 2:
    raise InputError(
      'losses must have two epochs and two positions or more, got the shape '
      f'{losses.shape}; train longer or in smaller batches'
    )
  if not np.isfinite(losses).all():
    return float('nan')
  deviations = losses - losses.mean(1, keepdims=True)
  residuals = deviations - deviations.mean(0)
  total = np.square(deviations).sum() / (num_epochs * (num_positions - 1))
  if total == 0:
    return float('nan')
  # Epoch and position means are taken out of the residuals.
  num_free = (num_epochs - 1) * (num_positions - 1)
  return float(1 - np.square(residuals).sum() / num_free / total)


def loss_width(losses: np.ndarray) -> float:
  """From the 5th to the 95th percentile of some losses.

  Args:
    losses: [n], infinite where not finite.

  Returns:
    The width, nats; NaN where the 95th percentile is infinite.

  Example:
    >>> loss_width(np.arange(101.0))
    90.0
  """
  low, high = np.quantile(losses, [0.05, 0.95], method='nearest')
  return float(high - low) if np.isfinite(high) else float('nan')


def describe_demonstrations(records: Sequence[Mapping[str, Any]]) -> str:
  """What the demonstrations measured, as Markdown.

  Args:
    records: of one configuration, as `demonstrations.read_demonstrations`
      returns them; what is missing is left out.

  Returns:
    A paragraph on what was run, and a list of what was found.

  Raises:
    InputError: (a `ValueError`) there are no records.

  Example:
    >>> record = {
    ...   'base': 'sgd', 'method': 'base', 'learning_rate': 0.1,
    ...   'task_config': {'title': 'MLP', 'num_train': 6, 'batch_size': 2,
    ...     'num_epochs': 2, 'window_size': 3},
    ...   'losses': [[1.0, 2.0, 4.0], [0.0, 1.0, 3.0]]}
    >>> print(describe_demonstrations([record]).splitlines()[-1])
    - SGD, last epoch, 5th to 95th percentile of the losses: alone 3 nats.
  """
  if not records:
    raise InputError(
      'records must not be empty, got none; make them: isgd-jax demonstrate'
    )
  task = records[0]['task_config']
  rates = {base_title(r): r['learning_rate'] for r in records}
  lines = [
    f'{task["title"]}: {task["num_train"]:,} examples in batches of '
    f'{task["batch_size"]}, {task["num_epochs"]} epochs, one seed; one '
    'learning rate, not tuned, for all methods of a base optimizer ('
    + ', '.join(f'{base} {rate:g}' for base, rate in rates.items())
    + '). This shows what the control chart sees and compares no methods: a '
    'comparison would tune each, over several seeds, at equal cost.',
    '',
  ]
  lines += [_kinds_line(r) for r in records if r.get('batch_kinds')]
  positions = [r for r in records if 'losses' in r]
  if positions:
    lines.append(_positions_line(positions))
  for base in rates:
    runs = [r for r in records if base_title(r) == base]
    lines.append(_widths_line(runs))
  return '\n'.join(lines)


def _kinds_line(record: Mapping[str, Any]) -> str:
  """On the losses of batches of one class."""
  kinds = record['batch_kinds']
  single_class, iid = (
    np.array(kinds[k], np.float64) for k in ('single_class', 'iid')
  )
  ratios, steps = spread_ratios(single_class, iid), kinds['steps']
  n = min(_NUM_END_POINTS, len(steps))
  return (
    f'- {base_title(record)} alone: the standard deviation of the losses of '
    f'{len(single_class)} batches of one class each is '
    f'{_number(np.median(ratios[:n]))} times that of {len(iid)} i.i.d. batches '
    f'over steps {steps[0]} to {steps[n - 1]}, and '
    f'{_number(np.median(ratios[-n:]))} times over steps {steps[-n]} to '
    f'{steps[-1]} (medians of {n} points).'
  )


def _positions_line(records: Sequence[Mapping[str, Any]]) -> str:
  """On what the place in the cycle explains, over the second half."""
  num_epochs = records[0]['task_config']['num_epochs']
  num_last = max(2, num_epochs // 2)
  found = ', '.join(
    f'{method_title(r)} {_percent(position_share(epoch_losses(r)[-num_last:]))}'
    for r in records
  )
  return (
    f'- Over epochs {num_epochs - num_last + 1} to {num_epochs}, the place in '
    "the cycle explains this share of the losses' variance within epochs (eta "
    'squared of a one-way analysis of variance, corrected for its degrees of '
    f'freedom, so that no effect is 0 on average): {found}.'
  )


def _widths_line(runs: Sequence[Mapping[str, Any]]) -> str:
  """On the distribution of the last epoch's losses of a base optimizer."""
  by_method = {r['method']: r for r in runs}
  widths = {m: loss_width(epoch_losses(r)[-1]) for m, r in by_method.items()}
  alone = widths.get('base', float('nan'))
  parts = []
  for method, width in widths.items():
    if method == 'reshuffled':
      continue
    if method == 'base':
      parts.append(f'alone {_number(width)} nats')
      continue
    summary = by_method[method]['summary']
    ratio = width / alone if alone else float('nan')
    num_flagged, num_steps = summary['num_undertrained'], summary['num_steps']
    # Without a flagged batch ISGD is its base optimizer, compiled otherwise.
    cause = '' if num_flagged else ', so that only rounding sets it apart'
    parts.append(
      f'with {figures.METHOD_STYLES[method].title} {_number(width)} nats '
      f'({_number(ratio)} times; {num_flagged:,} of {num_steps:,} batches '
      f'flagged{cause}; {summary["num_gradient_evaluations"]:,} gradient '
      'evaluations)'
    )
  return (
    f'- {base_title(runs[0])}, last epoch, 5th to 95th percentile of the '
    f'losses: {", ".join(parts)}.'
  )


def _number(value: float) -> str:
  return f'{value:.3g}' if np.isfinite(value) else 'not finite'


def _percent(share: float) -> str:
  return f'{share:.0%}' if np.isfinite(share) else 'not finite'
