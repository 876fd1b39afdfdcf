"""Markdown tables of a comparison, from its rows."""

from collections.abc import Iterable, Mapping, Sequence
import math
import statistics

from isgd_jax.experiments.comparison import rows as rows_lib
from isgd_jax.experiments.comparison import verdicts
from isgd_jax.experiments.comparison.figures import METHOD_STYLES
from isgd_jax.experiments.comparison.figures import method_styles
from isgd_jax.experiments.comparison.rows import Row
from isgd_jax.experiments.comparison.rows import Rows
from isgd_jax.experiments.comparison.statistics import Interval

_LOSS_DIGITS = 3
_SMALL_LOSS = 0.01


def markdown_table(
  header: Sequence[str], lines: Iterable[Sequence[str]]
) -> str:
  """A Markdown table; the first column is left-aligned, the others right.

  Args:
    header: one title a column.
    lines: one text a cell.

  Returns:
    The text.

  Example:
    >>> print(markdown_table(['a', 'b'], [['x', '1']]))
    | a | b |
    | :-- | --: |
    | x | 1 |
  """
  rule = [':--', *['--:'] * (len(header) - 1)]
  return '\n'.join(
    '| ' + ' | '.join(cells) + ' |' for cells in (header, rule, *lines)
  )


def task_table(rows: Rows, task: str) -> str:
  """Every method on one task: what it reached, and what it cost.

  Args:
    rows: all rows.
    task: the task's name.

  Returns:
    A Markdown table, one line a method over a base optimizer.
  """
  of_task = [row for row in rows.values() if row.task == task]
  if of_task[0].is_stream:
    header = [
      *('method', 'prequential loss', 'accuracy, %', 'batches to recovery'),
      *_COST_TITLES,
    ]
  else:
    header = [
      *('method', 'test loss', 'train loss', 'accuracy, %'),
      *('evaluations to target', 'seconds to target'),
      *_COST_TITLES,
    ]
  return markdown_table(header, [_line(rows, row) for row in of_task])


_COST_TITLES = (
  *('evaluations', 'seconds', 'flagged, %', 'steps a chase'),
  *('extra evaluations, %', 'rate'),
)


def _line(rows: Rows, row: Row) -> list[str]:
  """The cells of one method."""
  title = _title(row.method)
  if row.base in METHOD_STYLES:
    name = _title(row.base)
  else:
    of_base = title.removeprefix('base, ')
    name = row.base if row.method == 'base' else f'{row.base}, {of_base}'
  goal = rows_lib.target(rows, row.task, row.base)
  costs = None if goal is None else rows_lib.costs(row, goal)
  loss = _result(row, 'loss')
  accuracy = _result(row, 'accuracy')
  if row.is_stream:
    cells = [
      loss,
      accuracy,
      '' if costs is None else _cost(costs.batches.values(), 0),
    ]
  else:
    cells = [
      loss,
      _result(row, 'train_loss'),
      accuracy,
      '' if costs is None else _cost(costs.evaluations.values(), 0),
      '' if costs is None else _cost(costs.seconds.values(), 2),
    ]
  # The random trigger's chart is not what it acts on.
  kind = row.first['algorithm']['kind']
  has_chart = kind in ('isgd', 'paper-isgd', 'skip')
  has_chases = has_chart and kind != 'skip'
  per_flag = row.steps_per_flag
  edge = '*' if row.is_rate_at_edge else ''
  return [
    name,
    *cells,
    f'{row.median("num_gradient_evaluations"):.0f}',
    f'{row.median("run_seconds"):.2f}',
    f'{100 * row.median("share_undertrained"):.1f}' if has_chart else '',
    f'{per_flag:.1f}' if has_chases and math.isfinite(per_flag) else '',
    f'{100 * row.share_chasing:.1f}' if row.share_chasing else '',
    f'{row.learning_rate:g}{edge}',
  ]


def _title(method: str) -> str:
  return method_styles([method])[method].title


def _result(row: Row, name: str) -> str:
  """What the runs of a row reached; of an accuracy, in percent."""
  interval = row.interval(name)
  # The better end.
  if math.isinf(interval.high if name == 'accuracy' else interval.low):
    return 'diverged'
  return (
    spread(interval, 1, 100.0) if name == 'accuracy' else spread(interval, 3)
  )


def stream_verdict_table(found: Sequence[verdicts.StreamVerdict]) -> str:
  """ISGD on the streams, against its controls.

  Args:
    found: from `verdicts.stream_verdicts`.

  Returns:
    A Markdown table of differences in prequential loss, seed by seed.
  """
  header = [
    *('task, base', "ISGD's loss", 'evaluations, of the base'),
    *('minus base', 'minus every batch twice', 'minus random trigger'),
    *('minus skip on spike', 'bar'),
  ]
  lines = []
  for v in found:
    ratio = f'{v.evaluation_ratio:.3f}'
    lines.append(
      [
        f'{v.task}, {v.base}',
        spread(v.isgd, 3),
        ratio if v.is_cheap else f'**{ratio}**',
        spread(v.versus['base'], 3, signed=True),
        spread(v.versus['twice'], 3, signed=True),
        spread(v.versus['random'], 3, signed=True),
        spread(v.versus['skip'], 3, signed=True) if 'skip' in v.versus else '',
        'met' if v.is_met else '**missed**',
      ]
    )
  return markdown_table(header, lines)


def stationary_verdict_table(
  found: Sequence[verdicts.StationaryVerdict],
) -> str:
  """ISGD against its base, at equal gradient evaluations.

  Args:
    found: from `verdicts.stationary_verdicts`.

  Returns:
    A Markdown table: ISGD's median, beside the range of the base's seeds, and
    the difference seed by seed.
  """
  header = [
    *('task, base, rate', 'train loss', 'test loss', 'accuracy, %'),
    *('all seeds better', 'all seeds worse', 'never hurts'),
  ]
  titles = {
    'train_loss': 'train loss',
    'loss': 'test loss',
    'accuracy': 'accuracy',
  }
  lines = []
  for v in found:
    cells = []
    for name, (median, low, high, _) in v.measures.items():
      scale, digits = (100.0, 1) if name == 'accuracy' else (1.0, 3)
      low, high = sorted((low, high))
      cells.append(
        f'{_number(median * scale, digits)} '
        f'({_number(low * scale, digits)} to {_number(high * scale, digits)})'
      )
    lines.append(
      [
        f'{v.task}, {v.base}, {v.schedule}',
        *cells,
        ', '.join(titles[name] for name in v.better),
        ', '.join(titles[name] for name in v.worse),
        'met' if v.is_harmless else '**missed**',
      ]
    )
  return markdown_table(header, lines)


def ablation_tables(rows: Rows, variants: Sequence[str]) -> str:
  """Every variant on every task and base, relative to the base alone.

  Args:
    rows: of the ablation.
    variants: names, in order.

  Returns:
    Two Markdown tables, one of the streams and one of the stationary tasks;
    one where there are none of the other.
  """
  columns = list(dict.fromkeys((task, base) for task, base, _ in rows))
  parts = []
  for is_stream in (True, False):
    chosen = [
      (task, base)
      for task, base in columns
      if any(
        r.is_stream == is_stream
        for r in rows.values()
        if (r.task, r.base) == (task, base)
      )
    ]
    if not chosen:
      continue
    header = ['variant', *(f'{task}, {base}' for task, base in chosen)]
    lines = []
    for variant in variants:
      cells = []
      for task, base in chosen:
        row = rows.get((task, base, variant))
        # Where the base's own runs are not finished, there is no ratio.
        if row is None or math.isnan(
          loss := verdicts.relative_to_base(rows, row, 'loss')
        ):
          cells.append('')
        elif is_stream:
          spent = verdicts.relative_to_base(
            rows, row, 'num_gradient_evaluations'
          )
          cells.append(f'{_number(loss, 2)} at {spent:.2f}')
        else:
          train = verdicts.relative_to_base(rows, row, 'train_loss')
          cells.append(f'{_number(loss, 3)} / {_number(train, 3)}')
      lines.append([variant, *cells])
    title = (
      'Streams: prequential loss, and gradient evaluations, of the base '
      "optimizer's."
      if is_stream
      else "Stationary: test loss / train loss, of the base optimizer's, at "
      'equal gradient evaluations.'
    )
    parts.append(f'{title}\n\n{markdown_table(header, lines)}')
  return '\n\n'.join(parts)


def profile_table(scores: Mapping[str, float]) -> str:
  """One number a method.

  Args:
    scores: from a performance profile.

  Returns:
    A Markdown table, best first.
  """
  ranked = sorted(scores.items(), key=lambda item: -item[1])
  return markdown_table(
    ['method', 'score'],
    [[_title(name), f'{score:.3f}'] for name, score in ranked],
  )


def spread(
  interval: Interval, digits: int, scale: float = 1.0, *, signed: bool = False
) -> str:
  """`median [low, high]`.

  Args:
    interval: the numbers.
    digits: behind the point.
    scale: what they are multiplied by.
    signed: whether to show a plus.

  Returns:
    The text; infinities are `inf`.

  Example:
    >>> spread(Interval(0.5, 0.25, math.inf), 1, 100.0)
    '50.0 [25.0, inf]'
  """
  median, low, high = (
    _number(x * scale, digits, signed=signed) for x in interval
  )
  return f'{median} [{low}, {high}]'


def _cost(values: Iterable[float], digits: int) -> str:
  """Median and range over the seeds; how many runs missed, if any."""
  values = list(values)
  num_missed = sum(map(math.isinf, values))
  median = statistics.median_high(values)
  text = _number(median, digits) if math.isfinite(median) else 'missed'
  if num_missed == len(values):
    return 'missed'
  if num_missed:
    verb = ' missed' if math.isfinite(median) else ''
    return f'{text} ({num_missed} of {len(values)}{verb})'
  return spread(Interval(median, min(values), max(values)), digits)


def _number(value: float, digits: int, *, signed: bool = False) -> str:
  """The number; an infinity as `inf`."""
  if not math.isfinite(value):
    return ('+' if signed and value > 0 else '-' if value < 0 else '') + 'inf'
  sign = '+' if signed else ''
  # A small loss would be 0.000, as would one of half its size.
  if digits == _LOSS_DIGITS and not signed and 0 < value < _SMALL_LOSS:
    return f'{value:#.2g}'
  return f'{value:{sign}.{digits}f}'
