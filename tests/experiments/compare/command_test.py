"""A comparison is checked before it computes, and carried on when stopped."""

import dataclasses
import re

import pytest

from isgd_jax.experiments import main
from isgd_jax.experiments.compare import command as compare_lib
from isgd_jax.experiments.compare.command import CompareConfig
from isgd_jax.experiments.compare.command import compare
from isgd_jax.experiments.compare.command import with_budget
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.optimizers.base_optimizers import base_optimizer_names
from isgd_jax.experiments.report.command import report
from isgd_jax.experiments.runs import runner
from isgd_jax.experiments.runs.ablation import VARIANTS
from isgd_jax.experiments.runs.methods import METHODS
from isgd_jax.experiments.runs.records import read_runs
from isgd_jax.experiments.runs.workloads import LARGE_WORKLOADS
from isgd_jax.experiments.runs.workloads import WORKLOADS
from tests.experiments.runs.counted_training import Training

pytestmark = pytest.mark.whole_runs

TINY = (
  *('compare', 'stationary-digits', '--methods', 'base', 'isgd', 'random'),
  *('--bases', 'sgd', '--seeds', '2', '--budget', '35'),
)
# One task, three methods: two rates once, and two seeds.
NUM_TINY = 3 * (2 + 2)


# What is to be run


@pytest.mark.parametrize(
  ('name', 'large'),
  [
    *((name, False) for name in WORKLOADS),
    *((n, True) for n, w in LARGE_WORKLOADS.items() if w != WORKLOADS[n]),
  ],
)
def test_plans_are_the_workload_s(name, large):
  workload = (LARGE_WORKLOADS if large else WORKLOADS)[name]
  plans = CompareConfig(name, large=large).plans()
  assert [plan.task for plan in plans] == list(workload.tasks)
  for plan in plans:
    assert plan.base_optimizers == workload.base_optimizers
    assert {method.name for method in plan.methods} == set(workload.methods)
    assert plan.has_loss_adaptive == workload.has_loss_adaptive
    assert plan.has_traces == workload.has_traces
    assert plan.is_map == workload.is_map
    assert plan.num_rates == workload.num_rates
    assert plan.num_tuning_seeds == workload.num_tuning_seeds
    assert plan.num_seeds == 5


def test_the_archive_of_jpegs_is_told_from_the_binary_version(tmp_path):
  def dataset(data_dir):
    (plan,) = CompareConfig('paper-cifar10', data_dir=data_dir).plans()
    return plan.task.dataset

  archive = tmp_path / 'cifar-10-jpeg.tar.xz'
  archive.touch()
  assert dataset(str(archive)) == dataset(str(tmp_path)) == 'cifar10-jpeg'
  (tmp_path / 'test_batch.bin').touch()
  assert dataset(str(tmp_path)) == dataset(None) == 'cifar10'


def test_a_map_is_made_and_reported(tmp_path, monkeypatch):
  task = dataclasses.replace(
    WORKLOADS['paper-map'].tasks[0],
    dataset='digits',
    batch_size=32,
    num_train=640,
    num_test=200,
    window_size=20,
  )
  workload = dataclasses.replace(WORKLOADS['paper-map'], tasks=(task,))
  monkeypatch.setitem(compare_lib.WORKLOADS, 'paper-map', workload)
  config = CompareConfig(
    'paper-map', methods=('base', 'paper-isgd'), seeds=1, budget=100
  )
  path = compare(config, tmp_path, show_progress=False)
  assert path.name == 'paper-map.jsonl'
  assert len(list(read_runs(path))) == 5 * 2
  text = report(tmp_path, tmp_path / 'RESULTS.md')
  assert "When is the paper's 21 % right?" in text
  assert (tmp_path / 'paper-map.png').exists()


def test_choices_replace_the_workload_s():
  for plan in CompareConfig(
    'drift-labels', ('random',), ('adam',), seeds=3
  ).plans():
    # The random trigger repeats ISGD's number.
    assert [method.name for method in plan.methods] == ['isgd', 'random']
    assert plan.base_optimizers == ('adam',)
    assert plan.num_seeds == 3
    assert not plan.has_loss_adaptive


def test_tasks_are_chosen_by_name_and_run_in_that_order():
  names = ('real-streams/flights-64', 'real-streams/elec2-16')
  config = CompareConfig('real-streams', tasks=(*names, names[0]))
  plans = {
    plan.task.name: plan for plan in CompareConfig('real-streams').plans()
  }
  assert config.plans() == [plans[name] for name in names]
  assert CompareConfig('real-streams', tasks=()).plans() == list(plans.values())


def test_what_a_task_cannot_show_is_judged_by_those_that_were_chosen():
  config = CompareConfig('over-no-momentum', methods=('oracle-reset',))
  with pytest.raises(InputError, match='nobody knows when'):
    config.plans()
  made = ('made-rivals/labels-digits',)
  (plan,) = dataclasses.replace(config, tasks=made).plans()
  assert plan.task.name == made[0]


def test_loss_adaptive_steps_are_compared_alone():
  (first, _) = CompareConfig(
    'drift-labels', base_optimizers=('polyak', 'sgd')
  ).plans()
  assert first.base_optimizers == ('sgd',)
  assert first.has_loss_adaptive
  (first, _) = CompareConfig('drift-labels', ('isgd',)).plans()
  assert not first.has_loss_adaptive


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (CompareConfig('drift-label'), "workload 'drift-label'; did you mean"),
    (CompareConfig('drift-text', ('isgdd',)), "method 'isgdd'; did you mean"),
    (
      CompareConfig('drift-text', base_optimizers=('adan',)),
      "base optimizer 'adan'; did you mean 'adam'",
    ),
    (
      CompareConfig('permuted-inputs', base_optimizers=('labels-sgdw',)),
      "base optimizer 'labels-sgdw'; did you mean 'inputs-sgdw'",
    ),
    (
      CompareConfig('always-on', tasks=('shuttle-stream-4',)),
      "task of always-on 'shuttle-stream-4'; did you mean "
      "'real-streams/shuttle-stream-4'",
    ),
    (
      CompareConfig('permuted-inputs', budget=4999),
      r'less than a task of permuted-inputs/mnist: give at least 5000',
    ),
    (CompareConfig('drift-text', seeds=0), 'seeds must be at least 1, got 0'),
    (
      CompareConfig('drift-labels', budget=199),
      r'budget=199 leaves 19 batches .* give at least 200',
    ),
    (
      CompareConfig('stationary-digits', budget=-1),
      r'budget=-1 is less than an epoch .* give at least 35',
    ),
  ],
)
def test_what_is_wrong_is_told_before_anything_is_made(
  config, message, tmp_path
):
  with pytest.raises(ValueError, match=message):
    compare(config, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name', WORKLOADS)
def test_a_budget_is_kept_in_whole_epochs_or_segments(name):
  for task in WORKLOADS[name].tasks:
    budget = task.num_batches // 2 + 1
    if task.is_table and budget < 20:
      with pytest.raises(InputError, match='give at least 20'):
        with_budget(task, budget)
      continue
    shorter = with_budget(task, budget)
    # A table is cut at any batch.
    parts = task.num_segments or task.num_epochs or task.num_batches
    assert 0 < shorter.num_batches <= budget
    assert budget - shorter.num_batches < task.num_batches / parts
    assert shorter.name == task.name
    assert with_budget(task, task.num_batches) == task


def test_fewer_permuted_tasks_are_as_long_as_published():
  (task,) = WORKLOADS['permuted-inputs'].tasks
  shorter = with_budget(task, 12_000)
  assert (shorter.num_segments, shorter.batches_per_segment) == (2, 5000)
  (large,) = LARGE_WORKLOADS['permuted-inputs'].tasks
  assert large.num_batches == 1_000_000
  (large,) = LARGE_WORKLOADS['permuted-labels'].tasks
  assert large.num_batches == 1_000_000


def test_a_transition_is_shortened_with_its_segments():
  (task,) = WORKLOADS['drift-gradual'].tasks
  shorter = with_budget(task, 300)
  assert (shorter.batches_per_segment, shorter.transition_batches) == (50, 25)


def test_the_help_names_all_workloads_and_methods(capsys):
  with pytest.raises(SystemExit):
    main.main(['compare', '--help'])
  words = set(re.findall(r'[\w-]+', capsys.readouterr().out))
  assert set(WORKLOADS) <= words
  assert set(METHODS) - set(VARIANTS) <= words
  assert set(base_optimizer_names()) <= words


# Running it


def test_a_comparison_that_is_stopped_goes_on_and_is_reported(
  tmp_path, monkeypatch, capsys
):
  workload = WORKLOADS['stationary-digits']
  tiny = dataclasses.replace(workload, tasks=workload.tasks[:1], num_rates=2)
  monkeypatch.setitem(WORKLOADS, 'stationary-digits', tiny)
  training = Training(interrupt_at=4)
  monkeypatch.setattr(runner, 'train', training)
  out = tmp_path / 'results'
  path = out / 'stationary-digits.jsonl'
  with pytest.raises(SystemExit) as exit_info:
    main.main([*TINY, '--out', str(out)])
  assert exit_info.value.code == 130
  assert (
    f'isgd-jax: interrupted: 4 runs are kept in {path}; the same command goes '
    'on\n'
  ) in capsys.readouterr().err
  assert len(list(read_runs(path))) == 4

  main.main([*TINY, '--out', str(out)])
  assert capsys.readouterr().out == f'Results: {path}\n'
  assert training.num_runs == NUM_TINY == len(list(read_runs(path)))
  before = path.read_bytes()
  main.main([*TINY, '--out', str(out)])
  assert training.num_runs == NUM_TINY
  assert path.read_bytes() == before

  markdown = tmp_path / 'RESULTS.md'
  main.main(['report', str(out), '--out', str(markdown)])
  text = markdown.read_text()
  assert '| sgd, ISGD |' in text
  assert '| stationary-digits/mlp, sgd, decayed |' in text
  assert 'In no table' not in text
  assert (out / 'stationary-digits-mlp.png').exists()


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['compare', 'drift'], "unknown workload 'drift'"),
    (['compare', 'drift-text', '--seeds', '0'], 'seeds must be at least 1'),
    (['report', 'nowhere'], "no results in 'nowhere': make some with"),
  ],
)
def test_bad_input_ends_with_two_and_one_line(
  args, message, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as exit_info:
    main.main(args)
  assert exit_info.value.code == 2
  error = capsys.readouterr().err
  assert error.startswith(f'isgd-jax: error: {message}')
  assert error.count('\n') == 1
  assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_told_before_any_run(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(compare_lib, 'run_plan', pytest.fail)
  (tmp_path / 'file').touch()
  with pytest.raises(OSError, match='cannot write results to'):
    compare(CompareConfig('drift-labels'), tmp_path / 'file' / 'out')
