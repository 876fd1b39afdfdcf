"""The code of docs/batch_size.md runs; its tables are the measured files'."""

import importlib.util
import pathlib
import re

import jax
import pytest

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
