"""Reactions on other flags than the chart's: each beside its base."""

from isgd_jax.experiments.report import command
from isgd_jax.experiments.report import triggers
from isgd_jax.experiments.report.findings import read_findings
from isgd_jax.experiments.runs import rivals as tasks_of
from tests.experiments.report import synthetic

TASKS = {task.name.partition('/')[2]: task for task in tasks_of.TABLES}


def rows_of(folder):
  return command._everything(read_findings(folder.path))


def fill(folder, base, name, **losses):
  folder.row(TASKS[name], base, 'base', (1.0,) * 3)
  for method, loss in losses.items():
    method = method.replace('_', '-')
    folder.row(
      TASKS[name],
      base,
      method,
      (loss,) * 3,
      workload='rivals-over-sgd' if '-' in method else 'real-streams',
    )


CHASES = {'random_isgd': 1.2, 'adwin_isgd': 1.0, 'page_hinkley_isgd': 0.8}


def test_a_reaction_stands_beside_itself_on_other_flags(tmp_path):
  folder = synthetic.Folder(tmp_path)
  fill(folder, 'sgd', 'phishing-1', isgd=0.9, **CHASES)
  fill(folder, 'sgd', 'phishing-4', isgd=0.4, **CHASES)
  text = '\n'.join(triggers.describe_triggers(rows_of(folder)))
  assert (
    '| SGD | blind ISGD | 0.600 (0.90) | 1.200 (1.20) | 1.000 (1.00) | '
    '0.800 (0.80) | 2 |'
  ) in text


def test_a_trigger_that_a_reaction_was_not_run_on_is_left_empty(tmp_path):
  folder = synthetic.Folder(tmp_path)
  shrunk = {'shrink': 1.5, 'random_shrink': 2.0}
  fill(folder, 'momentum', 'sp500-1', **shrunk)
  [_, text] = triggers.describe_triggers(rows_of(folder))
  assert '| momentum | shrink | 1.500 (1.50) | 2.000 (2.00) |  |  | 1 |' in text


def test_a_table_where_one_trigger_was_not_run_counts_for_none(tmp_path):
  folder = synthetic.Folder(tmp_path)
  fill(folder, 'sgd', 'phishing-1', isgd=0.9, **CHASES)
  fill(folder, 'sgd', 'phishing-4', isgd=0.1, random_isgd=1.0)
  [_, text] = triggers.describe_triggers(rows_of(folder))
  assert '| blind ISGD | 0.900 (0.90) | 1.200 (1.20) |' in text


def test_a_reset_of_no_state_is_not_reported(tmp_path):
  folder = synthetic.Folder(tmp_path)
  resets = dict.fromkeys(
    ('reset', 'random_reset', 'adwin_reset', 'page_hinkley_reset'), 1.0
  )
  fill(folder, 'sgd', 'sp500-1', **resets)
  assert triggers.describe_triggers(rows_of(folder)) == []
  fill(folder, 'momentum', 'sp500-1', **resets)
  [_, text] = triggers.describe_triggers(rows_of(folder))
  assert '| momentum | reset | 1.000 (1.00) |' in text
  assert 'SGD |' not in text


def test_it_is_said_how_often_the_chart_is_lower_than_chance(tmp_path):
  folder = synthetic.Folder(tmp_path)
  fill(folder, 'momentum', 'sp500-1', shrink=0.9, random_shrink=1.0)
  fill(folder, 'momentum', 'phishing-1', shrink=1.1, random_shrink=1.0)
  text = triggers.random_sentence(
    rows_of(folder),
    [TASKS[n].name for n in ('sp500-1', 'phishing-1')],
    'momentum',
  )
  assert 'lower by all seeds in 1, higher in 1 of 2' in text
