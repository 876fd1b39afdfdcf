"""Runs on record keep their names: no renamed field makes them anew."""

import pathlib

import pytest

from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.optimizers.charts import ChartSettings
from isgd_jax.experiments.runs.methods import METHODS
from isgd_jax.experiments.runs.records import read_runs
from isgd_jax.experiments.runs.runner import Entry
from isgd_jax.experiments.runs.runner import run_identity
from isgd_jax.experiments.runs.tasks import Task

RESULTS = pathlib.Path(__file__).resolve().parents[3] / 'results'
FILES = sorted(
  path
  for path in RESULTS.glob('*.jsonl')
  if not path.stem.startswith('demonstrations')
)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_every_committed_run_is_found_under_the_name_it_was_given(path):
  runs = list(read_runs(path))
  assert runs
  for run in runs:
    task, method = Task(**run['task_config']), METHODS[run['method']]
    config = method.run_config(
      task, run['base'], run['learning_rate'], run['seed']
    )
    identity = run_identity(
      task, Entry(run['base'], method), config, run['purpose']
    )
    assert identity == run['id'], run


def test_records_have_these_keys_in_this_order():
  chart = {
    'kind': 'shewhart',
    'window_size': 50,
    'sigma_multiplier': 4.0,
    'sigma_estimator': 'std',
    'flagged_losses': 'winsorize',
    'smoothing': 0.3,
  }
  algorithm = {
    'kind': 'base',
    'chart': chart,
    'solver': 'gauss-newton',
    'solver_options': (),
    'options': (),
    'num_base_steps': 1,
  }
  assert list(ChartSettings().as_record().items()) == list(chart.items())
  assert list(Algorithm().as_record().items()) == list(algorithm.items())


def test_a_task_read_back_from_its_record_is_the_same_but_for_its_folder():
  task = Task(
    *('a/b', 'A task', 'digits', 'mlp', 'drift', 16, 50),
    drift='pixels',
    data_dir='/somewhere',
  )
  record = task.as_record()
  assert 'data_dir' not in record
  assert Task(**record, data_dir=task.data_dir) == task
