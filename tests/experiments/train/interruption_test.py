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
resource.setrlimit(resource.RLIMIT_FSIZE, (130_000, 130_000))
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
    if time.monotonic() > deadline:
      process.kill()
      raise TimeoutError(f'{num_steps} steps in {TIME_LIMIT_SECONDS} s')
    time.sleep(0.005)


def assert_same_runs(one, other, num_steps):
  for name in (logs.METRICS, logs.EVENTS, logs.EVALUATIONS):
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


@pytest.mark.timeout(900)
def test_a_run_stopped_in_every_way_is_the_same_run(whole_run, tmp_path):
  """Out of disk, told to stop, killed: each carried on by the next process."""
  pytest.importorskip('resource')
  rng = random.Random(0)
  # So long that it is under way still when the last signal comes.
  options = (*DIGITS[:-2], '--steps', '5000', '--checkpoint-every', '250')
  out = tmp_path / 'stopped'

  code, err = finish(start(out, *options, code=FULL_DISK))
  assert code == 2
  assert f"cannot write '{out / logs.METRICS}': File too large" in err
  assert num_lines(out / logs.METRICS) > 200

  for num_steps, signum, exit_code in (
    (1000, signal.SIGTERM, 75),
    (1700, signal.SIGKILL, -signal.SIGKILL),
    (2400, signal.SIGINT, 130),
    (3100, signal.SIGKILL, -signal.SIGKILL),
  ):
    process = start(out, '--resume')
    wait_for_steps(process, out, num_steps)
    time.sleep(rng.uniform(0.0, 0.05))
    process.send_signal(signum)
    code, err = finish(process)
    assert code == exit_code, err
    step = num_lines(out / logs.METRICS)
    assert num_steps <= step < 5000
    if signum != signal.SIGKILL:
      assert f'{signum.name}: saved after step {step}; carry on with' in err
      command = err.strip().splitlines()[-1].partition('isgd-jax train ')[2]
      assert command == f'--resume --out {out}'
      assert (out / folder.CHECKPOINTS / str(step)).is_dir()

  assert finish(start(out, '--resume'))[0] == 0
  whole = whole_run(options)
  assert any(r['num_chase_steps'] for r in read_records(whole / logs.METRICS))
  assert_same_runs(whole, out, 5000)


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
