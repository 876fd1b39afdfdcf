"""What a reader's data may be, and which records stand for it."""

import pathlib

import pytest

from isgd_jax.experiments.datasets import table_names
from isgd_jax.experiments.report.findings import read_findings
from isgd_jax.experiments.report.kinds import KINDS
from isgd_jax.experiments.runs.workloads import WORKLOADS

RESULTS = pathlib.Path(__file__).resolve().parents[3] / 'results'
# Judged in seconds, on digits where rivals alone were run, or told apart.
_OF_NO_KIND = ('ablation', 'input-bound', 'made-always-on', 'doses')
_OTHERS = (
  *('paper-mnist', 'paper-cifar10', 'paper-map', 'imbalance'),
  *('permuted-inputs', 'permuted-inputs-alone', 'permuted-labels'),
  *('made-rivals', 'real-rivals', 'always-on', 'over-no-momentum'),
  *('rivals-over-sgd', 'strengths'),
)


@pytest.mark.parametrize('name', WORKLOADS)
def test_a_task_stands_for_one_kind_or_is_known_to_stand_for_none(name):
  for task in WORKLOADS[name].tasks:
    kinds = [kind.title for kind in KINDS if kind.has(task.name)]
    # Of the rivals the tasks are those of `real-streams`.
    known = name in (*_OF_NO_KIND, *_OTHERS)
    assert len(kinds) == 1 or (not kinds and known) or name == 'ablation', task


def test_each_question_of_a_newcomer_has_a_row():
  titles = ' '.join(kind.title for kind in KINDS)
  for word in (
    *('regression', 'classification', 'tables', 'batches of 1', 'images'),
    *('language model', 'wrong labels', 'random labels'),
  ):
    assert word in titles, word


def test_regression_is_what_the_records_say_it_is():
  """Of regression the no-change forecaster has a loss, and no accuracy."""
  (found,) = (f for f in read_findings(RESULTS) if f.workload == 'real-streams')
  for task, guess in found.no_change.items():
    (kind,) = (k.title for k in KINDS if k.has(task))
    if 'batches of 1 or 4' in kind:
      assert ('regression' in kind) == ('loss' in guess), task


def test_every_table_is_of_one_kind():
  for name in table_names():
    assert sum(k.has(f'real-streams/{name}-1') for k in KINDS) == 1, name
