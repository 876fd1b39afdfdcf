"""Rows are what the records say: the tuned rate, the target, the costs."""

import dataclasses
import math

import pytest

from isgd_jax.experiments.report import rows as rows_lib
from isgd_jax.experiments.statistics import Interval
from tests.experiments.report import synthetic
from tests.experiments.report.synthetic import CYCLE
from tests.experiments.report.synthetic import STREAM

INF = math.inf


@pytest.fixture
def folder(tmp_path):
  return synthetic.Folder(tmp_path)


def only(folder):
  (row,) = folder.rows().values()
  return row


def test_the_rate_of_the_least_median_tuning_loss_is_reported(folder):
  for rate, losses in {0.1: (1, 9, 9), 0.2: (5, 6, 7), 0.3: (8, 8, 8)}.items():
    for seed, loss in enumerate(losses):
      folder.run(CYCLE, 'sgd', 'base', 'tuning', rate, seed, loss)
    # Other reports are those of an earlier, smaller grid.
    folder.run(CYCLE, 'sgd', 'base', 'reporting', rate, 1000, 10 * rate)
  row = only(folder)
  assert row.learning_rate == 0.2
  assert row.values('loss') == {1000: 2.0}
  assert not row.is_rate_at_edge


@pytest.mark.parametrize(
  ('tuning', 'rate'), [((0.1, 0.2, 0.3), 0.1), ((None, None, 0.3), 0.3)]
)
def test_a_rate_at_the_edge_of_the_grid_is_marked(folder, tuning, rate):
  folder.row(CYCLE, 'sgd', 'base', [], tuning)
  folder.run(CYCLE, 'sgd', 'base', 'reporting', rate, 1000, 1.0)
  row = only(folder)
  assert row.learning_rate == rate
  assert row.is_rate_at_edge


@pytest.mark.parametrize('purpose', ['tuning', 'reporting'])
def test_runs_of_one_purpose_alone_make_no_row(folder, purpose):
  folder.run(CYCLE, 'sgd', 'base', purpose, 0.2, 0, 1.0)
  assert not folder.rows()


def test_a_diverged_run_is_the_worst_in_everything(folder):
  folder.row(CYCLE, 'sgd', 'base', [0.4, None, 0.8])
  row = only(folder)
  assert row.values('loss') == {1000: 0.4, 1001: INF, 1002: 0.8}
  assert row.values('accuracy') == pytest.approx(
    {1000: 0.9, 1001: -INF, 1002: 0.8}
  )
  assert row.interval('loss') == Interval(0.8, 0.4, INF)
  assert row.interval('accuracy') == pytest.approx((0.8, -INF, 0.9))
  assert row.median('loss') == 0.8


def test_shares_of_a_worked_example(folder):
  spent = {'num_gradient_evaluations': 500, 'num_extra_steps': 50}
  folder.row(STREAM, 'sgd', 'isgd', [1.0, 1.0], **spent)
  row = only(folder)
  assert row.is_stream
  assert row.share_chasing == pytest.approx(0.2)
  assert row.steps_per_flag == 5.0


def test_steps_per_flag_without_flags_is_not_a_number(folder):
  folder.row(CYCLE, 'sgd', 'isgd', [1.0], num_undertrained=0)
  assert math.isnan(only(folder).steps_per_flag)
  assert not only(folder).is_stream


def test_rows_stand_in_one_order_whichever_runs_were_first(folder):
  for base, method in (
    ('adam', 'isgd'),
    ('sgd', 'shewhart'),
    ('adam', 'base'),
    ('polyak', 'base'),
    ('sgd', 'isgd'),
    ('momentum', 'random'),
  ):
    folder.row(CYCLE, base, method, [1.0])
  assert [(base, method) for _, base, method in folder.rows()] == [
    ('sgd', 'isgd'),
    ('sgd', 'shewhart'),
    ('momentum', 'random'),
    ('adam', 'base'),
    ('adam', 'isgd'),
    ('polyak', 'base'),
  ]


def test_rows_of_a_task_with_other_numbers_do_not_stand_beside_each_other(
  folder,
):
  shorter = dataclasses.replace(CYCLE, num_epochs=2)
  folder.row(CYCLE, 'sgd', 'base', [1.0])
  folder.row(CYCLE, 'sgd', 'isgd', [1.0])
  folder.row(shorter, 'sgd', 'random', [1.0])
  assert [method for _, _, method in folder.rows()] == ['base', 'isgd']


def test_target_of_a_stationary_task_is_from_the_base_s_reported_runs(folder):
  for seed, accuracy in enumerate((0.9, 0.7, 0.8)):
    # Neither tuning runs nor those of another rate set it.
    for rate in (0.1, 0.2):
      folder.run(
        CYCLE, 'sgd', 'base', 'tuning', rate, seed, 3 - rate, accuracy=0.99
      )
      folder.run(
        CYCLE,
        *('sgd', 'base', 'reporting', rate, 1000 + seed, 1.0),
        accuracy=accuracy if rate == 0.2 else 0.5,
      )
  folder.row(CYCLE, 'sgd', 'isgd', [1.0], accuracy=0.6)
  rows = folder.rows()
  assert rows_lib.target(rows, CYCLE.name, 'sgd') == pytest.approx(0.99 * 0.8)
  assert rows_lib.target(rows, CYCLE.name, 'adam') is None


def test_target_of_a_stream_is_from_the_best_of_each_segment(folder):
  folder.row(STREAM, 'sgd', 'base', [1.0])
  # The segments' bests are 0.8, 0.9 and 0.8.
  goal = rows_lib.target(folder.rows(), STREAM.name, 'sgd')
  assert goal == pytest.approx(0.9 * 0.8)


@pytest.mark.parametrize('task', [STREAM, CYCLE])
def test_a_base_that_diverged_sets_no_target(folder, task):
  folder.row(task, 'polyak', 'base', [None], [None, None, None])
  folder.run(task, 'polyak', 'base', 'reporting', 0.1, 1000, None)
  assert only(folder).learning_rate == 0.1
  assert rows_lib.target(folder.rows(), task.name, 'polyak') is None


def test_costs_are_those_of_the_first_evaluation_at_the_target(folder):
  evaluations = [
    [100, 0.5, None],
    [200, 1.0, 0.7],
    [300, 1.5, 0.8],
    [400, 2.0, 0.6],
    [500, 2.5, 0.9],
  ]
  folder.row(CYCLE, 'sgd', 'base', [1.0, 1.0], evaluations=evaluations)
  row = only(folder)
  costs = rows_lib.costs(row, 0.8)
  assert costs.evaluations == {1000: 300, 1001: 300}
  assert costs.seconds == {1000: 1.5, 1001: 1.5}
  assert all(map(math.isnan, costs.batches.values()))
  missed = rows_lib.costs(row, 0.95)
  assert missed.evaluations == missed.seconds == {1000: INF, 1001: INF}


@pytest.mark.parametrize(
  ('goal', 'batches', 'evaluations'),
  [
    (0.4, 10, 11),  # 10, 10, 30
    (0.8, 20, 22),  # 20, 10, 30
    (0.85, INF, INF),  # missed, 10, missed
  ],
)
def test_recovery_is_the_median_over_the_changes(
  folder, goal, batches, evaluations
):
  folder.row(STREAM, 'sgd', 'base', [1.0])
  costs = rows_lib.costs(only(folder), goal)
  assert costs.batches == {1000: batches}
  assert costs.evaluations == {1000: evaluations}
