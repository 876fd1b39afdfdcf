"""Markdown tables of a comparison, from its rows."""

from collections.abc import Mapping, Sequence
import math

from isgd_jax.experiments.figures import METHOD_STYLES
from isgd_jax.experiments.figures import method_styles
from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report import rows as rows_lib
from isgd_jax.experiments.report import verdicts
from isgd_jax.experiments.report.rows import Row
from isgd_jax.experiments.report.rows import Rows


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
  return markdown.markdown_table(header, [_line(rows, row) for row in of_task])


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
      '' if costs is None else markdown.cost(costs.batches.values(), 0),
    ]
  else:
    cells = [
      loss,
      _result(row, 'train_loss'),
      accuracy,
      '' if costs is None else markdown.cost(costs.evaluations.values(), 0),
      '' if costs is None else markdown.cost(costs.seconds.values(), 2),
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


def overview_table(rows: Rows) -> str:
  """Accuracy of ISGD and its controls on every stream, for a README.

  Args:
    rows: all rows.

  Returns:
    A Markdown table of prequential accuracies, percent, one line a task and
    base optimizer.
  """
  others = ('base', 'twice', 'random')
  header = [
    *('stream, base', 'base alone', 'every batch twice', 'random trigger'),
    *('ISGD', 'evaluations of ISGD, of the base'),
  ]
  lines = []
  for verdict in verdicts.stream_verdicts(rows):
    key = verdict.task, verdict.base
    cells = [
      markdown.spread(rows[*key, method].interval('accuracy'), 1, 100.0)
      for method in (*others, 'isgd')
    ]
    lines.append([', '.join(key), *cells, f'{verdict.evaluation_ratio:.2f}'])
  return markdown.markdown_table(header, lines)


def _title(method: str) -> str:
  return method_styles([method])[method].title


def _result(row: Row, name: str) -> str:
  """What the runs of a row reached; of an accuracy, in percent."""
  interval = row.interval(name)
  # The better end.
  if math.isinf(interval.high if name == 'accuracy' else interval.low):
    return 'diverged'
  return (
    markdown.spread(interval, 1, 100.0)
    if name == 'accuracy'
    else markdown.spread(interval, 3)
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
        markdown.spread(v.isgd, 3),
        ratio if v.is_cheap else f'**{ratio}**',
        markdown.spread(v.versus['base'], 3, signed=True),
        markdown.spread(v.versus['twice'], 3, signed=True),
        markdown.spread(v.versus['random'], 3, signed=True),
        markdown.spread(v.versus['skip'], 3, signed=True)
        if 'skip' in v.versus
        else '',
        'met' if v.is_met else '**missed**',
      ]
    )
  return markdown.markdown_table(header, lines)


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
      least, median, greatest = (
        markdown.number(x * scale, digits) for x in (low, median, high)
      )
      cells.append(f'{median} ({least} to {greatest})')
    lines.append(
      [
        f'{v.task}, {v.base}, {v.schedule}',
        *cells,
        ', '.join(titles[name] for name in v.better),
        ', '.join(titles[name] for name in v.worse),
        'met' if v.is_harmless else '**missed**',
      ]
    )
  return markdown.markdown_table(header, lines)


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
          cells.append(f'{markdown.number(loss, 2)} at {spent:.2f}')
        else:
          train = verdicts.relative_to_base(rows, row, 'train_loss')
          cells.append(
            f'{markdown.number(loss, 3)} / {markdown.number(train, 3)}'
          )
      lines.append([variant, *cells])
    title = (
      'Streams: prequential loss, and gradient evaluations, of the base '
      "optimizer's."
      if is_stream
      else "Stationary: test loss / train loss, of the base optimizer's, at "
      'equal gradient evaluations.'
    )
    parts.append(f'{title}\n\n{markdown.markdown_table(header, lines)}')
  return '\n\n'.join(parts)


def profile_table(scores: Mapping[str, float]) -> str:
  """One number a method.

  Args:
    scores: from a performance profile.

  Returns:
    A Markdown table, best first.
  """
  ranked = sorted(scores.items(), key=lambda item: -item[1])
  return markdown.markdown_table(
    ['method', 'score'],
    [[_title(name), f'{score:.3f}'] for name, score in ranked],
  )
