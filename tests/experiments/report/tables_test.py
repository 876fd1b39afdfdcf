"""Tables show the numbers of the rows, misses and infinities as words."""

import dataclasses
import math

import pytest

from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report import tables
from isgd_jax.experiments.report import verdicts
from isgd_jax.experiments.statistics import Interval
from tests.experiments.report import synthetic
from tests.experiments.report.synthetic import CYCLE
from tests.experiments.report.synthetic import STREAM


@pytest.fixture
def folder(tmp_path):
  return synthetic.Folder(tmp_path)


def parse(text):
  """Of each line's first cell, its cells by the titles of the columns."""
  lines = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in text.splitlines()
  ]
  header, rule, *rest = lines
  assert all(len(line) == len(header) for line in lines)
  assert set(rule) <= {':--', '--:'}
  return {line[0]: dict(zip(header, line, strict=True)) for line in rest}


def test_a_stationary_task_of_a_worked_example(folder):
  folder.row(CYCLE, 'sgd', 'base', [0.4, 0.2, 0.3], (0.1, 0.004, 0.2))
  spent = {'num_gradient_evaluations': 500, 'num_extra_steps': 40}
  folder.row(CYCLE, 'sgd', 'isgd', [0.004, None, 0.04], (3, 2, 1), **spent)
  folder.run(CYCLE, 'sgd', 'isgd', 'reporting', 0.3, 1000, 0.004, **spent)
  table = parse(tables.task_table(folder.rows(), CYCLE.name))
  assert list(table) == ['sgd', 'sgd, ISGD']
  # The target is 0.99 times 0.925, the median of 0.9, 0.95 and 0.925.
  assert table['sgd'] == {
    'method': 'sgd',
    'test loss': '0.300 [0.200, 0.400]',
    'train loss': '0.300 [0.200, 0.400]',
    'accuracy, %': '92.5 [90.0, 95.0]',
    'evaluations to target': '700 (1 of 3 missed)',
    'seconds to target': '2.00 (1 of 3 missed)',
    'evaluations': '400',
    'seconds': '2.00',
    'flagged, %': '',
    'steps a chase': '',
    'extra evaluations, %': '',
    'rate': '0.2',
  }
  isgd = table['sgd, ISGD']
  assert isgd['test loss'] == '0.0040 [0.0040, 0.0040]'
  assert isgd['evaluations to target'] == '700 [700, 700]'
  assert isgd['flagged, %'] == '2.5'
  assert isgd['steps a chase'] == '4.0'
  assert isgd['extra evaluations, %'] == '20.0'
  assert isgd['rate'] == '0.3*'


def test_runs_that_diverged_or_missed_are_told(folder):
  folder.row(CYCLE, 'sgd', 'base', [0.1, 0.1, 0.9])
  folder.row(CYCLE, 'sgd', 'twice', [0.1, None, 0.9])
  folder.row(CYCLE, 'polyak', 'base', [None] * 3)
  table = parse(tables.task_table(folder.rows(), CYCLE.name))
  assert table['sgd']['evaluations to target'] == '700 (1 of 3 missed)'
  assert table['sgd']['seconds to target'] == '2.00 (1 of 3 missed)'
  twice = table['sgd, every batch twice']
  assert twice['evaluations to target'] == 'missed (2 of 3)'
  assert twice['test loss'] == '0.900 [0.100, inf]'
  assert twice['accuracy, %'] == '77.5 [-inf, 97.5]'
  diverged = table['Polyak SGD']
  assert diverged['test loss'] == diverged['accuracy, %'] == 'diverged'


def test_a_stream_has_batches_to_recovery(folder):
  folder.row(STREAM, 'sgd', 'base', [1.0, 2.0])
  folder.row(STREAM, 'sgd', 'skip', [1.0, 2.0])
  table = parse(tables.task_table(folder.rows(), STREAM.name))
  base = table['sgd']
  assert base['prequential loss'] == '1.500 [1.000, 2.000]'
  assert base['batches to recovery'] == '20 [20, 20]'
  assert 'train loss' not in base
  skip = table['sgd, skip on spike']
  assert (skip['flagged, %'], skip['steps a chase']) == ('2.5', '')


def test_without_a_base_there_is_no_target(folder):
  folder.row(CYCLE, 'sgd', 'isgd', [1.0])
  table = parse(tables.task_table(folder.rows(), CYCLE.name))
  assert table['sgd, ISGD']['evaluations to target'] == ''


@pytest.mark.parametrize('method', ['isgd-reshuffled', 'shewhart, k = 2'])
def test_a_method_that_no_workload_has_is_shown_by_its_name(folder, method):
  folder.row(CYCLE, 'sgd', method, [1.0])
  assert f'sgd, {method}' in parse(tables.task_table(folder.rows(), CYCLE.name))


def test_the_table_of_the_streams_marks_what_was_missed(folder):
  for base, spent in (('sgd', 480), ('adam', 481)):
    for method, loss in {
      'base': 3.0,
      'twice': 2.0,
      'random': 2.5,
      'isgd': 2.0,
    }.items():
      evaluations = spent if method == 'isgd' else 400
      folder.row(
        STREAM, base, method, [loss] * 2, num_gradient_evaluations=evaluations
      )
  found = verdicts.stream_verdicts(folder.rows())
  table = parse(tables.stream_verdict_table(found))
  met = table[f'{STREAM.name}, sgd']
  assert met["ISGD's loss"] == '2.000 [2.000, 2.000]'
  assert met['minus base'] == '-1.000 [-1.000, -1.000]'
  assert met['minus every batch twice'] == '+0.000 [+0.000, +0.000]'
  assert met['minus skip on spike'] == ''
  assert (met['evaluations, of the base'], met['bar']) == ('1.200', 'met')
  missed = table[f'{STREAM.name}, adam']
  assert missed['evaluations, of the base'] == '**1.202**'
  assert missed['bar'] == '**missed**'


def test_the_table_of_stationary_tasks_marks_what_hurts(folder):
  for base, losses in (('sgd', [0.9, 0.9]), ('adam', [2.5, 3.5])):
    folder.row(CYCLE, base, 'base', [1.0, 2.0])
    folder.row(CYCLE, base, 'isgd', losses)
    folder.row(CYCLE, base, 'base-constant', [1.0, None])
    folder.row(CYCLE, base, 'isgd-constant', [None, None])
  found = verdicts.stationary_verdicts(folder.rows())
  table = parse(tables.stationary_verdict_table(found))
  better = table[f'{CYCLE.name}, sgd, decayed']
  assert better['test loss'] == '0.900 (1.000 to 2.000)'
  assert better['accuracy, %'] == '77.5 (50.0 to 75.0)'
  assert better['all seeds better'] == 'train loss, test loss, accuracy'
  assert better['never hurts'] == 'met'
  worse = table[f'{CYCLE.name}, adam, decayed']
  assert worse['all seeds better'] == ''
  assert worse['all seeds worse'] == 'train loss, test loss, accuracy'
  assert worse['never hurts'] == '**missed**'
  diverged = table[f'{CYCLE.name}, sgd, constant']
  assert diverged['test loss'] == 'inf (1.000 to inf)'
  assert diverged['accuracy, %'] == '-inf (-inf to 75.0)'


def test_ablation_is_relative_to_the_base(folder):
  for task in (STREAM, CYCLE):
    folder.row(task, 'sgd', 'base', [2.0, 2.0])
    folder.row(task, 'sgd', 'shewhart', [1.0, 3.0], train_loss=1.5)
    folder.row(task, 'adam', 'shewhart', [1.0, 3.0])  # without a base
  spent = {'num_gradient_evaluations': 500}
  folder.row(STREAM, 'sgd', 'run rules', [None, None], **spent)
  text = tables.ablation_tables(folder.rows(), ['shewhart', 'run rules'])
  _, streams, _, stationary = text.split('\n\n')
  sgd, adam = f'{STREAM.name}, sgd', f'{STREAM.name}, adam'
  streams = parse(streams)
  assert streams['shewhart'][sgd] == '1.00 at 1.00'
  assert streams['shewhart'][adam] == ''
  assert streams['run rules'][sgd] == 'inf at 1.25'
  stationary = parse(stationary)
  assert stationary['shewhart'][f'{CYCLE.name}, sgd'] == '1.000 / 0.750'
  assert stationary['run rules'][f'{CYCLE.name}, sgd'] == ''


def test_an_ablation_on_streams_alone_has_one_table(folder):
  folder.row(STREAM, 'sgd', 'base', [2.0])
  folder.row(STREAM, 'sgd', 'shewhart', [2.0])
  text = tables.ablation_tables(folder.rows(), ['shewhart'])
  assert 'Stationary' not in text
  assert len(text.split('\n\n')) == 2


def test_the_best_score_is_first():
  table = tables.profile_table({'base': 0.25, 'isgd': 0.5, 'mine': 0.125})
  assert list(parse(table)) == ['ISGD', 'base', 'mine']


@pytest.mark.parametrize(
  ('interval', 'signed', 'expected'),
  [
    ((0.0005, 0.0, 0.5), False, '0.00050 [0.000, 0.500]'),
    ((0.0005, -0.25, math.inf), True, '+0.001 [-0.250, +inf]'),
    ((-math.inf, -math.inf, 0.0), True, '-inf [-inf, +0.000]'),
  ],
)
def test_spread(interval, signed, expected):
  assert markdown.spread(Interval(*interval), 3, signed=signed) == expected


def test_input_bound_tasks_have_targets_in_seconds(folder):
  task = dataclasses.replace(CYCLE, seconds_per_batch=0.005)
  folder.row(task, 'sgd', 'base', [0.1])
  table = parse(tables.task_table(folder.rows(), task.name))
  assert table['sgd']['seconds to target'] == '2.00 [2.00, 2.00]'
