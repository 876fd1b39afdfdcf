"""Runs that are killed, stopped or out of disk, and carried on.

Each is compared, bit for bit, with a run that nothing happened to.
"""

import functools
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

import isgd_jax
from isgd_jax.experiments.files import read_records
from isgd_jax.experiments.train import folder
from isgd_jax.experiments.train import logs

pytestmark = [pytest.mark.one_version, pytest.mark.processes]

ROOT = pathlib.Path(isgd_jax.__file__).parents[1]
ENVIRONMENT = {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
TIME_LIMIT_SECONDS = 240

DIGITS = (
  *('--model', 'mlp', '--steps', '1500', '--batch-size', '32'),
  *('--learning-rate', '0.1', '--window-size', '20'),
  *('--sigma-multiplier', '1.5', '--checkpoint-every', '40'),
)
LENET = (
  *('--dataset', 'fashion-mnist', '--model', 'lenet', '--steps', '240'),
  *('--batch-size', '16', '--window-size', '20', '--sigma-multiplier', '1.5'),
  *('--checkpoint-every', '7', '--evaluate-every', '120'),
)


# A process that a shell started in the background ignores SIGINT.
RUN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from isgd_jax.experiments.main import main
main()
"""
# No file of this process can grow beyond 100 kB, as on a full disk.
FULL_DISK = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
{RUN}
"""


def start(out, *options, code=RUN):
  return subprocess.Popen(
    [sys.executable, '-c', code, 'train', '--out', str(out), *options],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    env=ENVIRONMENT,
  )


def finish(process):
  """Exit code and stderr."""
  with process:
    try:
      _, err = process.communicate(timeout=TIME_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
      process.kill()
      raise
  return process.returncode, err


def num_lines(path):
  return path.read_bytes().count(b'\n') if path.exists() else 0


def wait_for_steps(process, out, num_steps):
  """Returns when a run has written so many steps, or is over."""
  deadline = time.monotonic() + TIME_LIMIT_SECONDS
  while num_lines(out / logs.METRICS) < num_steps and process.poll() is None:
    assert time.monotonic() < deadline
    time.sleep(0.005)


def assert_same_runs(one, other, num_steps):
  for name in (logs.METRICS, logs.EVALUATIONS):
    assert (one / name).read_bytes() == (other / name).read_bytes(), name
  assert num_lines(one / logs.METRICS) == num_steps
  arrays, others = (
    ocp.StandardCheckpointer().restore(
      (out / folder.CHECKPOINTS / str(num_steps) / 'state').absolute()
    )
    for out in (one, other)
  )
  assert arrays.keys() == others.keys()
  assert any('chart_state' in name for name in arrays)
  for name, array in arrays.items():
    np.testing.assert_array_equal(array, others[name], err_msg=name)


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory):
  """Makes a run that nothing happens to, once for each of its options."""

  @functools.cache
  def make(options):
    out = tmp_path_factory.mktemp('whole') / 'run'
    assert finish(start(out, *options))[0] == 0
    return out

  return make


def check_killed_runs(whole, tmp_path, options, num_steps, num_kills):
  """Kills a run again and again, at moments drawn at random."""
  rng = random.Random(0)
  torn = tmp_path / 'torn'
  flagged = [r['num_chase_steps'] for r in read_records(whole / logs.METRICS)]
  assert sum(flagged) > 0
  num_killed = 0
  for kill in range(num_kills):
    has_run = (torn / folder.CONFIG).exists()
    process = start(torn, *options, *(['--resume'] if has_run else []))
    # Steps are dispatched in blocks, so a few at least come between two kills.
    goal = num_steps * (kill + rng.random()) / num_kills
    if rng.random() < 0.2:  # While it imports, restores or compiles.
      time.sleep(rng.uniform(0.0, 5.0))
    else:
      wait_for_steps(process, torn, goal)
      time.sleep(rng.uniform(0.0, 0.1))
    process.send_signal(signal.SIGKILL)
    code, err = finish(process)
    assert code in (-signal.SIGKILL, 0), err
    num_killed += code != 0
  assert num_killed >= num_kills - 1
  code, err = finish(start(torn, '--resume'))
  assert code == 0, err
  assert_same_runs(whole, torn, num_steps)


def test_a_run_killed_and_carried_on_is_the_same_run(whole_run, tmp_path):
  check_killed_runs(
    whole_run(DIGITS), tmp_path, DIGITS, num_steps=1500, num_kills=3
  )


def test_a_run_out_of_disk_says_so_and_is_carried_on(whole_run, tmp_path):
  pytest.importorskip('resource')
  stopped = tmp_path / 'stopped'
  code, err = finish(start(stopped, *DIGITS, code=FULL_DISK))
  assert code == 2
  assert f"cannot write '{stopped / logs.METRICS}': File too large" in err
  assert num_lines(stopped / logs.METRICS) > 200
  assert finish(start(stopped, '--resume'))[0] == 0
  assert_same_runs(whole_run(DIGITS), stopped, 1500)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
  ('options', 'num_steps'), [(DIGITS, 1500), (LENET, 240)]
)
def test_a_run_killed_twenty_times_is_the_same_run(
  whole_run, tmp_path, options, num_steps
):
  check_killed_runs(
    whole_run(options), tmp_path, options, num_steps, num_kills=20
  )


@pytest.mark.parametrize(
  ('signum', 'exit_code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)]
)
def test_a_signal_saves_and_says_how_to_carry_on(
  whole_run, tmp_path, signum, exit_code
):
  stopped = tmp_path / 'stopped'
  # Long enough to be under way still when the signal comes.
  options = (*DIGITS[:-2], '--checkpoint-every', '100000', '--steps', '5000')
  process = start(stopped, *options)
  wait_for_steps(process, stopped, 200)
  process.send_signal(signum)
  code, err = finish(process)
  assert code == exit_code, err
  step = num_lines(stopped / logs.METRICS)
  assert 200 <= step < 5000
  assert f'{signum.name}: saved after step {step}; carry on with' in err
  command = err.strip().splitlines()[-1].partition('isgd-jax train ')[2]
  assert command == f'--resume --out {stopped}'
  assert finish(start(stopped, '--resume'))[0] == 0
  assert_same_runs(whole_run(options), stopped, 5000)
