"""Records say under which settings a run was made, and the last ones count."""

import json

import pytest

from isgd_jax.experiments import files
from isgd_jax.experiments.environment import environment
from isgd_jax.experiments.runs import records
from isgd_jax.experiments.runs.records import Store
from isgd_jax.experiments.runs.records import read_runs

TASK = {'name': 'made-up/task', 'window_size': 50}
ALGORITHM = {'kind': 'isgd', 'grid': [0.1]}


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'runs.jsonl'


def run(identity, method='isgd', **kwargs):
  return {
    'id': identity,
    'task': TASK['name'],
    'base': 'adam',
    'method': method,
    **kwargs,
  }


def append(store, record, task=TASK, algorithm=ALGORITHM):
  return store.append(record, task=task, algorithm=algorithm)


def find(store, identity, task=TASK, algorithm=ALGORITHM):
  return store.find(identity, task=task, algorithm=algorithm)


def ids(path):
  return [record['id'] for record in read_runs(path)]


def test_a_run_reads_back_with_all_that_it_shares(path):
  append(Store(path), run('a', summary={'loss': 0.5}))
  (record,) = read_runs(path)
  assert record['task_config'] == TASK
  assert record['algorithm'] == ALGORITHM
  assert record['environment'] == files.plain(environment())
  assert record['summary'] == {'loss': 0.5}
  assert (record['task'], record['method']) == (TASK['name'], 'isgd')


def test_what_runs_share_is_written_once_also_by_a_later_process(path):
  for name in 'abc':
    append(Store(path), run(name))
  lines = list(files.read_records(path))
  kinds = sorted(line['kind'] for line in lines if 'kind' in line)
  assert kinds == ['algorithm', 'environment', 'task_config']
  assert ids(path) == ['a', 'b', 'c']


def test_what_was_appended_is_found_as_it_would_be_read_back(path):
  store = Store(path)
  appended = append(store, run('a', loss=float('nan'), numbers=(1, 2)))
  assert appended['loss'] is None
  assert find(store, 'a') == find(Store(path), 'a') == appended
  assert json.loads(path.read_text().splitlines()[-1]) == appended
  assert find(store, 'b') is None


def test_finding_a_run_under_its_own_settings_writes_nothing(path):
  append(Store(path), run('a'))
  before = path.read_text()
  assert find(Store(path), 'a')
  assert path.read_text() == before


@pytest.mark.parametrize('num_torn', [2, 20, 60])
def test_a_torn_last_line_costs_its_own_run_alone(path, num_torn):
  for name in 'ab':
    append(Store(path), run(name))
  path.write_bytes(path.read_bytes()[:-num_torn])
  store = Store(path)
  assert find(store, 'a')
  assert find(store, 'b') is None
  assert ids(path) == ['a']
  append(store, run('b'))
  assert ids(path) == ['a', 'b']


def test_a_torn_line_of_what_is_shared_is_written_again(path):
  append(Store(path), run('a'))
  first, second, *_ = path.read_text().splitlines()
  path.write_text(f'{first}\n{second[:30]}')
  append(Store(path), run('a'))
  (record,) = read_runs(path)
  assert record['task_config'] == TASK


def test_the_last_settings_of_each_method_count(path):
  store = Store(path)
  other = {**ALGORITHM, 'grid': [0.1, 0.3]}
  append(store, run('a'))
  append(store, run('b', method='base'))
  append(store, run('c'), algorithm=other)
  append(store, run('d'), task={**TASK, 'window_size': 9}, algorithm=other)
  assert ids(path) == ['b', 'd']


def test_a_run_found_under_new_settings_is_kept_with_these(path):
  append(Store(path), run('a', loss=1.5))
  other = {**ALGORITHM, 'grid': [0.1, 0.3]}
  store = Store(path)
  append(store, run('b'), algorithm=other)
  assert ids(path) == ['b']
  assert find(store, 'a', algorithm=other)['loss'] == 1.5
  assert sorted(ids(path)) == ['a', 'b']
  assert all(record['algorithm'] == other for record in read_runs(path))


def test_settings_that_come_back_count_again(path):
  store = Store(path)
  other = {**ALGORITHM, 'grid': [0.1, 0.3]}
  append(store, run('a'))
  append(store, run('b'))
  append(store, run('c'), algorithm=other)
  for name in 'ab':
    find(Store(path), name)
  assert sorted(ids(path)) == ['a', 'b']


def test_a_run_keeps_the_environment_that_it_was_made_in(path, monkeypatch):
  append(Store(path), run('a'))
  then = files.plain(environment())
  monkeypatch.setattr(records, 'environment', lambda: {'hardware': 'other'})
  store = Store(path)
  other = {**ALGORITHM, 'grid': [0.1, 0.3]}
  find(store, 'a', algorithm=other)
  append(store, run('b'), algorithm=other)
  environments = {r['id']: r['environment'] for r in read_runs(path)}
  assert environments == {'a': then, 'b': {'hardware': 'other'}}
