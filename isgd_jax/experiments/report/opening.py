"""The table that RESULTS.md opens with: what to use on which data."""

from collections.abc import Mapping, Sequence
import statistics

from isgd_jax.experiments.optimizers.base_optimizers import ALWAYS_ON
from isgd_jax.experiments.optimizers.strengths import STRENGTHS
from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report import rivals
from isgd_jax.experiments.report import verdicts
from isgd_jax.experiments.report.kinds import KINDS
from isgd_jax.experiments.report.kinds import Kind
from isgd_jax.experiments.report.real_streams import BLIND
from isgd_jax.experiments.report.real_streams import DEFAULT
from isgd_jax.experiments.report.real_streams import RowVerdict
from isgd_jax.experiments.report.real_streams import mean_ratio
from isgd_jax.experiments.report.real_streams import percent
from isgd_jax.experiments.report.real_streams import row_verdict
from isgd_jax.experiments.report.rows import Rows

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
      and kind.has(task)
      and base not in (*ALWAYS_ON, *STRENGTHS)
    ]
    found = {
      method: all_of
      for method in (*_CHOICES, 'twice')
      if (
        all_of := [
          v
          for task, base in pairs
          if (v := row_verdict(rows, task, base, method, kind.measure))
          is not None
        ]
      )
    }
    if not found.keys() & _CHOICES.keys():
      missing.append(kind.title)
      continue
    lines.append(
      [*_verdict_line(kind, found), rivals.best_free_cell(rows, kind)]
    )
  if not lines:
    return ''
  header = [
    *('your data', 'use', 'its loss, best to worst row', 'evaluations'),
    *(f'{title}: loss' for title in ('ISGD', 'blind', 'twice', 'skip')),
    *('reset: loss', 'rows', 'best rival at no extra evaluation'),
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
    'was not run on all. The last column has, over Adam and its tuned rivals '
    'alone, the rival that takes no extra evaluation and has the lowest loss, '
    'and beside it what ISGD has on the same rows; bold where the rival is '
    'lower by 1 % or more, and at least 1 % below Adam.'
  )
  if missing:
    text += f' No records yet of: {"; ".join(missing)}.'
  return text


def _verdict_line(
  kind: Kind, found: Mapping[str, Sequence[RowVerdict]]
) -> list[str]:
  """One kind of data."""
  losses = {method: mean_ratio(all_of) for method, all_of in found.items()}
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
      f'{percent(losses[best])} ({percent(min(ratios))} to '
      f'{percent(max(ratios))})'
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
