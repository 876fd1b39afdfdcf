"""The paper's claims, each beside what was measured here."""

from collections.abc import Mapping, Sequence
import math
import pathlib
import statistics
from typing import Any, NamedTuple

import numpy as np

from isgd_jax.experiments.demonstrate import demonstrations
from isgd_jax.experiments.demonstrate import numbers
from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.report import gain_map
from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report import paper_map
from isgd_jax.experiments.report import rows as rows_lib
from isgd_jax.experiments.report.gain_map import gain_of
from isgd_jax.experiments.report.rows import Rows
from isgd_jax.experiments.statistics import Interval
from isgd_jax.experiments.statistics import median_interval

# Test accuracies, fixed before any run. The headline is the highest that the
# base alone reaches in most seeds.
TARGETS = {
  'paper-mnist/lenet': (0.9, 0.95, 0.97),
  'paper-cifar10/quick': (0.3, 0.35, 0.4),
}
# What each is held against: the base with the same order and schedule.
_BASELINES = {
  **dict.fromkeys(
    (
      *('isgd-probation', 'isgd', 'paper-isgd'),
      *('paper-isgd-10', 'paper-isgd-100', 'base-constant'),
    ),
    'base',
  ),
  'reshuffled': 'base',
  'paper-isgd-reshuffled': 'reshuffled',
}
_TITLES = {
  'base': 'alone, decayed rate',
  'base-constant': 'alone, constant rate',
  'reshuffled': 'alone, decayed rate, reshuffled',
  'isgd-probation': 'ISGD',
  'isgd': 'ISGD, `probation=False`',
  'paper-isgd': "the paper's, chase at 1 x the rate",
  'paper-isgd-10': "the paper's, chase at 10 x",
  'paper-isgd-100': "the paper's, chase at 100 x",
  'paper-isgd-reshuffled': "the paper's, reshuffled",
}
# Fewer say nothing that could not be luck.
_MIN_SEEDS = 5
_NOT_RUN = 'not run'
# ILSVRC-2012's train part: Russakovsky et al. 2015, arXiv:1409.0575, table 2.
_NUM_IMAGENET_IMAGES = 1_281_167
_NUM_LAST_EPOCHS = 3


class Saving(NamedTuple):
  """What a method saves of its baseline's evaluations to a target.

  Attributes:
    interval: of the shares saved, seed by seed.
    num_seeds: of those in which one of the two got there.
    verdict: `'fewer'` or `'more'` where the interval says so, else
      `'undecided'`.
  """

  interval: Interval
  num_seeds: int
  verdict: str


def saving(
  rows: Rows, task: str, base: str, method: str, target: float
) -> Saving | None:
  """What a method saves, against the base of the same order and schedule.

  Args:
    rows: all rows.
    task: a task's name.
    base: a base optimizer.
    method: one of those that have a baseline.
    target: a test accuracy.

  Returns:
    The saving; None where either was not run, or no seed of either got there.
  """
  ours = rows.get((task, base, method))
  other = rows.get((task, base, _BASELINES.get(method, '')))
  if ours is None or other is None:
    return None
  spent, theirs = (rows_lib.costs(row, target) for row in (ours, other))
  gains = [
    gain_of(spent.evaluations[seed], theirs.evaluations[seed])
    for seed in spent.evaluations
    if seed in theirs.evaluations
  ]
  known = [gain for gain in gains if not math.isnan(gain)]
  if not known:
    return None
  interval = median_interval(known)
  verdict = 'undecided'
  if len(known) >= _MIN_SEEDS:
    if interval.low > 0:
      verdict = 'fewer'
    elif interval.high < 0:
      verdict = 'more'
  return Saving(interval, len(known), verdict)


def headline_target(rows: Rows, task: str, base: str) -> float:
  """The highest target that the base alone reaches in most seeds.

  Args:
    rows: all rows.
    task: a task's name.
    base: a base optimizer.

  Returns:
    The target; the lowest where it reaches none, or was not run.
  """
  alone = rows.get((task, base, 'base'))
  for target in reversed(TARGETS[task]):
    if alone is not None:
      spent = rows_lib.costs(alone, target).evaluations.values()
      if math.isfinite(statistics.median_high(spent)):
        return target
  return TARGETS[task][0]


def targets_table(rows: Rows, task: str) -> str:
  """Evaluations to each target, and what is saved on the way to the headline.

  Args:
    rows: all rows.
    task: a task's name.

  Returns:
    A Markdown table; empty where nothing was run.
  """
  targets = TARGETS[task]
  header = ['base, method', 'rate', 'flagged, %']
  header += [f'evaluations to {100 * x:.0f} %' for x in targets]
  header += ['saved of the evaluations, against the base', 'verdict']
  lines = []
  for (of, base, method), row in rows.items():
    if of != task or method not in _TITLES:
      continue
    target = headline_target(rows, task, base)
    found = saving(rows, task, base, method, target)
    has_chart = row.first['algorithm']['kind'] in ('isgd', 'paper-isgd')
    flagged = 100 * row.median('share_undertrained')
    lines.append(
      [
        f'{base}, {_TITLES[method]}',
        f'{row.learning_rate:g}{"*" if row.is_rate_at_edge else ""}',
        f'{flagged:.1f}' if has_chart else '',
        *(
          markdown.cost(rows_lib.costs(row, x).evaluations.values(), 0)
          for x in targets
        ),
        ''
        if found is None
        else f'to {100 * target:.0f} %: {percent(found.interval)}',
        '' if found is None else found.verdict,
      ]
    )
  return markdown.markdown_table(header, lines) if lines else ''


def percent(interval: Interval) -> str:
  """`+3 % [-1 %, +8 %]`; what is infinite in words."""
  median, low, high = map(_share, interval)
  return f'{median} [{low}, {high}]'


def _share(gain: float) -> str:
  if math.isinf(gain):
    return 'base missed' if gain > 0 else 'missed'
  # Rounded to a whole number, so that there is no -0.
  return f'{round(100 * gain):+d} %'


def claims_table(
  folder: pathlib.Path,
  rows: Rows,
  *,
  step_costs: Mapping[str, Any] | None = None,
  batch_sizes: Sequence[Mapping[str, Any]] = (),
) -> str:
  """Claim by claim: the paper's number, ours, and why they may differ.

  Args:
    folder: with all records.
    rows: of them.
    step_costs: the benchmark's line on the time of a step.
    batch_sizes: the benchmark's lines on steps to a loss by batch size.

  Returns:
    A Markdown table.
  """
  lines = [
    *_on_batches(folder),
    [
      'ISGD takes less time to a target than its base',
      '21.05 % less (AlexNet, ImageNet, to 56 % top-1)',
      _headlines(rows, 'momentum'),
      'The rate of our base is tuned and decayed; how the rate of theirs was '
      'chosen we do not know. Few batches are flagged, so there is little to '
      'save.',
    ],
    [
      'the same, as a map of base rate by skew',
      '',
      _of_map(folder),
      'What comes near it takes a class that stands in few batches of its own, '
      'and a base rate below its best.',
    ],
    [
      'it works with Momentum and Nesterov too',
      'shown on MNIST and CIFAR-10',
      '; '.join(f'{b}: {_headlines(rows, b)}' for b in ('sgd', 'nesterov')),
      '',
    ],
    [
      'CIFAR-10, the quick network',
      'faster than SGD',
      _headline(rows, 'paper-cifar10/quick', 'momentum'),
      'Defined as `paper-cifar10`.',
    ],
    _on_alexnet(step_costs),
    [
      'several GPUs; the best batch size depends on the machine',
      'a study of learning rate, synchronisation and saturation',
      _on_batch_sizes(batch_sizes),
      'On several GPUs, and on a second machine, not run: one CPU has no '
      'synchronisation to save.',
    ],
  ]
  return markdown.markdown_table(
    ['claim', 'the paper', 'here', 'why they may differ'], lines
  )


def _demonstrated(folder: pathlib.Path) -> list[dict[str, Any]]:
  """The demonstrations on MNIST; without them, those on another data set."""
  for dataset in demonstrations.STEMS:
    try:
      return demonstrations.read_demonstrations(folder, dataset)
    except DataError:
      continue
  return []


def describe_pictures(folder: pathlib.Path) -> str:
  """What the paper's pictures show, in numbers.

  Args:
    folder: with all records.

  Returns:
    Markdown.
  """
  records = _demonstrated(folder)
  return numbers.describe_demonstrations(records) if records else _NOT_RUN


def _on_batches(folder: pathlib.Path) -> list[list[str]]:
  """Why batches differ, from the demonstrations."""
  records = _demonstrated(folder)
  spread = place = _NOT_RUN
  for record in records:
    title = record['task_config']['title']
    if kinds := record.get('batch_kinds'):
      ratios = numbers.spread_ratios(
        np.array(kinds['single_class'], float), np.array(kinds['iid'], float)
      )
      spread = (
        f'{np.median(ratios[-5:]):.1f} times as wide at the end of a run '
        f'({title})'
      )
  shares = {
    r['method']: numbers.position_share(
      numbers.epoch_losses(r)[-_NUM_LAST_EPOCHS:]
    )
    for r in records
    if r['base'] == 'sgd' and r['method'] in ('base', 'reshuffled')
  }
  if len(shares) == 2:
    place = (
      f'it explains {shares["base"]:.0%} of the variance within each of the '
      f'last {_NUM_LAST_EPOCHS} epochs, and {shares["reshuffled"]:.0%} where '
      f'batches are reshuffled ({records[0]["task_config"]["title"]})'
    )
  return [
    [
      'batches train at different speeds: losses of single-class batches are '
      'spread wider than those of i.i.d. ones',
      'shown as a figure',
      spread,
      '',
    ],
    ["a batch's place in the fixed cycle tells its loss", 'figure', place, ''],
  ]


def _on_alexnet(step_costs: Mapping[str, Any] | None) -> list[str]:
  """What was not trained, and how fast it would be here."""
  here = f'training {_NOT_RUN}'
  why = (
    'We do not have ImageNet; `isgd-jax train --model alexnet --dataset '
    'imagefolder` is the set-up.'
  )
  step_costs = step_costs or {'rows': ()}
  for row in step_costs['rows']:
    network, _, size = row['network'].partition(', batch ')
    if network != 'alexnet':
      continue
    step = row['untriggered']
    alone = 1000 * int(size) / step['base_ms']
    low, high = step['quartiles']
    hardware = step_costs['hardware']
    here += (
      f'; a step at batch {size}: {alone:.1f} images a second with '
      f'{row["base"]} alone, {alone / step["ratio"]:.1f} with `isgd` and no '
      f'chase ({step["ratio"]:.3f} times the seconds, quartiles {low:.3f} to '
      f'{high:.3f}; {hardware["device"]}, {hardware["num_cpus"]} cores)'
    )
    days = _NUM_IMAGENET_IMAGES / alone / 86400
    why += (
      f' At that speed one epoch of its {_NUM_IMAGENET_IMAGES:,} images takes '
      f'{days:.1f} days.'
    )
  return [
    'AlexNet on ImageNet',
    '56.3 % top-1 and 80.1 % top-5 in 11.5 h on 4 TITAN X, batch 1536',
    here,
    why,
  ]


def _on_batch_sizes(records: Sequence[Mapping[str, Any]]) -> str:
  """The best of the batch sizes on MNIST, in steps and in seconds."""
  of_kind: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
  for record in records:
    of_kind.setdefault((record['kind'], record['workload']), []).append(record)
  found = f'on MNIST {_NOT_RUN}'
  for work in of_kind.get(('workload', 'mnist'), ()):
    (timing,) = of_kind['step_seconds', work.get('same_step_as') or 'mnist']
    seconds_of = dict(zip(timing['batch_sizes'], timing['median'], strict=True))
    runs: dict[int, list[float]] = {}
    for run in of_kind['run', 'mnist']:
      if run['part'] == 'reporting':
        steps = math.inf if run['steps'] is None else run['steps']
        runs.setdefault(run['batch_size'], []).append(steps)
    steps = {size: statistics.median(counts) for size, counts in runs.items()}
    seconds = {size: steps[size] * seconds_of[size] for size in steps}
    best, least = min(seconds, key=seconds.__getitem__), min(steps)
    timed = timing['workload']
    of_step = f', at the seconds of a step on {timed}, of the same shapes' * (
      timed != 'mnist'
    )
    is_open = ' (the largest, so larger ones may be better yet)' * (
      best == max(steps)
    )
    found = (
      f'on MNIST, from {least} to {max(steps)} examples a batch (rate tuned at '
      f'each), the steps to a training loss of {work["target_loss"]:g} fall '
      f'from {steps[least]:,.0f} to {steps[max(steps)]:,.0f}; {best} is '
      f'soonest there{is_open}, in {seconds[best]:.3g} s, where {least} takes '
      f'{seconds[least]:.3g} s{of_step}'
    )
  return f'{found}; on one CPU: [batch size](batch_size.md)'


def _headlines(rows: Rows, base: str) -> str:
  """On MNIST."""
  return _headline(rows, 'paper-mnist/lenet', base)


def _headline(rows: Rows, task: str, base: str) -> str:
  """What the paper's best chase rate, and ISGD, save to the headline."""
  target = headline_target(rows, task, base)
  parts = []
  paper = [
    found
    for method in gain_map.PAPER_METHODS
    if (found := saving(rows, task, base, method, target)) is not None
  ]
  if paper:
    best = max(paper, key=lambda s: s.interval.median)
    parts.append(
      f"the paper's ISGD {percent(best.interval)} ({_chosen(len(paper))}; "
      f'{best.verdict}; seeds: {best.num_seeds})'
    )
  ours = saving(rows, task, base, 'isgd-probation', target)
  if ours is not None:
    parts.append(f'ISGD {percent(ours.interval)} ({ours.verdict})')
  if not parts:
    return _NOT_RUN
  row = rows[task, base, 'base']
  return (
    f'saved of the evaluations to {100 * target:.0f} %, '
    f'{row.config["title"]}: {", ".join(parts)}'
  )


def _chosen(num_rates: int) -> str:
  return 'one chase rate' if num_rates == 1 else f'best of {num_rates} rates'


def _of_map(folder: pathlib.Path) -> str:
  """In how many cells the claim is reached."""
  found = gain_map.read_map(folder)
  if found is None:
    return _NOT_RUN
  gains = [
    cell.gain
    for rate in found.rates
    for task in found.columns
    if (cell := found.best_of_paper(rate, task)) is not None
  ]
  known = [gain for gain in gains if not math.isnan(gain)]
  told = (
    '21 % or more in '
    f'{sum(paper_map.CLAIMED_GAIN <= g < math.inf for g in gains)} of '
    f'{len(gains)} cells, a loss in {sum(g < 0 for g in gains)}'
  )
  finite = [gain for gain in known if math.isfinite(gain)]
  if not finite:
    return told
  return (
    f'{told}; where both get there ({len(finite)} cells), '
    f'{_share(statistics.median(finite))} in the middle and '
    f'{_share(max(finite))} at most'
  )


def describe_targets(rows: Rows) -> Sequence[str]:
  """The table of each of the paper's data sets that was run.

  Args:
    rows: all rows.

  Returns:
    Markdown paragraphs.
  """
  parts = []
  for task, targets in TARGETS.items():
    table = targets_table(rows, task)
    if not table:
      parts.append(f'`{task.split("/")[0]}`: {_NOT_RUN}.')
      continue
    of_task = [row for row in rows.values() if row.task == task]
    config = of_task[0].config
    seeds = sorted({len(row.runs) for row in of_task})
    parts.append(
      f'{config["title"]}: {config["num_train"]:,} images of '
      f'{config["dataset"]}, batches of {config["batch_size"]}, '
      f'{config["num_epochs"]} epochs; seeds: {"/".join(map(str, seeds))}. '
      f'Targets: {", ".join(f"{100 * x:.0f} %" for x in targets)}.'
    )
    parts.append(table)
  return parts
