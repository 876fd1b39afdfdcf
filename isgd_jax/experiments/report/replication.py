"""The paper's claims, each beside what was measured here."""

from collections.abc import Mapping, Sequence
import math
import pathlib
import statistics
from typing import Any

import numpy as np

from isgd_jax.experiments.demonstrate import demonstrations
from isgd_jax.experiments.demonstrate import numbers
from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.report import gain_map
from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report import paper_map
from isgd_jax.experiments.report import paper_targets
from isgd_jax.experiments.report.paper_targets import NOT_RUN
from isgd_jax.experiments.report.paper_targets import percent
from isgd_jax.experiments.report.paper_targets import saving
from isgd_jax.experiments.report.rows import Rows

# ILSVRC-2012's train part: Russakovsky et al. 2015, arXiv:1409.0575, table 2.
_NUM_IMAGENET_IMAGES = 1_281_167
_NUM_LAST_EPOCHS = 3


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
      'Over momentum. Where no batch is flagged, rounding alone sets them '
      'apart.',
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
  return numbers.describe_demonstrations(records) if records else NOT_RUN


def _on_batches(folder: pathlib.Path) -> list[list[str]]:
  """Why batches differ, from the demonstrations."""
  records = _demonstrated(folder)
  spread = place = NOT_RUN
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
  here = f'training {NOT_RUN}'
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
  found = f'on MNIST {NOT_RUN}'
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
  target = paper_targets.headline_target(rows, task, base)
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
    return NOT_RUN
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
    return NOT_RUN
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
    f'{paper_targets.share(statistics.median(finite))} in the middle and '
    f'{paper_targets.share(max(finite))} at most'
  )
