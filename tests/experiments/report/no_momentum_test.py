"""What the chase adds to bases without momentum: each against itself alone."""

from isgd_jax.experiments.report import command
from isgd_jax.experiments.report import no_momentum
from isgd_jax.experiments.report.findings import read_findings
from isgd_jax.experiments.runs import rivals as tasks_of
from tests.experiments.report import synthetic

TASKS = {task.name.partition('/')[2]: task for task in tasks_of.TABLES}


def told(folder):
  rows = command._everything(read_findings(folder.path))
  return no_momentum.describe_no_momentum(rows)


def fill(folder, bases, names=('elec2-1', 'elec2-4')):
  for name in names:
    for base, (alone, chased) in bases.items():
      folder.row(TASKS[name], base, 'base', (alone,) * 3)
      folder.row(TASKS[name], base, 'isgd-probation', (chased,) * 3)


def test_each_chase_is_held_against_its_own_base(tmp_path):
  folder = synthetic.Folder(tmp_path)
  fill(
    folder,
    {'sgd': (0.8, 0.72), 'adam-b1-0': (0.6, 0.63), 'adam': (1.0, 0.5)},
  )
  # A row that one base lacks does not count for any.
  fill(folder, {'sgd': (0.8, 0.1)}, names=('phishing-1',))
  text = told(folder)
  assert '| SGD | 0.900 (0.90) | 2 of 2 |' in text
  assert '| Adam with b1 = 0 | 1.050 (1.05) | 0 of 2 |' in text
  assert '| Adam | 0.500 (0.50) | 2 of 2 |' in text
  assert 'batches of 1 or 4' in text


def test_nothing_is_said_where_it_was_not_run(tmp_path):
  folder = synthetic.Folder(tmp_path)
  fill(folder, {'sgd': (0.8, 0.72), 'adam': (1.0, 0.5)})
  assert told(folder) == ''
