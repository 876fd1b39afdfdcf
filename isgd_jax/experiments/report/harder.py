"""Wrong labels, real time, and the dose of probation, in tables."""

from collections.abc import Sequence
import statistics

from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report.real_streams import BLIND
from isgd_jax.experiments.report.real_streams import DEFAULT
from isgd_jax.experiments.report.real_streams import RowVerdict
from isgd_jax.experiments.report.real_streams import mean_ratio
from isgd_jax.experiments.report.real_streams import percent
from isgd_jax.experiments.report.real_streams import row_verdict
from isgd_jax.experiments.report.real_streams import short
from isgd_jax.experiments.report.rows import Rows
from isgd_jax.experiments.runs.methods import DOSES

_WRONG, _REAL_TIME, _DOSES = 'wrong-labels/', 'real-time/', 'doses/'
_TITLES = {DEFAULT: 'ISGD', BLIND: 'blind ISGD'}


def _pairs(rows: Rows, prefix: str) -> list[tuple[str, str]]:
  """Tasks and base optimizers."""
  return [
    (task, base)
    for task, base, method in rows
    if method == 'base' and task.startswith(prefix)
  ]


def _num_holding(found: Sequence[RowVerdict]) -> str:
  """How many rows hold."""
  num_failing = sum(not v.is_never_worse for v in found)
  return f'in {len(found) - num_failing} of {len(found)} rows'


def _failing(found: Sequence[RowVerdict]) -> str:
  """How many rows hold, and the names of those that do not."""
  failing = [v for v in found if not v.is_never_worse]
  text = _num_holding(found)
  if failing:
    names = ', '.join(
      f'{v.name} ({percent(v.ratio.median)})'
      for v in sorted(failing, key=lambda v: -v.ratio.median)
    )
    text += f', and fails in: {names}'
  return text


def describe_wrong_labels(rows: Rows) -> list[str]:
  """Streams some of whose batches have random labels.

  Args:
    rows: all rows.

  Returns:
    Paragraphs of Markdown; none without rows.
  """
  pairs = _pairs(rows, _WRONG)
  if not pairs:
    return []
  measures = {'right_loss': 'right', 'loss': 'all'}
  methods = [DEFAULT, BLIND, 'twice', 'skip']
  # Of an optimizer that has no count it is the base alone.
  if any((*pair, 'reset-count') in rows for pair in pairs):
    methods.append('reset-count')
  sentences = []
  for method in (m for m in methods if m != 'twice'):
    for measure, title in measures.items():
      found = [
        v
        for task, base in pairs
        if (v := row_verdict(rows, task, base, method, measure)) is not None
      ]
      if found:
        told = _failing(found) if method == DEFAULT else _num_holding(found)
        sentences.append(
          f'{_TITLES.get(method, method)} on {title} batches is never worse '
          f'{told}.'
        )
  lines = []
  for task, base in pairs:
    cells = [f'{short(task)} {base}']
    alone = rows[task, base, 'base']
    cells.append(markdown.number(alone.median('right_loss'), 3))
    for method in methods:
      for measure in measures:
        v = row_verdict(rows, task, base, method, measure)
        if v is None:
          cells.append('')
        elif method == DEFAULT:
          cells.append(markdown.spread(v.ratio, 3))
        else:
          cells.append(markdown.number(v.ratio.median, 3))
    v = row_verdict(rows, task, base, DEFAULT)
    cells.append('' if v is None else f'{v.evaluation_ratio:.2f}')
    lines.append(cells)
  header = ['stream, batch, % wrong, base', 'base: loss on right']
  header += [
    f'{_TITLES.get(method, method)}, {title}'
    for method in methods
    for title in measures.values()
  ]
  header.append('ISGD: evaluations')
  return [
    '## Batches of random labels (`wrong-labels`)',
    'So many percent of the batches of a stream have labels that are drawn at '
    'random; the share is made by us, the tables are real. Rates are tuned on '
    "all batches, as a user would. Losses are of the base's, on the batches "
    'whose labels are right and on all. ' + ' '.join(sentences),
    markdown.markdown_table(header, lines),
  ]


def describe_real_time(rows: Rows) -> list[str]:
  """Where each evaluation beyond the first costs a batch.

  Args:
    rows: all rows.

  Returns:
    Paragraphs of Markdown; none without rows.
  """
  pairs = _pairs(rows, _REAL_TIME)
  if not pairs:
    return []
  methods = ('twice', DEFAULT, BLIND)
  by_method: dict[str, list[RowVerdict]] = {}
  lines = []
  for task, base in pairs:
    cells = [f'{short(task)} {base}']
    cells.append(markdown.number(rows[task, base, 'base'].median('loss'), 3))
    for method in methods:
      v = row_verdict(rows, task, base, method)
      cells.append('' if v is None else markdown.spread(v.ratio, 3))
      if v is not None:
        by_method.setdefault(method, []).append(v)
    lines.append(cells)
  means = ', '.join(
    f'{_TITLES.get(method, method)} {mean_ratio(found):.3f}'
    for method, found in by_method.items()
  )
  text = (
    'The stream does not wait (Ghunaim et al., '
    '[arXiv:2302.01047](https://arxiv.org/abs/2302.01047)): a step that took k '
    'evaluations leaves the next k - 1 batches predicted and untrained on, so '
    'all methods spend the same evaluations and every batch twice trains on '
    f"half of them. Loss of the base's, geometric means: {means}."
  )
  if DEFAULT in by_method:
    text += f' ISGD is never worse {_failing(by_method[DEFAULT])}.'
  header = ['stream, batch, base', 'base: loss']
  header += [_TITLES.get(method, method) for method in methods]
  return [
    '## In real time (`real-time`)',
    text,
    markdown.markdown_table(header, lines),
  ]


def describe_doses(rows: Rows) -> list[str]:
  """Probation with one number changed.

  Args:
    rows: of the ablation of probation.

  Returns:
    Paragraphs of Markdown; none without rows.
  """
  pairs = _pairs(rows, _DOSES)
  if not pairs:
    return []
  lines = []
  for method in (DEFAULT, *(m.name for m in DOSES), BLIND):
    found = [row_verdict(rows, task, base, method) for task, base in pairs]
    present = [v for v in found if v is not None]
    if not present:
      continue
    whole = len(present) == len(pairs)
    mean = mean_ratio(present)
    spent = statistics.median(v.evaluation_ratio for v in present)
    name = 'ISGD: 4 batches, 0.98' if method == DEFAULT else method
    lines.append(
      [
        'blind ISGD' if method == BLIND else name,
        *(
          '' if v is None else markdown.number(v.ratio.median, 3) for v in found
        ),
        markdown.number(mean, 3) if whole else '',
        f'{sum(v.is_never_worse for v in present)} of {len(present)}',
        f'{spent:.2f}',
      ]
    )
  header = ['dose', *(f'{short(task)} {base}' for task, base in pairs)]
  header += ['geometric mean', 'never worse', 'evaluations']
  return [
    '## The dose of probation (`doses`)',
    "Loss of the base's, medians over three seeds, each variant tuned alike. "
    '`judged-by-m` has m batches judge a chase (the library: 4), '
    '`forgetting-x` keeps x % of the record a judged chase (98), '
    '`starts-trusting` lets chases lead until two are judged, while they have '
    'lost nothing.',
    markdown.markdown_table(header, lines),
  ]
