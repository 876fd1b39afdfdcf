"""A plan is fair, whole after an interruption, and repeats nothing."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from isgd_jax.experiments import files
from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.optimizers.base_optimizers import learning_rate_grid
from isgd_jax.experiments.optimizers.charts import ChartSettings
from isgd_jax.experiments.report.rows import collect
from isgd_jax.experiments.runs import outcomes
from isgd_jax.experiments.runs import runner
from isgd_jax.experiments.runs import tasks
from isgd_jax.experiments.runs.methods import resolve_methods
from isgd_jax.experiments.runs.records import Store
from isgd_jax.experiments.runs.records import read_runs
from isgd_jax.experiments.runs.steps import StepMetrics
from isgd_jax.experiments.runs.tasks import Task
from tests.experiments.runs.counted_training import Training

pytestmark = pytest.mark.whole_runs

STREAM = Task(
  'test/stream',
  'Stream',
  dataset='digits',
  model='mlp',
  order='drift',
  batch_size=8,
  window_size=10,
  num_segments=3,
  batches_per_segment=23,
)
CYCLE = Task(
  'test/cycle',
  'Cycle',
  dataset='digits',
  model='mlp',
  order='cycle',
  batch_size=8,
  window_size=32,
  schedule='decayed',
  num_train=256,
  num_test=64,
  num_epochs=6,
  num_evaluations=4,
)
# Limits so narrow that the chart flags batches of these short runs.
NARROW = Algorithm('isgd', ChartSettings(sigma_multiplier=1.5))
METHODS = tuple(
  dataclasses.replace(method, isgd=NARROW)
  for method in resolve_methods(('base', 'twice', 'isgd', 'random'))
)
PLAN = runner.ComparisonPlan(
  STREAM,
  ('momentum',),
  METHODS,
  has_loss_adaptive=True,
  num_rates=2,
  num_tuning_seeds=1,
  num_seeds=2,
)


class Bar:
  """A progress bar that counts."""

  def __init__(self):
    self.num_runs = 0

  def update(self):
    self.num_runs += 1

  def set_description(self, text):
    del text

  def set_postfix_str(self, text):
    del text


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'runs.jsonl'


@pytest.fixture
def training(monkeypatch):
  counted = Training()
  monkeypatch.setattr(runner, 'train', counted)
  return counted


def run(plan, path, **kwargs):
  bar = Bar()
  runner.run_plan(plan, Store(path), bar, **kwargs)
  assert bar.num_runs == plan.num_runs
  return list(read_runs(path))


@pytest.fixture(scope='module')
def stream_records(tmp_path_factory):
  path = tmp_path_factory.mktemp('stream') / 'runs.jsonl'
  with jax.numpy_dtype_promotion('standard'):
    return run(PLAN, path)


@pytest.fixture(scope='module')
def cycle_records(tmp_path_factory):
  path = tmp_path_factory.mktemp('cycle') / 'runs.jsonl'
  methods = (*METHODS, *resolve_methods(('reshuffled', 'skip', 'paper-isgd')))
  plan = dataclasses.replace(
    PLAN, task=CYCLE, methods=methods, has_loss_adaptive=False
  )
  with jax.numpy_dtype_promotion('standard'):
    return run(plan, path)


def without_seconds(records):
  """What a run made again has to share with the first one."""
  kept = []
  for record in records:
    summary = {k: v for k, v in record['summary'].items() if 'seconds' not in k}
    kept.append({**record, 'summary': summary})
  return sorted(kept, key=lambda record: record['id'])


@pytest.mark.parametrize('num_done', [0, 1, 9, 23])
def test_an_interrupted_plan_goes_on_where_it_was_and_repeats_nothing(
  num_done, path, monkeypatch, stream_records
):
  training = Training(interrupt_at=num_done)
  monkeypatch.setattr(runner, 'train', training)
  with pytest.raises(KeyboardInterrupt):
    run(PLAN, path)
  done = list(read_runs(path)) if path.exists() else []
  assert len(done) == num_done
  records = run(PLAN, path)
  assert training.num_runs == PLAN.num_runs == len(records)
  assert without_seconds(records) == without_seconds(stream_records)
  # Once more: everything is there, and nothing is written.
  before = path.read_text()
  assert run(PLAN, path) == records
  assert training.num_runs == PLAN.num_runs
  assert path.read_text() == before


def test_a_run_that_a_torn_line_lost_is_made_again(path, training):
  plan = dataclasses.replace(PLAN, methods=METHODS[:1])
  records = run(plan, path)
  path.write_bytes(path.read_bytes()[:-40])
  again = run(plan, path)
  assert training.num_runs == plan.num_runs + 1
  assert without_seconds(again) == without_seconds(records)


def test_a_changed_setting_makes_new_runs_and_leaves_the_old_ones_out(
  path, training
):
  plan = dataclasses.replace(PLAN, methods=METHODS[:1], has_loss_adaptive=False)
  run(plan, path)
  task = dataclasses.replace(STREAM, batch_size=9)
  records = run(dataclasses.replace(plan, task=task), path)
  assert training.num_runs == 2 * plan.num_runs
  assert len(records) == plan.num_runs
  assert {r['task_config']['batch_size'] for r in records} == {9}
  # Both are still there: the first settings count again when asked for.
  records = run(plan, path)
  assert training.num_runs == 2 * plan.num_runs
  assert len(records) == plan.num_runs
  assert {r['task_config']['batch_size'] for r in records} == {8}


def test_a_larger_grid_makes_only_the_runs_that_are_new(
  path, training, monkeypatch
):
  """And random triggers follow ISGD to the rate it is tuned to then."""
  plan = dataclasses.replace(PLAN, has_loss_adaptive=False)
  monkeypatch.setattr(runner, 'best_rate', min)
  run(plan, path)
  num_before = training.num_runs
  monkeypatch.setattr(runner, 'best_rate', max)
  plan = dataclasses.replace(plan, num_rates=3)
  records = run(plan, path)
  # Of each of four methods: one more rate to tune, two reports at another one;
  # and of random, both old rates again, for ISGD's trace is another one.
  assert training.num_runs - num_before == 4 * (1 + 2) + 2
  assert len(records) == plan.num_runs
  grid = learning_rate_grid('momentum', 3)
  assert {tuple(r['algorithm']['grid']) for r in records} == {grid}
  reported = {
    r['learning_rate'] for r in records if r['purpose'] == 'reporting'
  }
  assert reported == {max(grid)}
  assert_random_follows_isgd(records)


def test_every_entry_is_tuned_alike_and_on_seeds_apart(stream_records):
  budgets = collections.defaultdict(list)
  for record in stream_records:
    rate = record['learning_rate'] if record['purpose'] == 'tuning' else None
    run = record['purpose'], rate, record['seed']
    budgets[record['base'], record['method']].append(run)
  assert set(budgets) == {
    *(('momentum', method.name) for method in METHODS),
    ('polyak', 'base'),
    ('momo', 'base'),
  }
  for (base, _), runs in budgets.items():
    tuning = [('tuning', r, 0) for r in learning_rate_grid(base, 2)]
    reporting = [('reporting', None, seed) for seed in (1000, 1001)]
    assert sorted(runs, key=str) == sorted(tuning + reporting, key=str)


def test_the_rate_that_is_reported_tuned_best(stream_records):
  losses = {
    (r['base'], r['method'], r['learning_rate']): r['summary']['loss']
    for r in stream_records
    if r['purpose'] == 'tuning'
  }
  for record in stream_records:
    base, method = record['base'], record['method']
    if record['purpose'] == 'reporting':
      of_entry = {
        r: x for (b, m, r), x in losses.items() if (b, m) == (base, method)
      }
      assert len(of_entry) == 2
      assert record['learning_rate'] == min(of_entry, key=of_entry.get)


def assert_random_follows_isgd(records):
  """Each random run has the trace of ISGD, as tuned, on the same seed."""
  traces, random = {}, []
  rates = {
    r['learning_rate']
    for r in records
    if r['method'] == 'isgd' and r['purpose'] == 'reporting'
  }
  assert len(rates) == 1
  for record in records:
    if record['method'] == 'isgd' and record['learning_rate'] in rates:
      traces[record['seed']] = record
    elif record['method'] == 'random':
      random.append(record)
  assert random
  for record in random:
    isgd = traces[record['seed']]
    assert record['extra_steps'] == isgd['extra_steps']
    name = 'num_gradient_evaluations'
    assert record['summary'][name] == isgd['summary'][name]
  assert any(set(record['extra_steps']) != {'0'} for record in random)


def test_random_takes_exactly_isgd_s_histogram(stream_records, cycle_records):
  assert_random_follows_isgd(stream_records)
  assert_random_follows_isgd(cycle_records)


def test_all_methods_of_a_fixed_cycle_spend_the_same(cycle_records):
  budget = CYCLE.budget
  assert budget == 6 * 32
  for record in cycle_records:
    summary = record['summary']
    spent = summary['num_gradient_evaluations']
    if record['method'] in ('isgd', 'paper-isgd', 'random'):
      assert budget <= spent < budget + Algorithm('isgd').max_evaluations
    else:
      assert spent == budget
    num_batches = {'twice': budget // 2, 'base': budget}
    num_steps = sum(record['extra_steps'].values())
    assert num_steps == num_batches.get(record['method'], num_steps)


def test_a_record_holds_the_full_configuration(stream_records):
  for record in stream_records:
    environment = record['environment']
    assert {'device', 'num_cpus'} <= set(environment['hardware'])
    assert {'jax', 'optax', 'commit'} <= set(environment['versions'])
    assert Task(**record['task_config']) == STREAM
    algorithm = record['algorithm']
    assert algorithm['decay_evaluations'] == 0
    assert algorithm['is_reshuffled'] is False
    assert algorithm['tuning_seeds'] == [0]
    # Of old ones, a record has no field that it was made without.
    fields = {
      f.name: algorithm.get(f.name, f.default)
      for f in dataclasses.fields(Algorithm)
    }
    fields |= {
      'chart': ChartSettings(**fields['chart']),
      'options': tuple(map(tuple, fields['options'])),
      'solver_options': tuple(map(tuple, fields['solver_options'])),
    }
    (method,) = (m for m in METHODS if m.name == record['method'])
    config = method.run_config(STREAM, record['base'], 0.1, 0)
    assert Algorithm(**fields) == config.algorithm


def test_each_new_run_is_handed_over_with_its_record(path):
  plan = dataclasses.replace(PLAN, methods=METHODS[:1])
  handed = []
  records = run(plan, path, on_result=lambda *args: handed.append(args))
  assert [r['id'] for r, _ in handed] == [r['id'] for r in records]
  for record, result in handed:
    loss = result.metrics.loss.mean()
    assert record['summary']['loss'] == pytest.approx(loss, rel=1e-4)
  handed.clear()
  run(plan, path, on_result=lambda *args: handed.append(args))
  assert not handed


def test_a_diverged_run_is_null_and_never_tuned_best(path, monkeypatch):
  monkeypatch.setattr(runner, 'learning_rate_grid', lambda *args: (1e30, 0.03))
  plan = dataclasses.replace(
    PLAN, methods=METHODS[:1], has_loss_adaptive=False, num_seeds=1
  )
  diverged, tuned, reported = run(plan, path)
  assert diverged['summary']['loss'] is None
  assert tuned['learning_rate'] == reported['learning_rate'] == 0.03


def test_the_first_seed_moves_all_seeds(path):
  plan = dataclasses.replace(
    PLAN, methods=METHODS[:1], has_loss_adaptive=False, first_seed=7
  )
  seeds = collections.defaultdict(set)
  for record in run(plan, path):
    seeds[record['purpose']].add(record['seed'])
  assert seeds == {'tuning': {7}, 'reporting': {1007, 1008}}


def test_tuning_seeds_that_reach_the_reported_ones_are_refused():
  with pytest.raises(ValueError, match='without tuning seeds there is one'):
    dataclasses.replace(PLAN, num_tuning_seeds=0)
  with pytest.raises(ValueError, match='num_tuning_seeds must be at most 1000'):
    dataclasses.replace(PLAN, num_tuning_seeds=1001)


def test_recovery_trace_of_a_worked_example():
  # Three segments of 12, 12 and 5 batches; each batch of the second one has
  # three evaluations. Its first ten are right in 2 of 10 (the first two), so
  # the mean over ten is 0.2, then 0.1 + 0.1 = 0.2 (no new high), then 0.3.
  second = [1.0, 1.0, *[0.0] * 8, 1.0, 2.0]
  accuracy = np.array([*[0.5] * 12, *second, *[0.9] * 5])
  evaluations = np.array([*[1] * 12, *[3] * 12, *[1] * 5])
  metrics = StepMetrics(*np.zeros((9, 29)))._replace(
    accuracy=accuracy, num_gradient_evaluations=evaluations
  )
  assert outcomes.recovery_trace(metrics, (12, 24)) == [
    [[10, 30, 0.2], [12, 36, 0.3]],
    [],  # shorter than the mean's ten batches
  ]


def test_recovery_trace_keeps_only_highs_well_apart_of_the_upper_half():
  accuracy = np.concatenate([np.zeros(20), np.linspace(0, 1, 500)])
  metrics = StepMetrics(*np.zeros((9, 520)))._replace(
    accuracy=accuracy, num_gradient_evaluations=np.ones(520, int)
  )
  (trace,) = outcomes.recovery_trace(metrics, (20,))
  highs = [accuracy for _, _, accuracy in trace]
  assert 14 < len(trace) <= 18
  assert (np.diff(highs) > 0.029).all()
  assert 0.49 < highs[0] < 0.51
  assert highs[-1] > 0.97
  assert all(batches == spent for batches, spent, _ in trace)


def test_a_stream_s_change_points_are_the_task_s():
  assert tasks.build_stream(STREAM, 0).change_points == STREAM.change_points
  assert STREAM.change_points == (23, 46)
  assert CYCLE.change_points == ()


def test_tuning_is_judged_on_examples_that_are_neither_trained_nor_tested_on():
  task = dataclasses.replace(CYCLE, num_train=1120, num_test=317, num_epochs=1)
  model = tasks.build_task_model(task)
  params = model.init(0)
  data = tasks.load_dataset('digits')
  trained_on = {
    image.tobytes()
    for inputs, _ in tasks.build_stream(task, 0).batches
    for image in inputs
  }
  rest = [x.tobytes() not in trained_on for x in data.train.images]
  assert sum(rest) == 317
  expected = {
    'tuning': (data.train.images[rest], data.train.labels[rest]),
    'reporting': (data.test.images[:317], data.test.labels[:317]),
  }
  for purpose, batch in expected.items():
    found = tasks.build_evaluation(task, model, purpose)(params)
    loss, accuracy = model.loss_fn(params, batch)
    assert found.test_loss == pytest.approx(float(loss), rel=1e-4)
    assert found.test_accuracy == pytest.approx(float(accuracy), rel=1e-4)


def test_a_file_of_records_is_strict_json_and_short(stream_records):
  size = len(files.to_json(stream_records[0]))
  assert size < 4000


def test_a_published_rate_is_run_without_tuning(path, training):
  plan = dataclasses.replace(
    PLAN,
    base_optimizers=('labels-sgdw',),
    methods=METHODS[:1],
    has_loss_adaptive=False,
    num_rates=1,
    num_tuning_seeds=0,
  )
  records = run(plan, path)
  assert [r['purpose'] for r in records] == ['reporting'] * 2
  assert {r['learning_rate'] for r in records} == {0.01}
  (row,) = collect(records).values()
  assert row.learning_rate == 0.01
  assert not row.is_rate_at_edge
  assert sorted(row.runs) == list(plan.reporting_seeds)
  # Reports of a rate that somebody has still to tune are none.
  for record in records:
    record['algorithm'] |= {'tuning_seeds': [0]}
  assert not collect(records)
