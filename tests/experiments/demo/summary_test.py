"""The sentences say what made-up numbers show, good or bad."""

import dataclasses
import pathlib

from hypothesis import given
from hypothesis import strategies as st
import pytest

from isgd_jax.experiments.demo import command
from isgd_jax.experiments.demo import summary as summary_lib
from isgd_jax.experiments.report import verdicts
from isgd_jax.experiments.report.rows import Row
from isgd_jax.experiments.runs.records import read_runs
from isgd_jax.experiments.runs.tasks import Task

DOCS = pathlib.Path(__file__).resolve().parents[3] / 'docs'

accuracies = st.none() | st.floats(0, 1)


def record(
  method,
  accuracy,
  *,
  task='Stream',
  seed=0,
  rate=0.1,
  purpose='reporting',
  **kw,
):
  summary = {
    'accuracy': accuracy,
    'loss': 0.5 if accuracy is not None else None,
    'num_steps': 100,
    'num_gradient_evaluations': {'twice': 200, 'isgd': 120, 'random': 120}.get(
      method, 100
    ),
    'share_undertrained': 0.05 if method == 'isgd' else 0.0,
    'num_extra_steps': {'twice': 100, 'isgd': 20, 'random': 20}.get(method, 0),
    'run_seconds': 2.0 if method == 'isgd' else 1.0,
  }
  return {
    'purpose': purpose,
    'task_config': dataclasses.asdict(
      Task(
        'made-up/task',
        task,
        dataset='digits',
        model='mlp',
        order='drift',
        batch_size=16,
        window_size=50,
        num_segments=5,
        batches_per_segment=20,
      )
    ),
    'base': 'adam',
    'method': method,
    'learning_rate': rate,
    'seed': seed,
    'algorithm': {'grid': [0.01, 0.1, 1.0]},
    'summary': summary | kw,
  }


def rows(task='Stream', **accuracy_by_method):
  return summary_lib.collect_rows(
    record(method, accuracy, task=task, seed=seed)
    for method, of_seeds in accuracy_by_method.items()
    for seed, accuracy in enumerate(of_seeds)
  )


@pytest.mark.parametrize(
  ('isgd', 'said'),
  [
    ((0.80, 0.81, 0.82), 'better than adam alone (+10.0 points'),
    ((0.60, 0.61, 0.62), 'worse than adam alone (-10.0 points'),
    ((0.70, 0.71, 0.72), 'no different from adam alone (+0.0 points'),
    ((0.715, 0.74, 0.76), 'better than adam alone (+3.0 points'),
    ((0.695, 0.74, 0.76), 'no different from adam alone (+3.0 points'),
    ((None, None, None), 'worse than adam alone (a median run diverged'),
    ((None, 0.80, 0.81), 'no different from adam alone (+9.0 points'),
  ],
)
def test_verdict_on_three_seeds(isgd, said):
  sentence = summary_lib.describe_rows(rows(base=(0.70, 0.71, 0.72), isgd=isgd))
  assert said in sentence
  assert 'hint' not in sentence


def test_a_diverged_baseline_is_beaten():
  sentence = summary_lib.describe_rows(rows(base=(None,) * 3, isgd=(0.1,) * 3))
  assert 'better than adam alone (a median run diverged' in sentence


def test_two_seeds_are_called_a_hint():
  sentence = summary_lib.describe_rows(rows(base=(0.7, 0.71), isgd=(0.8, 0.81)))
  assert '2 seeds only: a hint, not a measurement' in sentence


def test_one_sentence_a_task_with_every_baseline_and_both_costs():
  records = rows(
    'Stream',
    base=(0.7,) * 3,
    twice=(0.9,) * 3,
    random=(0.8,) * 3,
    isgd=(0.8,) * 3,
  ) + rows('Epochs', base=(0.7,) * 3, isgd=(0.8,) * 3)
  stream, epochs = summary_lib.describe_rows(records).splitlines()
  assert stream.startswith('Stream: ')
  assert epochs.startswith('Epochs: ')
  assert (
    'better than adam alone (+10.0 points for 1.20x the gradient evaluations '
    'and 2.00x the time)'
  ) in stream
  assert (
    'worse than every batch twice (-10.0 points for 0.60x the gradient'
  ) in stream
  assert (
    'no different from the random trigger (+0.0 points for 1.00x the gradient'
  ) in stream


@given(
  pairs=st.lists(st.tuples(accuracies, accuracies), min_size=1, max_size=5)
)
def test_the_demo_and_the_report_judge_the_same_runs_alike(pairs):
  """By one rule: paired by seed, whether or not the ranges touch."""
  runs = {'isgd': {}, 'base': {}}
  for seed, of_seed in enumerate(pairs):
    for method, accuracy in zip(runs, of_seed, strict=True):
      run = record(method, accuracy, seed=seed, train_loss=0.5)
      run['task_config'] |= {'order': 'cycle', 'num_epochs': 3}
      runs[method][seed] = run
  demo = summary_lib.describe_rows(
    summary_lib.collect_rows(r for of in runs.values() for r in of.values())
  )
  rows = {
    ('t', 'adam', method): Row('t', 'adam', method, of_seeds, 0.1, False)
    for method, of_seeds in runs.items()
  }
  (report,) = verdicts.stationary_verdicts(rows)
  assert ('better than adam alone' in demo) == ('accuracy' in report.better)
  assert ('worse than adam alone' in demo) == ('accuracy' in report.worse)


def test_the_committed_summaries_are_those_of_the_committed_runs():
  for name in ('demo', 'demo-sgd'):
    folder = DOCS / name
    records = list(read_runs(folder / 'runs.jsonl'))
    text = command.summarise(records)
    assert (folder / 'summary.txt').read_text() == text + '\n', name


def test_tuning_runs_are_no_results():
  records = [
    record('isgd', 0.99, purpose='tuning'),
    record('isgd', 0.5),
    record('base', 0.6),
  ]
  base, isgd = summary_lib.collect_rows(records)
  assert (base.accuracy, isgd.accuracy) == ({0: 60.0}, {0: 50.0})


def test_table_shows_median_range_costs_and_rate():
  table = summary_lib.format_table(
    rows(base=(0.70, 0.72, 0.71), isgd=(0.80, None, 0.82))
  )
  base, isgd = table.splitlines()[3:5]
  assert '71.0 [70.0, 72.0]' in base
  assert '80.0 [div., 82.0]' in isgd
  assert 'div.: the run diverged' in table
  assert isgd.split()[-5:] == ['120', '5.0', '20', '2.00', '0.1']
  assert 'edge' not in table


def test_a_rate_at_the_edge_of_the_grid_is_marked():
  table = summary_lib.format_table(
    summary_lib.collect_rows([record('isgd', 0.5, rate=1.0)])
  )
  assert '1*' in table
  assert 'a better rate may lie beyond it' in table


def test_table_is_aligned_and_narrow():
  table = summary_lib.format_table(
    rows(base=(1.0, 0.0), twice=(None, None), random=(0.5,), isgd=(0.123, 0.9))
  )
  lengths = {len(line) for line in table.splitlines() if line[0] == ' '}
  assert len(lengths) == 1
  assert max(lengths) <= 111


def test_step_times_are_told_apart():
  said = summary_lib.describe_time(
    rows(base=(0.7,), twice=(0.7,), random=(0.7,), isgd=(0.7,))
  )
  assert '10.00 ms with the base alone' in said
  assert '20.00 ms with ISGD' in said


def test_a_task_s_line_says_what_is_judged_and_how_long():
  stream = record('isgd', 0.5)
  epochs = record('isgd', 0.5)
  epochs['task_config'] |= {
    'order': 'reshuffled',
    'title': 'Epochs',
    'num_train': 64,
    'num_epochs': 3,
  }
  table = summary_lib.format_table(summary_lib.collect_rows([stream, epochs]))
  assert (
    'Stream (prequential accuracy and loss; 5 segments of 20 batches, labels '
    'drift, batch size 16)'
  ) in table
  # 3 epochs of 64 / 16 batches: the budget that all methods share.
  assert (
    'Epochs (test accuracy and loss; 12 gradient evaluations, 3 epochs if one '
    'a batch, batch size 16)'
  ) in table
