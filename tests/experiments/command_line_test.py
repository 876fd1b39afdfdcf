"""What the command line says: its help, and what is wrong in one line."""

import dataclasses
import io
import itertools
import os
import pathlib
import re

import jax
import optax
import pytest

import isgd_jax
from isgd_jax.experiments import arguments
from isgd_jax.experiments import command_line
from isgd_jax.experiments import commands
from isgd_jax.experiments import main
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.train import ignored
from isgd_jax.experiments.train.config import DataConfig
from isgd_jax.experiments.train.config import IsgdConfig
from isgd_jax.experiments.train.config import OptimizerConfig
from isgd_jax.experiments.train.config import TrainConfig

HELP = pathlib.Path(__file__).parent / 'help'
COMMANDS = (
  *('demo', 'train', 'chart', 'plan-batch-size', 'compare', 'report'),
  'demonstrate',
)


def help_of(capsys, *words):
  with pytest.raises(SystemExit) as exit_info:
    main.main([*words, '--help'])
  assert exit_info.value.code == 0
  return capsys.readouterr().out


@pytest.mark.one_version
@pytest.mark.parametrize('command', ['isgd-jax', *COMMANDS])
def test_help_at_80_columns_is_as_it_was_looked_at(
  capsys, monkeypatch, command
):
  """UPDATE_HELP=1 writes the files anew, to be looked at."""
  monkeypatch.setenv('COLUMNS', '80')
  words = [] if command == 'isgd-jax' else [command]
  found = help_of(capsys, *words)
  path = HELP / f'{command}.txt'
  if os.environ.get('UPDATE_HELP'):
    path.write_text(found)
  assert found == path.read_text()


@pytest.mark.one_version
@pytest.mark.parametrize('columns', [60, 80, 120])
@pytest.mark.parametrize('command', COMMANDS)
def test_help_fits_and_wraps_once(capsys, monkeypatch, command, columns):
  """A line that ends early was broken in the source already."""
  monkeypatch.setenv('COLUMNS', str(columns))
  lines = [
    line.replace('│', ' ').rstrip()
    for line in help_of(capsys, command).splitlines()
  ]
  edge = max(map(len, lines))
  assert edge <= columns
  column_of = lambda line: len(line) - len(line.lstrip())
  num_wrapped = 0
  for line, after in itertools.pairwise(lines):
    # The texts of options stand in a column of their own, or below them.
    is_text = column_of(after) >= 6 and column_of(line) == column_of(after)
    if is_text and line.strip():
      num_wrapped += 1
      assert len(line) + 1 + len(after.split()[0]) > edge, line
  assert num_wrapped > 0 or command != 'train'


def test_the_version_is_said_with_those_of_jax_and_optax(capsys):
  with pytest.raises(SystemExit) as exit_info:
    main.main(['--version'])
  assert exit_info.value.code == 0
  assert capsys.readouterr().out == (
    f'isgd_jax {isgd_jax.__version__} (jax {jax.__version__}, optax '
    f'{optax.__version__})\n'
  )


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('', 'name a command: demo, train, '),
    ('trian', "unknown command 'trian'; did you mean 'train'? (valid: "),
    ('--epochs 3', 'unknown option --epochs before the command; options come'),
    ('train --epoch 3', 'unknown option --epoch; did you mean --epochs? ('),
    ('train --batch_sise 3', 'unknown option --batch_sise; did you mean --ba'),
    ('train --zzz red', 'unknown option --zzz (isgd-jax train --help lists'),
    ('train --no-resum', 'unknown option --no-resum; did you mean --no-resume'),
    ('train --batch-size x', "--batch-size takes an integer, got 'x'"),
    ('train --batch_size 1.5', "--batch_size takes an integer, got '1.5'"),
    ('train --window-size None', "--window-size takes an integer, got 'None'"),
    ('train --learning-rate=x', "--learning-rate takes a number, got 'x'"),
    (
      'train --rate-boundaries 1 x',
      "--rate-boundaries takes a number, got 'x'",
    ),
    ('train --seed', '--seed needs a value: an integer'),
    ('train --seed --resume', '--seed needs a value: an integer'),
    ('train --base', '--base needs a value: one of sgd, momentum, nesterov'),
    ('train --base adm', "unknown --base 'adm'; did you mean 'adam'? (valid:"),
    ('compare', 'isgd-jax compare needs a workload, as in isgd-jax compare '),
    ('chart', 'isgd-jax chart needs the folder of a run, as in isgd-jax chart'),
    ('chart run --cycle --first-step 3', '--cycle draws whole epochs, and ta'),
  ],
)
def test_what_is_wrong_is_said_in_one_line_with_one_remedy(
  capsys, tmp_path, monkeypatch, line, message
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as exit_info:
    main.main(line.split())
  out, err = capsys.readouterr()
  assert (exit_info.value.code, out) == (2, '')
  assert err.startswith(f'isgd-jax: error: {message}')
  assert len(err.splitlines()) == 1
  assert err.count('did you mean') <= 1
  assert not re.search(r"class '|NoneType|\{None\}", err)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'line',
  [
    'train --batch-size 4 --no-probation --rate-boundaries 1 2.5',
    'train --batch_size=4 --rate-boundaries --seed 3',
    'demo --bases adam sgd --quick',
    'chart run --first-step 3',
    'report',
    'compare drift-labels --methods isgd base --bases adam',
    'plan-batch-size',
  ],
)
def test_what_is_right_comes_through(line):
  command = command_line.parse(line.split())
  assert type(command) in commands.COMMANDS.values()


def test_what_is_longer_than_the_terminal_is_wrapped_and_boxes_are_not(
  monkeypatch,
):
  monkeypatch.setenv('COLUMNS', '20')
  stream = io.StringIO()
  long, box = 'word one-name ' * 4, f'│ {"x" * 40} │'
  print(f'{long}\n{box}\nshort', file=arguments._Wrapped(stream))
  *wrapped, last_but_one, last = stream.getvalue().splitlines()
  assert (last_but_one, last) == (box, 'short')
  assert ' '.join(wrapped).split() == long.split()
  assert len(wrapped) > 1
  assert max(map(len, wrapped)) <= 20


def of_isgd(**options):
  return TrainConfig(isgd=IsgdConfig(**options))


def of_optimizer(**options):
  return TrainConfig(optimizer=OptimizerConfig(**options))


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (
      of_isgd(method='base', window_size=30),
      r'--window-size 30 has no effect with --method base, which has no chart',
    ),
    (
      of_isgd(method='paper-isgd', sigma_multiplier=2.0),
      r'--sigma-multiplier 2.0 .* leave it out, or use --method isgd',
    ),
    (
      of_isgd(method='watch', chase_to='limit'),
      r'--chase-to limit .*does not chase',
    ),
    (
      of_isgd(method='skip', probation=False),
      r'--no-probation has no effect with --method skip',
    ),
    (
      of_isgd(base_update_when_chasing=True, method='skip'),
      r'--base-update-when-chasing has no effect',
    ),
    (
      of_isgd(chase_learning_rate=0.1),
      r'--chase-learning-rate 0.1 .*--solver gradient-descent',
    ),
    (of_isgd(allowance=1.0), r'--allowance 1.0 .* use --chart cusum'),
    (of_isgd(smoothing=0.1), r'--smoothing 0.1 .* use --chart ewma or differ'),
    (of_isgd(chart='cusum', limit_width=3.0), r'--limit-width 3.0 .*ewma'),
    (of_optimizer(base='adam', momentum=0.5), r'--momentum 0.5 .*--base adam'),
    (of_optimizer(rate_factor=0.5), r'--rate-factor 0.5 .*--schedule step or'),
    (
      TrainConfig(data=DataConfig(sequence_length=64)),
      r'--sequence-length 64 .*--dataset digits; .* use --dataset text',
    ),
  ],
)
def test_an_option_that_does_nothing_is_refused(config, message):
  with pytest.raises(InputError, match=message):
    ignored.check_ignored(config)


@pytest.mark.parametrize(
  'config',
  [
    TrainConfig(),
    of_isgd(method='base'),
    of_isgd(method='paper-isgd', chase_learning_rate=0.1, window_size=30),
    of_isgd(method='skip', chart='ewma', smoothing=0.1, limit_width=3.0),
    of_isgd(chart='cusum', allowance=1.0, decision_interval=4.0),
    of_isgd(solver='gradient-descent', chase_learning_rate=0.1),
    of_optimizer(base='nesterov', momentum=0.5),
    of_optimizer(schedule='step', rate_boundaries=(1.0,), rate_factor=0.5),
    TrainConfig(data=DataConfig(dataset='text', sequence_length=64)),
  ],
)
def test_an_option_that_does_something_is_taken(config):
  ignored.check_ignored(config)


@pytest.mark.parametrize('method', ['base', 'paper-isgd', 'skip', 'watch'])
def test_no_option_of_isgd_is_forgotten(method):
  """Each one is refused with a method, or is known to count with it."""
  counts = {
    'base': set(),
    'paper-isgd': {'window_size', 'chase_learning_rate'},
  }
  of_charts = {
    *('chart', 'window_size', 'sigma_multiplier', 'sigma_estimator'),
    *('flagged_losses', 'smoothing', 'run_rules', 'restart_after'),
  }
  other = {bool: True, float: 0.25, int: 7, str: 'x'}
  taken = set()
  for field in dataclasses.fields(IsgdConfig):
    if field.name == 'method':
      continue
    kind = int if field.default is None else type(field.default)
    value = not field.default if kind is bool else other[kind]
    if field.name == 'chart':
      value = 'ewma'
    chart = {'chart': 'ewma'} if field.name == 'smoothing' else {}
    if method in counts:
      chart = {}
    try:
      ignored.check_ignored(
        of_isgd(method=method, **(chart | {field.name: value}))
      )
      taken.add(field.name)
    except InputError:
      pass
  assert taken == counts.get(method, of_charts)
