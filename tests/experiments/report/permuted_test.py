"""Permuted MNIST in the report: what the records say, and no more."""

import dataclasses
import pathlib

import pytest

from isgd_jax.experiments.optimizers import published
from isgd_jax.experiments.report import permuted
from isgd_jax.experiments.report.command import report
from isgd_jax.experiments.report.findings import read_findings
from isgd_jax.experiments.report.rows import collect
from isgd_jax.experiments.runs.permuted import TASKS
from isgd_jax.experiments.runs.records import read_runs
from tests.experiments.report import synthetic

TASK = dataclasses.replace(
  TASKS['inputs'], num_segments=20, batches_per_segment=1000
)
RESULTS = pathlib.Path(__file__).resolve().parents[3] / 'results'
NO_TUNING = {'grid': [0.01], 'tuning_seeds': []}


@pytest.fixture
def folder(tmp_path):
  return synthetic.Folder(tmp_path)


def row(folder, base, method, rights, *, task=TASK, flagged=(10, 2), **changes):
  """Three seeds, each with so many right answers in every task."""
  num_tasks = task.num_segments
  changes = {'algorithm': NO_TUNING, 'num_steps': 20_000} | changes
  for seed, right in enumerate(rights, 1000):
    of_tasks = right if isinstance(right, list) else [right] * num_tasks
    folder.run(
      *(task, base, method, 'reporting', 0.01, seed, 0.5),
      tasks={
        'right': of_tasks,
        'loss': [0.5] * num_tasks,
        'flagged': [flagged[0]] * num_tasks,
        'flagged_early': [flagged[1]] * num_tasks,
        'evaluations': [1000] * num_tasks,
      },
      **changes,
    )


def described(folder):
  (finding,) = read_findings(folder.path)
  return permuted.describe_permuted(finding.rows)


def cells(text, name):
  line = next(x for x in text.splitlines() if x.startswith(f'| {name}'))
  return [cell.strip() for cell in line.split('|')[1:-1]]


def test_isgd_stands_beside_each_baseline(folder):
  row(folder, 'inputs-upgd-w', 'base', (770, 780, 775))
  row(
    folder,
    *('inputs-upgd-w', 'isgd-probation', (774, 785, 776)),
    num_gradient_evaluations=20_400,
    share_undertrained=0.0125,
  )
  row(folder, 'inputs-sgdw', 'base', (700, 700, 700))
  row(folder, 'inputs-sgdw', 'isgd-probation', (699, 702, 700))
  row(folder, 'inputs-s-and-p', 'base', (700, 700, 700))
  row(folder, 'inputs-s-and-p', 'isgd-probation', (690, 680, 650))
  row(folder, 'inputs-s-and-p-table', 'base', (710, 710, 710))
  parts = described(folder)
  general = '\n\n'.join(parts[''])
  assert (
    'higher over inputs-upgd-w (+0.40); lower over inputs-s-and-p (-2.00); '
    'no different over inputs-sgdw (+0.00).'
  ) in general
  assert 'flags 1.25 to 2.50 % of the steps' in general
  # Three optimizers, three seeds, 19 permutations after the first task.
  assert (
    'Of its 1,710 flags after the first tasks 342 (20.0 %) are within 100 steps'
    ' of a permutation, which are 10.0 % of the steps: 2.00 flags for each of '
    '171 permutations.'
  ) in general
  table = '\n\n'.join(parts[TASK.name])
  assert '20 of 200 tasks of 1,000 examples, 3 seeds' in table
  found = cells(table, 'inputs-upgd-w: rate 0.01')
  assert found[1:4] == ['77.50 [77.00, 78.00]', '+0.00', '0.500']
  assert found[4:] == [
    *('77.60 [77.40, 78.50]', '+0.00', '0.500', '+0.40 [+0.10, +0.50]'),
    *('1.020', '1.25'),
  ]
  # A baseline that ISGD was not run over stands alone.
  assert cells(table, 'inputs-s-and-p-table')[4:] == [''] * 6


def test_what_is_gained_is_the_last_five_tasks_over_the_first(folder):
  rising = [700] * 5 + [0] * 10 + [720, 730, 740, 750, 760]
  row(folder, 'inputs-adamw', 'base', (rising, rising, rising))
  table = '\n\n'.join(described(folder)[TASK.name])
  assert cells(table, 'inputs-adamw')[2] == '+4.00'


def test_a_reference_is_compared_over_as_many_tasks_as_it_has(folder):
  row(folder, 'inputs-adamw', 'base', (770, 780, 775))
  text = '\n\n'.join(described(folder)[''])
  by_tasks = {
    r.num_tasks: r.accuracy
    for r in published.REFERENCES
    if r.name == 'inputs-adamw' and r.num_seeds
  }
  lines = [x for x in text.splitlines() if x.startswith('| inputs-adamw')]
  first = next(x for x in lines if 'the first 20 tasks' in x)
  theirs = 100 * by_tasks[20]
  assert (
    f'| 77.50 [77.00, 78.00] | {theirs:.2f} | {77.5 - theirs:+.2f} ['
    f'{77 - theirs:+.2f}, {78 - theirs:+.2f}] | a mean of 10 seeds |'
  ) in first
  # Of more tasks than there are nothing is claimed.
  for line in lines:
    assert ('not run so far' in line) == ('the first 20 tasks' not in line)
  assert any('read off Figure 3, about' in x for x in lines)
  assert 'no baseline here reproduces a published number' in text


def test_the_report_has_tables_and_figures_of_both_problems(folder, tmp_path):
  labels = dataclasses.replace(
    TASKS['labels'], num_segments=20, batches_per_segment=1000
  )
  for task, problem in ((TASK, 'inputs'), (labels, 'labels')):
    for method in ('base', 'isgd-probation'):
      row(folder, f'{problem}-sgdw', method, (700, 710, 720), task=task)
  text = report(folder.path, tmp_path / 'RESULTS.md')
  assert text.count('## A published protocol: permuted MNIST, batch 1') == 1
  for problem in ('inputs', 'labels'):
    assert f'### `permuted-{problem}/mnist`' in text
    assert (folder.path / f'permuted-{problem}-mnist.png').exists()
  assert 'of permuted labels, there is nothing to compare with' in (
    ' '.join(text.split())
  )
  # Published rates are no grid that we tuned over.
  assert 'inputs-sgdw 0.01' not in text


def test_without_records_nothing_is_told(tmp_path):
  assert permuted.describe_permuted({}) == {}
  assert not permuted.draw_permuted(tmp_path / 'x.png', {}, TASK.name)
  assert permuted.beside_base({}, TASK.name, 'inputs-sgdw') is None


def committed(path):
  """Rows of the repository's own records."""
  return collect(read_runs(path))


@pytest.mark.parametrize(
  'path', sorted(RESULTS.glob('permuted-*.jsonl')), ids=lambda path: path.stem
)
def test_committed_runs_have_the_published_rate_and_a_count_a_task(path):
  rows = committed(path)
  assert rows
  for (_, base, method), row in rows.items():
    assert row.learning_rate == published.PUBLISHED[base].learning_rate
    assert len(row.runs) >= 3
    assert row.config['batch_size'] == 1
    for run in row.runs.values():
      summary, of_tasks = run['summary'], run['tasks']
      num_steps = summary['num_steps']
      assert {len(x) for x in of_tasks.values()} == {row.config['num_segments']}
      right = sum(of_tasks['right'])
      assert right / num_steps == pytest.approx(summary['accuracy'], abs=1e-5)
      spent = sum(of_tasks['evaluations'])
      assert spent == summary['num_gradient_evaluations'] >= num_steps
      assert sum(of_tasks['flagged']) == summary['num_undertrained']
      assert (spent == num_steps) or method != 'base'
