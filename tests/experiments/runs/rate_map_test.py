"""A map's runs are ordinary runs that end at a target, on record once."""

import dataclasses
import os

import jax
import numpy as np
import pytest

from isgd_jax.experiments.models import build_model
from isgd_jax.experiments.progress import progress
from isgd_jax.experiments.runs import paper
from isgd_jax.experiments.runs import rate_map
from isgd_jax.experiments.runs import tasks
from isgd_jax.experiments.runs.methods import METHODS
from isgd_jax.experiments.runs.methods import resolve_methods
from isgd_jax.experiments.runs.rate_map import Trace
from isgd_jax.experiments.runs.rate_map import reached
from isgd_jax.experiments.runs.rate_map import run_rate_map
from isgd_jax.experiments.runs.rate_map import run_to_target
from isgd_jax.experiments.runs.records import Store
from isgd_jax.experiments.runs.records import read_runs
from isgd_jax.experiments.runs.runner import ComparisonPlan
from isgd_jax.experiments.runs.tasks import Task
from isgd_jax.experiments.runs.training import train

# Where MNIST's files lie, if anywhere.
MNIST = os.environ.get('MNIST', '')
TASK = Task(
  *('paper-map/digits', 'digits', 'digits', 'mlp-32', 'cycle', 32, 20),
  num_train=640,
  num_test=200,
  num_epochs=10,
  num_evaluations=20,
)


@pytest.fixture(scope='module')
def parts():
  return (
    tasks.build_task_model(TASK),
    tasks.build_cycle(TASK, 3),
    tasks.test_part(TASK),
  )


@pytest.mark.parametrize('num_held', [1, 2, 5])
def test_a_target_is_reached_where_a_plain_loop_says(num_held):
  rng = np.random.default_rng(0)
  for _ in range(50):
    accuracies = np.sort(rng.random(30)) + rng.normal(0, 0.1, 30)
    trace = Trace(accuracies, np.cumsum(rng.integers(1, 9, 30)))
    expected = None
    for i in range(num_held - 1, 30):
      if np.mean(accuracies[i - num_held + 1 : i + 1]) >= 0.7:
        expected = int(trace.spent[i])
        break
    assert reached(trace, 0.7, num_held) == expected


def test_a_mean_that_is_the_target_but_for_rounding_counts():
  trace = Trace(np.full(10, np.float32(0.9)), np.arange(10))
  assert reached(trace, 0.9, 10) == 9
  assert reached(Trace(np.zeros(3), np.arange(3)), 0.0, 10) is None


@pytest.mark.parametrize('name', ['base', 'isgd', 'paper-isgd-10'])
def test_a_run_is_the_run_that_calls_its_step_batch_by_batch(parts, name):
  model, cycle, test = parts
  config = METHODS[name].run_config(TASK, 'momentum', 0.03, 3)
  found = run_to_target(config, model, cycle, test, 200, targets=(0.8, 2.0))

  @jax.jit
  def accuracy(params):
    logits = model.logits_fn(params, test.inputs)
    return (logits.argmax(-1) == test.labels).mean()

  result = train(
    config,
    model,
    tasks.build_stream(TASK, 3),
    evaluate=accuracy,
    num_evaluations=20,
  )
  within = [e for e in result.evaluations if e.num_gradient_evaluations <= 200]
  trace = Trace(
    np.array([e.measures for e in within]),
    np.array([e.num_gradient_evaluations for e in within]),
  )
  assert found['first_80'] == reached(trace, 0.8, 1) is not None
  assert found['held_80'] == reached(trace, 0.8, 10)
  assert found['held_200'] is None
  flags = result.metrics.is_undertrained[: found['num_steps']]
  assert found['num_undertrained'] == flags.sum()
  spent = result.metrics.num_gradient_evaluations[: found['num_steps']].sum()
  assert found['num_gradient_evaluations'] == spent


def test_a_run_ends_at_its_last_target_its_budget_or_where_it_diverges(parts):
  model, cycle, test = parts

  def run(rate, **kwargs):
    config = METHODS['base'].run_config(TASK, 'momentum', rate, 3)
    return run_to_target(config, model, cycle, test, **kwargs)

  soon = run(0.03, budget=10_000, targets=(0.5,))
  assert soon['num_steps'] < 10_000
  assert soon['held_50'] <= soon['num_steps']
  late = run(0.03, budget=150, targets=(2.0,))
  assert late['num_steps'] == 200
  gone = run(1e20, budget=10_000)
  assert gone['is_diverged']
  assert gone['num_steps'] == 100
  assert gone['held_90'] is None


def test_every_rate_is_on_record_and_no_run_is_made_twice(
  tmp_path, monkeypatch
):
  plan = ComparisonPlan(
    dataclasses.replace(TASK, num_epochs=5),
    ('momentum',),
    resolve_methods(('base', 'paper-isgd')),
    num_rates=2,
    num_seeds=2,
    is_map=True,
  )
  path = tmp_path / 'paper-map.jsonl'
  assert plan.num_runs == 8

  def run():
    store = Store(path)
    with progress(plan.num_runs, show=False) as bar:
      run_rate_map(plan, store, bar)
    return store.num_runs

  assert run() == 8
  content = path.read_bytes()
  monkeypatch.setattr(rate_map, 'run_to_target', None)
  assert run() == 8
  assert path.read_bytes() == content
  runs = list(read_runs(path))
  assert {r['learning_rate'] for r in runs} == {0.01, 0.03}
  assert {r['seed'] for r in runs} == {1000, 1001}
  assert {r['purpose'] for r in runs} == {'reporting'}


@pytest.mark.skipif(not MNIST, reason='MNIST names no folder')
@pytest.mark.parametrize('task', paper.MAP_TASKS, ids=lambda task: task.name)
def test_the_windows_of_the_map_are_the_cycles(task):
  task = dataclasses.replace(task, data_dir=MNIST)
  for seed in (1000, 1001):
    cycle = tasks.build_cycle(task, seed)
    assert len(cycle.labels) == task.window_size


def test_the_map_s_network_is_one_hidden_layer():
  model = build_model('mlp-32', (28, 28, 1), 10)
  sizes = sorted(x.size for x in jax.tree.leaves(model.init(0)))
  assert sizes == sorted([784 * 32, 32, 32 * 10, 10])
