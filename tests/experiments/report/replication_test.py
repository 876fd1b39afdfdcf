"""The paper's claims stand beside what the records say, or as not run."""

import dataclasses

import pytest

from isgd_jax.experiments.report import replication
from isgd_jax.experiments.report.replication import saving
from isgd_jax.experiments.runs import paper
from isgd_jax.experiments.runs.workloads import WORKLOADS
from tests.experiments.report import synthetic

TASK = paper.MNIST_TASK
NAME = TASK.name


def reaching(*evaluations):
  """A run that is at 97 % from so many evaluations on; None never is."""
  return [
    [[10, 0.1, 0.5], [spent or 250, 0.2, 0.98 if spent else 0.9]]
    for spent in evaluations
  ]


@pytest.fixture
def folder(tmp_path):
  return synthetic.Folder(tmp_path)


def add(folder, method, *evaluations, base='momentum', **changes):
  for rate, loss in zip(synthetic.RATES, (0.3, 0.2, 0.4), strict=True):
    folder.run(TASK, base, method, 'tuning', rate, 0, loss)
  for seed, trace in enumerate(reaching(*evaluations)):
    folder.run(
      *(TASK, base, method, 'reporting', 0.2, 1000 + seed, 0.1),
      evaluations=trace,
      **changes,
    )


def found(folder, method='paper-isgd', target=0.97):
  return saving(folder.rows(), NAME, 'momentum', method, target)


def test_what_is_saved_is_paired_by_seed(folder):
  add(folder, 'base', 100, 200, 100, 100, 100)
  add(folder, 'paper-isgd', 80, 150, 90, 70, 95)
  result = found(folder)
  assert result.interval == pytest.approx((0.2, 0.05, 0.3))
  assert result.verdict == 'fewer'


@pytest.mark.parametrize(
  ('ours', 'verdict'),
  [
    ((120, 130, 110, 120, 105), 'more'),
    ((120, 90, 110, 120, 105), 'undecided'),
    ((None, None, None, 120, None), 'more'),
    ((50, 50, 50), 'undecided'),
  ],
)
def test_a_verdict_takes_five_seeds_that_agree(folder, ours, verdict):
  add(folder, 'base', 100, 100, 100, 100, 100)
  add(folder, 'paper-isgd', *ours)
  assert found(folder).verdict == verdict


def test_where_neither_gets_there_nothing_is_said(folder):
  add(folder, 'base', None)
  add(folder, 'paper-isgd', None)
  assert found(folder) is None
  assert found(folder, 'isgd') is None


def test_a_reshuffled_run_is_held_against_a_reshuffled_base(folder):
  add(folder, 'base', 10, 10, 10, 10, 10)
  add(folder, 'reshuffled', 100, 100, 100, 100, 100)
  add(folder, 'paper-isgd-reshuffled', 50, 50, 50, 50, 50)
  assert found(folder, 'paper-isgd-reshuffled').interval.median == 0.5


def test_the_table_has_every_method_and_target(folder):
  add(folder, 'base', 100, 100, 100, 100, 100)
  add(folder, 'paper-isgd-10', 90, 90, 90, 90, None)
  table = replication.targets_table(folder.rows(), NAME)
  header, _, base, ours = table.splitlines()
  assert 'evaluations to 90 % | evaluations to 95 % | evaluations to 97 %' in (
    header
  )
  assert '100 [100, 100]' in base
  assert 'to 97 %: +10 % [missed, +10 %] | undecided' in ours


def test_the_headline_is_the_highest_target_that_the_base_reaches(folder):
  add(folder, 'base', None, None, 100)
  rows = folder.rows()
  assert replication.headline_target(rows, NAME, 'momentum') == 0.9
  assert replication.headline_target({}, NAME, 'momentum') == 0.9
  add(folder, 'base', 100, 100, 100, base='sgd')
  assert replication.headline_target(folder.rows(), NAME, 'sgd') == 0.97


def test_what_is_not_run_is_named_so(folder):
  table = replication.claims_table(folder.path, {})
  lines = table.splitlines()
  assert sum('not run' in line for line in lines) == len(lines) - 2
  told = replication.describe_targets({})
  assert told == ['`paper-mnist`: not run.', '`paper-cifar10`: not run.']


def test_the_best_chase_rate_is_called_so(folder):
  add(folder, 'base', 100, 100, 100, 100, 100)
  add(folder, 'paper-isgd', 100, 100, 100, 100, 100)
  add(folder, 'paper-isgd-10', 75, 75, 75, 75, 75)
  add(folder, 'isgd-probation', 110, 110, 110, 110, 110)
  table = replication.claims_table(folder.path, folder.rows())
  assert (
    "the paper's ISGD +25 % [+25 %, +25 %] (best of 2 rates; fewer; "
    'seeds: 5), ISGD -10 % [-10 %, -10 %] (more)'
  ) in table
  assert replication.describe_targets(folder.rows())[0].startswith(
    'LeNet on MNIST: 3,200 images of mnist'
  )


@pytest.mark.parametrize('name', replication.TARGETS)
def test_targets_are_of_tasks_that_are_compared(name):
  workload = WORKLOADS[name.split('/')[0]]
  (task,) = workload.tasks
  assert task.name == name
  assert dataclasses.asdict(task)['num_evaluations'] >= 20
  for method in workload.methods:
    assert method == 'base' or method in replication._BASELINES
