"""Rivals beside the chase: who is lower is said, and at which cost."""

import pytest

from isgd_jax.experiments.report import command
from isgd_jax.experiments.report import opening
from isgd_jax.experiments.report import rivals
from isgd_jax.experiments.report.findings import read_findings
from isgd_jax.experiments.runs import rivals as tasks_of
from tests.experiments.report import synthetic

TASKS = {task.name.partition('/')[2]: task for task in tasks_of.TABLES}
ONES = (1.0, 1.0, 1.0)


@pytest.fixture
def folder(tmp_path):
  return synthetic.Folder(tmp_path)


def fill(folder, **losses):
  """Two real rows over Adam; a rival's losses are alike on both."""
  for name in ('elec2-1', 'phishing-1'):
    task = TASKS[name]
    folder.row(task, 'adam', 'base', ONES)
    for method, of in (
      {'isgd-probation': 0.9, 'reset-count': 1.1} | losses
    ).items():
      rival = method.replace('_', '-')
      spent = {'num_gradient_evaluations': 480} if rival == 'echo' else {}
      folder.row(
        task,
        rival if rival in ('upgd', 'dog') else 'adam',
        'base' if rival in ('upgd', 'dog') else rival,
        (of, of, of),
        workload='always-on' if rival in ('upgd', 'dog') else 'real-rivals',
        **spent,
      )


def rows_of(folder):
  return command._everything(read_findings(folder.path))


def told(folder):
  return '\n\n'.join(rivals.describe_rivals(rows_of(folder)))


def test_a_rival_at_no_extra_evaluation_that_beats_the_chase_is_named(folder):
  fill(folder, rewarm_3=0.8, echo=0.7, upgd=0.85)
  text = told(folder)
  # The echo takes evaluations, so it is no such rival.
  assert (
    'beats the chase**, by 1 % or more: tables in time order, classification, '
    'batches of 1 or 4 (ISGD 0.900): `rewarm-3` (0.800), `upgd` (0.850).'
  ) in text
  assert (
    'at least 1 % below Adam are `rewarm-3` on "tables in time order, '
    'classification, batches of 1 or 4" (0.800; no control), `echo` on'
  ) in text
  assert '`reset-count` (0 of 2)' in text
  assert '; ISGD 2 of 2.' in text
  assert '| always on: upgd | 0.850 (0.85) | 1.00 | 2 of 2 |' in text
  assert '| echo | 0.700 (0.70) | 1.20 | 2 of 2 |' in text
  table = opening.verdict_table(rows_of(folder))
  assert '**rewarm-3: 0.800 (ISGD 0.900, 2 rows)** |' in table


def test_where_none_does_that_is_said(folder):
  fill(folder, rewarm_3=0.895, dog=2.0)
  text = told(folder)
  assert 'beats the chase**, by 1 % or more: nowhere.' in text
  table = opening.verdict_table(rows_of(folder))
  assert '| rewarm-3: 0.895 (ISGD 0.900, 2 rows) |' in table


def test_an_oracle_and_random_flags_are_no_recommendation(folder):
  fill(folder, random_reset=0.5, reset=0.6)
  text = told(folder)
  assert '`random-reset`' not in text
  assert 'reset +20.0 % (lower by all seeds in 0, higher in 2 of 2)' in text
  assert '| reset, on as many random batches | 0.500' in text


@pytest.mark.parametrize(
  ('by_chance', 'is_beyond'), [(0.905, False), (0.93, True)]
)
def test_a_reaction_is_held_against_as_many_random_batches(
  folder, by_chance, is_beyond
):
  fill(folder, echo=0.9, random_echo=by_chance)
  text = told(folder)
  assert f'(0.900; on random batches {by_chance:.3f})' in text
  beyond = text.partition('as many random batches: ')[2]
  assert beyond.startswith('`echo` on "tables' if is_beyond else 'none.')


def test_a_rival_that_lacks_a_row_is_in_no_mean(folder):
  fill(folder)
  folder.row(
    TASKS['elec2-1'], 'adam', 'shrink', (0.1, 0.1), workload='real-rivals'
  )
  text = told(folder)
  summary, _, by_row = text.partition('### Rivals, row by row')
  assert '| shrink |' not in summary
  assert '| shrink | 0.100 |  |' in by_row


def test_without_rivals_nothing_is_told(folder):
  folder.row(TASKS['elec2-1'], 'adam', 'base', ONES)
  folder.row(TASKS['elec2-1'], 'adam', 'isgd-probation', ONES)
  assert rivals.describe_rivals(rows_of(folder)) == []
  assert '| met |' not in opening.verdict_table(rows_of(folder))


def test_sgd_and_isgd_over_it_stand_beside_adam(folder):
  fill(folder)
  for name in ('elec2-1', 'phishing-1'):
    folder.row(TASKS[name], 'sgd', 'base', (0.5, 0.5, 0.5))
    folder.row(TASKS[name], 'sgd', 'isgd-probation', (0.4, 0.4, 0.4))
    folder.row(TASKS[name], 'momentum', 'base', (0.3, 0.3, 0.3))
  text = told(folder)
  assert '`sgd` (0.500)' in text
  assert '| always on: sgd | 0.500 (0.50) | 1.00 | 2 of 2 |' in text
  assert '| ISGD over SGD | 0.400 (0.40) |' in text
  assert '0.300' not in text
