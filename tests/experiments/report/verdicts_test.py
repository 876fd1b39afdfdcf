"""Verdicts follow from the rows by the rules, and by nothing else."""

import dataclasses
import math

import pytest

from isgd_jax.experiments.report import verdicts
from isgd_jax.experiments.statistics import Interval
from tests.experiments.report import synthetic
from tests.experiments.report.synthetic import CYCLE
from tests.experiments.report.synthetic import STREAM

INF = math.inf
THROTTLED = dataclasses.replace(
  CYCLE, name='input-bound/made-up', seconds_per_batch=0.005
)


@pytest.fixture
def folder(tmp_path):
  return synthetic.Folder(tmp_path)


# Streams


def fill_stream(folder, **changes):
  """Rows on a stream where ISGD meets the bar, but for what is changed."""
  losses = {
    'base': [2.0, 3.0, 4.0],
    'twice': [1.0, 2.0, 4.0],
    'random': [1.5, 2.5, 4.5],
    'isgd': [1.0, 2.0, 3.0],
  }
  evaluations = changes.pop('evaluations', 480)
  for method, of_seeds in (losses | changes).items():
    spent = evaluations if method in ('isgd', 'random') else 400
    folder.row(STREAM, 'sgd', method, of_seeds, num_gradient_evaluations=spent)


def stream_verdict(folder):
  (found,) = verdicts.stream_verdicts(folder.rows())
  return found


def test_a_stream_where_all_three_conditions_hold(folder):
  fill_stream(folder)
  found = stream_verdict(folder)
  assert (found.task, found.base) == (STREAM.name, 'sgd')
  assert found.isgd == Interval(2.0, 1.0, 3.0)
  assert found.versus == {
    'base': Interval(-1.0, -1.0, -1.0),
    'twice': Interval(0.0, -1.0, 0.0),
    'random': Interval(-0.5, -1.5, -0.5),
  }
  assert found.evaluation_ratio == 1.2  # exactly the most there may be
  assert found.is_met


@pytest.mark.parametrize(
  ('changes', 'broken'),
  [
    ({'twice': [0.9, 1.9, 2.9]}, 'is_no_worse_than_twice'),
    # One of three seeds is as good: not all agree that ISGD is better.
    ({'random': [1.5, 2.5, 3.0]}, 'is_better_than_random'),
    ({'evaluations': 484}, 'is_cheap'),
  ],
)
def test_each_condition_can_be_missed_alone(folder, changes, broken):
  fill_stream(folder, **changes)
  found = stream_verdict(folder)
  conditions = ('is_no_worse_than_twice', 'is_better_than_random', 'is_cheap')
  assert [name for name in conditions if not getattr(found, name)] == [broken]
  assert not found.is_met


def test_differences_are_paired_by_the_seeds_that_both_have(folder):
  fill_stream(folder, isgd=[1.0, 2.0], twice=[5.0, 5.0, 0.0], random=[9.0])
  found = stream_verdict(folder)
  assert not found.is_better_than_random  # on the one seed that both have
  assert found.versus['twice'] == Interval(-3.5, -4.0, -3.0)


def test_diverged_runs_decide_as_the_worst(folder):
  fill_stream(folder, isgd=[None] * 3, twice=[None] * 3)
  found = stream_verdict(folder)
  assert found.versus['twice'] == Interval(0.0, 0.0, 0.0)
  assert found.versus['random'] == Interval(INF, INF, INF)
  assert found.is_no_worse_than_twice
  assert not found.is_better_than_random


@pytest.mark.parametrize('lacking', ['base', 'twice', 'random'])
def test_without_a_control_there_is_no_verdict(folder, lacking):
  fill_stream(folder, **{lacking: []})
  assert not verdicts.stream_verdicts(folder.rows())


def test_a_control_without_common_seeds_is_none(folder):
  fill_stream(folder, twice=[])
  folder.run(STREAM, 'sgd', 'twice', 'reporting', 0.2, 2000, 1.0)
  assert not verdicts.stream_verdicts(folder.rows())


# Stationary tasks


@pytest.mark.parametrize(
  ('isgd', 'is_harmless', 'better', 'worse'),
  [
    ([2.0, 2.9, 1.0], True, (), ()),
    ([2.9, 2.9, 2.9], True, (), ()),
    ([0.5, 1.5, 2.5], True, ('train_loss', 'loss', 'accuracy'), ()),
    ([1.1, 2.1, 3.1], True, (), ('train_loss', 'loss', 'accuracy')),
    ([1.0, 3.1, 3.1], False, (), ()),
    ([3.1, 3.1, 3.1], False, (), ('train_loss', 'loss', 'accuracy')),
    ([None, None, None], False, (), ('train_loss', 'loss', 'accuracy')),
  ],
)
def test_stationary_verdicts(folder, isgd, is_harmless, better, worse):
  folder.row(CYCLE, 'sgd', 'base', [1.0, 2.0, 3.0])
  folder.row(CYCLE, 'sgd', 'isgd', isgd)
  (found,) = verdicts.stationary_verdicts(folder.rows())
  assert found.schedule == 'decayed'
  assert found.is_harmless == is_harmless
  assert found.better == better
  assert found.worse == worse
  assert found.measures['loss'][1:3] == (1.0, 3.0)


def test_an_accuracy_is_better_when_it_is_higher(folder):
  folder.row(CYCLE, 'sgd', 'base-constant', [1.0] * 3, accuracy=0.5)
  folder.row(CYCLE, 'sgd', 'isgd-constant', [1.0] * 3, accuracy=0.75)
  (found,) = verdicts.stationary_verdicts(folder.rows())
  assert found.schedule == 'constant'
  assert found.measures['accuracy'][:3] == (0.75, 0.5, 0.5)
  assert (found.better, found.worse) == (('accuracy',), ())


def test_one_worse_measure_is_enough_to_hurt(folder):
  folder.row(CYCLE, 'sgd', 'base', [1.0] * 3)
  folder.row(CYCLE, 'sgd', 'isgd', [1.0] * 3, train_loss=1.1)
  (found,) = verdicts.stationary_verdicts(folder.rows())
  assert not found.is_harmless
  assert found.worse == ('train_loss',)


def test_seeds_that_one_of_the_two_lacks_are_left_out(folder):
  folder.row(CYCLE, 'sgd', 'base', [1.0, 2.0])
  folder.row(CYCLE, 'sgd', 'isgd', [1.5, 1.5, 9.0, 9.0])
  (found,) = verdicts.stationary_verdicts(folder.rows())
  assert found.measures['loss'][:3] == (1.5, 1.0, 2.0)


def test_a_budget_of_batches_is_not_one_of_evaluations(folder):
  for method in ('base', 'isgd'):
    folder.row(THROTTLED, 'sgd', method, [1.0])
    folder.row(STREAM, 'sgd', method, [1.0])
  assert not verdicts.stationary_verdicts(folder.rows())


# Performance profile and ratios


def test_profile_is_over_the_methods_that_all_problems_have(folder):
  for task, methods in {
    STREAM: ('base', 'isgd', 'twice', 'base-decayed'),
    CYCLE: ('base', 'isgd', 'twice', 'reshuffled'),
    THROTTLED: ('base', 'isgd'),
  }.items():
    for method in methods:
      loss = 0.5 if method == 'twice' else 0.4
      folder.row(task, 'sgd', method, [loss, loss])
  folder.row(CYCLE, 'polyak', 'base', [0.4])  # nothing to be compared with
  costs = verdicts.profile_costs(folder.rows())
  # The target of the stream, 0.72, is reached after 22, 11 and 33 evaluations;
  # that of the other, 0.99 times 0.9, at the end, but not by the worst.
  assert costs == {
    f'{CYCLE.name}, sgd': {'base': 700, 'isgd': 700, 'twice': INF},
    f'{STREAM.name}, sgd': {'base': 22, 'isgd': 22, 'twice': 22},
  }


def test_where_half_of_the_runs_missed_a_method_has_missed(folder):
  folder.row(CYCLE, 'sgd', 'base', [0.1] * 4)
  folder.row(CYCLE, 'sgd', 'isgd', [0.1, 0.1, 0.9, 0.9])
  (costs,) = verdicts.profile_costs(folder.rows()).values()
  assert costs == {'base': 700, 'isgd': INF}


def test_profile_of_nothing_is_empty(folder):
  folder.row(CYCLE, 'sgd', 'base', [0.4])
  assert not verdicts.profile_costs(folder.rows())


@pytest.mark.parametrize(
  ('isgd', 'base', 'ratio'),
  [
    ([1.0, 3.0, 2.0], [2.0, 3.0, 8.0], 0.5),
    ([1.0, 3.0, 9.0], [2.0, 2.0], 1.0),  # of 0.5 and 1.5
    ([None] * 3, [1.0] * 3, INF),
    ([1.0] * 3, [None] * 3, 0.0),
    ([None] * 3, [None] * 3, 1.0),
    ([0.0] * 3, [0.0] * 3, 1.0),
    ([1.0] * 3, [0.0] * 3, INF),
  ],
)
def test_ratio_to_the_base(folder, isgd, base, ratio):
  folder.row(CYCLE, 'sgd', 'base', base)
  folder.row(CYCLE, 'sgd', 'isgd', isgd)
  rows = folder.rows()
  row = rows[CYCLE.name, 'sgd', 'isgd']
  assert verdicts.relative_to_base(rows, row, 'loss') == ratio


def test_ratio_without_a_base_is_not_a_number(folder):
  folder.row(CYCLE, 'sgd', 'isgd', [1.0])
  ((_, row),) = folder.rows().items()
  assert math.isnan(verdicts.relative_to_base({}, row, 'loss'))


def test_one_seed_is_no_better_and_no_worse(folder):
  for method, loss in {'base': 2.0, 'twice': 1.0, 'random': 2.0}.items():
    folder.row(STREAM, 'sgd', method, [loss])
    folder.row(CYCLE, 'sgd', method, [loss])
  for task in (STREAM, CYCLE):
    folder.row(task, 'sgd', 'isgd', [1.5])
  rows = folder.rows()
  (stream,) = verdicts.stream_verdicts(rows)
  assert stream.is_no_worse_than_twice
  assert not stream.is_better_than_random
  (stationary,) = verdicts.stationary_verdicts(rows)
  assert stationary.is_harmless
  assert (stationary.better, stationary.worse) == ((), ())
