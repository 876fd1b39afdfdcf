"""What is kept of a run can be drawn and counted again."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from isgd_jax.experiments import files
from isgd_jax.experiments.runs import outcomes
from isgd_jax.experiments.runs import permuted
from isgd_jax.experiments.runs.steps import StepMetrics
from isgd_jax.experiments.runs.tasks import Measures
from isgd_jax.experiments.runs.training import Evaluation
from isgd_jax.experiments.runs.training import RunResult
from tests.experiments.report.synthetic import CYCLE
from tests.experiments.report.synthetic import STREAM


def result_of(num_steps, loss=1.0, accuracy: Any = 0.5, evaluations=()):
  """A run with three evaluations in its last step, and one in the others."""
  spent = np.ones(num_steps, int)
  spent[-1] = 3
  metrics = StepMetrics(*np.zeros((9, num_steps)))._replace(
    loss=np.full(num_steps, loss),
    accuracy=np.broadcast_to(accuracy, num_steps),
    num_gradient_evaluations=spent,
    num_extra_steps=spent - 1,
    is_undertrained=spent > 1,
  )
  return RunResult(
    None, metrics, 1.23456789, 0.5, not np.isfinite(loss), evaluations
  )


def keep(task, purpose, result, *, has_traces=True):
  outcome = outcomes.outcome_of(
    task, purpose, result, task.change_points, has_traces=has_traces
  )
  return files.plain(outcome)


def test_a_stream_is_judged_by_its_means_along_the_way():
  accuracy = np.repeat([0.1, 0.2, 0.3, 0.4], 100)
  kept = keep(STREAM, 'reporting', result_of(400, 0.123456789, accuracy))
  summary = kept['summary']
  assert (summary['loss'], summary['accuracy']) == (0.12346, 0.25)
  assert summary['num_gradient_evaluations'] == 402
  assert summary['num_extra_steps'] == 2
  assert summary['share_undertrained'] == 0.0025
  assert summary['run_seconds'] == 1.2346
  assert kept['extra_steps'] == {'0': 399, '2': 1}
  # A point is the mean over eight batches; the 13th has four of each kind.
  assert outcomes.batches_per_point(400) == 8
  assert kept['accuracy_curve'] == [
    *[0.1] * 12,
    0.15,
    *[0.2] * 12,
    *[0.3] * 12,
    0.35,
    *[0.4] * 12,
  ]
  # The last evaluations come too late to be a high of their own.
  assert kept['recovery'] == [[[10, 10, x]] for x in (0.2, 0.3, 0.4)]


def test_a_stationary_task_is_judged_by_its_end():
  evaluations = tuple(
    Evaluation(i, 10 * i, 0.1234567 * i, Measures(0.5 / i, 1.0 / i, 0.25 * i))
    for i in (1, 2)
  )
  result = result_of(20, 9.0, evaluations=evaluations)
  kept = keep(CYCLE, 'reporting', result)
  summary = kept['summary']
  assert summary['train_loss'] == 0.25
  assert (summary['loss'], summary['accuracy']) == (0.5, 0.5)
  assert kept['evaluations'] == [
    [10, 0.1235, 0.25],
    [20, 0.2469, 0.5],
  ]
  assert 'evaluations' not in keep(CYCLE, 'reporting', result, has_traces=False)


@pytest.mark.parametrize('task', [STREAM, CYCLE])
def test_a_diverged_run_has_no_numbers_of_its_worth(task):
  end = Evaluation(400, 402, 1.0, Measures(np.nan, np.nan, 0.1))
  result = result_of(400, np.nan, evaluations=(end,))
  summary = keep(task, 'reporting', result)['summary']
  assert summary['loss'] is summary['accuracy'] is None
  assert summary['is_diverged'] is True
  assert summary['num_gradient_evaluations'] == 402


def test_little_is_kept_of_a_tuning_run():
  result = result_of(400)
  kept = keep(STREAM, 'tuning', result)
  assert set(kept) == {'summary', 'extra_steps'}
  assert 'share_undertrained' not in kept['summary']
  # What the tuning and the sums of seconds need.
  assert {'loss', 'run_seconds', 'compile_seconds'} <= set(kept['summary'])


@pytest.mark.parametrize('num_batches', [5, 49, 99, 120, 1020, 5099])
def test_a_curve_fits_its_stream(num_batches):
  task = dataclasses.replace(
    STREAM, num_segments=1, batches_per_segment=num_batches
  )
  points = keep(task, 'reporting', result_of(num_batches))['accuracy_curve']
  size = outcomes.batches_per_point(num_batches)
  assert num_batches - size < size * len(points) <= num_batches
  assert len(points) <= 100


def test_a_histogram_gives_its_numbers_back():
  numbers = np.array([0, 3, 0, 5, 3, 0])
  record = {'extra_steps': outcomes.histogram(numbers)}
  assert record == {'extra_steps': {'0': 3, '3': 2, '5': 1}}
  assert outcomes.extra_steps_of(record).tolist() == [0, 0, 0, 3, 3, 5]
  assert outcomes.extra_steps_of({'extra_steps': {}}).tolist() == []


def test_rounding_leaves_all_else_as_it_is():
  value = {'a': [1.23456789, np.inf], 'b': 123456789, 'c': True, 'd': None}
  assert outcomes.rounded(value) == {
    'a': [1.2346, np.inf],
    'b': 123456789,
    'c': True,
    'd': None,
  }


def test_permuted_tasks_are_summed_a_task():
  task = dataclasses.replace(
    permuted.TASKS['inputs'], num_segments=2, batches_per_segment=300
  )
  result = result_of(600, accuracy=np.repeat([0.0, 1.0], [450, 150]))
  flags = np.isin(np.arange(600), [99, 100, 300, 350, 599])
  metrics = result.metrics._replace(
    is_undertrained=flags, loss=np.repeat([2.0, 0.5], 300)
  )
  kept = keep(task, 'reporting', result._replace(metrics=metrics))
  assert kept['tasks'] == {
    'right': [0, 150],
    'loss': [2.0, 0.5],
    'flagged': [2, 3],
    'flagged_early': [1, 2],
    'evaluations': [300, 302],
  }
  assert 'tasks' not in keep(STREAM, 'reporting', result_of(400))
