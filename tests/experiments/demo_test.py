"""The demo end to end: fair, complete, and made from its own files."""

import collections
import json
import statistics

from matplotlib import image
import pytest

from isgd_jax.experiments import demo
from isgd_jax.experiments import report
from isgd_jax.experiments import results

CONFIG = demo.DemoConfig(quick=True, base_optimizers=('momentum',))
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
  summary = demo.run_demo(CONFIG, folder, show_progress=False)
  assert summary + '\n' == (folder / 'summary.txt').read_text()
  return folder


@pytest.fixture
def records(folder):
  return list(results.read_records(folder / 'runs.jsonl'))


def test_every_file_is_there_and_nothing_else(folder):
  assert {path.name for path in folder.iterdir()} == FILES


def test_every_planned_run_is_recorded_once(records):
  names = [record['run'] for record in records]
  assert len(names) == len(set(names)) == CONFIG.plan().num_runs


@pytest.mark.parametrize('quick', [True, False])
def test_no_seed_both_tunes_and_reports(quick):
  plan = demo.DemoConfig(seed=7, quick=quick).plan()
  assert not set(plan.tuning_seeds) & set(plan.reporting_seeds)


def test_every_method_has_the_same_grid_seeds_and_settings(records):
  budgets = collections.defaultdict(set)
  for record in records:
    config = record['config']
    key = record['job'], config['method']
    rate = config['learning_rate'] if record['purpose'] == 'tuning' else None
    budgets[key].add((record['purpose'], rate, config['seed']))
  for job in {job for job, _ in budgets}:
    first, *others = [b for (j, _), b in budgets.items() if j == job]
    assert len(budgets) == 8
    assert all(other == first for other in others)
  assert len({json.dumps(r['config']['isgd']) for r in records}) == 1


def test_the_reported_rate_is_the_one_that_tuned_best(records):
  losses = collections.defaultdict(lambda: collections.defaultdict(list))
  for record in records:
    key = record['job'], record['config']['method']
    if record['purpose'] == 'tuning':
      rate = record['config']['learning_rate']
      losses[key][rate].append(record['summary']['tuning_loss'])
  for record in records:
    key = record['job'], record['config']['method']
    if record['purpose'] == 'reporting':
      medians = {r: statistics.median(x) for r, x in losses[key].items()}
      assert record['config']['learning_rate'] == min(medians, key=medians.get)


def test_tuning_on_epochs_trains_on_a_part_of_the_train_part(records):
  """So that the rate is chosen on held-out images, not on the test part."""
  num_steps = {
    (r['purpose'], r['summary']['num_steps'])
    for r in records
    if r['job'] == 'Shuffled epochs'
  }
  assert num_steps == {('tuning', 6 * (1149 // 32)), ('reporting', 6 * 44)}


def test_random_trigger_spends_what_isgd_spent(records):
  spent = {
    (r['job'], r['config']['method'], r['config']['seed']): r['summary'][
      'num_gradient_evaluations'
    ]
    for r in records
    if r['purpose'] == 'reporting'
  }
  pairs = [
    (n, spent[job, 'isgd', seed])
    for (job, method, seed), n in spent.items()
    if method == 'random'
  ]
  assert len(pairs) == 4
  assert all(random == isgd for random, isgd in pairs)


def test_table_and_figures_can_be_made_again_from_the_files(folder, records):
  before = (folder / 'summary.txt').read_text()
  for name in FILES - {'runs.jsonl', 'steps.jsonl'}:
    (folder / name).unlink()
  again = demo.report_demo(folder, records[0]['experiment'])
  assert again + '\n' == before
  assert {path.name for path in folder.iterdir()} == FILES


def test_another_experiment_in_the_same_folder_is_left_out(
  folder, records, tmp_path
):
  for record in records:
    other = {**record, 'experiment': 'other'}
    other['summary'] = {**record['summary'], 'accuracy': 0.0}
    results.append_record(tmp_path / 'runs.jsonl', record)
    results.append_record(tmp_path / 'runs.jsonl', other)
  steps = (folder / 'steps.jsonl').read_text()
  (tmp_path / 'steps.jsonl').write_text(steps)
  summary = demo.report_demo(tmp_path, records[0]['experiment'])
  assert summary + '\n' == (folder / 'summary.txt').read_text()


def test_summary_has_a_row_for_each_method_and_a_sentence_for_each_job(folder):
  summary = (folder / 'summary.txt').read_text()
  for title in report.METHOD_TITLES.values():
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


def test_drawn_steps_are_those_of_the_recorded_runs(folder, records):
  steps = results.read_steps(folder / 'steps.jsonl')
  drawn = {r['run']: r['summary'] for r in records if r['is_drawn']}
  assert set(steps) == set(drawn)
  for name, metrics in steps.items():
    assert len(metrics.loss) == drawn[name]['num_steps']
    assert metrics.loss.mean() == pytest.approx(drawn[name]['loss'], rel=1e-5)
    assert (
      metrics.num_gradient_evaluations.sum()
      == (drawn[name]['num_gradient_evaluations'])
    )
