"""What reacts for free over SGD and momentum, beside the chase over them."""

from collections.abc import Mapping, Sequence

from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report.kinds import KINDS
from isgd_jax.experiments.report.kinds import Kind
from isgd_jax.experiments.report.real_streams import DEFAULT
from isgd_jax.experiments.report.real_streams import RowVerdict
from isgd_jax.experiments.report.real_streams import mean_cell
from isgd_jax.experiments.report.real_streams import mean_ratio
from isgd_jax.experiments.report.real_streams import row_verdict
from isgd_jax.experiments.report.rows import Rows
from isgd_jax.experiments.runs.rivals import RIVALS_OVER_SGD

_BASES = {'sgd': 'SGD', 'momentum': 'momentum'}
_TITLES = {
  DEFAULT: 'ISGD',
  'base-decayed': 'rate falls to zero',
  'skip': 'skip',
  'reset': 'reset',
  'rewarm-3': 'rewarm-3',
  'shrink': 'shrink',
}
# SGD has no state to reset.
_NOT_OVER = {'sgd': ('reset',)}
_LEAST_GAIN = 0.01

_Found = Mapping[str, Sequence[RowVerdict]]


def summarize_over_sgd(rows: Rows) -> str:
  """Which free rival over SGD or momentum beats the chase over it.

  Args:
    rows: all rows.

  Returns:
    A paragraph; empty where no rival was run over them.
  """
  groups = _groups(rows)
  if not groups:
    return ''
  beaten = [
    f'`{m}` over {_BASES[base]} on "{title}" ({mean_ratio(found[m]):.3f}; ISGD '
    f'{mean_ratio(found[DEFAULT]):.3f})'
    for title, base, found in groups
    for m in _better(found)
  ]
  everywhere: dict[str, list[RowVerdict]] = {}
  for _, _, found in groups:
    for method, verdicts in found.items():
      everywhere.setdefault(method, []).extend(verdicts)
  harm = ', '.join(
    f'{_TITLES[m]} {sum(v.is_never_worse for v in vs)} of {len(vs)}'
    for m, vs in everywhere.items()
  )
  return (
    '**Rivals over SGD and momentum**, at no extra evaluation; losses are of '
    'the base alone, geometric means. By 1 % or more beyond both the base and '
    f'the chase over it: {"; ".join(beaten) or "none"}'
    f'. Never worse than the base: {harm}. A rate that falls to zero has to '
    "know the stream's length. SGD has no state, so a reset of any part leaves "
    'it as it is; momentum has no count, and its moments are all of its state.'
  )


def over_sgd_table(rows: Rows) -> str:
  """The same kind by kind; in bold what beats the base and the chase over it.

  Args:
    rows: all rows.

  Returns:
    Markdown; empty where no rival was run over them.
  """
  groups = _groups(rows)
  if not groups:
    return ''
  lines = [
    [title, _BASES[base], *_cells(found), f'{len(found[DEFAULT])}']
    for title, base, found in groups
  ]
  header = ['loss of the base, mean (worst row)', 'base', *_TITLES.values()]
  header.append('rows')
  return markdown.markdown_table(header, lines)


def _groups(rows: Rows) -> list[tuple[str, str, _Found]]:
  """Kinds of data and bases, with what was run on all of their tasks."""
  return [
    (kind.title, base, found)
    for kind in KINDS
    for base in _BASES
    if (found := _verdicts(rows, kind, base))
  ]


def _verdicts(rows: Rows, kind: Kind, base: str) -> _Found:
  """Of each method, on the tasks where all of them were run."""
  methods = [m for m in _TITLES if m not in _NOT_OVER.get(base, ())]
  tasks = dict.fromkeys(
    task
    for task, of, method in rows
    if of == base and method in RIVALS_OVER_SGD and kind.has_rivals_on(task)
  )
  common = [
    found
    for task in tasks
    if None
    not in (
      found := [row_verdict(rows, task, base, m, kind.measure) for m in methods]
    )
  ]
  if not common:
    return {}
  return {
    method: [v for found in common if (v := found[i]) is not None]
    for i, method in enumerate(methods)
  }


def _better(found: _Found) -> list[str]:
  """What is lower than both the base and the chase over it, lowest first."""
  least = min(1, mean_ratio(found[DEFAULT])) - _LEAST_GAIN
  better = [m for m in found if m != DEFAULT and mean_ratio(found[m]) <= least]
  return sorted(better, key=lambda m: mean_ratio(found[m]))


def _cells(found: _Found) -> list[str]:
  better, cells = _better(found), []
  for method in _TITLES:
    if method not in found:
      cells.append('')
      continue
    text = mean_cell(found[method])
    cells.append(f'**{text}**' if method in better else text)
  return cells
