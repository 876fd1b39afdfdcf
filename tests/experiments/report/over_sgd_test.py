"""Free rivals over SGD and momentum: each against its base and the chase."""

from isgd_jax.experiments.report import command
from isgd_jax.experiments.report import over_sgd
from isgd_jax.experiments.report.findings import read_findings
from isgd_jax.experiments.runs import rivals as tasks_of
from tests.experiments.report import synthetic

TASKS = {task.name.partition('/')[2]: task for task in tasks_of.TABLES}
ALIKE = {'skip': 1.0, 'base-decayed': 1.0, 'rewarm-3': 1.0, 'shrink': 1.0}


def told(folder):
  rows = command._everything(read_findings(folder.path))
  told = over_sgd.summarize_over_sgd(rows), over_sgd.over_sgd_table(rows)
  return '\n\n'.join(filter(None, told))


def fill(folder, base, names=('phishing-1', 'phishing-4'), **losses):
  for name in names:
    folder.row(TASKS[name], base, 'base', (1.0,) * 3)
    for method, loss in (ALIKE | losses).items():
      over = method in tasks_of.RIVALS_OVER_SGD
      folder.row(
        TASKS[name],
        base,
        method,
        (loss,) * 3,
        workload='rivals-over-sgd' if over else 'real-streams',
      )


def test_what_beats_both_the_base_and_the_chase_is_named_and_bold(tmp_path):
  folder = synthetic.Folder(tmp_path)
  fill(folder, 'sgd', **{'isgd-probation': 0.9, 'shrink': 0.8, 'skip': 1.2})
  text = told(folder)
  assert 'over it: `shrink` over SGD on "tables in time order, classif' in text
  assert '(0.800; ISGD 0.900). Never worse' in text
  assert 'ISGD 2 of 2' in text
  assert 'skip 0 of 2' in text
  # SGD has nothing to reset.
  assert (
    '| SGD | 0.900 (0.90) | 1.000 (1.00) | 1.200 (1.20) |  | 1.000 (1.00) | '
    '**0.800 (0.80)** | 2 |'
  ) in text


def test_what_beats_the_chase_alone_beats_nothing(tmp_path):
  folder = synthetic.Folder(tmp_path)
  fill(folder, 'momentum', **{'isgd-probation': 1.1, 'reset': 1.0})
  text = told(folder)
  assert 'the chase over it: none.' in text
  assert 'reset 2 of 2' in text


def test_a_table_on_which_one_was_not_run_counts_for_none(tmp_path):
  folder = synthetic.Folder(tmp_path)
  fill(folder, 'momentum', **{'isgd-probation': 0.9, 'reset': 0.5})
  fill(folder, 'momentum', ('elec2-16',), **{'isgd-probation': 0.9})
  text = told(folder)
  assert 'reset 2 of 2' in text
  assert 'batches of 16' not in text


def test_nothing_is_said_where_none_was_run(tmp_path):
  folder = synthetic.Folder(tmp_path)
  folder.row(TASKS['phishing-1'], 'sgd', 'base', (1.0,) * 3)
  assert told(folder) == ''
