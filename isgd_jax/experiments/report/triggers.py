"""Whether it matters which batches are flagged: reactions on other flags."""

from collections.abc import Mapping, Sequence

from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report.kinds import KINDS
from isgd_jax.experiments.report.kinds import Kind
from isgd_jax.experiments.report.real_streams import BLIND
from isgd_jax.experiments.report.real_streams import RowVerdict
from isgd_jax.experiments.report.real_streams import beside
from isgd_jax.experiments.report.real_streams import mean_cell
from isgd_jax.experiments.report.real_streams import mean_ratio
from isgd_jax.experiments.report.real_streams import percent
from isgd_jax.experiments.report.real_streams import row_verdict
from isgd_jax.experiments.report.rows import Rows
from isgd_jax.experiments.runs.rivals import TRIGGERED_OVER_SGD

TRIGGERS = {
  'random': 'as many random batches',
  'adwin': 'ADWIN',
  'page-hinkley': 'Page-Hinkley',
  'oracle': 'the change points',
}
_BASES = {'sgd': 'SGD', 'momentum': 'momentum'}
_COLUMNS = ('random', 'adwin', 'page-hinkley')
_TITLES = {BLIND: 'blind ISGD'}
# SGD has no state to reset.
_NOT_OVER = {'sgd': ('reset',)}


def random_sentence(rows: Rows, tasks: Sequence[str], base: str) -> str:
  """A reaction on the chart's flags against the same on as many random ones.

  Args:
    rows: all rows.
    tasks: to say it of.
    base: the base optimizer.

  Returns:
    A paragraph; empty where no reaction was run on random batches.
  """
  reactions = dict.fromkeys(
    method.removeprefix('random-')
    for _, of, method in rows
    if of == base and method.startswith('random-')
  )
  parts = []
  for method in reactions:
    ours = [
      v
      for task in tasks
      if (
        (row := rows.get((task, base, method))) is not None
        and (other := rows.get((task, base, f'random-{method}'))) is not None
        and (v := beside(row, other)) is not None
      )
    ]
    if ours:
      lower = sum(v.difference.high < 0 for v in ours)
      higher = sum(v.difference.low > 0 for v in ours)
      parts.append(
        f'{_TITLES.get(method, method)} {percent(mean_ratio(ours))} (lower by '
        f'all seeds in {lower}, higher in {higher} of {len(ours)})'
      )
  if not parts:
    return ''
  return (
    '**Does the chart matter?** The loss on its flags against that on as many '
    'random batches, on real rows: ' + '; '.join(parts) + '. A random batch '
    'below the mean is not chased.'
  )


def describe_triggers(rows: Rows) -> list[str]:
  """Reactions over SGD and momentum, on the chart's flags and on others.

  Args:
    rows: all rows.

  Returns:
    Paragraphs of Markdown; none where none was run on other flags.
  """
  lines = []
  for kind in KINDS:
    for base, title in _BASES.items():
      for reaction in _reactions(base):
        found = _verdicts(rows, kind, base, reaction)
        if found:
          cells = [mean_cell(found[c]) if c in found else '' for c in _COLUMNS]
          lines.append(
            [
              *(kind.title, title, _TITLES.get(reaction, reaction)),
              *(mean_cell(found['']), *cells, f'{len(found[""])}'),
            ]
          )
  header = ['loss of the base, mean (worst row)', 'base', 'reaction']
  header += ['on the chart', *(f'on {TRIGGERS[c]}' for c in _COLUMNS), 'rows']
  if not lines:
    return []
  return [
    'Reactions over SGD and momentum, on the flags of the chart and on those '
    'of others. Where a detector flags nothing, the loss is '
    'that of the base.',
    markdown.markdown_table(header, lines),
  ]


def _reactions(base: str) -> list[str]:
  """What was run over a base on flags of other origin, each once."""
  of_all = dict.fromkeys(
    method.removeprefix(f'{trigger}-')
    for trigger in _COLUMNS
    for method in TRIGGERED_OVER_SGD
    if method.startswith(f'{trigger}-')
  )
  return [m for m in of_all if m not in _NOT_OVER.get(base, ())]


def _verdicts(
  rows: Rows, kind: Kind, base: str, reaction: str
) -> Mapping[str, Sequence[RowVerdict]]:
  """By trigger, '' for the chart, on the tasks where all of them were run."""
  methods = {'': reaction} | {
    trigger: name
    for trigger in _COLUMNS
    if (name := f'{trigger}-{reaction}') in TRIGGERED_OVER_SGD
  }
  tasks = dict.fromkeys(
    task for task, of, _ in rows if of == base and kind.has_rivals_on(task)
  )
  common = []
  for task in tasks:
    found = {
      trigger: row_verdict(rows, task, base, method, kind.measure)
      for trigger, method in methods.items()
    }
    if None not in found.values():
      common.append(found)
  return {t: [f[t] for f in common] for t in methods} if common else {}
