"""Permuted MNIST beside what is published of it, and ISGD over baselines."""

from collections.abc import Mapping, Sequence
import pathlib
import statistics
from typing import Any

import numpy as np

from isgd_jax.experiments import figures
from isgd_jax.experiments.optimizers.published import CODE
from isgd_jax.experiments.optimizers.published import FIGURES
from isgd_jax.experiments.optimizers.published import NUM_TASKS
from isgd_jax.experiments.optimizers.published import PUBLISHED
from isgd_jax.experiments.optimizers.published import REFERENCES
from isgd_jax.experiments.optimizers.published import TABLE
from isgd_jax.experiments.optimizers.published import Reference
from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report.real_streams import DEFAULT
from isgd_jax.experiments.report.rows import Row
from isgd_jax.experiments.report.rows import Rows
from isgd_jax.experiments.runs.outcomes import NUM_EARLY
from isgd_jax.experiments.statistics import Comparison
from isgd_jax.experiments.statistics import compare_by_seed
from isgd_jax.experiments.statistics import median_interval
from isgd_jax.experiments.statistics import paired_difference

PREFIX = 'permuted-'
_PERCENT = 100.0
# Tasks at either end whose difference says what was gained or lost, at most.
_MOST_AT_ENDS = 5


def tasks_of(rows: Rows) -> list[str]:
  """The permuted tasks among the rows.

  Args:
    rows: all rows.

  Returns:
    Names.
  """
  return [
    task
    for task in dict.fromkeys(task for task, _, _ in rows)
    if task.startswith(PREFIX)
  ]


def accuracies(row: Row) -> dict[int, np.ndarray]:
  """Online accuracy task by task.

  Args:
    row: of a permuted task.

  Returns:
    By seed, [num_tasks] shares.
  """
  length = row.config['batches_per_segment']
  return {
    seed: np.array(run['tasks']['right']) / length
    for seed, run in row.runs.items()
  }


def _means(row: Row, tasks: slice = slice(None)) -> dict[int, float]:
  """Mean accuracy over some of the tasks, by seed."""
  return {seed: float(a[tasks].mean()) for seed, a in accuracies(row).items()}


def beside_base(rows: Rows, task: str, base: str) -> Comparison | None:
  """ISGD's accuracy against that of its base alone.

  Args:
    rows: all rows.
    task: the task.
    base: the base optimizer.

  Returns:
    The comparison by seed, higher is better; None without common seeds.
  """
  ours, theirs = (rows.get((task, base, m)) for m in (DEFAULT, 'base'))
  if ours is None or theirs is None:
    return None
  found, other = _means(ours), _means(theirs)
  common = found.keys() & other.keys()
  if not common:
    return None
  return compare_by_seed(
    {s: found[s] for s in sorted(common)}, {s: other[s] for s in sorted(common)}
  )


def describe_permuted(rows: Rows) -> dict[str, list[str]]:
  """What was measured on permuted MNIST, and what is published of it.

  Args:
    rows: all rows.

  Returns:
    Of each task, after the paragraphs under `''` that are about all of them,
    paragraphs of Markdown; empty without rows.
  """
  found = tasks_of(rows)
  if not found:
    return {}
  parts = {'': [_protocol(), _published(rows, found), _summary(rows, found)]}
  for task in found:
    parts[task] = [_setting(rows, task), _table(rows, task)]
  return parts


def draw_permuted(path: pathlib.Path, rows: Rows, task: str) -> bool:
  """Draws the accuracy of each task, a panel an optimizer.

  Args:
    path: the file.
    rows: all rows.
    task: the task's name.

  Returns:
    Whether there was something to draw: optimizers with ISGD over them.

  Raises:
    OutputError: (an `OSError`) the file cannot be written.
  """
  curves = {}
  for base in PUBLISHED:
    if (task, base, DEFAULT) not in rows or (task, base, 'base') not in rows:
      continue
    curves[base] = {
      method: [
        figures.Curve(np.arange(1.0, len(a) + 1), _PERCENT * a)
        for a in accuracies(rows[task, base, method]).values()
      ]
      for method in ('base', DEFAULT)
    }
  if not curves:
    return False
  figures.draw_training(
    path,
    curves,
    axis='task',
    title=f'{task}: online accuracy of each task',
    y_title='accuracy (%)',
    higher_is_better=True,
  )
  return True


def _protocol() -> str:
  return (
    'The protocol of Elsayed and Mahmood (UPGD, ICLR 2024, '
    '[arXiv:2404.00781](https://arxiv.org/abs/2404.00781)): one example a '
    'step, judged before training on it; a new random permutation every 5,000 '
    'steps of the pixels, or every 2,500 of the labels, at the first step too; '
    'examples of the train part, shuffled anew at each permutation, none twice '
    'between two; pixels in [-1, 1]; a network of 300 and 150 ReLU units with '
    "PyTorch's initialization; every number of every optimizer theirs. Nothing "
    'was tuned here: ISGD is the default, on probation, over an optimizer at '
    'the setting that was published for that optimizer alone, with a window of '
    '50 as on all streams. What differs from theirs: fewer tasks, the first '
    'ones of as many as they have, and fewer seeds than their 20; noise '
    'is a random stretch of numbers that were drawn once; labels are those of '
    "MNIST, and theirs of EMNIST's 47 classes, CIFAR-10 and mini-ImageNet, so "
    'no number of theirs is for this; the settings there are those for EMNIST, '
    'which has the same network.'
  )


def _published(rows: Rows, tasks: Sequence[str]) -> str:
  """Which published number each baseline reproduces, if there is one."""
  figure = FIGURES['inputs']
  lines = [
    cells
    for reference in REFERENCES
    if (cells := _reference_line(rows, tasks, reference)) is not None
  ]
  text = (
    '**What is published.** Curves alone: accuracy is in '
    f'{figure} (pixels) and {FIGURES["labels"]} (labels of EMNIST), and in no '
    'table, so no baseline here reproduces a published number, and none is '
    'given. What can be set beside ours is a third party: the Alberta '
    'Framework ran UPGD-W and AdamW on permuted pixels at the same settings, '
    'and read two values off the figure. Of SGDW and S&P, and of '
    'permuted labels, there is nothing to compare with. Settings of SGDW, '
    f'AdamW and UPGD-W are those of the paper ({TABLE}) and of the code '
    f'({CODE}); of S&P the two differ in the noise: `s-and-p` has that of the '
    'code, `s-and-p-table` that of the paper.'
  )
  if not lines:
    return text
  header = [
    *('optimizer', 'mean over', 'accuracy here, %', 'theirs, %'),
    *('here minus theirs, points', 'theirs is'),
  ]
  return f'{text}\n\n{markdown.markdown_table(header, lines)}'


def _reference_line(
  rows: Rows, tasks: Sequence[str], reference: Reference
) -> list[str] | None:
  """A number of somebody else's, and ours of as many tasks if we have them."""
  keys = [(task, reference.name, 'base') for task in tasks]
  found = [rows[key] for key in keys if key in rows]
  if not found:
    return None
  # Fewer tasks are the first of more.
  row = max(found, key=lambda row: row.config['num_segments'])
  theirs = (
    f'a mean of {reference.num_seeds} seeds'
    if reference.num_seeds
    else f'read off {FIGURES[PUBLISHED[reference.name].problem]}, about'
  )
  digits = 2 if reference.num_seeds else 0
  cells = [reference.name, f'the first {reference.num_tasks} tasks']
  given = markdown.number(_PERCENT * reference.accuracy, digits)
  if row.config['num_segments'] < reference.num_tasks:
    return [*cells, 'not run so far', given, '', theirs]
  ours = _means(row, slice(reference.num_tasks))
  return [
    *cells,
    markdown.spread(median_interval(ours.values()), 2, _PERCENT),
    given,
    markdown.spread(
      median_interval(x - reference.accuracy for x in ours.values()),
      2,
      _PERCENT,
      signed=True,
    ),
    theirs,
  ]


def _summary(rows: Rows, tasks: Sequence[str]) -> str:
  """Over which baselines ISGD is better, or worse."""
  by_verdict: dict[str, list[str]] = {}
  flagged, early = [], []
  for task in tasks:
    for base in PUBLISHED:
      found = beside_base(rows, task, base)
      if found is None:
        continue
      by_verdict.setdefault(found.verdict, []).append(
        f'{base} ({_PERCENT * found.difference.median:+.2f})'
      )
      row = rows[task, base, DEFAULT]
      flagged.append(row.median('share_undertrained'))
      length = row.config['batches_per_segment']
      early += [(run['tasks'], length) for run in row.runs.values()]
  if not flagged:
    return ''
  parts = [
    f'{verdict} over {", ".join(names)}'
    for verdict in ('higher', 'lower', 'no different')
    if (names := by_verdict.get(verdict))
  ]
  return (
    "**ISGD over them.** Its mean accuracy, against its base's seed by seed "
    f'(medians in points): {"; ".join(parts)}. Its chart flags '
    f'{_PERCENT * min(flagged):.2f} to {_PERCENT * max(flagged):.2f} % of the '
    f'steps. {_early(early)}'
  )


def _early(runs_and_lengths: Sequence[tuple[Mapping[str, Any], int]]) -> str:
  """Whether what is flagged is what comes after a permutation."""
  runs = [run for run, _ in runs_and_lengths]
  num_steps = sum(
    length * (len(run['flagged']) - 1) for run, length in runs_and_lengths
  )
  # The first task comes after none, and its first window fills the chart.
  num_tasks = sum(len(run['flagged']) - 1 for run in runs)
  first, whole = (
    sum(sum(run[name][1:]) for run in runs)
    for name in ('flagged_early', 'flagged')
  )
  share = f'{_PERCENT * first / whole:.1f}' if whole else '0'
  return (
    f'Of its {whole:,} flags after the first tasks {first:,} ({share} %) are '
    f'within {NUM_EARLY} steps of a permutation, which are '
    f'{_PERCENT * NUM_EARLY * num_tasks / num_steps:.1f} % of the steps: '
    f'{first / num_tasks:.2f} flags for each of {num_tasks:,} permutations.'
  )


def _setting(rows: Rows, task: str) -> str:
  """How much was run."""
  row = next(r for r in rows.values() if r.task == task)
  problem = PUBLISHED[row.base].problem
  num_seeds = sorted({len(r.runs) for r in rows.values() if r.task == task})
  config = row.config
  return (
    f'{config["num_segments"]} of {NUM_TASKS[problem]} tasks of '
    f'{config["batches_per_segment"]:,} examples, '
    f'{" or ".join(map(str, num_seeds))} seeds: medians and 95 % intervals of '
    f'the mean over the tasks. Gained is {_ends_title(row)}, in points: below '
    'zero plasticity was lost (the first task starts from scratch, so over few '
    'tasks it says little). Evaluations are those of ISGD a step; its base '
    'takes one.'
  )


def _table(rows: Rows, task: str) -> str:
  """A line an optimizer."""
  lines = []
  for base, published in PUBLISHED.items():
    row = rows.get((task, base, 'base'))
    if row is None:
      continue
    lines.append(
      [
        f'{base}: {published.describe()}',
        _accuracy(row),
        _gained(row),
        markdown.number(row.median('loss'), 3),
        *_isgd_cells(rows, task, base),
      ]
    )
  header = [
    *('optimizer alone', 'accuracy, %', 'gained', 'loss'),
    *('ISGD over it: accuracy, %', 'gained', 'loss', 'minus base, points'),
    *('evaluations a step', 'flagged, %'),
  ]
  return markdown.markdown_table(header, lines)


def _isgd_cells(rows: Rows, task: str, base: str) -> list[str]:
  """ISGD over an optimizer; empty where it was not run."""
  row = rows.get((task, base, DEFAULT))
  found = beside_base(rows, task, base)
  if row is None or found is None:
    return [''] * 6
  spent = statistics.median(
    run['summary']['num_gradient_evaluations'] / run['summary']['num_steps']
    for run in row.runs.values()
  )
  return [
    _accuracy(row),
    _gained(row),
    markdown.number(row.median('loss'), 3),
    markdown.spread(found.difference, 2, _PERCENT, signed=True),
    f'{spent:.3f}',
    f'{_PERCENT * row.median("share_undertrained"):.2f}',
  ]


def _accuracy(row: Row) -> str:
  return markdown.spread(median_interval(_means(row).values()), 2, _PERCENT)


def _num_at_ends(row: Row) -> int:
  return max(1, min(_MOST_AT_ENDS, row.config['num_segments'] // 2))


def _ends_title(row: Row) -> str:
  n = _num_at_ends(row)
  if n == 1:
    return 'the last task less the first'
  return f'the mean of the last {n} tasks less that of the first {n}'


def _gained(row: Row) -> str:
  """Of the last tasks over the first."""
  n = _num_at_ends(row)
  last, first = (_means(row, part) for part in (slice(-n, None), slice(n)))
  return f'{_PERCENT * paired_difference(last, first).median:+.2f}'
