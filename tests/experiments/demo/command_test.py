"""The demo end to end: fair, complete, and made from its own files."""

import collections
import dataclasses
import json
import shutil
import statistics

from matplotlib import image
import pytest

from isgd_jax.experiments import files
from isgd_jax.experiments.demo import command
from isgd_jax.experiments.demo import summary as summary_lib
from isgd_jax.experiments.runs import step_records
from isgd_jax.experiments.runs.records import read_runs

pytestmark = pytest.mark.whole_runs

CONFIG = command.DemoConfig(quick=True, base_optimizers=('momentum',))
FILES = {
  'runs.jsonl',
  'steps.jsonl',
  'summary.txt',
  'control_chart.png',
  'accuracy_over_stream.png',
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('demo')
  summary = command.run_demo(CONFIG, folder, show_progress=False)
  assert summary + '\n' == (folder / 'summary.txt').read_text()
  return folder


@pytest.fixture
def records(folder):
  return list(read_runs(folder / 'runs.jsonl'))


def num_runs(config):
  return sum(plan.num_runs for plan in config.plans())


def test_every_file_is_there_and_nothing_else(folder):
  assert {path.name for path in folder.iterdir()} == FILES


def test_every_planned_run_is_recorded_once(folder, records):
  lines = list(files.read_records(folder / 'runs.jsonl'))
  names = [line['id'] for line in lines if 'id' in line]
  assert len(names) == len(set(names)) == num_runs(CONFIG)
  assert {record['id'] for record in records} == set(names)


def test_no_option_is_ignored():
  """Each changes what is run; there is but one data set."""
  default = command.DemoConfig()
  others = {
    'seed': 1,
    'quick': True,
    'model': 'cnn',
    'base_optimizers': ('sgd',),
  }
  assert {f.name for f in dataclasses.fields(default)} == {*others, 'dataset'}
  for name, value in others.items():
    changed = dataclasses.replace(default, **{name: value})
    assert changed.plans() != default.plans(), name


@pytest.mark.parametrize('quick', [True, False])
def test_no_seed_both_tunes_and_reports_and_both_follow_the_option(quick):
  for seed in (0, 7):
    for plan in command.DemoConfig(seed=seed, quick=quick).plans():
      assert not set(plan.tuning_seeds) & set(plan.reporting_seeds)
      assert plan.tuning_seeds[0] == seed
      assert plan.reporting_seeds[0] == 1000 + seed


def test_every_method_has_the_same_grid_and_seeds(records):
  budgets = collections.defaultdict(set)
  for record in records:
    key = record['task'], record['method']
    rate = record['learning_rate'] if record['purpose'] == 'tuning' else None
    budgets[key].add((record['purpose'], rate, record['seed']))
  assert len(budgets) == 8
  for task in {task for task, _ in budgets}:
    first, *others = [b for (t, _), b in budgets.items() if t == task]
    assert all(other == first for other in others)


def test_isgd_has_one_setting_for_all_tasks(records):
  isgd = [r['algorithm'] for r in records if r['method'] == 'isgd']
  assert len({json.dumps(algorithm) for algorithm in isgd}) == 1
  assert isgd[0]['chart']['window_size'] == 50


def test_the_reported_rate_is_the_one_that_tuned_best(records):
  losses = collections.defaultdict(lambda: collections.defaultdict(list))
  for record in records:
    key = record['task'], record['method']
    if record['purpose'] == 'tuning':
      losses[key][record['learning_rate']].append(record['summary']['loss'])
  for record in records:
    key = record['task'], record['method']
    if record['purpose'] == 'reporting':
      medians = {r: statistics.median(x) for r, x in losses[key].items()}
      assert record['learning_rate'] == min(medians, key=medians.get)


def test_on_epochs_all_methods_spend_the_same_evaluations(records):
  """So that seeing every batch twice means seeing half of the batches."""
  budget = CONFIG.plans()[0].task.budget
  assert budget == 6 * (1120 // 32)
  spent, num_steps = collections.defaultdict(set), {}
  for record in records:
    if record['task'] == 'demo/shuffled':
      summary = record['summary']
      spent[record['method']].add(summary['num_gradient_evaluations'])
      num_steps[record['method']] = sum(record['extra_steps'].values())
  assert spent['base'] == spent['twice'] == {budget}
  for method in ('isgd', 'random'):
    assert all(budget <= n < budget + 7 for n in spent[method])
  assert num_steps['twice'] == num_steps['base'] // 2


def test_random_trigger_spends_what_isgd_spent(records):
  spent = {
    (r['task'], r['method'], r['seed']): r['summary'][
      'num_gradient_evaluations'
    ]
    for r in records
    if r['purpose'] == 'reporting'
  }
  pairs = [
    (n, spent[task, 'isgd', seed])
    for (task, method, seed), n in spent.items()
    if method == 'random'
  ]
  assert len(pairs) == 4
  assert all(random == isgd for random, isgd in pairs)


def test_table_and_figures_can_be_made_again_from_the_files(folder):
  before = (folder / 'summary.txt').read_text()
  for name in FILES - {'runs.jsonl', 'steps.jsonl'}:
    (folder / name).unlink()
  again = command.report_demo(folder)
  assert again + '\n' == before
  assert {path.name for path in folder.iterdir()} == FILES


def test_asked_again_it_measures_afresh_and_loses_nothing(
  folder, tmp_path, monkeypatch
):
  found = []

  def look_and_stop(plan, store, bar, *, on_result):
    found.append(store)
    files.append_record(tmp_path / 'runs.jsonl', {'run': len(found)})
    raise KeyboardInterrupt

  monkeypatch.setattr(command, 'run_plan', look_and_stop)
  monkeypatch.setattr(command, 'read_runs', files.read_records)
  first = (folder / 'runs.jsonl').read_text()
  (tmp_path / 'runs.jsonl').write_text(first)
  for _ in range(3):
    with pytest.raises(KeyboardInterrupt, match='1 of 40 runs are kept in'):
      command.run_demo(CONFIG, tmp_path, show_progress=False)
  record = next(read_runs(folder / 'runs.jsonl'))
  shared = {'task': record['task_config'], 'algorithm': record['algorithm']}
  assert all(store.find(record['id'], **shared) is None for store in found)
  contents = {path.name: path.read_text() for path in tmp_path.iterdir()}
  assert contents == {
    'runs.1.jsonl': first,
    'runs.2.jsonl': '{"run": 1}\n',
    'runs.3.jsonl': '{"run": 2}\n',
    'runs.jsonl': '{"run": 3}\n',
  }


def test_stopped_before_the_first_run_it_says_so(tmp_path, monkeypatch):
  def stop(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(command, 'run_plan', stop)
  with pytest.raises(KeyboardInterrupt, match='none is kept'):
    command.run_demo(CONFIG, tmp_path, show_progress=False)
  assert not list(tmp_path.iterdir())


def test_summary_has_a_row_for_each_method_and_a_sentence_for_each_task(folder):
  summary = (folder / 'summary.txt').read_text()
  for title in summary_lib.METHOD_TITLES.values():
    assert summary.count(f'momentum  {title}') == 2
  for start in ('Shuffled epochs (2 seeds only', 'Drifting stream (2 seeds'):
    assert summary.count(start) == 1
  assert 'window_size=50' in summary


@pytest.mark.parametrize(
  'name', ['control_chart.png', 'accuracy_over_stream.png']
)
def test_figures_are_pictures_of_the_stated_width(folder, name):
  pixels = image.imread(folder / name)
  assert pixels.shape[1] == 1200
  assert pixels.std() > 0.05  # not blank


def test_figures_are_svgs_where_those_are_asked_for(folder, tmp_path):
  for name in ('runs.jsonl', 'steps.jsonl'):
    shutil.copy(folder / name, tmp_path)
  command.report_demo(tmp_path, 'svg')
  for name in ('control_chart', 'accuracy_over_stream'):
    assert (tmp_path / f'{name}.svg').read_text().startswith('<?xml')
  assert not list(tmp_path.glob('*.png'))


def test_drawn_steps_are_those_of_the_first_reported_runs(folder, records):
  steps = step_records.read_steps(folder / 'steps.jsonl')
  drawn = {
    r['id']: r['summary']
    for r in records
    if r['task'] == 'demo/drift-labels' and r['seed'] == 1000
  }
  assert len(drawn) == 4
  assert set(steps) == set(drawn)
  for name, metrics in steps.items():
    assert len(metrics.loss) == drawn[name]['num_steps']
    assert metrics.loss.mean() == pytest.approx(drawn[name]['loss'], rel=1e-4)
    assert (
      metrics.num_gradient_evaluations.sum()
      == (drawn[name]['num_gradient_evaluations'])
    )
