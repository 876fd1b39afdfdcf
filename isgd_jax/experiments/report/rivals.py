"""Rivals of the chase beside it: those that react, and those always on."""

from collections.abc import Iterable, Mapping, Sequence
import math
import statistics

from isgd_jax.experiments.optimizers.base_optimizers import ALWAYS_ON
from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report.kinds import KINDS
from isgd_jax.experiments.report.kinds import Kind
from isgd_jax.experiments.report.no_momentum import describe_no_momentum
from isgd_jax.experiments.report.over_sgd import over_sgd_table
from isgd_jax.experiments.report.over_sgd import summarize_over_sgd
from isgd_jax.experiments.report.real_streams import BLIND
from isgd_jax.experiments.report.real_streams import DEFAULT
from isgd_jax.experiments.report.real_streams import RowVerdict
from isgd_jax.experiments.report.real_streams import beside
from isgd_jax.experiments.report.real_streams import mean_cell
from isgd_jax.experiments.report.real_streams import mean_ratio
from isgd_jax.experiments.report.real_streams import short
from isgd_jax.experiments.report.rows import Rows
from isgd_jax.experiments.report.strengths import describe_strengths
from isgd_jax.experiments.report.triggers import TRIGGERS
from isgd_jax.experiments.report.triggers import describe_triggers
from isgd_jax.experiments.report.triggers import random_sentence

_BASE = 'adam'
_LEAST_GAIN = 0.01
# Of reactions over the chart that could go into the library, and what each is.
_REACTIONS = {
  'skip': 'skip the batch',
  'reset': 'reset of the base state',
  'reset-moments': 'reset of the moments',
  'reset-count': 'reset of the step count',
  'rewarm-3': 'a rate 3 times as high, coming down over 20 steps',
  'rewarm-10': 'a rate 10 times as high, coming down over 20 steps',
  'shrink': 'a fifth of the way to the initial weights',
  'echo': 'one more base step on the batch',
}
_OURS = {DEFAULT: 'ISGD', BLIND: 'blind ISGD'}
_ALWAYS_ON = (*ALWAYS_ON, 'momo')
# Without momentum: a chase over these, beside a chase over Adam.
_OVER = {'sgd': 'isgd-over-sgd', 'adam-b1-0': 'isgd-over-adam-b1-0'}


def _name_of(method: str) -> str:
  """How a rival is called in a table."""
  for trigger, title in TRIGGERS.items():
    if method.startswith(f'{trigger}-'):
      reaction = method.removeprefix(f'{trigger}-')
      return f'{_OURS.get(reaction, reaction)}, on {title}'
  if method == 'base-decayed':
    return 'a rate that falls to zero'
  if method == _OVER['sgd']:
    return 'ISGD over SGD'
  if method == _OVER['adam-b1-0']:
    return 'ISGD over Adam with b1 = 0'
  if method in (*_ALWAYS_ON, 'sgd'):
    return f'always on: {method}'
  return _OURS.get(method, method)


def rivals_on(
  rows: Rows, task: str, measure: str = 'loss'
) -> dict[str, RowVerdict]:
  """All that was run on a task beside Adam, each against Adam alone.

  Args:
    rows: all rows.
    task: the task.
    measure: of the summaries.

  Returns:
    Verdicts by method, or by optimizer of what is always on.
  """
  adam = rows.get((task, _BASE, 'base'))
  if adam is None:
    return {}
  found = {}
  for (of, base, method), row in rows.items():
    if of != task or (name := _key_of(base, method)) is None:
      continue
    if (verdict := beside(row, adam, measure)) is not None:
      found[name] = verdict
  return found


def _key_of(base: str, method: str) -> str | None:
  """Under which name a row stands beside Adam; None where it does not."""
  if base == _BASE:
    return None if method == 'base' else method
  if method == DEFAULT and base in _OVER:
    return _OVER[base]
  return base if base in (*_ALWAYS_ON, 'sgd') and method == 'base' else None


def _by_rival(
  rows: Rows, tasks: Iterable[str], measure: str = 'loss'
) -> dict[str, list[RowVerdict]]:
  """Of each rival that was run on all of these tasks, its verdicts."""
  of_tasks = [rivals_on(rows, task, measure) for task in tasks]
  if not of_tasks:
    return {}
  common = [m for m in of_tasks[0] if all(m in found for found in of_tasks)]
  return {m: [found[m] for found in of_tasks] for m in common}


def _tasks_with_rivals(rows: Rows, kind: Kind) -> list[str]:
  """Those where more was run than ISGD and its controls."""
  tasks = dict.fromkeys(task for task, _, _ in rows)
  return [
    task
    for task in tasks
    if kind.has_rivals_on(task) and (task, _BASE, 'reset-count') in rows
  ]


def _is_free(found: Sequence[RowVerdict]) -> bool:
  """Whether it took no evaluation more than Adam, on any row."""
  return all(v.evaluation_ratio <= 1 for v in found)


def best_free_cell(rows: Rows, kind: Kind) -> str:
  """Of what takes no extra evaluation, the one with the lowest loss.

  Args:
    rows: all rows.
    kind: of data.

  Returns:
    For a cell; empty where no rival was run.
  """
  tasks = _tasks_with_rivals(rows, kind)
  found = _by_rival(rows, tasks, kind.measure)
  free = {
    m: mean_ratio(vs)
    for m, vs in found.items()
    # An oracle, or a random trigger, is for no user.
    if _is_free(vs) and not m.startswith(('oracle', 'random'))
  }
  if not free or DEFAULT not in found:
    return ''
  best = min(free, key=lambda m: free[m])
  ours = mean_ratio(found[DEFAULT])
  text = (
    f'{_name_of(best)}: {markdown.number(free[best], 3)} '
    f'(ISGD {markdown.number(ours, 3)}, {len(tasks)} rows)'
  )
  beats = free[best] <= min(1, ours) - _LEAST_GAIN
  return f'**{text}**' if beats else text


def describe_rivals(rows: Rows) -> list[str]:
  """What is worth what beside the chase, over Adam.

  Args:
    rows: all rows.

  Returns:
    Paragraphs of Markdown; none where no rival was run.
  """
  summary = summarize_rivals(rows)
  if not summary:
    return []
  kinds = [k for k in KINDS if _tasks_with_rivals(rows, k)]
  return [
    '## Rivals of the chase',
    *summary,
    *filter(None, [over_sgd_table(rows)]),
    *describe_triggers(rows),
    *filter(None, [describe_strengths(rows)]),
    '### Rivals, row by row',
    "The loss over that of the tuned Adam. In S&P 500's, phishing's, water "
    "flow's and approval's batches of 16 or 64 hardly anything can be flagged: "
    "there are 14 to 75 of them, and the chart's window has 50.",
    *(_row_table(rows, kind) for kind in kinds),
  ]


def summarize_rivals(rows: Rows) -> list[str]:
  """The same without its rows.

  Args:
    rows: all rows.

  Returns:
    Paragraphs of Markdown; none where no rival was run.
  """
  kinds = [k for k in KINDS if _tasks_with_rivals(rows, k)]
  if not kinds:
    return []
  by_kind = {
    kind.title: _by_rival(rows, _tasks_with_rivals(rows, kind), kind.measure)
    for kind in kinds
  }
  real = [
    task
    for kind in kinds
    if kind.is_real
    for task in _tasks_with_rivals(rows, kind)
  ]
  return [
    'All over Adam, each tuned alike, five seeds; losses are of the tuned '
    "Adam's, geometric means over the rows, in brackets the worst row. Over "
    "ISGD's own chart: "
    + '; '.join(f'`{m}`, {title}' for m, title in _REACTIONS.items())
    + '. The same on flags from elsewhere: as many as the chart gave in the '
    "same run, on random batches; those of river's ADWIN (where its mean has "
    'risen) and Page-Hinkley (rises), with its defaults; and on digits the '
    'change points themselves. Always on, in place of Adam: Adam with b1 = 0 '
    'and with b1 = b2 = 0.99, `l2-to-start` (L2 towards the initial weights), '
    'shrink-and-perturb, UPGD, of `optax.contrib` what finds its own rate, and '
    'SGD, which ISGD is shown over too. '
    'Never worse: as above, on the real rows. Evaluations are the cost; '
    'nothing is said of seconds, for other work ran beside these.',
    _sentence(by_kind, _by_rival(rows, real)),
    _summary_table(by_kind, _by_rival(rows, real)),
    random_sentence(rows, real, _BASE),
    *filter(None, [describe_no_momentum(rows), summarize_over_sgd(rows)]),
  ]


def _sentence(
  by_kind: Mapping[str, Mapping[str, Sequence[RowVerdict]]],
  on_real: Mapping[str, Sequence[RowVerdict]],
) -> str:
  """Which rivals beat the chase, and which reaction is worth having."""
  parts = []
  for title, found in by_kind.items():
    if DEFAULT not in found:
      continue
    ours = mean_ratio(found[DEFAULT])
    beaten_by = sorted(
      (mean, m)
      for m, vs in found.items()
      if _is_free(vs)
      and not m.startswith(('oracle', 'random'))
      and (mean := mean_ratio(vs)) <= min(1, ours) - _LEAST_GAIN
    )
    if beaten_by:
      names = ', '.join(f'`{m}` ({x:.3f})' for x, m in beaten_by)
      parts.append(f'{title} (ISGD {ours:.3f}): {names}')
  text = (
    '**Where a rival at no extra evaluation beats the chase**, by 1 % or more: '
    + ('; '.join(parts) if parts else 'nowhere')
    + '.'
  )
  found_worth, beyond_chance = [], []
  for title, found in by_kind.items():
    for m in _REACTIONS:
      if m not in found or (mean := mean_ratio(found[m])) > 1 - _LEAST_GAIN:
        continue
      control = found.get(f'random-{m}')
      if control is None:
        beside_it = 'no control'
      else:
        by_chance = mean_ratio(control)
        beside_it = f'on random batches {by_chance:.3f}'
        if mean <= (1 - _LEAST_GAIN) * by_chance:
          beyond_chance.append(f'`{m}` on "{title}"')
      found_worth.append(f'`{m}` on "{title}" ({mean:.3f}; {beside_it})')
  harm = [
    f'`{m}` ({sum(v.is_never_worse for v in on_real[m])} of {len(on_real[m])})'
    for m in _REACTIONS
    if m in on_real
  ]
  text += (
    ' **Which reaction is worth becoming one of the library**: over the chart, '
    'at least 1 % below Adam '
    + (f'are {", ".join(found_worth)}' if found_worth else 'is none')
    + '. By 1 % or more beyond what it gains on as many random batches: '
    + (', '.join(beyond_chance) if beyond_chance else 'none')
    + f'. Never worse than Adam on real rows: {", ".join(harm)}'
  )
  if DEFAULT in on_real:
    num_ours = sum(v.is_never_worse for v in on_real[DEFAULT])
    text += f'; ISGD {num_ours} of {len(on_real[DEFAULT])}'
  return text + '.'


def _summary_table(
  by_kind: Mapping[str, Mapping[str, Sequence[RowVerdict]]],
  on_real: Mapping[str, Sequence[RowVerdict]],
) -> str:
  """A line for each rival, best on real data first."""
  rivals = dict.fromkeys(m for found in by_kind.values() for m in found)

  def place(method: str) -> float:
    return mean_ratio(on_real[method]) if method in on_real else math.inf

  lines = []
  for method in sorted(rivals, key=place):
    cells = []
    for found in by_kind.values():
      verdicts = found.get(method)
      if verdicts is None:
        cells.append('')
        continue
      cells.append(mean_cell(verdicts))
    everywhere = [
      v for found in by_kind.values() for v in found.get(method, ())
    ]
    spent = statistics.median(v.evaluation_ratio for v in everywhere)
    judged = on_real.get(method, ())
    cells.append(f'{spent:.2f}')
    cells.append(
      f'{sum(v.is_never_worse for v in judged)} of {len(judged)}'
      if judged
      else ''
    )
    lines.append([_name_of(method), *cells])
  header = [
    'rival',
    *by_kind,
    *('evaluations', 'never worse'),
  ]
  return markdown.markdown_table(header, lines)


def _row_table(rows: Rows, kind: Kind) -> str:
  """Every row of a kind: rivals down, tasks across."""
  tasks = _tasks_with_rivals(rows, kind)
  of_tasks = {task: rivals_on(rows, task) for task in tasks}
  names = dict.fromkeys(m for found in of_tasks.values() for m in found)
  lines = [
    [
      _name_of(method),
      *(
        markdown.number(found[method].ratio.median, 3)
        if method in found
        else ''
        for found in of_tasks.values()
      ),
    ]
    for method in names
  ]
  return markdown.markdown_table(
    [kind.title, *(short(task) for task in tasks)], lines
  )
