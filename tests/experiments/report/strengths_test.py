"""A rival's strength is chosen on the tuning seeds, and said."""

from isgd_jax.experiments.report import command
from isgd_jax.experiments.report import strengths
from isgd_jax.experiments.report.findings import read_findings
from isgd_jax.experiments.runs import rivals as tasks_of
from tests.experiments.report import synthetic

(TASK, *_) = tasks_of.STRENGTH_TABLES


def told(folder):
  rows = command._everything(read_findings(folder.path))
  return strengths.describe_strengths(rows)


def fill(folder, **losses):
  """Of each strength, its loss on the tuning and on the reporting seeds."""
  folder.row(TASK, 'adam', 'base', (1.0,) * 3)
  folder.row(TASK, 'adam', 'isgd-probation', (0.8,) * 3)
  for base, (tuning, reported) in losses.items():
    name = base.replace('_', '-')
    folder.row(
      TASK,
      name,
      'base',
      (reported,) * 3,
      (9.0, tuning, 9.0),
      workload='always-on' if name == 'upgd' else 'strengths',
    )


def test_the_tuning_seeds_choose_not_those_that_are_reported(tmp_path):
  folder = synthetic.Folder(tmp_path)
  fill(folder, upgd=(0.5, 0.9), upgd_weak=(0.6, 0.1), upgd_strong=(0.4, 0.7))
  text = told(folder)
  assert '| upgd | 0.900 to 0.700 (10) |' in text
  assert '| ISGD | 0.800 |' in text
  assert 'lower by 0.01 or more in 1 of 1 cells' in text
  assert 'by as much are 0 before and 1 after' in text


def test_its_own_strength_stays_where_no_other_is_better(tmp_path):
  folder = synthetic.Folder(tmp_path)
  fill(folder, upgd=(0.4, 0.9), upgd_weak=(0.4, 0.1), upgd_strong=(0.5, 0.7))
  text = told(folder)
  assert '| upgd | 0.900 to 0.900 (1) |' in text
  assert 'in 0 of 1 cells' in text


def test_nothing_is_said_where_a_strength_is_missing(tmp_path):
  folder = synthetic.Folder(tmp_path)
  fill(folder, upgd=(0.4, 0.9), upgd_weak=(0.4, 0.1))
  assert told(folder) == ''
