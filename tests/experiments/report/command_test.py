"""The report of made-up records: whole, the same each time, links that lead."""

import dataclasses
import pathlib
import re
import urllib.parse

from matplotlib import image
import pytest

from isgd_jax.experiments.environment import environment
from isgd_jax.experiments.report.command import report
from isgd_jax.experiments.runs import records
from tests.experiments.report import synthetic
from tests.experiments.report.synthetic import CYCLE
from tests.experiments.report.synthetic import STREAM


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / 'my results'
  path.mkdir()
  return synthetic.Folder(path)


@pytest.fixture
def out(tmp_path):
  return tmp_path / 'RESULTS.md'


def links(text):
  """Targets of the links and pictures that lead to files."""
  found = re.findall(r'\]\(([^)]*)\)', text)
  return [urllib.parse.unquote(x) for x in found if '://' not in x]


def assert_links_lead(text, out):
  for link in links(text):
    path = out.parent / link
    assert path.exists(), link
    if path.suffix == '.png':
      assert image.imread(path).size


def fill(folder, losses=(1.0, 2.0, 3.0)):
  """A stream, a stationary task, and an ablation."""
  for method in ('base', 'base-decayed', 'twice', 'isgd', 'random', 'skip'):
    folder.row(STREAM, 'sgd', method, losses)
  for method in ('base', 'base-constant', 'twice', 'isgd', 'random'):
    folder.row(CYCLE, 'sgd', method, losses)
  folder.row(STREAM, 'polyak', 'base', losses)
  fill_missed(folder)
  for method in ('base', 'shewhart', "ewma, base's metric"):
    for task in (CYCLE, STREAM):
      folder.row(task, 'sgd', method, losses, workload='ablation')


def fill_missed(folder):
  """A stream on which nobody that is reported recovers."""
  for method in ('base', 'twice', 'isgd', 'random'):
    folder.row(STREAM, 'adam', method, [], (1.0, 0.5, 1.0))
    for seed in (1000, 1001, 1002):
      folder.run(
        *(STREAM, 'adam', method, 'reporting', 0.2, seed, 1.0),
        recovery=[[], [], []],
      )


def test_a_report_is_whole_and_its_links_lead(folder, out):
  fill(folder)
  text = report(folder.path, out)
  assert out.read_text() == text
  assert_links_lead(text, out)
  assert [pathlib.Path(x).name for x in links(text)] == [
    'my results',
    'profile.png',
    'stationary-digits-made-up.png',
    'drift-labels-made-up.png',
  ]
  for part in (
    '## In short',
    'With 3 seeds such an interval is their range',
    'one in 4',
    "`isgd_jax.shewhart(sigma_multiplier=4.0, sigma_estimator='std', ",
    'Met in 0 of 2: no higher than every batch twice in 2 of 2',
    'Met in 1 of 1. All seeds agree',
    '**Performance profile.** Over 2 problems (a task and a base optimizer; 1',
    '## Digits, i.i.d. batches in a fixed cycle (`stationary-digits`)',
    '### made-up cycle\n\nNetwork mlp, 1,120 examples of digits, '
    'batches of 32, 20 epochs; window 35.',
    '### made-up stream\n\nNetwork mlp, digits, labels drift, batches of 16, '
    '4 segments of 100 batches; window 50.',
    '| Polyak SGD |',
    '## ISGD with one thing changed at a time (`ablation`)',
    "| ewma, base's metric | 1.00 at 1.00 |",
    '## Hardware, versions, grids',
    'sgd 0.1, 0.2, 0.3',
  ):
    assert part in text
  for absent in ('In no table', 'the paper', 'No verdict', ' nan'):
    assert absent not in text


def test_figures_are_of_the_format_that_was_asked_for(folder, out):
  fill(folder)
  found = []
  for _ in range(2):
    text = report(folder.path, out, 'svg')
    assert_links_lead(text, out)
    found.append({p.name: p.read_bytes() for p in folder.path.glob('*.svg')})
  assert sorted(found[0]) == [
    'drift-labels-made-up.svg',
    'profile.svg',
    'stationary-digits-made-up.svg',
  ]
  assert found[0] == found[1]
  assert '.png' not in text
  assert not list(folder.path.glob('*.png'))


def test_a_report_is_the_same_each_time(folder, out):
  fill(folder)
  found = []
  for _ in range(2):
    report(folder.path, out)
    files = [out, *sorted(folder.path.glob('*.png'))]
    found.append([path.read_bytes() for path in files])
    for path in files:
      path.unlink()
  assert len(found[0]) == 4
  assert found[0] == found[1]


def test_links_lead_from_wherever_the_report_is(folder, tmp_path, monkeypatch):
  fill(folder)
  (tmp_path / 'docs').mkdir()
  out = tmp_path / 'docs' / 'RESULTS.md'
  assert_links_lead(report(folder.path, out), out)
  monkeypatch.chdir(folder.path)
  text = report(pathlib.Path('.'), pathlib.Path('R.md'))
  assert '[`my results`](.)' in text
  assert_links_lead(text, folder.path / 'R.md')


@pytest.mark.parametrize('name', ['nowhere', 'empty', 'other', 'torn'])
def test_a_folder_without_runs_is_refused_with_what_to_do(name, tmp_path, out):
  path = tmp_path / name
  if name != 'nowhere':
    path.mkdir()
  if name == 'other':
    (path / 'runs.jsonl').write_text('{"id": 1}\n')
  if name == 'torn':
    (path / 'drift-labels.jsonl').write_text('{"id": "a')
  with pytest.raises(ValueError, match='isgd-jax compare WORKLOAD'):
    report(path, out)
  assert not out.exists()


def test_an_out_that_cannot_be_written_is_told(folder, tmp_path):
  fill(folder)
  with pytest.raises(OSError, match=r'cannot write .*nowhere'):
    report(folder.path, tmp_path / 'nowhere' / 'RESULTS.md')


def test_tuning_runs_alone_are_told(folder, out):
  folder.row(CYCLE, 'sgd', 'base', [])
  text = report(folder.path, out)
  assert 'No verdict yet' in text
  assert f'{CYCLE.name}, sgd: base.' in text
  assert '| stationary-digits | ' in text
  assert_links_lead(text, out)


def test_a_partly_finished_workload_shows_what_is_there(folder, out):
  for method in ('base', 'isgd'):
    folder.row(STREAM, 'sgd', method, [1.0, 2.0])
  folder.row(STREAM, 'sgd', 'random', [])
  folder.row(STREAM, 'sgd', 'twice', [1.0])  # one seed less
  folder.row(STREAM, 'adam', 'isgd', [1.0, 2.0])  # without a base
  folder.row(STREAM, 'momentum', 'base', [1.0])
  text = report(folder.path, out)
  assert f'{STREAM.name}, sgd: random.' in text
  assert 'No verdict yet' in text
  assert '| adam, ISGD |' in text
  assert 'Rows of one seed have no interval' in text
  assert '| 1/2 |' in text
  assert_links_lead(text, out)


def test_runs_with_other_numbers_of_the_task_are_told(folder, out):
  shorter = dataclasses.replace(CYCLE, num_epochs=1)
  folder.row(shorter, 'sgd', 'twice', [1.0])
  for method in ('base', 'isgd'):
    folder.row(CYCLE, 'sgd', method, [1.0])
  text = report(folder.path, out)
  assert f'other numbers of the task: {CYCLE.name}, sgd: twice.' in text
  assert '20 epochs' in text
  assert 'every batch twice |' not in text


@pytest.mark.parametrize('method', ['base', 'shewhart'])
def test_a_workload_without_isgd_has_no_curves(folder, out, method):
  folder.row(CYCLE, 'sgd', method, [1.0])
  text = report(folder.path, out)
  assert not list(folder.path.glob('*.png'))
  assert 'ISGD has the same settings' not in text


def test_an_unfinished_ablation_has_no_table(folder, out):
  folder.row(CYCLE, 'sgd', 'base', [1.0], workload='ablation')
  folder.row(CYCLE, 'sgd', 'shewhart', [], workload='ablation')
  text = report(folder.path, out)
  assert f'{CYCLE.name}, sgd: shewhart.' in text
  assert '| variant |' not in text


@pytest.mark.filterwarnings('error')
def test_a_report_of_diverged_runs_has_words_for_them(folder, out):
  fill(folder, [None, None, None])
  empty = [[350, 1.0, None], [700, 2.0, None]]
  for method in ('base', 'isgd'):
    folder.row(CYCLE, 'adam', method, [None, 1.0], evaluations=empty)
    diverged = {'recovery': [[], [], []], 'accuracy_curve': [None] * 50}
    folder.row(STREAM, 'adam', method, [None], [None] * 3, **diverged)
    folder.run(STREAM, 'adam', method, 'reporting', 0.1, 1000, None, **diverged)
  # And one that is always right, on the axis of a logarithm.
  right = [[350, 1.0, 1.0], [700, 2.0, 1.0]]
  folder.row(CYCLE, 'momentum', 'base', [0.0] * 2, evaluations=right)
  folder.row(CYCLE, 'momentum', 'isgd', [0.0] * 2, evaluations=right)
  text = report(folder.path, out)
  assert '| sgd, ISGD | diverged | diverged | diverged |' in text
  assert 'inf at 1.00' not in text  # over a base that diverged too
  assert 'nan' not in text
  assert_links_lead(text, out)


def test_a_report_where_no_target_was_reached_has_no_profile(folder, out):
  fill_missed(folder)
  text = report(folder.path, out)
  assert 'Performance profile' not in text
  assert '**Streams.**' in text


def test_large_forms_stand_beside_the_small_ones(folder, out):
  for workload, losses in (
    ('stationary-digits', [1.0]),
    ('stationary-digits-large', [2.0]),
  ):
    for method in ('base', 'isgd'):
      folder.row(CYCLE, 'sgd', method, losses, workload=workload)
  text = report(folder.path, out)
  assert 'Met in 2 of 2' in text
  assert '(`stationary-digits`, large form)' in text
  assert f'| {CYCLE.name}-large, sgd, decayed | 2.000' in text
  assert f'| {CYCLE.name}, sgd, decayed | 1.000' in text
  assert (folder.path / 'stationary-digits-made-up-large.png').exists()
  assert_links_lead(text, out)


def test_both_forms_of_the_ablation_are_ablations(folder, out):
  for workload in ('ablation', 'ablation-large'):
    for method in ('base', 'shewhart'):
      folder.row(CYCLE, 'sgd', method, [1.0], workload=workload)
  text = report(folder.path, out)
  assert text.count('| variant |') == 2


def test_two_environments_are_both_told(folder, out, monkeypatch):
  folder.row(CYCLE, 'sgd', 'base', [1.0])
  elsewhere = environment()
  elsewhere['hardware'] |= {'device': 'NVIDIA H200', 'num_cpus': 1}
  elsewhere['versions'] |= {'commit': None}
  monkeypatch.setattr(records, 'environment', lambda: elsewhere)
  folder.row(CYCLE, 'sgd', 'isgd', [1.0])
  (line,) = (
    line
    for line in report(folder.path, out).splitlines()
    if line.startswith('| stationary-digits |')
  )
  where, seeds, seconds, compilation = line.split('|')[2:-1]
  assert 'cpu, ' in where
  assert '1 x NVIDIA H200, 1 CPU core, jax ' in where
  assert 'commit unknown' in where
  assert where.count(';') == 1
  # Of two reported runs of two seconds each; all eight compiled for one.
  assert (seeds, seconds, compilation) == (' 1 ', ' 4 ', ' 8 ')


def test_settings_of_isgd_that_differ_are_both_told(folder, out):
  folder.row(CYCLE, 'sgd', 'isgd', [1.0])
  chart = {'kind': 'ewma', 'window_size': 9, 'smoothing': 0.3}
  folder.row(STREAM, 'sgd', 'isgd', [1.0], algorithm={'chart': chart})
  text = report(folder.path, out)
  assert 'ISGD has these settings' in text
  assert (
    "flagged_losses='winsorize')` or `isgd_jax.ewma(smoothing=0.3)`" in text
  )


def test_input_bound_curves_are_over_seconds(folder, out, monkeypatch):
  from isgd_jax.experiments import figures

  axes = []
  draw = figures.draw_training

  def listen(*args, axis, **kwargs):
    axes.append(axis)
    return draw(*args, axis=axis, **kwargs)

  monkeypatch.setattr(figures, 'draw_training', listen)
  slow = dataclasses.replace(
    CYCLE, name='input-bound/slow', seconds_per_batch=0.005
  )
  for task in (CYCLE, slow):
    folder.row(task, 'sgd', 'isgd', [1.0])
  report(folder.path, out)
  assert axes == ['gradient evaluations', 'seconds']
