"""The code of docs/batch_size.md runs; its tables are the measured files'."""

import importlib.util
import pathlib
import re

import jax
import pytest

from benchmarks import batch_size_validation as validation

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/batch_size.md'


@pytest.fixture(scope='module')
def results():
  spec = importlib.util.spec_from_file_location(
    'batch_size_results', ROOT / 'docs/batch_size_results.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


# Doubts about the seconds of a busy machine are warnings.
@pytest.mark.filterwarnings('ignore:fit_step_time')
def test_the_code_runs():
  blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
  assert len(blocks) == 3
  names = {}
  with jax.numpy_dtype_promotion('standard'):
    exec(compile(blocks[0], str(PAGE), 'exec'), names)
    assert list(names['times'].batch_sizes) == names['sizes']
    exec(compile('\n'.join(blocks[1:]), str(PAGE), 'exec'), names)
  assert names['plan'].batch_size % 4 == 0
  assert float(names['loss']) < 2.0


def test_the_tables_are_those_of_the_measured_files(results):
  text = PAGE.read_text()
  assert results.render(text, results.load()) == text


def test_the_recommended_law_is_the_one_whose_form_holds(results):
  from isgd_jax.experiments.plan_batch_size import plan

  assert plan.LAWS[0] == 'critical-batch'
  for work in results.load():
    critical, paper = (
      results.score(work, f'{law}, others').step_error
      for law in ('critical', 'paper')
    )
    assert critical < paper


def test_a_step_of_the_same_shapes_has_the_seconds_of_the_other(results):
  works = {work.workload['workload']: work for work in results.load()}
  for workload in validation.WORKLOADS:
    work = works[workload.name]
    assert work.timing['workload'] == (workload.same_step_as or workload.name)
    assert work.workload['target_loss'] == workload.target_loss


def lines(*names):
  return [
    {'kind': kind, 'workload': name, 'is_new': False}
    for name in names
    for kind in ('workload', 'run', 'step_seconds')
  ]


def test_what_is_not_measured_anew_stays_as_it_is():
  old = lines('digits', 'fashion-mnist')
  new = [{**line, 'is_new': True} for line in lines('mnist', 'digits')]
  assert validation.merged(old, new) == [*new[3:], *old[3:], *new[:3]]
  # Once more: the same file.
  both = validation.merged(old, new)
  assert validation.merged(both, new) == both


def test_of_the_seconds_alone_the_runs_stay_as_they_are():
  old = lines('digits', 'fashion-mnist')
  new = {'kind': 'step_seconds', 'workload': 'digits', 'is_new': True}
  assert validation.merged(old, [new], only_seconds=True) == [
    *old[:2],
    new,
    *old[3:],
  ]


def test_mnist_is_measured_where_its_files_are_named(capsys):
  def measured(*options):
    return validation.parse(['--out', 'lines.jsonl', *options]).workloads

  assert measured() == ['digits', 'fashion-mnist']
  assert measured('--mnist', 'a/folder')[-1] == 'mnist'
  assert measured('--quick', '--mnist', 'a/folder') == ['digits']
  assert measured('--workloads', 'mnist', '--mnist', 'a/folder') == ['mnist']
  with pytest.raises(SystemExit):
    measured('--workloads', 'mnist')
  assert 'needs --mnist DIR' in capsys.readouterr().err
