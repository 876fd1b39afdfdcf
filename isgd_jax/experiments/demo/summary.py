"""The table and the sentences of an experiment, generated from its records.

Whether two methods differ is decided by `statistics.compare_by_seed`, as in
`isgd-jax report`. A diverged run is the worst.
"""

from collections.abc import Iterable, Mapping, Sequence
import math
import statistics
from typing import Any, NamedTuple

from isgd_jax.experiments.runs.tasks import Task
from isgd_jax.experiments.statistics import compare_by_seed

METHOD_TITLES = {
  'base': 'alone',
  'twice': 'every batch twice',
  'random': 'random trigger',
  'isgd': 'ISGD',
}

# Of two equal methods all of three seeds agree by luck once in 4 times, both of
# two once in 2.
_MIN_SEEDS = 3
_WORDS = {'higher': 'better', 'lower': 'worse', 'no different': 'no different'}


class Row(NamedTuple):
  """One method on one task, over its reporting seeds.

  Attributes:
    task: the task's title.
    details: of the task, and what its accuracy and loss are of.
    base_optimizer: name of the base optimizer.
    method: name of the method.
    accuracy: by seed, percent; `-inf` where the run diverged.
    loss: by seed, nats; `inf` where the run diverged.
    num_steps: training steps, median.
    num_gradient_evaluations: median.
    share_undertrained: median, in [0, 1].
    num_extra_steps: median; chase steps for ISGD.
    run_seconds: median, without compilation.
    learning_rate: as tuned.
    is_rate_at_edge: whether the tuned rate is the grid's first or last.
  """

  task: str
  details: str
  base_optimizer: str
  method: str
  accuracy: Mapping[int, float]
  loss: Mapping[int, float]
  num_steps: float
  num_gradient_evaluations: float
  share_undertrained: float
  num_extra_steps: float
  run_seconds: float
  learning_rate: float
  is_rate_at_edge: bool


def collect_rows(records: Iterable[Mapping[str, Any]]) -> list[Row]:
  """Gathers the reporting runs into one row a task, base and method.

  Args:
    records: of runs, as `runs.records.read_runs` gives them; tuning runs
      are left out.

  Returns:
    The rows: tasks and bases in the order in which they first appear, methods
    with ISGD last.

  Example:
    >>> collect_rows([{'purpose': 'tuning'}])
    []
  """
  groups: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
  for record in records:
    if record['purpose'] == 'reporting':
      task = Task(**record['task_config'])
      key = task.title, _details(task), record['base'], record['method']
      groups.setdefault(key, []).append(record)

  rows = []
  for key, group in groups.items():
    summaries = [record['summary'] for record in group]

    def median(name: str, summaries=summaries) -> float:
      return statistics.median(summary[name] for summary in summaries)

    def by_seed(name: str, worst: float, scale: float, group=group):
      return {
        record['seed']: _or_worst(record['summary'][name], worst, scale)
        for record in group
      }

    rate = group[0]['learning_rate']
    grid = group[0]['algorithm']['grid']
    rows.append(
      Row(
        *key,
        accuracy=by_seed('accuracy', -math.inf, 100.0),
        loss=by_seed('loss', math.inf, 1.0),
        num_steps=median('num_steps'),
        num_gradient_evaluations=median('num_gradient_evaluations'),
        share_undertrained=median('share_undertrained'),
        num_extra_steps=median('num_extra_steps'),
        run_seconds=median('run_seconds'),
        learning_rate=rate,
        is_rate_at_edge=rate in (min(grid), max(grid)),
      )
    )
  groups_seen = list(dict.fromkeys((r.task, r.base_optimizer) for r in rows))
  methods = list(METHOD_TITLES)
  return sorted(
    rows,
    key=lambda r: (
      groups_seen.index((r.task, r.base_optimizer)),
      methods.index(r.method),
    ),
  )


def format_table(rows: Sequence[Row]) -> str:
  """One table of all rows: medians, with ranges over the seeds in brackets.

  Args:
    rows: from `collect_rows`.

  Returns:
    Lines of text, at most 111 columns.

  Example:
    >>> row = Row('Shuffled', '6 epochs', 'adam', 'base', {0: 97.0, 1: 98.0},
    ...   {0: 0.1, 1: 0.2}, 660.0, 660.0, 0.0, 0.0, 0.1, 0.01, True)
    >>> format_table([row]).splitlines()[3].split()[:5]
    ['adam', 'alone', '97.5', '[97.0,', '98.0]']
  """
  header = (
    f'  {"base":<9} {"method":<17} {"accuracy (%)":>19} {"loss (nats)":>22} '
    f'{"gradient":>8} {"flagged":>7} {"extra":>6} {"time":>6} {"rate":>7}'
  )
  units = (
    f'  {"":<9} {"":<17} {"median [range]":>19} {"median [range]":>22} '
    f'{"evals":>8} {"(%)":>7} {"steps":>6} {"(s)":>6} {"tuned":>7}'
  )
  lines = [header, units]
  task = None
  for row in rows:
    if row.task != task:
      task = row.task
      lines.append(f'{task} ({row.details})')
    rate = f'{row.learning_rate:g}' + ('*' if row.is_rate_at_edge else '')
    flagged = (
      f'{row.share_undertrained:.1%}'[:-1] if row.method == 'isgd' else '-'
    )
    lines.append(
      f'  {row.base_optimizer:<9} {METHOD_TITLES[row.method]:<17} '
      f'{_spread(row.accuracy, 1):>19} {_spread(row.loss, 3):>22} '
      f'{row.num_gradient_evaluations:>8.0f} {flagged:>7} '
      f'{row.num_extra_steps:>6.0f} {row.run_seconds:>6.2f} {rate:>7}'
    )
  if any(row.is_rate_at_edge for row in rows):
    lines.append('* at the edge of the grid: a better rate may lie beyond it.')
  if any('div.' in line for line in lines):
    lines.append('div.: the run diverged, its loss was not finite.')
  return '\n'.join(lines)


def describe_rows(rows: Sequence[Row]) -> str:
  """Says what the numbers show: one sentence a task.

  Args:
    rows: from `collect_rows`, with the method `'isgd'` and any others.

  Returns:
    One sentence a task, a line each.

  Example:
    >>> def row(method, *accuracy):
    ...   return Row('Stream', '', 'adam', method, dict(enumerate(accuracy)),
    ...     {0: 1.0}, 100.0, 100.0, 0.0, 0.0, 1.0, 0.1, False)
    >>> print(describe_rows([row('base', 70.0, 71.0, 72.0),
    ...   row('isgd', 69.0, 71.0, 75.0)]))
    Stream: over adam, the accuracy of ISGD is no different from adam alone \
(+0.0 points for 1.00x the gradient evaluations and 1.00x the time).
  """
  sentences = []
  for task in dict.fromkeys(row.task for row in rows):
    of_task = [row for row in rows if row.task == task]
    parts = []
    for base in dict.fromkeys(row.base_optimizer for row in of_task):
      by_method = {
        row.method: row for row in of_task if row.base_optimizer == base
      }
      isgd = by_method.pop('isgd')
      clauses = [_clause(isgd, row) for row in by_method.values()]
      parts.append(f'over {base}, the accuracy of ISGD is {_join(clauses)}')
    num_seeds = min(len(row.accuracy) for row in of_task)
    hint = (
      f' ({num_seeds} seed{"s" * (num_seeds > 1)} only: a hint, not a '
      'measurement)'
      if num_seeds < _MIN_SEEDS
      else ''
    )
    sentences.append(f'{task}{hint}: ' + '; '.join(parts) + '.')
  return '\n'.join(sentences)


def describe_time(rows: Sequence[Row]) -> str:
  """What a step costs, and what ISGD adds to it.

  Args:
    rows: from `collect_rows`.

  Returns:
    One sentence, or nothing where a method is missing.

  Example:
    >>> describe_time([])
    ''
  """
  milliseconds = {
    method: [
      1000 * row.run_seconds / row.num_steps
      for row in rows
      if row.method == method
    ]
    for method in METHOD_TITLES
  }
  if not all(milliseconds.values()):
    return ''
  base, twice, random, isgd = map(statistics.median, milliseconds.values())
  return (
    f'A step takes {base:.2f} ms with the base alone, {twice:.2f} ms with two '
    f'gradient evaluations, {random:.2f} ms with the random trigger and '
    f'{isgd:.2f} ms with ISGD, at the same number of gradient evaluations as '
    'the random trigger.'
  )


def _clause(isgd: Row, other: Row) -> str:
  """How ISGD compares with one other method, and at which cost."""
  seeds = [seed for seed in isgd.accuracy if seed in other.accuracy]
  found = compare_by_seed(
    *({seed: row.accuracy[seed] for seed in seeds} for row in (isgd, other))
  )
  verdict, difference = _WORDS[found.verdict], found.difference.median
  title = {
    'base': f'{other.base_optimizer} alone',
    'twice': 'every batch twice',
    'random': 'the random trigger',
  }[other.method]
  preposition = 'from' if verdict == 'no different' else 'than'
  points = (
    f'{difference:+.1f} points'
    if math.isfinite(difference)
    else 'a median run diverged,'
  )
  evaluations = isgd.num_gradient_evaluations / other.num_gradient_evaluations
  seconds = isgd.run_seconds / other.run_seconds
  return (
    f'{verdict} {preposition} {title} ({points} for {evaluations:.2f}x the '
    f'gradient evaluations and {seconds:.2f}x the time)'
  )


def _details(task: Task) -> str:
  """What a task's accuracy and loss are of, and its sizes."""
  if task.is_stream:
    return (
      f'prequential accuracy and loss; {task.num_segments} segments of '
      f'{task.batches_per_segment} batches, {task.drift} drift, batch size '
      f'{task.batch_size}'
    )
  return (
    f'test accuracy and loss; {task.num_batches} gradient evaluations, '
    f'{task.num_epochs} epochs if one a batch, batch size {task.batch_size}'
  )


def _join(clauses: Sequence[str]) -> str:
  """The clauses as one enumeration."""
  if len(clauses) < 2:
    return ''.join(clauses)
  return ', '.join(clauses[:-1]) + ', and ' + clauses[-1]


def _or_worst(value: float | None, worst: float, scale: float) -> float:
  """The scaled value, or the worst one where a diverged run has none."""
  if value is None or not math.isfinite(value):
    return worst
  return value * scale


def _spread(by_seed: Mapping[int, float], digits: int) -> str:
  """`median [lowest, highest]`; a diverged run is `div.`."""
  values = by_seed.values()

  def show(value: float) -> str:
    return f'{value:.{digits}f}' if math.isfinite(value) else 'div.'

  return (
    f'{show(statistics.median(values))} '
    f'[{show(min(values))}, {show(max(values))}]'
  )
