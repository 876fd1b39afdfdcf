"""Options of a run: what is refused, and what two runs may differ in."""

import dataclasses
import json

import pytest

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.train import checks
from isgd_jax.experiments.train import folder
from isgd_jax.experiments.train.config import DataConfig
from isgd_jax.experiments.train.config import IsgdConfig
from isgd_jax.experiments.train.config import OptimizerConfig
from isgd_jax.experiments.train.config import TrainConfig


def optimizer(**kwargs):
  return TrainConfig(optimizer=OptimizerConfig(**kwargs))


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (TrainConfig(model='lenet5'), "unknown model 'lenet5'; did you mean"),
    (
      TrainConfig(data=DataConfig(dataset='fashion_mnist')),
      "unknown data set 'fashion_mnist'; did you mean 'fashion-mnist'",
    ),
    (TrainConfig(epochs=2, steps=5), '--epochs 2 and --steps 5 exclude'),
    (TrainConfig(epochs=0), '--epochs must lie within 1 and 2147483647, got 0'),
    (TrainConfig(steps=-1), '--steps must lie within 1 and 2147483647, got -1'),
    (
      TrainConfig(data=DataConfig(batch_size=0)),
      '--batch-size must lie within 1 and .* got 0',
    ),
    (TrainConfig(seed=2**32), '--seed must lie within 0 and .* got 4294967296'),
    (
      TrainConfig(data=DataConfig(num_workers=10**6)),
      '--num-workers must lie within 0 and 512, got 1000000',
    ),
    (TrainConfig(seed=-1), '--seed must lie within 0 and .* got -1'),
    (optimizer(learning_rate=0.0), '--learning-rate must be above 0, got 0'),
    (
      optimizer(learning_rate=float('nan')),
      '--learning-rate must be above 0, got nan',
    ),
    (optimizer(momentum=1.0), r'--momentum must lie in \[0, 1\), got 1'),
    (optimizer(rate_factor=2.0), r'--rate-factor must lie in \(0, 1\], got 2'),
    (optimizer(schedule='step'), '--schedule step needs --rate-boundaries'),
    (
      optimizer(rate_boundaries=(1.0,)),
      '--schedule constant takes no --rate-boundaries',
    ),
    (
      optimizer(schedule='loss-driven', rate_boundaries=(2.0, 2.0)),
      '--rate-boundaries must differ',
    ),
    (
      optimizer(schedule='step', rate_boundaries=(-1.0,)),
      '--rate-boundaries must be above 0',
    ),
    (
      TrainConfig(
        optimizer=OptimizerConfig(
          schedule='loss-driven', rate_boundaries=(2.0,)
        ),
        isgd=IsgdConfig(method='base'),
      ),
      'loss-driven reads the control chart, which --method base does not have',
    ),
    (
      TrainConfig(isgd=IsgdConfig(max_chase_steps=-1)),
      '--max-chase-steps must lie within 0 and .* got -1',
    ),
  ],
)
def test_bad_options_are_named_with_a_remedy(config, message):
  with pytest.raises(InputError, match=message):
    checks.check_config(config)


def test_the_defaults_are_good():
  checks.check_config(TrainConfig())


def saved(config):
  """A configuration as it comes back from JSON."""
  return json.loads(json.dumps(dataclasses.asdict(config)))


def test_a_run_is_carried_on_for_longer_and_elsewhere():
  old = TrainConfig(epochs=2)
  new = TrainConfig(
    steps=100, log_every=1, data=DataConfig(data_dir='x', num_workers=2)
  )
  checks.check_same_run(new, saved(old), 'run')


def test_a_cosine_cannot_be_stretched():
  cosine = OptimizerConfig(schedule='cosine')
  with pytest.raises(InputError, match='--epochs was 2, is now 3'):
    checks.check_same_run(
      TrainConfig(epochs=3, optimizer=cosine),
      saved(TrainConfig(epochs=2, optimizer=cosine)),
      'run',
    )


def test_all_that_differs_is_listed():
  new = TrainConfig(
    seed=1, optimizer=OptimizerConfig(rate_boundaries=(1.0,), schedule='step')
  )
  with pytest.raises(InputError) as error:
    checks.check_same_run(new, saved(TrainConfig()), 'the run')
  for part in (
    'cannot carry on the run',
    '--seed was 0, is now 1',
    '--rate-boundaries was [], is now [1.0]',
    "--schedule was 'constant', is now 'step'",
  ):
    assert part in str(error.value)


def test_options_come_back_from_the_folder(tmp_path):
  config = TrainConfig(
    model='lenet',
    optimizer=OptimizerConfig(schedule='step', rate_boundaries=(1.0, 2.5)),
    isgd=IsgdConfig(flagged_losses='winsorize'),
  )
  folder.save_config(config, tmp_path / 'a' / 'run')
  assert folder.load_config(tmp_path / 'a' / 'run') == config


@pytest.mark.parametrize(
  'text',
  [
    '',
    '{}',
    '[]',
    '{"config": 3}',
    '{"config": {"colour": "red"}}',
    '{"config": {"seed": "a"}}',
    '{"config": {"seed": null}}',
    '{"config": {"seed": true}}',
    '{"config": {"precision": "float8"}}',
    '{"config": {"optimizer": {"rate_boundaries": ["x"]}}}',
  ],
)
def test_a_damaged_configuration_is_named(tmp_path, text):
  (tmp_path / folder.CONFIG).write_text(text)
  with pytest.raises(InputError, match=r'cannot read .*config\.json'):
    folder.load_config(tmp_path)


@pytest.mark.parametrize('left', ['checkpoints', 'metrics.jsonl'])
def test_what_is_left_of_a_run_is_not_taken_for_a_new_one(tmp_path, left):
  (tmp_path / left).mkdir()
  with pytest.raises(InputError, match='holds a run already'):
    folder.check_folder(tmp_path, resume=False)
  with pytest.raises(InputError, match='nothing to resume'):
    folder.check_folder(tmp_path, resume=True)


def test_a_folder_is_written_to_by_one_process(tmp_path):
  pytest.importorskip('fcntl')
  with (
    folder.locked(tmp_path),
    pytest.raises(InputError, match='another process is writing'),
    folder.locked(tmp_path),
  ):
    pass
  with folder.locked(tmp_path):
    pass


def test_hardware_and_versions_stay_those_of_the_beginning(tmp_path):
  folder.save_config(TrainConfig(), tmp_path)
  record = json.loads((tmp_path / folder.CONFIG).read_text())
  record['versions']['jax'] = '0.0.1'
  (tmp_path / folder.CONFIG).write_text(json.dumps(record))
  folder.save_config(TrainConfig(epochs=3), tmp_path)
  assert folder.load_config(tmp_path).epochs == 3
  assert folder.made_with(tmp_path)['versions']['jax'] == '0.0.1'


def test_a_folder_holds_one_run(tmp_path):
  with pytest.raises(InputError, match=r'nothing to resume: .* holds no run'):
    folder.check_folder(tmp_path, resume=True)
  folder.save_config(TrainConfig(), tmp_path)
  folder.check_folder(tmp_path, resume=True)
  with pytest.raises(InputError, match=r'holds a run already; .* --resume'):
    folder.check_folder(tmp_path, resume=False)
