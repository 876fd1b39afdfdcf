"""Wrong labels, real time and doses in the report."""

import pytest

from isgd_jax.experiments import files
from isgd_jax.experiments.report import harder
from isgd_jax.experiments.report import opening
from isgd_jax.experiments.report.command import report
from isgd_jax.experiments.report.findings import read_findings
from isgd_jax.experiments.runs import rivals as tasks_of
from isgd_jax.experiments.runs.records import Store
from isgd_jax.experiments.runs.records import read_runs
from tests.experiments.report import synthetic

ONES = (1.0, 1.0, 1.0)
WRONG = tasks_of.WRONG_TASKS[0]


@pytest.fixture
def folder(tmp_path):
  return synthetic.Folder(tmp_path)


def rows_of(folder):
  (finding,) = read_findings(folder.path)
  return finding.rows


def row(folder, task, method, all_of, right=None):
  """A row with losses on the batches whose labels are right."""
  for seed, loss in enumerate(all_of):
    folder.run(task, 'sgd', method, 'tuning', 0.2, seed, loss)
    summary = {} if right is None else {'right_loss': right[seed]}
    folder.run(task, 'sgd', method, 'reporting', 0.2, 1000 + seed, loss)
    if summary:
      _add(folder, task, method, 1000 + seed, loss, summary)


def _add(folder, task, method, seed, loss, summary):
  """Writes the run again, with more in its summary."""
  (path,) = folder.path.glob('*.jsonl')
  run = next(
    r
    for r in read_runs(path)
    if (r['method'], r['seed'], r['purpose']) == (method, seed, 'reporting')
  )
  shared = {'task': run.pop('task_config'), 'algorithm': run.pop('algorithm')}
  run.pop('environment')
  run['summary'] = run['summary'] | summary
  Store(path).append(files.plain(run), **shared)


def test_batches_whose_labels_are_right_are_judged_apart(folder):
  row(folder, WRONG, 'base', ONES, ONES)
  row(folder, WRONG, 'isgd-probation', (0.98, 0.98, 0.98), (1.2, 1.3, 1.4))
  text = '\n\n'.join(harder.describe_wrong_labels(rows_of(folder)))
  assert 'on right batches is never worse in 0 of 1 rows, and fails in' in text
  assert 'elec2-16-3 sgd (+30.0 %)' in text
  assert 'ISGD on all batches is never worse in 1 of 1 rows.' in text
  assert '| 1.300 [1.200, 1.400] | 0.980 [0.980, 0.980] |' in text
  # The opening table has the right ones.
  table = opening.verdict_table(rows_of(folder))
  line = next(x for x in table.splitlines() if 'random labels' in x)
  assert '| 1.300 |' in line


def test_real_time_has_its_own_table(folder, tmp_path):
  task = tasks_of.REAL_TIME_TASKS[0]
  folder.row(task, 'adam', 'base', ONES)
  folder.row(task, 'adam', 'twice', (1.5, 1.5, 1.5))
  folder.row(task, 'adam', 'isgd-probation', (0.8, 0.8, 0.8))
  text = '\n\n'.join(harder.describe_real_time(rows_of(folder)))
  assert 'geometric means: twice 1.500, ISGD 0.800.' in text
  assert 'ISGD is never worse in 1 of 1 rows.' in text
  whole = report(folder.path, tmp_path / 'RESULTS.md')
  assert '## In real time (`real-time`)' in whole
  # It is no workload like those that have a section by themselves.
  assert '### elec2' not in whole


def test_doses_stand_beside_the_library_s(folder):
  for task in tasks_of.DOSE_TASKS[:2]:
    folder.row(task, 'adam', 'base', ONES)
    folder.row(task, 'adam', 'isgd-probation', (0.9, 0.9, 0.9))
    folder.row(task, 'adam', 'judged-by-1', (0.81, 0.81, 0.81))
  folder.row(tasks_of.DOSE_TASKS[0], 'adam', 'isgd', (1.2, 1.2, 1.2))
  text = '\n\n'.join(harder.describe_doses(rows_of(folder)))
  assert (
    '| ISGD: 4 batches, 0.98 | 0.900 | 0.900 | 0.900 | 2 of 2 | 1.00 |' in text
  )
  assert '| judged-by-1 | 0.810 | 0.810 | 0.810 | 2 of 2 | 1.00 |' in text
  # A mean over fewer rows would not compare.
  assert '| blind ISGD | 1.200 |  |  | 0 of 1 | 1.00 |' in text


def test_without_records_nothing_is_told():
  for describe in (
    harder.describe_wrong_labels,
    harder.describe_real_time,
    harder.describe_doses,
  ):
    assert describe({}) == []
