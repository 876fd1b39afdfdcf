"""Runs of several processes here: alike, stopped, killed, refused."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

import isgd_jax
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import OutputError
from isgd_jax.experiments.errors import ProcessLost
from isgd_jax.experiments.files import read_records
from isgd_jax.experiments.train import connection
from isgd_jax.experiments.train import folder
from isgd_jax.experiments.train import logs
from isgd_jax.experiments.train import loop
from isgd_jax.experiments.train import processes
from isgd_jax.experiments.train import resumption
from isgd_jax.experiments.train.config import DataConfig
from isgd_jax.experiments.train.config import IsgdConfig
from isgd_jax.experiments.train.config import OptimizerConfig
from isgd_jax.experiments.train.config import TrainConfig
from isgd_jax.experiments.train.connection import losses_named
from isgd_jax.experiments.train.devices import DevicesConfig
from isgd_jax.experiments.train.processes import Processes

pytestmark = pytest.mark.newest_version

ENVIRONMENT = {
  **os.environ,
  'PYTHONPATH': str(pathlib.Path(isgd_jax.__file__).parents[1]),
  'JAX_PLATFORMS': 'cpu',
}
TIME_LIMIT_SECONDS = 120
PEER_TIMEOUT_SECONDS = 20
RUN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from isgd_jax.experiments.main import main
main()
"""
# No file of this process can grow beyond 30 kB, as on a full disk.
FULL_DISK = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
{RUN}
"""
CONFIG = TrainConfig(
  data=DataConfig(batch_size=16),
  optimizer=OptimizerConfig(learning_rate=0.1),
  isgd=IsgdConfig(window_size=8, sigma_multiplier=0.5, flagged_losses='keep'),
  steps=30,
  evaluate_every=30,
)
OPTIONS = (
  *('--batch-size', '16', '--learning-rate', '0.1', '--window-size', '8'),
  *('--sigma-multiplier', '0.5', '--flagged-losses', 'keep'),
  *('--evaluate-every', '30'),
)
ENDLESS = (*OPTIONS, '--steps', '1000000', '--checkpoint-every', '50')


class Started:
  """Processes of one run; killed when the test is over, however it ends."""

  def __init__(self, out, *options, own=((), ()), codes=None):
    with socket.socket() as probe:
      probe.bind(('127.0.0.1', 0))
      port = probe.getsockname()[1]
    self.out = out
    self.processes = [
      subprocess.Popen(
        [
          *(sys.executable, '-c', (codes or {}).get(i, RUN), 'train'),
          *('--out', str(out), '--coordinator', f'127.0.0.1:{port}'),
          *('--num-processes', str(len(own)), '--process-id', str(i)),
          *('--peer-timeout', str(PEER_TIMEOUT_SECONDS)),
          *(*options, *own_options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
      )
      for i, own_options in enumerate(own)
    ]

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    for process in self.processes:
      process.kill()
      process.communicate()

  def wait_for_steps(self, num_steps):
    """Returns when the run has written so many, or a process is over."""
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    path = self.out / logs.METRICS
    while all(process.poll() is None for process in self.processes):
      if path.exists() and path.read_bytes().count(b'\n') >= num_steps:
        return
      assert time.monotonic() < deadline
      time.sleep(0.05)

  def finish(self):
    """Exit codes, what was printed, and what was complained of."""
    ends = [
      (process, *process.communicate(timeout=TIME_LIMIT_SECONDS))
      for process in self.processes
    ]
    return [p.returncode for p, _, _ in ends], *zip(
      *[(out, err) for _, out, err in ends], strict=True
    )


def steps_of(out):
  return list(read_records(out / logs.METRICS))


@pytest.fixture(scope='module')
def one(tmp_path_factory):
  """The run as one process makes it, and where that was after ten steps."""
  out = tmp_path_factory.mktemp('one')
  # Before the fixture of a test sets it for that test.
  with jax.numpy_dtype_promotion('standard'):
    loop.train(dataclasses.replace(CONFIG, steps=10), out / 'whole')
    shutil.copytree(out / 'whole', out / 'begun')
    loop.train(CONFIG, out / 'whole', resume=True)
  return out


def assert_same_steps(one, other):
  """As far as `one` has come."""
  left, right = steps_of(one), steps_of(other)[: CONFIG.steps]
  assert len(left) == len(right) == CONFIG.steps
  assert any(record['is_undertrained'] for record in left)
  for a, b in zip(left, right, strict=True):
    for name in ('step', 'batch', 'is_undertrained', 'num_chase_steps'):
      assert a[name] == b[name]
    for name in ('loss', 'final_loss', 'mean', 'control_limit'):
      # A limit is null while the chart has none.
      assert a[name] == b[name] or a[name] == pytest.approx(b[name], rel=1e-3)
  for name in ('loss', 'accuracy'):
    a, b = (
      {r['step']: r[name] for r in read_records(x / logs.EVALUATIONS)}
      for x in (one, other)
    )
    assert a[CONFIG.steps] == pytest.approx(b[CONFIG.steps], rel=1e-3)


@pytest.mark.processes
def test_two_processes_train_as_one_and_another_number_goes_on(one, tmp_path):
  with Started(tmp_path / 'two', *OPTIONS, '--steps', '24') as run:
    codes, printed, _ = run.finish()
  assert codes == [0, 0]
  # The first one prints, the others are silent.
  assert 'on 2 devices (cpu) in 2 processes' in printed[0]
  lines = printed[1].splitlines()
  assert all(line.startswith('[Gloo] ') for line in lines)
  said = []
  loop.train(CONFIG, tmp_path / 'two', resume=True, say=said.append)
  assert 'num_devices 2 -> 1, num_processes 2 -> 1' in '\n'.join(said)
  assert len(steps_of(tmp_path / 'two')) == CONFIG.steps
  assert_same_steps(one / 'whole', tmp_path / 'two')


# The folder shows its checkpoints late here, as a network file system may.
LATE = f"""
from orbax.checkpoint import CheckpointManager
load, calls = CheckpointManager._load_checkpoint_infos, []
def late(*args, **kwargs):
  calls.append(None)
  return load(*args, **kwargs) if len(calls) > 3 else []
CheckpointManager._load_checkpoint_infos = late
{RUN}
"""


@pytest.mark.processes
def test_one_process_goes_on_as_two_and_a_signal_to_one_stops_both(
  one, tmp_path
):
  out = shutil.copytree(one / 'begun', tmp_path / 'two')
  with Started(out, '--resume', *ENDLESS, codes={1: LATE}) as run:
    run.wait_for_steps(60)
    run.processes[1].send_signal(signal.SIGTERM)
    codes, printed, err = run.finish()
  assert codes == [75, 75], err
  step = len(steps_of(out))
  assert (out / folder.CHECKPOINTS / str(step)).is_dir()
  for text in err:
    assert f'SIGTERM: saved after step {step}; carry on with' in text
  assert 'carrying on after step 10' in printed[0]
  assert 'num_processes 1 -> 2' in printed[0]
  assert_same_steps(one / 'whole', out)
  saved = folder.made_with(out)['hardware']
  assert (saved['num_devices'], saved['num_processes']) == (1, 1)


# The state of the checkpoint is the second thing that is read.
UNREADABLE = f"""
import orbax.checkpoint as ocp
restore, calls = ocp.Checkpointer.restore, []
def fail(*args, **kwargs):
  calls.append(None)
  if len(calls) == 2:
    raise OSError('the disk has a hole')
  return restore(*args, **kwargs)
ocp.Checkpointer.restore = fail
{RUN}
"""


@pytest.mark.processes
def test_a_checkpoint_that_one_process_cannot_read_is_said_by_all(
  one, tmp_path
):
  out = shutil.copytree(one / 'begun', tmp_path / 'run')
  options = ('--resume', '--steps', '30')
  with Started(out, *options, codes={1: UNREADABLE}) as run:
    codes, _, err = run.finish()
  assert codes == [2, 2], err
  for text in err:
    assert f"cannot read checkpoint '{out / folder.CHECKPOINTS / '10'}'" in text
    assert 'the disk has a hole' in text


class Listing:
  """Checkpoints of which a process sees more each time that it looks."""

  folder = pathlib.Path('checkpoints')

  def __init__(self, *listings):
    self.listings = [*listings]

  @property
  def latest_step(self):
    return self.listings[0]

  def reload(self):
    if len(self.listings) > 1:
      self.listings.pop(0)


class FirstOfMany(Processes):
  """A process whose peers see what they are told to."""

  def __init__(self, *steps_of_others):
    super().__init__(count=1, index=0)
    self.steps_of_others = steps_of_others

  def gather(self, value):
    return [value, *self.steps_of_others]


def test_all_processes_go_on_from_the_newest_step_that_one_sees(monkeypatch):
  newest = resumption._newest_of_all
  assert newest(FirstOfMany(None), Listing(None)) is None
  assert newest(FirstOfMany(20), Listing(20)) == 20
  assert newest(FirstOfMany(None), Listing(20)) == 20
  assert newest(FirstOfMany(40), Listing(None, 20, 40)) == 40
  monkeypatch.setattr(processes, '_SHOWS_WITHIN_SECONDS', 0.2)
  with pytest.raises(
    InputError, match=r'shows step 20 .* step 40 in process 2'
  ):
    newest(FirstOfMany(20, 40), Listing(20))


RESULT = """
import dataclasses, json, sys
from isgd_jax.experiments.train import loop
from isgd_jax.experiments.train.config import *
from isgd_jax.experiments.train.devices import DevicesConfig
arguments = dict(zip(sys.argv[2::2], sys.argv[3::2]))
result = loop.train(
  TrainConfig(data=DataConfig(batch_size=32), steps=50),
  arguments['--out'],
  devices=DevicesConfig(
    coordinator=arguments['--coordinator'],
    num_processes=int(arguments['--num-processes']),
    process_id=int(arguments['--process-id']),
  ),
)
print(json.dumps([*result[1:]]))
"""


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_processes_have_one_result(tmp_path):
  with Started(
    tmp_path / 'run', own=[()] * 4, codes=dict.fromkeys(range(4), RESULT)
  ) as run:
    codes, printed, err = run.finish()
  assert codes == [0] * 4, err
  results = [json.loads(text.splitlines()[-1]) for text in printed]
  assert results[0] == results[1] == results[2] == results[3]
  assert results[0][0] == results[0][-1]['num_steps'] == 50


@pytest.mark.processes
@pytest.mark.parametrize('victim', [0, 1])
def test_the_others_notice_a_process_that_is_killed(tmp_path, victim):
  out = tmp_path / 'run'
  with Started(out, *ENDLESS) as run:
    run.wait_for_steps(120)
    run.processes[victim].kill()
    codes, _, err = run.finish()
  assert codes[1 - victim] == 76, err
  last = err[1 - victim].strip().splitlines()[-1]
  assert 'another process of the run ended or cannot be reached' in last
  assert f'--resume --out {out}' in last
  assert 'Traceback' not in err[1 - victim]
  done = max(
    int(path.name) for path in (out / folder.CHECKPOINTS).glob('[0-9]*')
  )
  assert done >= 50
  config = dataclasses.replace(CONFIG, steps=done + 5)
  assert loop.train(config, out, resume=True).num_steps == done + 5


# More devices than asked for, as on a machine with many accelerators.
TWO_DEVICES = f"""
import os
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=2'
{RUN}
"""


@pytest.mark.processes
def test_processes_started_for_other_runs_say_what_differs(tmp_path):
  own = (
    ['--batch-size', '64', '--num-devices', '1'],
    ['--method', 'skip', '--num-devices', '2'],
  )
  codes = dict.fromkeys(range(2), TWO_DEVICES)
  with Started(tmp_path / 'run', '--steps', '5', own=own, codes=codes) as run:
    codes, _, err = run.finish()
  assert codes == [2, 2]
  for text in err:
    assert '--batch-size is 64 in process 0, 128 in process 1' in text
    assert "--method is 'isgd' in process 0, 'skip' in process 1" in text
    assert '--num-devices is 1 in process 0, 2 in process 1' in text
  assert not (tmp_path / 'run').exists()


@pytest.mark.processes
def test_a_refusal_in_one_process_is_one_in_all(tmp_path):
  out = tmp_path / 'run'
  with folder.locked(out), Started(out, '--steps', '5') as run:
    codes, _, err = run.finish()
  assert codes == [2, 2]
  for text in err:
    assert f"another process is writing to '{out}'" in text


@pytest.mark.processes
def test_a_process_that_does_not_come_is_missed(tmp_path):
  own = [['--num-processes', '2', '--connect-timeout', '2']]
  with Started(tmp_path / 'run', own=own) as run:
    codes, _, err = run.finish()
  assert codes == [2]
  last = err[0].strip().splitlines()[-1]
  assert 'not all processes came to --coordinator 127.0.0.1:' in last
  assert 'each --process-id from 0 to 1 is started once' in last


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize(
  'own', [((), ['--out', 'elsewhere']), (['--model', 'lenett'], ())]
)
def test_other_refusals_reach_all_processes(tmp_path, monkeypatch, own):
  monkeypatch.chdir(tmp_path)
  with Started(tmp_path / 'run', '--steps', '5', own=own) as run:
    codes, _, err = run.finish()
  assert codes == [2, 2]
  word = (
    'on a file system that they share' if own[1] else "did you mean 'lenet'"
  )
  for text in err:
    assert word in text


@pytest.mark.processes
@pytest.mark.slow
def test_a_full_disk_in_the_first_process_ends_both(tmp_path):
  pytest.importorskip('resource')
  codes = {0: FULL_DISK}
  with Started(tmp_path / 'run', *ENDLESS, codes=codes) as run:
    ends, _, err = run.finish()
  assert ends == [2, 76], err
  assert 'cannot write' in err[0]
  assert 'another process of the run ended' in err[1]


def test_a_lost_process_is_told_from_other_errors():
  error = OutputError('cannot save the checkpoint')
  error.__cause__ = ValueError('UNKNOWN: Gloo all-reduce failed')
  with (
    pytest.raises(ProcessLost, match='Gloo all-reduce failed'),
    losses_named(Processes(2, 0), 'run'),
  ):
    raise error
  for error in (
    InputError("'gloo' is no model"),
    RuntimeError('RESOURCE_EXHAUSTED: out of memory'),
  ):
    with pytest.raises(type(error)), losses_named(Processes(2, 0), 'run'):
      raise error


def test_a_folder_is_not_taken_for_a_lost_process():
  out = '/data/heartbeat/run'
  for cause in (
    OSError(28, 'No space left on device', f'{out}/metrics.jsonl'),
    ValueError(f"RESOURCE_EXHAUSTED: cannot write '{out}/checkpoints/7'"),
  ):
    error = OutputError(f"cannot write '{out}/metrics.jsonl': no space left")
    error.__cause__ = cause
    with pytest.raises(OutputError), losses_named(Processes(2, 0), out):
      raise error


class Device:
  """A device of one of several processes."""

  def __init__(self, process_index, device_id):
    self.process_index = process_index
    self.id = device_id


@pytest.fixture
def partings(monkeypatch):
  """Joins nothing; counts how often a process takes leave of the others."""
  found = []
  monkeypatch.setattr(connection, '_join', lambda devices: None)
  monkeypatch.setattr(connection, '_part', lambda: found.append(None))
  return found


PAIR = DevicesConfig(coordinator='h:1', num_processes=2, process_id=0)


def test_a_process_lost_while_jax_makes_its_devices_is_named(
  monkeypatch, partings
):
  def fail():
    raise RuntimeError(
      "Unable to initialize backend 'cpu': DEADLINE_EXCEEDED: GetKeyValue()"
    )

  monkeypatch.setattr(jax, 'devices', fail)
  monkeypatch.setattr(jax, 'process_count', fail)
  with (
    pytest.raises(ProcessLost, match='GetKeyValue'),
    connection.connected(PAIR, 'run'),
  ):
    pass
  # Nobody may be there to take leave of.
  assert not partings


def test_processes_with_uneven_devices_part_in_peace(monkeypatch, partings):
  uneven = [Device(0, 0), Device(1, 1), Device(1, 2)]
  monkeypatch.setattr(jax, 'devices', lambda: uneven)
  with (
    pytest.raises(InputError, match='process 0 has 1 devices'),
    connection.connected(PAIR, 'run'),
  ):
    pass
  assert len(partings) == 1


def test_an_error_of_one_process_is_not_a_parting(monkeypatch, partings):
  even = [Device(0, 0), Device(1, 1)]
  monkeypatch.setattr(jax, 'devices', lambda: even)
  with (
    pytest.raises(InputError, match='mine alone'),
    connection.connected(PAIR, 'run'),
  ):
    raise InputError('mine alone')
  assert not partings
