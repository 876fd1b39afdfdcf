"""Rivals that are always on, their strength tuned too, beside the chase."""

from typing import NamedTuple

from isgd_jax.experiments.optimizers.strengths import STRENGTHS
from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report.real_streams import DEFAULT
from isgd_jax.experiments.report.real_streams import beside
from isgd_jax.experiments.report.real_streams import short
from isgd_jax.experiments.report.rows import Row
from isgd_jax.experiments.report.rows import Rows

_ADAM = 'adam'
_LEAST_GAIN = 0.01


class _Cell(NamedTuple):
  """A rival on a table: losses of the tuned Adam's.

  Attributes:
    fixed: at its own strength.
    tuned: at the strength that the tuning seeds chose.
    factor: that strength, of its own.
    isgd: of ISGD over Adam.
  """

  fixed: float
  tuned: float
  factor: float
  isgd: float

  def __str__(self) -> str:
    """Both, and what was chosen."""
    fixed, tuned = (markdown.number(x, 3) for x in (self.fixed, self.tuned))
    return f'{fixed} to {tuned} ({self.factor:g})'


def describe_strengths(rows: Rows) -> str:
  """What a tuned strength adds to those rivals that have one.

  Args:
    rows: all rows.

  Returns:
    Markdown; empty where no other strength was run.
  """
  tasks = dict.fromkeys(task for task, base, _ in rows if base in STRENGTHS)
  rivals = dict.fromkeys(strength.of for strength in STRENGTHS.values())
  found = {
    (rival, task): cell
    for rival in rivals
    for task in tasks
    if (cell := _cell(rows, task, rival)) is not None
  }
  if not found:
    return ''
  cells = list(found.values())
  num_lower = sum(c.tuned <= c.fixed - _LEAST_GAIN for c in cells)
  beaten = [
    sum(
      x <= min(1, c.isgd) - _LEAST_GAIN for c, x in zip(cells, of, strict=True)
    )
    for of in ([c.fixed for c in cells], [c.tuned for c in cells])
  ]
  text = (
    "**With the strength tuned too**: the loss, of the tuned Adam's, at the "
    'strength that all other tables have, and after "to" at the best of a '
    'tenth, one and ten times it (in brackets; of weight decay and noise '
    'alike), chosen '
    'with the rate, on the tuning seeds, in three times the runs that others '
    'are tuned with. Tuned, the loss is lower by 0.01 or '
    f"more in {num_lower} of {len(cells)} cells; below both Adam's and ISGD's "
    f'by as much are {beaten[0]} before and {beaten[1]} after.'
  )
  shown = [task for task in tasks if any(t == task for _, t in found)]
  lines = [
    [rival, *(str(found.get((rival, task), '')) for task in shown)]
    for rival in rivals
  ]
  ours = [
    next(c.isgd for (_, t), c in found.items() if t == task) for task in shown
  ]
  lines.append(['ISGD', *(markdown.number(x, 3) for x in ours)])
  table = markdown.markdown_table(
    ['rival', *(short(task) for task in shown)], lines
  )
  return f'{text}\n\n{table}'


def _cell(rows: Rows, task: str, rival: str) -> _Cell | None:
  """None where any of its strengths, ISGD or Adam was not run."""
  adam, isgd = (rows.get((task, _ADAM, m)) for m in ('base', DEFAULT))
  by_factor = {1.0: rows.get((task, rival, 'base'))} | {
    strength.factor: rows.get((task, name, 'base'))
    for name, strength in STRENGTHS.items()
    if strength.of == rival
  }
  strengths = {f: row for f, row in by_factor.items() if row is not None}
  if adam is None or isgd is None or len(strengths) < len(by_factor):
    return None
  # As it is, where others are no better.
  factor = min(strengths, key=lambda f: strengths[f].tuning_loss)
  return _Cell(
    fixed=_ratio(strengths[1.0], adam),
    tuned=_ratio(strengths[factor], adam),
    factor=factor,
    isgd=_ratio(isgd, adam),
  )


def _ratio(row: Row, adam: Row) -> float:
  """The median over the seeds of the loss ratio."""
  verdict = beside(row, adam)
  assert verdict is not None, (row.task, row.base)
  return verdict.ratio.median
