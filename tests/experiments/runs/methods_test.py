"""Every method of every workload can be built, and is what it is called."""

import dataclasses

import pytest

from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.optimizers.base_optimizers import learning_rate_grid
from isgd_jax.experiments.optimizers.charts import ChartSettings
from isgd_jax.experiments.runs import methods
from isgd_jax.experiments.runs.ablation import VARIANTS
from isgd_jax.experiments.runs.methods import LOSS_ADAPTIVE
from isgd_jax.experiments.runs.methods import METHODS
from isgd_jax.experiments.runs.workloads import LARGE_WORKLOADS
from isgd_jax.experiments.runs.workloads import WORKLOADS

STREAM = WORKLOADS['drift-labels'].tasks[0]
STATIONARY = WORKLOADS['stationary-digits'].tasks[0]
INPUT_BOUND = WORKLOADS['input-bound'].tasks[0]

workloads = pytest.mark.parametrize(
  'workload',
  [
    pytest.param(workload, id=f'{size} {name}')
    for size, all_of_size in (('small', WORKLOADS), ('large', LARGE_WORKLOADS))
    for name, workload in all_of_size.items()
  ],
)


@workloads
def test_every_method_over_every_base_optimizer_can_be_built(workload):
  bases = workload.base_optimizers
  algorithms = {
    METHODS[name].run_config(task, base, 0.1, 0).algorithm
    for task in workload.tasks
    for name in workload.methods
    for base in bases
  }
  for algorithm in algorithms:
    for base in (*bases, *LOSS_ADAPTIVE):
      optimizer = algorithm.build(base, 0.1)
      assert callable(optimizer.init)
      assert callable(optimizer.update)


@workloads
def test_no_two_methods_of_a_workload_are_the_same_run(workload):
  """Runs are told apart by what they do, so one would take the other's."""
  for task in workload.tasks:
    runs = {}
    for name in workload.methods:
      method = METHODS[name]
      config = method.run_config(task, 'sgd', 0.1, 0)
      key = config.method, config.algorithm, config.decay_evaluations
      is_reshuffled = method.is_reshuffled and task.order == 'cycle'
      other = runs.setdefault((*key, is_reshuffled), name)
      assert other == name


@workloads
def test_the_grid_has_the_rates_that_a_workload_asks_for(workload):
  for base in (*workload.base_optimizers, *LOSS_ADAPTIVE):
    grid = learning_rate_grid(base, workload.num_rates)
    finds_its_own = base in ('prodigy', 'dog', 'dowg', 'cocob')
    assert len(grid) == (1 if finds_its_own else workload.num_rates)


@workloads
def test_a_task_s_name_begins_with_that_of_a_workload_and_is_its_own(workload):
  names = [task.name for task in workload.tasks]
  assert len(set(names)) == len(names)
  assert all(name.split('/')[0] in WORKLOADS for name in names)


@pytest.mark.parametrize('name', VARIANTS)
def test_a_variant_is_isgd_with_something_changed(name):
  changed = {
    field.name
    for field in dataclasses.fields(Algorithm)
    if getattr(VARIANTS[name], field.name)
    != getattr(Algorithm('isgd'), field.name)
  }
  assert 'kind' not in changed
  assert (name == 'shewhart, k = 4') == (not changed)


def test_isgd_s_window_is_the_task_s_and_all_else_the_method_s():
  for name in ('isgd', 'paper-isgd', 'skip', 'ewma 0.1, width 4'):
    chart = METHODS[name].run_config(STREAM, 'sgd', 0.1, 0).algorithm.chart
    expected = dataclasses.replace(
      METHODS[name].isgd.chart, window_size=STREAM.window_size
    )
    assert chart == expected


@pytest.mark.parametrize(
  ('task', 'name', 'expected'),
  [
    (STREAM, 'base', 0),
    (STREAM, 'isgd', 0),
    (STREAM, 'base-decayed', STREAM.num_batches),
    (STATIONARY, 'base', STATIONARY.budget),
    (STATIONARY, 'isgd', STATIONARY.budget),
    (STATIONARY, 'base-constant', 0),
    (STATIONARY, 'isgd-constant', 0),
    # Half of the batches, each twice.
    (STATIONARY, 'twice', STATIONARY.budget),
    # All of the batches, each twice.
    (INPUT_BOUND, 'base', INPUT_BOUND.num_batches),
    (INPUT_BOUND, 'twice', 2 * INPUT_BOUND.num_batches),
  ],
)
def test_a_decayed_rate_ends_with_the_evaluations(task, name, expected):
  config = METHODS[name].run_config(task, 'sgd', 0.1, 0)
  assert config.decay_evaluations == expected


def test_random_trigger_brings_isgd_and_comes_after_it():
  for names in (('random',), ('random', 'isgd', 'base'), ('base', 'random')):
    found = [method.name for method in methods.resolve_methods(names)]
    assert set(found) == {*names, 'isgd'}
    assert len(found) == len(set(found))
    assert found.index('isgd') < found.index('random')


def test_an_unknown_method_gives_the_nearest():
  with pytest.raises(ValueError, match="did you mean 'twice'"):
    methods.resolve_methods(('base', 'twise'))


@pytest.mark.parametrize(
  ('algorithm', 'message'),
  [
    (Algorithm('isgd', ChartSettings('ewmaa')), "did you mean 'ewma'"),
    (Algorithm('isgd', solver='gauss'), "did you mean 'gauss-newton'"),
    (Algorithm('igsd'), "did you mean 'isgd'"),
  ],
)
def test_an_unknown_name_of_an_algorithm_gives_the_nearest(algorithm, message):
  with pytest.raises(ValueError, match=message):
    algorithm.build('sgd', 0.1)
