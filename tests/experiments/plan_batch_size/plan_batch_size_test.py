"""The planner: a whole plan is written or nothing is, and bad input is named.

Seconds are made up wherever a fit hangs on them: no test depends on the clock.
"""

import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import isgd_jax
from isgd_jax import batch_size
from isgd_jax.experiments import datasets
from isgd_jax.experiments import main
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.plan_batch_size import bench
from isgd_jax.experiments.plan_batch_size import command
from isgd_jax.experiments.plan_batch_size import losses
from isgd_jax.experiments.plan_batch_size import measure
from isgd_jax.experiments.plan_batch_size import plan
from isgd_jax.experiments.plan_batch_size import report
from isgd_jax.experiments.plan_batch_size.config import PlanConfig

pytestmark = pytest.mark.one_version

SIZES = (16, 64, 128)
SMALL = {'pilot_steps': 24, 'num_repeats': 3, 'num_noise_batches': 4}
QUICK = (
  *('--batch-sizes', *map(str, SIZES), '--pilot-steps', '24'),
  *('--num-repeats', '3', '--num-noise-batches', '4'),
)
FILES = ['plan.json', 'step_time.png', 'time_to_target.png']


def made_up(times, seconds_of=lambda sizes: 1e-3 + sizes * 1e-5):
  """The measurement with other seconds in it."""
  seconds = seconds_of(times.batch_sizes)
  return times._replace(
    median=seconds, lower_quartile=0.9 * seconds, upper_quartile=1.2 * seconds
  )


@pytest.fixture
def steady_clock(monkeypatch):
  """Seconds that are a line in the batch size, after steps that did run."""
  real = batch_size.measure_step_seconds
  monkeypatch.setattr(
    batch_size,
    'measure_step_seconds',
    lambda *args, **kwargs: made_up(real(*args, **kwargs)),
  )


@pytest.fixture
def made_up_noise(monkeypatch):
  """A noise scale that takes no time."""
  noise = batch_size.NoiseScale(100.0, 9.0, 1.0, 100.0, 128, 4)
  monkeypatch.setattr(bench.Bench, 'noise_scale', lambda *_: noise)


def exit_code_and_stderr(capsys, *args):
  with pytest.raises(SystemExit) as exit_info:
    main.main(['plan-batch-size', *args])
  out, err = capsys.readouterr()
  assert out == ''
  return exit_info.value.code, err


# A plan


@pytest.mark.usefixtures('steady_clock')
def test_a_plan_is_complete_and_can_be_made_again_from_its_json(tmp_path):
  out = tmp_path / 'deep' / 'plan'
  config = PlanConfig(batch_sizes=SIZES, base='adam', **SMALL)
  text = command.run(config, out)
  assert sorted(path.name for path in out.iterdir()) == FILES
  for name in FILES[1:]:
    assert (out / name).read_bytes()[:4] == b'\x89PNG'
  record = json.loads((out / 'plan.json').read_text())
  assert record['config']['batch_sizes'] == list(SIZES)
  assert record['versions']['isgd_jax'] == isgd_jax.__version__
  assert record['num_parameters'] == 64 * 128 + 128 + 128 * 10 + 10
  assert record['scaling'] is None

  times = record['step_seconds']
  model = batch_size.fit_step_time(times['batch_sizes'], times['median'])
  assert record['step_time_model']['examples_per_second'] == pytest.approx(1e5)
  pilot = record['pilot']
  assert [p['step'] for p in pilot['noise_scale']] == [2, 3, 6, 12, 24]
  steps = record['pilot_steps_to_target']
  assert pilot['smoothed_losses'][steps - 1] <= record['target_loss']
  assert record['critical_batch_size'] == pytest.approx(
    np.median([p['noise_scale'] for p in pilot['noise_scale'][2:]])
  )
  law = batch_size.critical_batch_law(
    record['critical_batch_size'], batch_size=128, steps=steps
  )
  again = record['plans']['critical-batch']
  assert again['candidate_seconds'] == pytest.approx(
    batch_size.time_to_loss(again['candidates'], model, law)
  )
  best = record['recommendation']
  assert (
    best['batch_size']
    == again['candidates'][int(np.argmin(again['candidate_seconds']))]
  )
  assert best['learning_rate'] == pytest.approx(
    0.01 * math.sqrt(best['batch_size'] / 128)
  )
  assert f'Recommended batch size: {best["batch_size"]}.' in text
  assert max(map(len, text.splitlines())) <= 80


@pytest.mark.usefixtures('steady_clock', 'made_up_noise')
def test_the_command_line_prints_where_the_plan_is(tmp_path, capsys):
  main.main(['plan-batch-size', *QUICK, '--out', str(tmp_path)])
  out, err = capsys.readouterr()
  assert 'mlp on digits, momentum at learning rate 0.01' in out
  assert out.endswith(f'Plan and figures: {tmp_path}\n')
  assert 'Warning' not in err
  assert (tmp_path / 'plan.json').exists()


@pytest.mark.processes
def test_two_devices_give_a_scaling_report(tmp_path):
  code = (
    'from isgd_jax import batch_size\n'
    'real = batch_size.measure_step_seconds\n'
    'def steady(*args, **kwargs):\n'
    '  times = real(*args, **kwargs)\n'
    '  return times._replace(median=1e-3 + times.batch_sizes * 1e-5)\n'
    'batch_size.measure_step_seconds = steady\n'
    'from isgd_jax.experiments import main\n'
    'from isgd_jax.experiments.plan_batch_size import bench\n'
    'noise = batch_size.NoiseScale(100.0, 9.0, 1.0, 100.0, 128, 4)\n'
    'bench.Bench.noise_scale = lambda *_: noise\n'
    'main.main()\n'
  )
  args = ('plan-batch-size', *QUICK, '--num-devices', '2')
  result = subprocess.run(
    [sys.executable, '-c', code, *args, '--out', str(tmp_path)],
    capture_output=True,
    text=True,
    timeout=120,
    env={
      **os.environ,
      'PYTHONPATH': str(pathlib.Path(isgd_jax.__file__).parents[1]),
      'JAX_PLATFORMS': 'cpu',
    },
    check=False,
  )
  assert result.returncode == 0, result.stderr
  record = json.loads((tmp_path / 'plan.json').read_text())
  best = record['recommendation']['batch_size']
  assert [
    (row['kind'], row['num_devices'], row['batch_size'])
    for row in record['scaling']
  ] == [
    ('global', 1, best),
    ('global', 2, best),
    ('local', 1, best),
    ('local', 2, 2 * best),
  ]
  assert record['hardware']['num_devices'] == 2
  assert all(size % 2 == 0 for size in record['plans']['paper']['candidates'])
  assert 'Virtual devices of one CPU' in result.stdout


# Bad input


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (
      ['--batch-sizes', '16', '32', '32'],
      '--batch-sizes must be at least three different sizes, got 16 32 32',
    ),
    (
      ['--batch-sizes', '0', '16', '32'],
      '--batch-sizes must lie within 1 and 2147483647, got 0',
    ),
    (
      ['--batch-sizes', '16', '128', '2048'],
      '--batch-sizes 2048 is more than the 1,437 examples of digits',
    ),
    (
      ['--pilot-batch-size', '1438'],
      '--pilot-batch-size 1438 is more than the 1,437 examples of digits',
    ),
    (
      ['--batch-sizes', '16', '32', '90', '--num-devices', '4'],
      '--batch-sizes 90 cannot be shared by --num-devices 4; use 88 or 92',
    ),
    (
      ['--pilot-batch-size', '3', '--num-devices', '16'],
      '--pilot-batch-size 3 cannot be shared by --num-devices 16; use 16',
    ),
    (['--num-devices', '0'], '--num-devices must lie within 1'),
    (['--target-loss', '0'], '--target-loss must be above 0, got 0.0'),
    (['--target-loss', '-1'], '--target-loss must be above 0, got -1.0'),
    (['--target-loss', 'nan'], '--target-loss must be above 0, got nan'),
    (['--pilot-steps', '9'], '--pilot-steps must lie within 10'),
    (['--num-repeats', '2'], '--num-repeats must lie within 3'),
    (['--num-noise-batches', '2'], '--num-noise-batches must lie within 3'),
    (['--learning-rate', '0'], '--learning-rate must be above 0, got 0.0'),
    (['--seed', '-1'], '--seed must lie within 0'),
    (['--model', 'mpl'], "unknown model 'mpl'; did you mean 'mlp'?"),
    (['--dataset', 'digit'], "did you mean 'digits'?"),
    (['--model', 'transformer'], 'transformer'),
    (['--data-dir', 'x'], "data set 'digits' takes no data_dir"),
    (
      ['--sequence-length', '64'],
      '--sequence-length 64 has no effect with --dataset digits',
    ),
  ],
)
def test_bad_options_are_named_and_nothing_is_made(
  tmp_path, capsys, args, message
):
  out = tmp_path / 'new' / 'out'
  code, err = exit_code_and_stderr(capsys, '--out', str(out), *args)
  assert code == 2
  assert message in err
  assert len(err.splitlines()) == 1
  assert not out.parent.exists()


@pytest.mark.usefixtures('steady_clock', 'made_up_noise')
def test_a_pilot_that_misses_leaves_an_earlier_plan_alone(tmp_path, capsys):
  (tmp_path / 'plan.json').write_text('an earlier one')
  code, err = exit_code_and_stderr(
    capsys, *QUICK, '--target-loss', '0.001', '--out', str(tmp_path)
  )
  assert code == 2
  assert '--target-loss 0.001 is not reached: the smoothed loss of ' in err
  assert len(err.splitlines()) == 1
  assert [path.name for path in tmp_path.iterdir()] == ['plan.json']
  assert (tmp_path / 'plan.json').read_text() == 'an earlier one'


def test_a_pilot_that_diverges():
  config = PlanConfig(batch_sizes=SIZES, learning_rate=1e30, **SMALL)
  one = bench.Bench(config, datasets.load_dataset('digits'))
  with pytest.raises(ValueError, match=r'not finite at step [23]; lower'):
    measure.run_pilot(one)


@pytest.mark.parametrize(
  ('target', 'falling', 'message'),
  [
    (0.5, [2.0, 1.5, 1.0], 'is not reached: .* came to 1 nats; raise the'),
    (5.0, [2.0, 1.5, 1.0], '--target-loss 5 is no target: .* at 2 nats'),
    (None, [2.0, 1.5, 2.1], 'does not fall, from 2 to 2.1 nats; lower --lear'),
  ],
)
def test_targets_that_cannot_be(target, falling, message):
  config = PlanConfig(target_loss=target)
  with pytest.raises(ValueError, match=message):
    plan.make_plan(config, times_of(), pilot(falling=falling))


def test_more_devices_than_there_are(tmp_path, capsys):
  count = 2 * jax.device_count()  # JAX is in use, and cannot make more.
  args = ('--batch-sizes', str(count), str(2 * count), str(4 * count))
  code, err = exit_code_and_stderr(
    capsys,
    *(*args, '--pilot-batch-size', str(count), '--num-devices', str(count)),
    *('--out', str(tmp_path / 'out')),
  )
  assert code == 2
  assert f'--num-devices {count} is more than the {count // 2} cpu' in err
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('first_that_fails', 'message'),
  [
    (16, '--batch-sizes 16, the smallest, does not fit in memory'),
    (128, '--batch-sizes 128 does not fit in memory, which leaves 2 sizes'),
  ],
)
def test_too_little_memory_to_time(
  tmp_path, capsys, monkeypatch, first_that_fails, message
):
  real = bench.Bench.make_step

  def make_step(self, size):
    if size >= first_that_fails:
      raise MemoryError
    return real(self, size)

  monkeypatch.setattr(bench.Bench, 'make_step', make_step)
  out = tmp_path / 'out'
  code, err = exit_code_and_stderr(capsys, *QUICK, '--out', str(out))
  assert code == 2
  assert message in err
  assert len(err.splitlines()) == 1
  assert not out.exists()


def test_too_little_memory_for_the_pilot(monkeypatch):
  def train(self, state, batch):
    raise MemoryError

  monkeypatch.setattr(bench.Bench, 'train', train)
  one = bench.Bench(PlanConfig(**SMALL), datasets.load_dataset('digits'))
  message = 'a batch of 128 examples does not fit in memory; lower --pilot-b'
  with pytest.raises(InputError, match=message):
    measure.run_pilot(one)


def test_times_that_do_not_grow():
  with pytest.raises(ValueError, match='step_seconds must grow with batch'):
    plan.make_plan(PlanConfig(), times_of(lambda sizes: 1e-2 / sizes), pilot())


def test_a_gradient_that_is_all_noise():
  noise = batch_size.NoiseScale(math.inf, math.inf, -1.0, 1.0, 128, 4)
  with pytest.raises(ValueError, match='cannot be told from its noise'):
    plan.make_plan(PlanConfig(), times_of(), pilot(noise))


# The parts


def times_of(seconds_of=lambda sizes: 1e-3 + sizes * 1e-5, sizes=SIZES):
  times = batch_size.StepSeconds(np.array(sizes), None, None, None, None)
  return made_up(times, seconds_of)


def pilot(noise=None, falling=(2.0, 1.5, 1.0)):
  noise = noise or batch_size.NoiseScale(100.0, 9.0, 1.0, 100.0, 128, 4)
  falling = np.array(falling)
  points = [losses.NoisePoint(3, 1.0, noise)]
  return measure.Pilot(falling, falling, points)


def test_the_optimum_is_that_of_the_formula():
  times = times_of(sizes=(16, 64, 256))
  best = plan.make_plan(PlanConfig(), times, pilot()).recommended
  # sqrt(B_crit C1 C2) = sqrt(100 x 1e5 x 1e-3) = 100; both are within 0.1 %.
  assert best.batch_size in (96, 104)


@pytest.mark.parametrize('num_devices', [1, 2, 3, 6, 8])
def test_recommended_sizes_are_feasible(num_devices):
  sizes = tuple(num_devices * size for size in (4, 10, 31))
  config = PlanConfig(batch_sizes=sizes, num_devices=num_devices)
  # The largest did not fit.
  times = times_of(sizes=sizes)._replace(out_of_memory_at=100 * num_devices)
  made = plan.make_plan(config, times, pilot())
  for of_law in made.plans.values():
    assert all(of_law.candidates % num_devices == 0)
    assert sizes[0] <= of_law.batch_size <= sizes[-1]
    assert of_law.batch_size % num_devices == 0
  assert any('does not fit in memory' in doubt for doubt in made.doubts)


def test_doubts_are_told():
  noise = batch_size.NoiseScale(1e6, 9e5, 1.0, 1e6, 128, 4)
  times = times_of()
  made = plan.make_plan(PlanConfig(), times, pilot(noise))
  text = report.report(PlanConfig(), times, pilot(noise), made, None)
  assert '- the noise scale is uncertain at step 3' in text
  assert '- the optimum is the largest measured size, 128' in text


def test_smoothing_counts_examples_not_steps():
  values = np.random.default_rng(0).normal(2.0, 0.5, 50)
  whole = losses.smoothed_losses(values, 64, 500)
  halves = losses.smoothed_losses(np.repeat(values, 2), 32, 500)
  np.testing.assert_allclose(halves[1::2], whole, rtol=1e-12)
  age = np.arange(50)[::-1]
  weights = np.exp(-64 * age / 500)
  assert whole[-1] == pytest.approx(np.average(values, weights=weights))


def test_steps_to_a_target_that_is_never_reached():
  assert losses.steps_to_target([3.0, math.nan, 2.0], 1.0) is None


def test_points_of_the_pilot_beyond_the_target_do_not_count():
  noise = batch_size.NoiseScale(7.0, 1.0, 1.0, 7.0, 128, 4)
  points = [
    losses.NoisePoint(step, 1.0, noise._replace(noise_scale=float(scale)))
    for step, scale in ((10, 7), (20, 70), (40, 700))
  ]
  assert losses.critical_batch_size(points, 39) == 70
  assert losses.critical_batch_size(points, 5) == 7


def test_draws_are_independent_and_repeatable():
  config = PlanConfig()
  digits = datasets.load_dataset('digits')
  first, again = (bench.Bench(config, digits).draw(128, 24) for _ in range(2))
  images = np.concatenate([batch.record['image'] for batch in first])
  np.testing.assert_array_equal(
    images, np.concatenate([batch.record['image'] for batch in again])
  )
  # More than there are; without replacement all 1,437 would be among them.
  seen = np.unique(images.reshape(len(images), -1), axis=0)
  assert len(images) == 3072
  assert 0.84 * 1437 < len(seen) < 0.92 * 1437  # 1 - exp(-3072 / 1437)


def test_a_failed_step_does_not_fail_the_next_size():
  one = bench.Bench(PlanConfig(), datasets.load_dataset('digits'))
  step = one.make_step(16)
  state, _ = step()
  real, one._steps = one._steps, one._steps._replace(train=None)
  with pytest.raises(TypeError):
    step()
  one._steps = real
  state, _ = one.make_step(32)()
  assert np.isfinite(np.asarray(state.params['out']['bias'])).all()
