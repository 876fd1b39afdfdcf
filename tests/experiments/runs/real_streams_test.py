"""The tasks of real streams, the two chases' identities, packed records."""

import dataclasses
import functools
import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from isgd_jax.experiments.datasets import Table
from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.optimizers.charts import ChartSettings
from isgd_jax.experiments.runs import packed
from isgd_jax.experiments.runs import real_streams
from isgd_jax.experiments.runs import records
from isgd_jax.experiments.runs import tasks
from isgd_jax.experiments.runs.methods import METHODS
from isgd_jax.experiments.runs.runner import Entry
from isgd_jax.experiments.runs.runner import run_identity
from tests.experiments.report import synthetic


def test_every_stream_has_every_batch_size_in_time_and_one_shuffled():
  forms = {
    (task.dataset, task.batch_size, task.order) for task in real_streams.TASKS
  }
  assert len(forms) == len(real_streams.TASKS) == 7 * 5
  for task in real_streams.TASKS:
    assert task.is_stream
    assert task.num_train == 64 + task.num_batches * task.batch_size
    assert tasks.Task(**task.as_record()) == task
  assert real_streams.TASKS[0].name == 'real-streams/elec2-1'


def test_the_blind_chase_keeps_its_name_and_the_default_has_another():
  task = real_streams.TASKS[0]
  found = {}
  for name in ('isgd', 'isgd-probation'):
    config = METHODS[name].run_config(task, 'adam', 0.01, 0)
    assert config.algorithm.as_record()['options'] == (
      (('probation', True),) if name == 'isgd-probation' else ()
    )
    found[name] = run_identity(
      task, Entry('adam', METHODS[name]), config, 'tuning'
    )
    params = jnp.zeros(3)
    state = config.algorithm.build('adam', 0.01).init(params)
    # Only probation keeps a second candidate.
    assert bool(state.probation_state) == (name == 'isgd-probation')
  assert found['isgd'] != found['isgd-probation']


def test_probation_may_take_one_evaluation_more():
  blind = Algorithm('isgd', ChartSettings())
  judged = dataclasses.replace(blind, options=(('probation', True),))
  assert judged.max_evaluations == blind.max_evaluations + 1


def test_a_reset_forgets_what_the_base_optimizer_had():
  algorithm = Algorithm('reset', ChartSettings(window_size=20))
  optimizer = algorithm.build('momentum', 0.1)
  params = jnp.zeros(2)
  state = optimizer.init(params)
  for loss in (*np.linspace(1.0, 1.1, 20), 50.0):
    updates, state = optimizer.update(
      jnp.ones(2), state, params, value=jnp.float32(loss)
    )
  fresh = optax.sgd(0.1, momentum=0.9)
  expected, _ = fresh.update(jnp.ones(2), fresh.init(params))
  np.testing.assert_array_equal(updates, expected)


def test_no_change_repeats_the_row_before_the_batch(monkeypatch):
  task = dataclasses.replace(
    real_streams.TASKS[0], batch_size=2, num_train=64 + 6
  )
  labels = np.r_[np.zeros(64, int), [0, 1, 1, 0, 0, 0]].astype(np.int32)
  table = Table('t', np.zeros((70, 1)), labels, 'classification', 2, ('a',))
  monkeypatch.setattr(tasks, '_table', lambda dataset, data_dir: table)
  found = real_streams.no_change(task)
  # Of [1, 0] after a 1 one is right, of [0, 0] after a 0 both.
  assert found == {'task': task.name, 'accuracy': 0.75}


def test_a_table_that_is_too_short_is_named(monkeypatch):
  table = Table(
    't', np.zeros((70, 1)), np.zeros(70, np.int32), 'classification', 2, ('a',)
  )
  monkeypatch.setattr(tasks, '_table', lambda dataset, data_dir: table)
  with pytest.raises(ValueError, match='more than the 70 rows of elec2'):
    tasks.task_table(real_streams.TASKS[0])


def test_packed_records_are_the_same_runs_in_fewer_bytes(tmp_path):
  folder = synthetic.Folder(tmp_path)
  for method in ('base', 'isgd'):
    folder.row(synthetic.STREAM, 'sgd', method, (1.0, 2.0, None))
  (path,) = tmp_path.glob('*.jsonl')
  before, size = list(records.read_runs(path)), path.stat().st_size
  packed.pack_file(path)
  # Most of what is left are the settings, which runs share anyhow.
  assert path.stat().st_size < 0.6 * size
  after = list(records.read_runs(path))
  key = functools.partial(json.dumps, sort_keys=True)
  assert sorted(map(key, after)) == sorted(map(key, before))
  once = path.read_bytes()
  packed.pack_file(path)
  assert path.read_bytes() == once
  # What is added later stands beside it.
  folder.row(synthetic.STREAM, 'sgd', 'skip', (1.0,))
  assert len(list(records.read_runs(path))) > len(after)
