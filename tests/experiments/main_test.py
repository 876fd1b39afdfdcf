"""The command line: clear errors before any compute, and a clean Ctrl-C."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

import isgd_jax
from isgd_jax.experiments import main

ENVIRONMENT = {
  **os.environ,
  'PYTHONPATH': str(pathlib.Path(isgd_jax.__file__).parents[1]),
  'JAX_PLATFORMS': 'cpu',
}
RUN = 'from isgd_jax.experiments.main import main; main()'
TIME_LIMIT_SECONDS = 60


def run(*args, code=RUN):
  return subprocess.run(
    [sys.executable, '-c', code, *args],
    capture_output=True,
    text=True,
    timeout=TIME_LIMIT_SECONDS,
    env=ENVIRONMENT,
    check=False,
  )


def exit_code_and_stderr(capsys, *args):
  with pytest.raises(SystemExit) as exit_info:
    main.main(args)
  out, err = capsys.readouterr()
  assert out == ''
  return exit_info.value.code, err


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (
      ['--dataset', 'digit'],
      "unknown data set 'digit'; did you mean 'digits'?",
    ),
    (['--model', 'mpl'], "unknown model 'mpl'; did you mean 'mlp'?"),
    (
      ['--bases', 'adam', 'momentun'],
      "unknown base optimizer 'momentun'; did you mean 'momentum'?",
    ),
    (['--bases', 'zzz'], "(valid: 'adam', 'momentum', 'nesterov', 'sgd')"),
    (['--bases', 'polyak'], "unknown base optimizer 'polyak'"),
    (['--bases'], 'name one or more'),
    (['--bases', 'adam', 'adam'], 'each once'),
    (['--seed', '-1'], 'seed must not be negative, got -1'),
  ],
)
def test_bad_input_is_named_and_nothing_is_made(
  tmp_path, capsys, args, message
):
  out = tmp_path / 'out'
  code, err = exit_code_and_stderr(capsys, 'demo', '--out', str(out), *args)
  assert code == 2
  assert message in err
  assert len(err.splitlines()) == 1
  assert not out.exists()


def test_unwritable_folder_is_named_with_a_remedy(tmp_path, capsys):
  file = tmp_path / 'file'
  file.write_text('mine')
  code, err = exit_code_and_stderr(capsys, 'demo', '--out', str(file / 'out'))
  assert code == 2
  assert f"cannot write results to '{file}/out'" in err
  assert '--out' in err
  assert len(err.splitlines()) == 1
  assert file.read_text() == 'mine'


@pytest.mark.parametrize('args', [[], ['dmeo'], ['demo', '--sede', '1']])
def test_unknown_words_are_refused(capsys, args):
  with pytest.raises(SystemExit) as exit_info:
    main.main(args)
  assert exit_info.value.code == 2
  assert 'demo' in capsys.readouterr().err


def test_help_names_the_subcommand_and_its_options(capsys):
  for args, words in {
    ('--help',): ['demo', 'Compare ISGD'],
    ('demo', '--help'): [
      '--out',
      '--seed',
      '--quick',
      '--dataset',
      '--model',
      '--bases',
      'momentum',
    ],
  }.items():
    with pytest.raises(SystemExit) as exit_info:
      main.main(args)
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    for word in words:
      assert word in out


def test_help_of_train_names_what_a_user_may_choose(capsys):
  with pytest.raises(SystemExit) as exit_info:
    main.main(['train', '--help'])
  assert exit_info.value.code == 0
  out = capsys.readouterr().out
  for word in (
    *('fashion-mnist', 'imagefolder', 'hf:NAME', 'lenet', 'resnet18'),
    *('--resume', '--flagged-losses', '--sigma-multiplier', '--schedule'),
    *('nesterov', 'loss-driven', 'gauss-newton', 'bfloat16', '75', '130'),
  ):
    assert word in out
  assert '--config.' not in out


@pytest.mark.whole_runs
def test_train_prints_its_options_and_results(tmp_path, capsys):
  out = tmp_path / 'run'
  main.main(['train', '--epochs', '2', '--figures', 'svg', '--out', str(out)])
  printed = capsys.readouterr().out
  for text in (
    'data.batch_size                128\n',
    '1,437 examples to train on and 360 to test on',
    '12 batches an epoch, 24 steps in all; 9,610 parameters',
    'step 12, epoch 1: test loss ',
    'after 24 steps',
    'Under-trained batches: ',
    f'Control chart: {out}/control_chart.svg',
    f'tensorboard --logdir {out}/tensorboard',
  ):
    assert text in printed
  assert (out / 'control_chart.svg').read_text().startswith('<?xml')


@pytest.mark.whole_runs
def test_resume_takes_the_run_s_own_options(tmp_path, capsys):
  out = str(tmp_path / 'run')
  main.main(['train', '--batch-size', '64', '--steps', '5', '--out', out])
  main.main(['train', '--resume', '--out', out, '--steps', '8'])
  assert 'after 8 steps' in capsys.readouterr().out
  with pytest.raises(SystemExit) as exit_info:
    main.main(['train', '--resume', '--out', out, '--batch-size', '32'])
  assert exit_info.value.code == 2
  assert '--batch-size was 64, is now 32' in capsys.readouterr().err


@pytest.mark.whole_runs
def test_a_diverged_run_ends_with_its_results(tmp_path, capsys):
  out = str(tmp_path / 'run')
  main.main(['train', '--learning-rate', '1e38', '--steps', '9', '--out', out])
  assert 'test loss nan' in capsys.readouterr().out


@pytest.mark.whole_runs
def test_resume_takes_epochs_in_the_place_of_steps(tmp_path, capsys):
  out = str(tmp_path / 'run')
  main.main(['train', '--steps', '5', '--out', out])
  main.main(['train', '--resume', '--out', out, '--epochs', '1'])
  assert 'after 12 steps' in capsys.readouterr().out


@pytest.mark.whole_runs
@pytest.mark.parametrize('damage', ['{"step": 4}\n', '[1]\n', '\xff\xfe\n'])
def test_a_chart_of_a_damaged_log_is_refused(tmp_path, capsys, damage):
  out = tmp_path / 'run'
  main.main(['train', '--steps', '3', '--out', str(out)])
  with open(out / 'metrics.jsonl', 'a', encoding='latin-1') as file:
    file.write(damage)
  capsys.readouterr()
  code, err = exit_code_and_stderr(capsys, 'chart', str(out))
  assert code == 2
  assert f"line 4 of '{out}/metrics.jsonl'" in err


@pytest.mark.whole_runs
def test_chart_draws_where_it_is_told(tmp_path, capsys):
  out = tmp_path / 'run'
  main.main(['train', '--steps', '30', '--out', str(out)])
  picture = tmp_path / 'chart.pdf'
  main.main(['chart', str(out), '--first-step', '20', '--out', str(picture)])
  assert capsys.readouterr().out.endswith(f'{picture}\n')
  assert picture.read_bytes().startswith(b'%PDF')


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['train', '--model', 'lenet5'], "did you mean 'lenet'"),
    (['train', '--dataset', 'mnsit'], "did you mean 'mnist'"),
    (['train', '--resume'], 'nothing to resume'),
    (['train', '--batch-size', '5000'], '5000'),
    (['train', '--model', 'alexnet'], 'alexnet'),
    (['chart', 'nowhere'], "'nowhere' holds no run"),
    (['chart', 'x' * 300], 'File name too long'),
    (['train', '--out', 'x' * 300], 'File name too long'),
    (['train', '--warmup-steps', '99999999999'], '--warmup-steps'),
    (['train', '--seed', '4294967296'], '--seed'),
  ],
)
def test_bad_input_to_train_and_chart_is_named(
  tmp_path, capsys, monkeypatch, args, message
):
  monkeypatch.chdir(tmp_path)
  code, err = exit_code_and_stderr(capsys, *args)
  assert code == 2
  assert message in err
  assert len(err.splitlines()) == 1
  assert not list(tmp_path.iterdir())


@pytest.mark.processes
@pytest.mark.parametrize('package', ['grain', 'orbax', 'tensorboardX'])
def test_a_package_missing_for_train_names_its_extra(package, tmp_path):
  code = f'import sys; sys.modules[{package!r}] = None; {RUN}'
  finished = run('train', '--out', str(tmp_path / 'out'), code=code)
  assert finished.returncode == 1
  assert re.search(r"pip install '.*\[\w+\]'", finished.stderr)
  assert len(finished.stderr.splitlines()) == 1
  assert not (tmp_path / 'out').exists()


@pytest.mark.processes
def test_a_process_shows_no_traceback():
  finished = run('demo', '--model', 'mpl')
  assert finished.returncode == 2
  assert 'Traceback' not in finished.stderr
  assert "did you mean 'mlp'?" in finished.stderr


@pytest.mark.processes
@pytest.mark.parametrize('package', ['tyro', 'flax', 'tqdm', 'sklearn'])
def test_a_missing_package_names_the_extra(package, tmp_path):
  code = f'import sys; sys.modules[{package!r}] = None; {RUN}'
  finished = run('demo', '--quick', '--out', str(tmp_path / 'out'), code=code)
  assert finished.returncode == 1
  assert "[experiments]'" in finished.stderr
  assert len(finished.stderr.splitlines()) == 1


@pytest.mark.processes
def test_the_module_runs_as_the_script_does():
  finished = subprocess.run(
    [sys.executable, '-m', 'isgd_jax.experiments', '--help'],
    capture_output=True,
    text=True,
    timeout=TIME_LIMIT_SECONDS,
    env=ENVIRONMENT,
    check=True,
  )
  assert 'usage: isgd-jax' in finished.stdout


@pytest.mark.processes
def test_ctrl_c_keeps_what_was_written_and_says_where(tmp_path):
  path = tmp_path / 'out' / 'runs.jsonl'
  # A process that a shell started in the background ignores SIGINT.
  code = (
    'import signal; signal.signal(signal.SIGINT, signal.default_int_handler); '
    + RUN
  )
  process = subprocess.Popen(
    [sys.executable, '-c', code, 'demo', '--out', str(path.parent)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=ENVIRONMENT,
  )
  try:
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
      with contextlib.suppress(FileNotFoundError):
        if path.read_text().count('"purpose"') >= 3:
          break
      time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIME_LIMIT_SECONDS)
  finally:
    process.kill()
    process.wait()
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  records = [line for line in lines if 'id' in line]
  assert process.returncode == 130
  assert out == ''
  # After lines of progress, if that took long.
  assert err.splitlines()[-1] == (
    f'isgd-jax: interrupted: {len(records)} of 272 runs are kept in {path}'
  )
  assert len(records) >= 3
  assert [p.name for p in path.parent.iterdir()] == ['runs.jsonl']
