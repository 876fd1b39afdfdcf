"""Real streams in the report: who fails is named, what is missing is left."""

import dataclasses

import pytest

from isgd_jax.experiments.report import real_streams
from isgd_jax.experiments.report.command import report
from isgd_jax.experiments.report.findings import read_findings
from isgd_jax.experiments.runs import real_streams as tasks_of
from isgd_jax.experiments.runs.records import Store
from tests.experiments.report import synthetic

TASKS = {task.name.partition('/')[2]: task for task in tasks_of.TASKS}


@pytest.fixture
def folder(tmp_path):
  return synthetic.Folder(tmp_path)


def described(folder):
  (finding,) = read_findings(folder.path)
  return '\n\n'.join(
    real_streams.describe_real_streams(finding.rows, finding.no_change)
  )


def test_the_rows_that_fail_are_named(folder):
  for name, losses in {
    'elec2-1': (0.5, 0.6, 0.7),
    'sp500-1': (1.2, 1.3, 1.4),
    'water-flow-4': (1.005, 0.99, 1.2),
  }.items():
    folder.row(TASKS[name], 'adam', 'base', (1.0, 1.0, 1.0))
    folder.row(TASKS[name], 'adam', 'isgd-probation', losses)
  text = described(folder)
  assert 'never worse in 2 of 3 rows, and better by all seeds in 1' in text
  assert 'fails in: sp500-1 adam (+30.0 %).' in text
  assert '0.600 [0.500, 0.700]' in text
  assert text.count('| met |') == 2
  assert text.count('**missed** |') == 1
  # No run of the blind chase, no sentence of it.
  assert 'Blind' not in text


@pytest.mark.parametrize(
  ('losses', 'is_met'),
  [
    # All seeds agree that it is worse, by a little.
    ((1.001, 1.002, 1.003), False),
    # They do not, but the median is too far up.
    ((0.99, 1.02, 1.03), False),
    ((0.99, 1.009, 1.03), True),
    ((None, None, 0.9), False),
  ],
)
def test_never_worse_takes_both_the_interval_and_the_median(
  folder, losses, is_met
):
  folder.row(TASKS['elec2-1'], 'sgd', 'base', (1.0, 1.0, 1.0))
  folder.row(TASKS['elec2-1'], 'sgd', 'isgd-probation', losses)
  (finding,) = read_findings(folder.path)
  verdict = real_streams.row_verdict(
    finding.rows, 'real-streams/elec2-1', 'sgd', 'isgd-probation'
  )
  assert verdict is not None
  assert verdict.is_never_worse == is_met


def test_one_seed_is_undecided(folder):
  folder.row(TASKS['elec2-1'], 'sgd', 'base', (1.0,))
  folder.row(TASKS['elec2-1'], 'sgd', 'isgd-probation', (2.0,))
  text = described(folder)
  assert '| undecided |' in text
  assert 'missed' not in text


def test_a_no_change_forecaster_stands_beside_its_stream(folder):
  folder.row(TASKS['elec2-1'], 'sgd', 'base', (1.0, 1.0))
  Store(folder.path / 'real-streams.jsonl').note(
    'no_change', {'task': 'real-streams/elec2-1', 'accuracy': 0.853}
  )
  assert '| 85.3 |' in described(folder)


def test_results_open_with_the_verdict_and_say_what_is_missing(
  folder, tmp_path
):
  for base in ('sgd', 'adam'):
    for task, losses in (
      (TASKS['elec2-1'], (0.5, 0.5)),
      (TASKS['sp500-16-shuffled'], (1.1, 1.1)),
    ):
      folder.row(task, base, 'base', (1.0, 1.0))
      folder.row(task, base, 'isgd-probation', losses)
  task = dataclasses.replace(synthetic.STREAM)
  for method in ('base', 'isgd'):
    folder.row(task, 'sgd', method, (1.0, 2.0))
  text = report(folder.path, tmp_path / 'RESULTS.md')
  table = text.partition('## The rules')[0]
  lines = {line.split(' | ')[0]: line for line in table.splitlines()}
  assert (
    '| ISGD | -50.0 % (-50.0 % to -50.0 %) |'
    in lines['| tables in time order, classification, batches of 1 or 4']
  )
  assert '| nothing |' in lines['| tables, shuffled']
  name = '| images whose meaning changes abruptly (made by us)'
  assert '| nothing |' in lines[name]
  assert (
    'tables in time order, batches of 16 or 64'
    in table.partition('No records yet of: ')[2]
  )


def test_what_probation_keeps_of_the_gain_is_counted(folder):
  assert real_streams.kept_gain_table({}) == ''
  folder.row(synthetic.STREAM, 'sgd', 'base', (1.0, 1.0, 1.0))
  folder.row(synthetic.STREAM, 'sgd', 'isgd', (0.5, 0.5, 0.5))
  folder.row(synthetic.STREAM, 'sgd', 'isgd-probation', (0.6, 0.6, 0.6))
  (finding,) = read_findings(folder.path)
  text = real_streams.kept_gain_table(finding.rows)
  assert 'in 0 of 1 rows; the median is 80 %' in text
  assert '| 80 |' in text


def test_streams_that_were_not_run_are_said(folder):
  names = [name for name in TASKS if name not in ('flights-1', 'flights-4')]
  for name in names[1:]:
    folder.row(TASKS[name], 'sgd', 'base', (1.0,))
  assert 'Not run, for what it takes: elec2-1 (45,248 ba' in described(folder)
  folder.row(TASKS[names[0]], 'sgd', 'base', (1.0,))
  assert (
    'takes: flights-1 (328,457 batches a run), flights-4 (82,114 batches a run)'
    '.'
  ) in described(folder)


def test_many_that_were_not_run_are_counted(folder):
  folder.row(TASKS['elec2-1'], 'sgd', 'base', (1.0,))
  assert 'Not run: 34 of the 35 streams.' in described(folder)
