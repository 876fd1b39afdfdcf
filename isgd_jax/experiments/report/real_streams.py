"""Real streams: who gains, who loses, and the rows that fail, by name."""

from collections.abc import Iterable, Mapping, Sequence, Set
import math
import statistics
from typing import Any, NamedTuple

from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report import verdicts
from isgd_jax.experiments.report.rows import Row
from isgd_jax.experiments.report.rows import Rows
from isgd_jax.experiments.runs.real_streams import TASKS
from isgd_jax.experiments.statistics import Interval
from isgd_jax.experiments.statistics import median_interval
from isgd_jax.experiments.statistics import paired_difference

# The library's default, and the chase as it was before probation.
DEFAULT, BLIND = 'isgd-probation', 'isgd'
# A median may be this much of the base's loss above it.
_MOST_WORSE = 0.01
_OTHERS = ('twice', 'skip', 'reset')
# Of the blind chase's gain.
_LEAST_KEPT = 0.95
# Of streams that were not run.
_MOST_NAMED = 6
_MADE_ABRUPT = ('drift-labels/', 'drift-pixels/')


class RowVerdict(NamedTuple):
  """A method over a base optimizer on a real stream.

  Attributes:
    task: the task.
    base: the base optimizer.
    method: the method.
    ratio: of the loss to the base's, seed by seed.
    difference: of the losses, seed by seed.
    evaluation_ratio: of gradient evaluations, the median.
    num_seeds: that both have.
  """

  task: str
  base: str
  method: str
  ratio: Interval
  difference: Interval
  evaluation_ratio: float
  num_seeds: int

  @property
  def is_never_worse(self) -> bool:
    """The interval reaches zero or below, and the median at most +1 %."""
    return self.difference.low <= 0 and self.ratio.median <= 1 + _MOST_WORSE

  @property
  def name(self) -> str:
    """Of the row, in a sentence."""
    return f'{short(self.task)} {self.base}'


def row_verdict(
  rows: Rows, task: str, base: str, method: str, measure: str = 'loss'
) -> RowVerdict | None:
  """A method beside its base.

  Args:
    rows: all rows.
    task: the task.
    base: the base optimizer.
    method: the method.
    measure: of the summaries, lower is better.

  Returns:
    The verdict; None without runs of both on common seeds.
  """
  row, other = rows.get((task, base, method)), rows.get((task, base, 'base'))
  return None if row is None or other is None else beside(row, other, measure)


def beside(row: Row, other: Row, measure: str = 'loss') -> RowVerdict | None:
  """A row beside another of its task.

  Args:
    row: of a method.
    other: what it is judged against.
    measure: of the summaries, lower is better.

  Returns:
    The verdict; None without common seeds.
  """
  ours, theirs = row.values(measure), other.values(measure)
  seeds = [seed for seed in ours if seed in theirs]
  if not seeds:
    return None
  spent, others_spent = (
    r.values('num_gradient_evaluations') for r in (row, other)
  )
  return RowVerdict(
    row.task,
    row.base,
    row.method,
    median_interval(_ratio(ours[s], theirs[s]) for s in seeds),
    paired_difference([ours[s] for s in seeds], [theirs[s] for s in seeds]),
    statistics.median(_ratio(spent[s], others_spent[s]) for s in seeds),
    len(seeds),
  )


def describe_real_streams(
  rows: Rows, no_change: Mapping[str, Mapping[str, Any]]
) -> list[str]:
  """The verdict over all real streams, and a line for each row.

  Args:
    rows: of the workload.
    no_change: of each task, what a no-change forecaster has.

  Returns:
    Paragraphs of Markdown; none without rows.
  """
  pairs = list(dict.fromkeys((task, base) for task, base, _ in rows))
  if not pairs:
    return []
  parts = [
    '`ISGD` is `isgd_jax.isgd` with its defaults, so its chases are on '
    'probation; `blind` is `probation=False`, and what the records of all '
    'older workloads name `isgd`. Losses are prequential; a ratio is to the '
    "base's, seed by seed, its median and 95 % interval; seeds differ in the "
    'initial parameters, and on a shuffled stream in the order. Never worse: '
    'the interval of the paired difference reaches zero or below, and the '
    'median is at most 1 % above the base. The no-change forecaster repeats '
    'the last row before the batch: its accuracy in percent, or of regression '
    'its loss.'
  ]
  for method in (DEFAULT, BLIND):
    found = [
      v
      for task, base in pairs
      if (v := row_verdict(rows, task, base, method)) is not None
    ]
    if found:
      parts.append(_sentence(found))
  parts.append(_not_run({task for task, _ in pairs}))
  parts.append(_table(rows, pairs, no_change))
  return parts


def _not_run(run: Set[str]) -> str:
  """The streams that there are and that no row is of; empty without any."""
  missing = [task for task in TASKS if task.name not in run]
  if not missing:
    return ''
  if len(missing) > _MOST_NAMED:
    return f'Not run: {len(missing)} of the {len(TASKS)} streams.'
  names = ', '.join(
    f'{short(task.name)} ({task.num_batches:,} batches a run)'
    for task in missing
  )
  return f'Not run, for what it takes: {names}.'


def _sentence(found: Sequence[RowVerdict]) -> str:
  """How many rows hold, and the names of those that do not."""
  title = {DEFAULT: 'ISGD', BLIND: 'Blind ISGD'}[found[0].method]
  judged = [v for v in found if v.num_seeds > 1]
  failing = [v for v in judged if not v.is_never_worse]
  dear = [
    v for v in judged if v.evaluation_ratio > verdicts.MAX_EVALUATION_RATIO
  ]
  better = [v for v in judged if v.difference.high < 0]
  text = (
    f'**{title}** is never worse in {len(judged) - len(failing)} of '
    f'{len(judged)} rows, and better by all seeds in {len(better)}'
  )
  if len(found) > len(judged):
    text += f' ({len(found) - len(judged)} of one seed are undecided)'
  text += '.'
  if failing:
    names = ', '.join(
      f'{v.name} ({percent(v.ratio.median)})'
      for v in sorted(failing, key=lambda v: -v.ratio.median)
    )
    text += f' It fails in: {names}.'
  if dear:
    names = ', '.join(f'{v.name} ({v.evaluation_ratio:.2f})' for v in dear)
    text += f' It takes more than 1.2 times the evaluations in: {names}.'
  return text


def _table(
  rows: Rows,
  pairs: Iterable[tuple[str, str]],
  no_change: Mapping[str, Mapping[str, Any]],
) -> str:
  header = [
    *('stream, batch, base', 'base: loss', 'accuracy, %', 'no change'),
    *('ISGD, ratio', 'evaluations', 'blind, ratio', 'evaluations'),
    *('twice', 'skip', 'reset', 'ISGD never worse'),
  ]
  lines = []
  for task, base in pairs:
    alone = rows.get((task, base, 'base'))
    if alone is None:
      continue
    guess = no_change.get(task, {})
    # Of regression the second number is an error in no unit of the reader's.
    is_regression = 'loss' in guess
    cells = [
      f'{short(task)} {base}',
      markdown.number(alone.median('loss'), 3),
      '' if is_regression else _accuracy(alone),
      markdown.number(guess['loss'], 3)
      if is_regression
      else f'{100 * guess["accuracy"]:.1f}'
      if guess
      else '',
    ]
    for method in (DEFAULT, BLIND):
      v = row_verdict(rows, task, base, method)
      cells += (
        [markdown.spread(v.ratio, 3), f'{v.evaluation_ratio:.2f}']
        if v
        else ['', '']
      )
    for method in _OTHERS:
      v = row_verdict(rows, task, base, method)
      cells.append(markdown.number(v.ratio.median, 3) if v else '')
    v = row_verdict(rows, task, base, DEFAULT)
    if v is None:
      cells.append('')
    elif v.num_seeds == 1:
      cells.append('undecided')
    else:
      cells.append('met' if v.is_never_worse else '**missed**')
    lines.append(cells)
  return markdown.markdown_table(header, lines)


def _accuracy(row: Row) -> str:
  accuracy = row.median('accuracy')
  return f'{100 * accuracy:.1f}' if math.isfinite(accuracy) else 'diverged'


def percent(ratio: float) -> str:
  """How far a ratio is from one: `+1.0 %`."""
  return f'{100 * (ratio - 1):+.1f} %' if math.isfinite(ratio) else 'diverged'


def short(task: str) -> str:
  """A task's name without its workload's."""
  return task.partition('/')[2] or task


def _ratio(ours: float, theirs: float) -> float:
  """Of two losses, either of which may be infinite."""
  if ours == theirs:
    return 1.0
  if math.isinf(theirs):
    return 0.0
  return ours / theirs if theirs else math.inf


def kept_gain_table(rows: Rows) -> str:
  """What ISGD on probation keeps of the blind chase's gain, made-up drift.

  Args:
    rows: all rows.

  Returns:
    Markdown; empty where no stream of abrupt change has both.
  """
  lines, shares = [], []
  for task, base, method in rows:
    if method != DEFAULT or not task.startswith(_MADE_ABRUPT):
      continue
    ours = row_verdict(rows, task, base, DEFAULT)
    blind = row_verdict(rows, task, base, BLIND)
    if ours is None or blind is None or blind.ratio.median >= 1:
      continue
    share = (1 - ours.ratio.median) / (1 - blind.ratio.median)
    shares.append(share)
    lines.append(
      [
        f'{task}, {base}',
        *(markdown.spread(v.ratio, 3) for v in (blind, ours)),
        f'{100 * share:.0f}',
        *(f'{v.evaluation_ratio:.2f}' for v in (blind, ours)),
      ]
    )
  if not lines:
    return ''
  num_met = sum(share >= _LEAST_KEPT for share in shares)
  header = [
    *('stream, base', 'blind, loss of the base', 'ISGD, loss of the base'),
    *('gain kept, %', 'blind, evaluations', 'ISGD, evaluations'),
  ]
  return (
    '**What probation costs where a blind chase is right.** On the streams '
    'whose meaning we change, ISGD keeps at least '
    f'{100 * _LEAST_KEPT:.0f} % of the gain of the blind chase in {num_met} of '
    f'{len(shares)} rows; the median is {100 * statistics.median(shares):.0f} '
    '%.\n\n' + markdown.markdown_table(header, lines)
  )


def mean_ratio(verdicts: Iterable[RowVerdict]) -> float:
  """The geometric mean of the ratios, each the median of its seeds."""
  ratios = [v.ratio.median for v in verdicts]
  if math.inf in ratios:
    return math.inf
  return statistics.geometric_mean(ratios) if min(ratios) > 0 else 0.0


def mean_cell(verdicts: Sequence[RowVerdict]) -> str:
  """The geometric mean of the ratios and, in brackets, the worst row."""
  worst = max(v.ratio.median for v in verdicts)
  mean = markdown.number(mean_ratio(verdicts), 3)
  return f'{mean} ({markdown.number(worst, 2)})'
