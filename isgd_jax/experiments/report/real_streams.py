"""Real streams: who gains, who loses, and the rows that fail, by name."""

from collections.abc import Iterable, Mapping, Sequence
import math
import statistics
from typing import Any, NamedTuple

from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report import verdicts
from isgd_jax.experiments.report.rows import Row
from isgd_jax.experiments.report.rows import Rows
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
    return f'{_short(self.task)} {self.base}'


def row_verdict(
  rows: Rows, task: str, base: str, method: str
) -> RowVerdict | None:
  """A method beside its base.

  Args:
    rows: all rows.
    task: the task.
    base: the base optimizer.
    method: the method.

  Returns:
    The verdict; None without runs of both on common seeds.
  """
  row, other = rows.get((task, base, method)), rows.get((task, base, 'base'))
  if row is None or other is None:
    return None
  ours, theirs = row.values('loss'), other.values('loss')
  seeds = [seed for seed in ours if seed in theirs]
  if not seeds:
    return None
  return RowVerdict(
    task,
    base,
    method,
    median_interval(_ratio(ours[s], theirs[s]) for s in seeds),
    paired_difference([ours[s] for s in seeds], [theirs[s] for s in seeds]),
    verdicts.relative_to_base(rows, row, 'num_gradient_evaluations'),
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
  parts.append(_table(rows, pairs, no_change))
  return parts


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
      f'{v.name} ({_percent(v.ratio.median)})'
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
      f'{_short(task)} {base}',
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


def _percent(ratio: float) -> str:
  return f'{100 * (ratio - 1):+.1f} %' if math.isfinite(ratio) else 'diverged'


def _short(task: str) -> str:
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
    if method != DEFAULT or not task.startswith(KINDS[0].prefixes):
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


# The table that RESULTS.md opens with


class Kind(NamedTuple):
  """A kind of data, and the tasks that stand for it.

  Attributes:
    title: as a reader would say it.
    is_real: whether the streams were not made by us.
    prefixes: of the names of its tasks.
    suffixes: likewise; any where there is none.
  """

  title: str
  is_real: bool
  prefixes: tuple[str, ...]
  suffixes: tuple[str, ...] = ('',)


KINDS = (
  Kind('meaning changes abruptly', False, ('drift-labels/', 'drift-pixels/')),
  Kind('meaning changes gradually', False, ('drift-gradual/',)),
  Kind('text, two sources in turn', False, ('drift-text/',)),
  Kind(
    'real, in time order, batches of 1 or 4',
    True,
    ('real-streams/',),
    ('-1', '-4'),
  ),
  Kind(
    'real, in time order, batches of 16 or 64',
    True,
    ('real-streams/',),
    ('-16', '-64'),
  ),
  Kind('real, shuffled', True, ('real-streams/',), ('-shuffled',)),
  Kind('wrong labels, in a fixed cycle, test loss', False, ('label-noise/',)),
)
# What may be recommended, and how it is called.
_CHOICES = {
  DEFAULT: 'ISGD',
  BLIND: 'ISGD, `probation=False`',
  'skip': 'skip on spike',
  'reset': 'reset of the base state',
}
_LEAST_GAIN = 0.01


def verdict_table(rows: Rows) -> str:
  """Your data, what to use, its gain and its cost.

  What to use is what has the lowest geometric mean of the rows' loss ratios, if
  that is at least 1 % below the base and takes at most 1.2 times the
  evaluations.

  Args:
    rows: all rows.

  Returns:
    Markdown; empty where there is nothing to compare.
  """
  lines, missing = [], []
  for kind in KINDS:
    pairs = [
      (task, base)
      for task, base, method in rows
      if method == 'base'
      and task.startswith(kind.prefixes)
      and task.endswith(kind.suffixes)
    ]
    found = {
      method: all_of
      for method in (*_CHOICES, 'twice')
      if (
        all_of := [
          v
          for task, base in pairs
          if (v := row_verdict(rows, task, base, method)) is not None
        ]
      )
    }
    if not found.keys() & _CHOICES.keys():
      missing.append(kind.title)
      continue
    lines.append(_verdict_line(kind, found))
  if not lines:
    return ''
  header = [
    *('your data', 'use', 'its loss, best to worst row', 'evaluations'),
    *(f'{title}: loss' for title in ('ISGD', 'blind', 'twice', 'skip')),
    *('reset: loss', 'rows'),
  ]
  text = markdown.markdown_table(header, lines)
  text += (
    "\n\nA row is a task and a base optimizer; losses are of the base's, "
    'geometric means over the rows, each the median of its seeds; evaluations '
    "likewise of the base's, medians. What to use has the lowest loss among "
    'what takes at most 1.2 times the evaluations, if that is 1 % below the '
    'base; else nothing: the base optimizer alone. ISGD is the default, on '
    'probation; blind is `probation=False`. `twice`, every batch twice, takes '
    'double and is there to compare. In brackets, the rows of a method that '
    'was not run on all.'
  )
  if missing:
    text += f' No records yet of: {"; ".join(missing)}.'
  return text


def _verdict_line(
  kind: Kind, found: Mapping[str, Sequence[RowVerdict]]
) -> list[str]:
  """One kind of data."""
  losses = {
    method: _geometric_mean([v.ratio.median for v in all_of])
    for method, all_of in found.items()
  }
  costs = {
    method: statistics.median(v.evaluation_ratio for v in all_of)
    for method, all_of in found.items()
  }
  # Methods that were run on fewer rows are not compared with the others.
  most = max(len(all_of) for all_of in found.values())
  candidates = [
    method
    for method in _CHOICES
    if method in found
    and len(found[method]) == most
    and costs[method] <= verdicts.MAX_EVALUATION_RATIO
    and losses[method] <= 1 - _LEAST_GAIN
  ]
  use, gain, cost = 'nothing', '', ''
  if candidates:
    best = min(candidates, key=lambda method: losses[method])
    ratios = [v.ratio.median for v in found[best]]
    use = _CHOICES[best]
    gain = (
      f'{_percent(losses[best])} ({_percent(min(ratios))} to '
      f'{_percent(max(ratios))})'
    )
    cost = f'{costs[best]:.2f}'
  cells = [
    _loss_cell(losses[method], len(found[method]), most)
    if method in losses
    else ''
    for method in (DEFAULT, BLIND, 'twice', 'skip', 'reset')
  ]
  origin = 'real' if kind.is_real else 'made by us'
  title = kind.title if kind.is_real else f'{kind.title} ({origin})'
  return [title, use, gain, cost, *cells, str(most)]


def _loss_cell(loss: float, num_rows: int, most: int) -> str:
  """A mean ratio, and over how many rows where not over all."""
  text = markdown.number(loss, 3)
  return text if num_rows == most else f'{text} ({num_rows})'


def _geometric_mean(ratios: Sequence[float]) -> float:
  """Of ratios that may be zero or infinite."""
  if math.inf in ratios:
    return math.inf
  return statistics.geometric_mean(ratios) if min(ratios) > 0 else 0.0
