"""What the chase adds to bases without momentum, which do best on streams."""

from collections.abc import Sequence

from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report.kinds import KINDS
from isgd_jax.experiments.report.kinds import Kind
from isgd_jax.experiments.report.real_streams import DEFAULT
from isgd_jax.experiments.report.real_streams import RowVerdict
from isgd_jax.experiments.report.real_streams import mean_cell
from isgd_jax.experiments.report.real_streams import row_verdict
from isgd_jax.experiments.report.rows import Rows

_BASES = {'sgd': 'SGD', 'adam-b1-0': 'Adam with b1 = 0', 'adam': 'Adam'}


def describe_no_momentum(rows: Rows) -> str:
  """The chase over SGD and over Adam with b1 = 0, each against it alone.

  Args:
    rows: all rows.

  Returns:
    Markdown; empty where the chase was not run over Adam with b1 = 0.
  """
  lines = [line for kind in KINDS for line in _lines(rows, kind)]
  if not lines:
    return ''
  text = (
    '**Over a base without momentum**: losses of the chase over a base are of '
    'that base alone, geometric means over the rows on which all three were '
    'run, in brackets the worst row; evaluations likewise, the most on a row.'
  )
  header = [
    *('data', 'base', 'the chase over it', 'never worse', 'evaluations'),
    'rows',
  ]
  return f'{text}\n\n{markdown.markdown_table(header, lines)}'


def _lines(rows: Rows, kind: Kind) -> list[list[str]]:
  """A line for each base, over the rows that all bases have."""
  tasks = dict.fromkeys(t for t, _, _ in rows if kind.has_rivals_on(t))
  of_task = {
    task: [
      row_verdict(rows, task, base, DEFAULT, kind.measure) for base in _BASES
    ]
    for task in tasks
  }
  common = [found for found in of_task.values() if None not in found]
  if not common:
    return []
  return [
    [
      kind.title,
      _BASES[base],
      *_cells([v for found in common if (v := found[i]) is not None]),
    ]
    for i, base in enumerate(_BASES)
  ]


def _cells(verdicts: Sequence[RowVerdict]) -> list[str]:
  return [
    mean_cell(verdicts),
    f'{sum(v.is_never_worse for v in verdicts)} of {len(verdicts)}',
    f'{max(v.evaluation_ratio for v in verdicts):.2f}',
    f'{len(verdicts)}',
  ]
