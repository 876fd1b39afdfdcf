"""What is planned for: the options of `isgd-jax plan-batch-size`.

The strings below the fields are the command line's help.
"""

import dataclasses
import math
from typing import Literal

from isgd_jax._checks import nearest_multiples
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.train import checks
from isgd_jax.experiments.train import ignored
from isgd_jax.experiments.train.config import DataConfig
from isgd_jax.experiments.train.config import IsgdConfig
from isgd_jax.experiments.train.config import OptimizerConfig
from isgd_jax.experiments.train.config import TrainConfig

_LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class PlanConfig:
  """What is to be trained, on what, and how long to measure."""

  dataset: str = 'digits'
  """digits, fashion-mnist, mnist, cifar10, cifar10-jpeg, shuttle, imagefolder,
  text, or hf:NAME."""

  data_dir: str | None = None
  """Folder of the data set's files. Not needed for digits, nor for
  fashion-mnist and shuttle where Debian's packages dataset-fashion-mnist and
  r-cran-mlbench are installed."""

  image_size: int | None = None
  """Height and width, in pixels, of images from imagefolder (default 224) and
  hf (default: as they are)."""

  sequence_length: int = 128
  """Bytes that the network sees of a text at once."""

  model: str = 'mlp'
  """mlp, cnn, lenet, cifar10-quick, alexnet, resnet18, transformer or
  transformer-small."""

  base: Literal['sgd', 'momentum', 'nesterov', 'adam', 'adamw'] = 'momentum'
  """Base optimizer; momentum and nesterov have 0.9."""

  learning_rate: float = 0.01
  """Learning rate of the pilot run; tune it at --pilot-batch-size before."""

  batch_sizes: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
  """Batch sizes to time, at least three; the plan stays between them."""

  num_devices: int = 1
  """Devices that share each batch; on a CPU, virtual ones."""

  pilot_batch_size: int = 128
  """Batch size of the pilot run."""

  pilot_steps: int = 300
  """Steps of the pilot run."""

  target_loss: float | None = None
  """Smoothed training loss to predict the time to, nats; by default what the
  pilot run has at its end."""

  num_repeats: int = 20
  """Times that the step is timed at each batch size."""

  num_noise_batches: int = 24
  """Batches that the gradient noise scale is measured on, at each point."""

  seed: int = 0
  """Of the initial parameters, the dropout keys and the order of the data."""

  def train_config(self) -> TrainConfig:
    """The pilot run, as `isgd-jax train` has it.

    Returns:
      The configuration.

    Example:
      >>> PlanConfig(pilot_steps=40).train_config().num_steps(12)
      40
    """
    return TrainConfig(
      model=self.model,
      data=DataConfig(
        dataset=self.dataset,
        data_dir=self.data_dir,
        batch_size=self.pilot_batch_size,
        sampling='reshuffle',
        image_size=self.image_size,
        sequence_length=self.sequence_length,
      ),
      optimizer=OptimizerConfig(
        base=self.base, learning_rate=self.learning_rate
      ),
      isgd=IsgdConfig(method='base'),
      steps=self.pilot_steps,
      seed=self.seed,
    )

  @property
  def rate_rule(self) -> Literal['linear', 'sqrt']:
    """How the learning rate goes with the batch size, by rule of thumb."""
    return 'sqrt' if self.base in ('adam', 'adamw') else 'linear'


def check_config(config: PlanConfig) -> None:
  """Raises on options that cannot be, before anything is read or computed.

  Args:
    config: what to plan for.

  Raises:
    InputError: naming the option, its value and the remedy.

  Example:
    >>> try:
    ...   check_config(PlanConfig(batch_sizes=(16, 32)))
    ... except ValueError as error:
    ...   print(error)
    --batch-sizes must be at least three different sizes, got 16 32; add more
  """
  sizes = config.batch_sizes
  for option, value, minimum in (
    *(('batch-sizes', size, 1) for size in sizes),
    ('num-devices', config.num_devices, 1),
    ('pilot-batch-size', config.pilot_batch_size, 1),
    ('pilot-steps', config.pilot_steps, 10),
    ('num-repeats', config.num_repeats, 3),
    ('num-noise-batches', config.num_noise_batches, 3),
  ):
    if not minimum <= value <= _LARGEST:
      raise InputError(
        f'--{option} must lie within {minimum} and {_LARGEST}, got {value}'
      )
  if len(set(sizes)) < 3:
    raise InputError(
      '--batch-sizes must be at least three different sizes, got '
      f'{" ".join(map(str, sizes)) or "none"}; add more'
    )
  for option, size in (
    *(('batch-sizes', size) for size in sizes),
    ('pilot-batch-size', config.pilot_batch_size),
  ):
    if size % config.num_devices:
      raise InputError(
        f'--{option} {size} cannot be shared by --num-devices '
        f'{config.num_devices}; use '
        f'{nearest_multiples(size, config.num_devices)}'
      )
  target = config.target_loss
  if target is not None and not (math.isfinite(target) and target > 0):
    raise InputError(f'--target-loss must be above 0, got {target}')
  checks.check_config(config.train_config())
  ignored.check_ignored(config.train_config())


def check_data(config: PlanConfig, num_examples: int) -> None:
  """Raises on batches that are larger than the data.

  Args:
    config: what to plan for.
    num_examples: in the training data.

  Raises:
    InputError: naming the option, its value and the remedy.

  Example:
    >>> try:
    ...   check_data(PlanConfig(), num_examples=300)
    ... except ValueError as error:
    ...   print(error)
    --batch-sizes 512 is more than the 300 examples of digits; lower it
  """
  for option, size in (
    ('batch-sizes', max(config.batch_sizes)),
    ('pilot-batch-size', config.pilot_batch_size),
  ):
    if size > num_examples:
      raise InputError(
        f'--{option} {size} is more than the {num_examples:,} examples of '
        f'{config.dataset}; lower it'
      )
