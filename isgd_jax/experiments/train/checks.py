"""What a training run cannot be, said before anything is read or computed."""

from collections.abc import Mapping
import dataclasses
import json
import math
from typing import Any

from isgd_jax.experiments import datasets
from isgd_jax.experiments import models
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.train.config import IsgdConfig
from isgd_jax.experiments.train.config import OptimizerConfig
from isgd_jax.experiments.train.config import TrainConfig

# What may change when a run is carried on: it moves no number in its results.
_FREE = frozenset(
  {
    'data.data_dir',
    'data.num_workers',
    # Without it, the run would have stopped at the first.
    'data.skip_undecodable',
    'epochs',
    'steps',
    'evaluate_every',
    'log_every',
    'checkpoint_every',
    'keep_checkpoints',
  }
)
_LARGEST = 2**31 - 1
_MOST_WORKERS = 512
# The cosine is stretched over the whole run.
_LENGTH = frozenset({'epochs', 'steps'})


def check_config(config: TrainConfig) -> None:
  """Raises on options that cannot be, before anything is read or computed.

  Args:
    config: the run.

  Raises:
    InputError: naming the option, its value and the remedy.

  Example:
    >>> try:
    ...   check_config(TrainConfig(epochs=2, steps=100))
    ... except ValueError as error:
    ...   print(error)
    --epochs 2 and --steps 100 exclude each other; give one of them
  """
  check_name('model', config.model, models.model_names())
  if not config.data.dataset.startswith('hf:'):
    check_name('data set', config.data.dataset, datasets.dataset_names())
  if config.epochs is not None and config.steps is not None:
    raise InputError(
      f'--epochs {config.epochs} and --steps {config.steps} exclude each '
      'other; give one of them'
    )
  optimizer, isgd = config.optimizer, config.isgd
  for option, value in {
    'batch-size': config.data.batch_size,
    'image-size': config.data.image_size,
    'sequence-length': config.data.sequence_length,
    'epochs': config.epochs,
    'steps': config.steps,
    'evaluate-every': config.evaluate_every,
    'log-every': config.log_every,
    'checkpoint-every': config.checkpoint_every,
    'keep-checkpoints': config.keep_checkpoints,
    'window-size': isgd.window_size,
    'restart-after': isgd.restart_after,
  }.items():
    if value is not None and not 1 <= value <= _LARGEST:
      raise InputError(
        f'--{option} must lie within 1 and {_LARGEST}, got {value}'
      )
  for option, value in {
    'seed': config.seed,
    'warmup-steps': optimizer.warmup_steps,
    'max-chase-steps': isgd.max_chase_steps,
  }.items():
    if not 0 <= value <= _LARGEST:
      raise InputError(
        f'--{option} must lie within 0 and {_LARGEST}, got {value}'
      )
  if not 0 <= config.data.num_workers <= _MOST_WORKERS:
    raise InputError(
      f'--num-workers must lie within 0 and {_MOST_WORKERS}, got '
      f'{config.data.num_workers}'
    )
  for option, value in {
    'weight-decay': optimizer.weight_decay,
    'conservative-weight': isgd.conservative_weight,
  }.items():
    if not (math.isfinite(value) and value >= 0):
      raise InputError(f'--{option} must be at least 0, got {value}')
  for option, value in {
    'learning-rate': optimizer.learning_rate,
    'sigma-multiplier': isgd.sigma_multiplier,
    'chase-learning-rate': isgd.chase_learning_rate,
  }.items():
    if not (math.isfinite(value) and value > 0):
      raise InputError(f'--{option} must be above 0, got {value}')
  if not 0 <= optimizer.momentum < 1:
    raise InputError(f'--momentum must lie in [0, 1), got {optimizer.momentum}')
  if not 0 < optimizer.rate_factor <= 1:
    raise InputError(
      f'--rate-factor must lie in (0, 1], got {optimizer.rate_factor}'
    )
  _check_schedule(optimizer, isgd)


def _check_schedule(optimizer: OptimizerConfig, isgd: IsgdConfig) -> None:
  """Raises on a schedule without what it needs, or with what it ignores."""
  boundaries = optimizer.rate_boundaries
  has_boundaries = optimizer.schedule in ('step', 'loss-driven')
  if has_boundaries != bool(boundaries):
    raise InputError(
      f'--schedule {optimizer.schedule} '
      + (
        'needs --rate-boundaries'
        if has_boundaries
        else 'takes no --rate-boundaries; leave them out, or choose the '
        'schedule step or loss-driven'
      )
    )
  if any(not 0 < b <= _LARGEST for b in boundaries):
    raise InputError(
      f'--rate-boundaries must be above 0 and at most {_LARGEST}, got '
      f'{boundaries}'
    )
  if len(set(boundaries)) != len(boundaries):
    raise InputError(f'--rate-boundaries must differ, got {boundaries}')
  if optimizer.schedule == 'loss-driven' and isgd.method == 'base':
    raise InputError(
      '--schedule loss-driven reads the control chart, which --method base '
      'does not have; use --method isgd, with --max-chase-steps 0 for a chart '
      'that only watches'
    )


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """The options of a nested configuration by dotted name.

  Args:
    config: a configuration as nested mappings.
    prefix: of the names.

  Returns:
    A flat dictionary; tuples have become lists, as in JSON.

  Example:
    >>> flatten({'seed': 0, 'data': {'batch_size': 2}})
    {'seed': 0, 'data.batch_size': 2}
  """
  flat = {}
  for name, value in config.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = list(value) if isinstance(value, tuple) else value
  return flat


def describe_options(config: TrainConfig) -> str:
  """The options of a run, one a line.

  Args:
    config: the run.

  Returns:
    The names and values, in two columns.

  Example:
    >>> print(describe_options(TrainConfig()).splitlines()[0])
    model                          "mlp"
  """
  options = flatten(dataclasses.asdict(config))
  width = max(map(len, options))
  return '\n'.join(
    f'{name:{width}}  {json.dumps(value)}' for name, value in options.items()
  )


def check_same_run(
  config: TrainConfig, saved: Mapping[str, Any], source: str
) -> None:
  """Raises if a run cannot be carried on under this configuration.

  How long to train, how often to log, evaluate and save, and where the data lie
  may change; what moves a number may not.

  Args:
    config: as it is now.
    saved: as it was, as nested mappings.
    source: where `saved` comes from, for the message.

  Raises:
    InputError: listing each option that differs, with both values.

  Example:
    >>> saved = dataclasses.asdict(TrainConfig(model='lenet', epochs=3))
    >>> try:
    ...   check_same_run(TrainConfig(model='mlp', epochs=4), saved, 'run/a')
    ... except ValueError as error:
    ...   print(str(error).partition(': ')[2].partition('.')[0])
    --model was 'lenet', is now 'mlp'
  """
  now, then = flatten(dataclasses.asdict(config)), flatten(saved)
  free = _FREE
  if config.optimizer.schedule == 'cosine':
    free = free - _LENGTH
  differences = [
    f'--{option_name(name)} was {then.get(name)!r}, is now {now.get(name)!r}'
    for name in sorted(now.keys() | then.keys())
    if name not in free and now.get(name) != then.get(name)
  ]
  if differences:
    raise InputError(
      f'cannot carry on {source}, which was made with other options: '
      + '; '.join(differences)
      + '. Give it the old ones, or choose another --out'
    )


def option_name(name: str) -> str:
  """The command-line option of a dotted name.

  Args:
    name: as in `flatten`.

  Returns:
    The option without its dashes.

  Example:
    >>> option_name('data.batch_size')
    'batch-size'
  """
  return name.rpartition('.')[2].replace('_', '-')
