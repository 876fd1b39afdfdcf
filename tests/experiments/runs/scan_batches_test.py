"""All batches at once are the batches of the stream; wrong labels are wrong."""

import dataclasses

import numpy as np
import pytest

from isgd_jax.experiments.datasets import ArraySource
from isgd_jax.experiments.datasets import Dataset
from isgd_jax.experiments.datasets import Table
from isgd_jax.experiments.runs import permuted
from isgd_jax.experiments.runs import rivals
from isgd_jax.experiments.runs import tasks
from isgd_jax.experiments.runs.scan_batches import build_scan_batches
from isgd_jax.experiments.runs.steps import StepMetrics
from isgd_jax.experiments.runs.training import RunResult
from isgd_jax.experiments.runs.workloads import WORKLOADS


def table_task(**changes):
  return dataclasses.replace(
    rivals.TABLES[0], batch_size=4, num_train=64 + 4 * 100, **changes
  )


@pytest.fixture
def made_up(monkeypatch):
  rng = np.random.default_rng(0)
  labels = rng.integers(3, size=464).astype(np.int32)
  table = Table('t', rng.normal(size=(464, 2)), labels, 'classification', 3, ())
  monkeypatch.setattr(tasks, '_table', lambda dataset, data_dir: table)
  build_scan_batches.cache_clear()
  yield table
  build_scan_batches.cache_clear()


@pytest.mark.parametrize('order', ['table', 'shuffled-table'])
def test_a_table_is_its_stream(made_up, order):
  task = table_task(order=order)
  found = build_scan_batches(task, 5)
  expected = [
    np.stack(x) for x in zip(*tasks.build_stream(task, 5).batches, strict=True)
  ]
  for ours, theirs in zip(found[:2], expected, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert found.is_wrong is None
  other = build_scan_batches(task, 6)
  is_same = np.array_equal(other.targets, found.targets)
  assert is_same == (order == 'table')


def test_digits_that_drift_are_their_stream():
  task = dataclasses.replace(
    rivals.MADE_TASKS[0], num_segments=2, batches_per_segment=30
  )
  found = build_scan_batches(task, 5)
  expected = [
    np.stack(x) for x in zip(*tasks.build_stream(task, 5).batches, strict=True)
  ]
  np.testing.assert_array_equal(found.inputs, expected[0])
  np.testing.assert_array_equal(found.targets, expected[1])
  assert task.change_points == (30,)
  # The same digits as where batches are called one by one.
  drift = dataclasses.replace(task, order='drift')
  looped = [y for _, y in tasks.build_stream(drift, 5).batches]
  np.testing.assert_array_equal(found.targets, looped)


@pytest.mark.parametrize('problem', ['inputs', 'labels'])
def test_permuted_tasks_are_their_stream(problem, monkeypatch):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (50, 4, 4, 1)).astype(np.uint8)
  train = ArraySource(images, rng.integers(0, 10, 50).astype(np.uint8))
  data = Dataset('mnist', train, train, num_classes=10, example_shape=(4, 4, 1))
  monkeypatch.setattr(tasks, '_load', lambda dataset, data_dir: data)
  monkeypatch.setattr(tasks, '_num_classes', lambda dataset, data_dir: 10)
  build_scan_batches.cache_clear()
  task = dataclasses.replace(
    permuted.TASKS[problem], num_segments=3, batches_per_segment=20
  )
  found = build_scan_batches(task, 5)
  expected = [
    np.stack(x) for x in zip(*tasks.build_stream(task, 5).batches, strict=True)
  ]
  np.testing.assert_array_equal(found.inputs[:], expected[0])
  np.testing.assert_array_equal(found.targets, expected[1])
  assert found.block_size == 20
  assert task.change_points == tasks.build_stream(task, 5).change_points
  build_scan_batches.cache_clear()


def test_so_many_batches_have_random_labels_and_the_others_their_own(made_up):
  right = build_scan_batches(table_task(), 0)
  for seed in (0, 1):
    found = build_scan_batches(table_task(wrong_batches=0.1), seed)
    assert found.is_wrong.sum() == 10
    np.testing.assert_array_equal(found.inputs, right.inputs)
    is_same = found.targets == right.targets
    assert is_same[~found.is_wrong].all()
    # Of three classes one in three is right by chance: of 40, 13 and a few.
    assert 4 <= is_same[found.is_wrong].sum() <= 24
    assert found.targets.dtype == np.int32
  assert (
    build_scan_batches(table_task(wrong_batches=0.1), 0).is_wrong
    != build_scan_batches(table_task(wrong_batches=0.1), 1).is_wrong
  ).any()


def test_a_regression_has_no_wrong_labels(made_up, monkeypatch):
  table = made_up._replace(
    kind='regression', num_classes=1, targets=np.arange(464.0)
  )
  monkeypatch.setattr(tasks, '_table', lambda dataset, data_dir: table)
  with pytest.raises(ValueError, match='is a regression, which has no classes'):
    build_scan_batches(table_task(wrong_batches=0.1), 0)


def test_a_summary_has_the_batches_whose_labels_are_right(made_up):
  losses = np.array([1.0, 2.0, 30.0, 3.0])
  ones = np.ones(4)
  metrics = metrics_of(loss=losses, accuracy=losses / 10, others=ones)
  result = RunResult(
    *(None, metrics, 0.0, 0.0, False),
    is_wrong=np.array([False, False, True, False]),
  )
  summary = result.summary()
  assert summary['right_loss'] == pytest.approx(2.0)
  assert summary['right_accuracy'] == pytest.approx(0.2)
  assert summary['prequential_loss'] == pytest.approx(9.0)
  assert 'right_loss' not in result._replace(is_wrong=None).summary()


def metrics_of(loss, accuracy, others):
  fields = dict.fromkeys(StepMetrics._fields, others)
  return StepMetrics(**fields | {'loss': loss, 'accuracy': accuracy})


def test_what_makes_a_task_another_is_in_its_record_and_else_is_not():
  plain = rivals.TABLES[0].as_record()
  assert 'wrong_batches' not in plain
  assert 'is_real_time' not in plain
  for name in ('wrong-labels', 'real-time'):
    for task in WORKLOADS[name].tasks:
      assert tasks.Task(**task.as_record()) == task
      assert task.wrong_batches in ({'wrong-labels': (0.03, 0.1)}).get(
        name, (0.0,)
      )
      assert task.is_real_time == (name == 'real-time')
