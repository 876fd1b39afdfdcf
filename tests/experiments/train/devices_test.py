"""One run on 1 and on 8 devices, and devices that cannot be."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

import isgd_jax
from isgd_jax.experiments import main
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.train import connection
from isgd_jax.experiments.train import devices
from isgd_jax.experiments.train import folder
from isgd_jax.experiments.train import loop
from isgd_jax.experiments.train.config import DataConfig
from isgd_jax.experiments.train.config import TrainConfig
from isgd_jax.experiments.train.devices import DevicesConfig

pytestmark = [pytest.mark.one_version, pytest.mark.whole_runs]

ROOT = pathlib.Path(isgd_jax.__file__).parents[1]
ENVIRONMENT = {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
TIME_LIMIT_SECONDS = 240


def run(code, *args):
  return subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code), *map(str, args)],
    capture_output=True,
    text=True,
    timeout=TIME_LIMIT_SECONDS,
    env=ENVIRONMENT,
    check=False,
  )


# BatchNorm and dropout: what would differ if a device saw its own rows alone.
STEPS = """
  import json
  from flax import nnx
  import jax
  jax.config.update('jax_num_cpu_devices', 8)
  import numpy as np
  import optax
  import isgd_jax
  from isgd_jax.experiments import datasets
  from isgd_jax.experiments.train import devices
  from isgd_jax.experiments.train.reports import unpack
  from isgd_jax.experiments.train.steps import build_steps

  class Network(nnx.Module):

    def __init__(self, rngs):
      self.hidden = nnx.Linear(64, 32, rngs=rngs)
      self.norm = nnx.BatchNorm(32, rngs=rngs)
      self.dropout = nnx.Dropout(0.3, rngs=rngs)
      self.out = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x, *, train):
      x = self.hidden(x.reshape(len(x), -1))
      x = nnx.relu(self.norm(x, use_running_average=not train))
      return self.out(self.dropout(x, deterministic=not train))

  digits = datasets.load_dataset('digits')
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, *args, **kwargs: compiled.append(event)
    if event.endswith('backend_compile_duration') else None)
  found = {}
  for count in (1, 8):
    where = devices.place(devices.DevicesConfig(num_devices=count), 64)
    steps = build_steps(
      Network, digits,
      isgd_jax.isgd(optax.sgd(0.1), isgd_jax.shewhart(8, 1.0)),
      0, where.replicated,
    )
    state, reports = steps.init(), []
    for step in range(30):
      rows = np.arange(step * 64, step * 64 + 64) % len(digits.train)
      batch = digits.train.__getitems__(rows)
      weight = np.ones(64, np.float32)
      weight[60:] = 0
      batch, weight = jax.device_put((batch, weight), where.batch)
      state, report = steps.train(state, batch, weight)
      reports.append(np.asarray(report))
      if step == 0:
        compiled.clear()
    report = unpack(np.stack(reports))
    found[count] = {
      'losses': report.loss.tolist(),
      'flags': report.is_undertrained.tolist(),
      'chase_steps': report.num_chase_steps.tolist(),
      'batch_norm': np.asarray(state.model_state['norm']['mean']).tolist(),
      'on': [len(x.sharding.device_set) for x in jax.tree.leaves(state)],
      'whole': all(
        x.sharding.is_fully_replicated for x in jax.tree.leaves(state)),
      'compiled_later': len(compiled),
    }
  print(json.dumps(found))
"""


@pytest.mark.processes
def test_eight_devices_take_the_steps_of_one():
  finished = run(STEPS)
  assert finished.returncode == 0, finished.stderr
  found = json.loads(finished.stdout)
  one, eight = found['1'], found['8']
  np.testing.assert_allclose(one['losses'], eight['losses'], rtol=1e-4)
  np.testing.assert_allclose(one['batch_norm'], eight['batch_norm'], atol=1e-4)
  assert any(one['flags'])
  assert one['flags'] == eight['flags']
  assert one['chase_steps'] == eight['chase_steps']
  assert set(one['on']) == {1}
  assert set(eight['on']) == {8}
  assert eight['whole']
  assert one['compiled_later'] == eight['compiled_later'] == 0


# The second run carries the first one on. The last ones have fewer test images,
# 360, than a batch has rows, and 7 devices do not divide them.
RUNS = """
  import json
  import pathlib
  import sys
  from isgd_jax.experiments.train import loop
  from isgd_jax.experiments.train.config import DataConfig
  from isgd_jax.experiments.train.config import IsgdConfig
  from isgd_jax.experiments.train.config import TrainConfig
  from isgd_jax.experiments.train.devices import DevicesConfig

  out = pathlib.Path(sys.argv[1])
  chart = IsgdConfig(window_size=8, sigma_multiplier=0.5)
  eight = DevicesConfig(num_devices=8)
  said = []
  found = []
  for name, devices, resume, options in (
    ('eight', eight, False, {'steps': 20}),
    ('eight', DevicesConfig(num_devices=1), True, {'steps': 30}),
    ('one', DevicesConfig(num_devices=1), False, {'steps': 30}),
    ('large-1', DevicesConfig(num_devices=1), False, {'size': 371}),
    ('large-7', DevicesConfig(num_devices=7), False, {'size': 371}),
  ):
    data = DataConfig(batch_size=options.pop('size', 16), last_batch='pad')
    config = TrainConfig(data=data, isgd=chart, **({'steps': 4} | options))
    result = loop.train(
      config, out / name, resume=resume, devices=devices, say=said.append)
    found.append([result.test_loss, result.test_accuracy, result.totals])
  print(json.dumps({'found': found, 'said': said}))
"""


@pytest.mark.processes
def test_runs_agree_and_go_on_with_another_number_of_devices(tmp_path):
  finished = run(RUNS, tmp_path)
  assert finished.returncode == 0, finished.stderr
  printed = json.loads(finished.stdout)
  _, resumed, one, *large = printed['found']
  for left, right in ((resumed, one), large):
    assert left[0] == pytest.approx(right[0], rel=1e-4)
    assert left[1:] == right[1:]
  assert one[2]['num_examples'] == one[2]['num_steps'] * 16
  said = '\n'.join(printed['said'])
  assert 'on 8 devices (cpu)' in said
  assert 'will not go on bit for bit: num_devices 8 -> 1' in said
  saved = folder.made_with(tmp_path / 'eight')
  assert saved['hardware']['num_devices'] == 8
  assert saved['hardware']['num_processes'] == 1


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'num_devices': 0}, '--num-devices must lie within 1 and '),
    ({'connect_timeout': 0}, '--connect-timeout must lie within 1 and '),
    ({'peer_timeout': -1}, '--peer-timeout must lie within 1 and '),
    ({'num_processes': 2}, '--num-processes 2 needs --coordinator HOST:PORT'),
    ({'process_id': 0}, '--process-id 0 needs --coordinator HOST:PORT'),
    ({'coordinator': 'host'}, "must be HOST:PORT, such as .*, got 'host'"),
    ({'coordinator': 'host:0'}, "got 'host:0'"),
    ({'coordinator': 'host:x'}, "got 'host:x'"),
    ({'coordinator': 'h:1'}, '--coordinator h:1 needs --num-processes'),
    (
      {'coordinator': 'h:1', 'num_processes': 2},
      '--coordinator h:1 needs --process-id',
    ),
    (
      {'coordinator': 'h:1', 'num_processes': 2, 'process_id': 2},
      '--process-id must lie within 0 and 1, .* got 2',
    ),
    (
      {'coordinator': 'h:1', 'distributed': True},
      '--coordinator h:1 and --distributed exclude each other',
    ),
    ({'distributed': True}, '--distributed cannot join .* used before'),
    (
      {
        'coordinator': '127.0.0.1:1',
        'num_processes': 2,
        'process_id': 1,
        'connect_timeout': 1,
      },
      '127.0.0.1:1 cannot be reached within --connect-timeout 1 s: ',
    ),
  ],
)
def test_devices_that_cannot_be_are_refused(tmp_path, options, message):
  with pytest.raises(InputError, match=message):
    loop.train(
      TrainConfig(), tmp_path / 'run', devices=DevicesConfig(**options)
    )
  assert not (tmp_path / 'run').exists()


def test_more_devices_than_there_are_name_the_remedy(tmp_path):
  count = jax.local_device_count() + 1
  with pytest.raises(InputError, match=f'--num-devices {count} is more than'):
    loop.train(
      TrainConfig(),
      tmp_path / 'run',
      devices=DevicesConfig(num_devices=count),
    )


@pytest.mark.processes
@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['--batch-size', '100'], '--batch-size 96 or 104'),
    (['--batch-size', '5'], 'use --batch-size 8 or 16\n'),
    (
      ['--batch-size', '64', '--last-batch', 'short'],
      '--last-batch short leaves a batch of 29 examples',
    ),
  ],
)
def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path, args, message):
  out = tmp_path / 'run'
  code = 'from isgd_jax.experiments.main import main; main()'
  command = ['train', '--out', out, '--num-devices', '8', *args]
  finished = run(code, *command)
  assert finished.returncode == 2
  assert message in finished.stderr
  assert len(finished.stderr.splitlines()) == 1
  assert not out.exists()


def test_processes_with_different_numbers_of_devices_are_refused():
  class Device:
    platform = device_kind = 'cpu'

    def __init__(self, process_index, device_id):
      self.process_index = process_index
      self.id = device_id

  uneven = [Device(0, 0), Device(1, 1), Device(1, 2)]
  with pytest.raises(InputError, match=r'process 0 has 1 .* process 1 has 2'):
    devices.check_even(uneven)
  devices.check_even(uneven[:2])


def test_a_placement_on_one_device_takes_any_batch():
  placement = devices.place(DevicesConfig(num_devices=1), batch_size=7)
  assert placement == (None, None, 1, 1)
  data = DataConfig(batch_size=7, last_batch='short')
  devices.check_last_batch(placement, data, num_examples=10)


@pytest.mark.parametrize(
  'reason',
  [
    'coordinator_address should be defined.',
    'jax.distributed.initialize() must be called before any JAX calls',
  ],
)
def test_a_cluster_that_cannot_be_joined_keeps_the_reason(monkeypatch, reason):
  def fail(*args, **kwargs):
    raise RuntimeError(reason)

  monkeypatch.setattr(jax.distributed, 'initialize', fail)
  with pytest.raises(InputError) as caught:
    connection._join(DevicesConfig(distributed=True))
  assert f'of a cluster: {reason.rstrip(".")}. Start' in str(caught.value)
  assert 'JAX must not have been used before' in str(caught.value)
  assert 'no cluster' not in str(caught.value)


@pytest.mark.processes
@pytest.mark.parametrize(
  ('code', 'is_requeued'), [(75, True), (2, False), (0, False)]
)
def test_the_slurm_script_carries_on_what_was_saved(
  tmp_path, code, is_requeued
):
  text = (ROOT / 'docs' / 'devices.md').read_text()
  script = text[text.index('    #!/bin/bash') :].partition('\n\n')[0]
  for name, line in (
    ('srun', f'echo "$@" > {tmp_path}/asked; exit {code}'),
    ('scontrol', f'echo "$@" > {tmp_path}/requeued'),
  ):
    path = tmp_path / name
    path.write_text(f'#!/bin/bash\n{line}\n')
    path.chmod(0o755)
  finished = subprocess.run(
    ['bash', '-c', textwrap.dedent(script)],
    env={
      'PATH': f'{tmp_path}:{os.environ["PATH"]}',
      'SCRATCH': str(tmp_path),
      'SLURM_JOB_ID': '1234',
    },
    timeout=TIME_LIMIT_SECONDS,
    check=False,
  )
  assert finished.returncode == code
  assert '--distributed' in (tmp_path / 'asked').read_text()
  requeued = tmp_path / 'requeued'
  assert requeued.exists() == is_requeued
  if is_requeued:
    assert requeued.read_text() == 'requeue 1234\n'


def test_help_names_the_options_of_devices(capsys):
  with pytest.raises(SystemExit):
    main.main(['train', '--help'])
  out = capsys.readouterr().out
  for option in (
    *('--num-devices', '--distributed', '--coordinator', '--num-processes'),
    *('--process-id', '--connect-timeout', '--peer-timeout'),
  ):
    assert option in out
  assert '--devices.' not in out
