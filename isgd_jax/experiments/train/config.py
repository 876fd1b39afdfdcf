"""What a training run is: the options of `isgd-jax train`.

The strings below the fields are the command line's help.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What a network is trained on, and in which order."""

  dataset: str = 'digits'
  """digits, fashion-mnist, mnist, cifar10, cifar10-jpeg, shuttle, imagefolder,
  text, or hf:NAME."""

  data_dir: str | None = None
  """Folder of the data set's files. Not needed for digits, nor for
  fashion-mnist and shuttle where Debian's packages dataset-fashion-mnist and
  r-cran-mlbench are installed."""

  batch_size: int = 128
  """Examples a batch."""

  sampling: Literal['fixed-cycle', 'reshuffle'] = 'fixed-cycle'
  """fixed-cycle: permuted once, cut into batches, visited cyclically.
  reshuffle: a new permutation each epoch."""

  last_batch: Literal['wrap', 'pad', 'short', 'drop'] = 'wrap'
  """The last batch of an epoch: filled up from the epoch's start, filled up
  with examples of weight 0, left short, or left out."""

  augment: bool = False
  """Random crops and flips (cifar10, cifar10-jpeg, imagefolder)."""

  image_size: int | None = None
  """Height and width, in pixels, of images from imagefolder (default 224) and
  hf (default: as they are)."""

  sequence_length: int = 128
  """Bytes that the network sees of a text at once."""

  skip_undecodable: bool = False
  """Leave out and count images that cannot be decoded, instead of stopping."""

  num_workers: int = 0
  """Processes that read and decode; 0 reads in threads."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """The base optimizer and its learning rate."""

  base: Literal['sgd', 'momentum', 'nesterov', 'adam', 'adamw'] = 'momentum'
  """Base optimizer."""

  learning_rate: float = 0.01
  """Learning rate at the start, after the warm-up."""

  schedule: Literal['constant', 'cosine', 'step', 'loss-driven'] = 'constant'
  """By base updates, which chased batches have none of. cosine: to 0 at the
  end of the run. step: by --rate-factor at each of
  --rate-boundaries, in epochs. loss-driven: by --rate-factor as the chart's
  mean falls below each of --rate-boundaries, in nats, never to rise again."""

  rate_boundaries: tuple[float, ...] = ()
  """Epochs (step) or mean losses (loss-driven)."""

  rate_factor: float = 0.1
  """What the rate is multiplied by at a boundary."""

  warmup_steps: int = 0
  """Steps over which the rate rises linearly from 0."""

  momentum: float = 0.9
  """Of momentum and nesterov."""

  weight_decay: float = 0.0
  """Decoupled in adamw; added to the gradient (L2) in the others."""


@dataclasses.dataclass(frozen=True)
class IsgdConfig:
  """What is put around the base optimizer."""

  method: Literal['isgd', 'paper-isgd', 'skip', 'watch', 'base'] = 'isgd'
  """isgd; the published algorithm; drop batches above the upper limit; a chart
  that only watches; or the base optimizer alone, without a chart."""

  chart: Literal['shewhart', 'ewma', 'cusum', 'difference'] = 'shewhart'
  """What judges the batches. difference: each against its own past losses."""

  window_size: int | None = None
  """Batch losses in the chart's window; by default one cycle, at least 20."""

  sigma_multiplier: float = 4.0
  """Sigmas between centre line and control limit (shewhart, difference)."""

  sigma_estimator: Literal['std', 'sample_std', 'moving_range', 'mad'] = 'std'
  """Where centre line and sigma come from."""

  flagged_losses: Literal['keep', 'winsorize', 'leave_out'] = 'winsorize'
  """What an out-of-control loss leaves in the window: itself, the limit it has
  passed, or nothing."""

  smoothing: float | None = None
  """Of ewma (default 0.3) and of the baselines of difference (default 0.5)."""

  limit_width: float = 4.0
  """Width of ewma's limits, in its own standard deviations."""

  allowance: float = 0.5
  """Slack of cusum, in sigmas."""

  decision_interval: float = 5.0
  """Limit of cusum's sums, in sigmas."""

  run_rules: Literal['none', 'western_electric', 'nelson'] = 'none'
  """Rules on rows of losses besides (shewhart, difference)."""

  restart_after: int | None = None
  """Begin the chart anew after so many out-of-control losses in a row."""

  solver: Literal['gauss-newton', 'gradient-descent'] = 'gauss-newton'
  """What takes the chase steps."""

  chase_learning_rate: float = 0.01
  """Rate of gradient-descent and of paper-isgd."""

  chase_to: Literal['mean', 'limit'] = 'mean'
  """Target of a chase: the chart's mean or its upper control limit."""

  max_chase_steps: int = 5
  """Most chase steps a batch gets; with 0 the chart only watches."""

  conservative_weight: float = 0.1
  """Weight of the conservative constraint."""

  base_update_when_chasing: bool = False
  """Take the base update too, before a chase."""

  probation: bool = True
  """Chases must lower the losses of the batches after them, else they are only
  tried in the shadow. Not with --base-update-when-chasing."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """A training run."""

  model: str = 'mlp'
  """mlp, cnn, lenet, cifar10-quick, alexnet, resnet18, transformer or
  transformer-small."""

  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  """Data."""

  optimizer: OptimizerConfig = dataclasses.field(
    default_factory=OptimizerConfig
  )
  """Base optimizer."""

  isgd: IsgdConfig = dataclasses.field(default_factory=IsgdConfig)
  """Inconsistent SGD."""

  epochs: int | None = None
  """Cycles through the data; 10 where neither this nor --steps is given."""

  steps: int | None = None
  """Batches to train on, in place of --epochs."""

  seed: int = 0
  """Of the initial parameters, the dropout keys and the order of the data."""

  precision: Literal['float32', 'bfloat16'] = 'float32'
  """Of the computation; parameters and chart are float32 always."""

  evaluate_every: int | None = None
  """Steps between evaluations on the test data; by default an epoch."""

  log_every: int = 50
  """Steps between points in TensorBoard. metrics.jsonl has every step."""

  checkpoint_every: int | None = None
  """Steps between checkpoints; by default an epoch."""

  keep_checkpoints: int = 3
  """The newest so many checkpoints are kept."""

  def num_steps(self, batches_per_cycle: int) -> int:
    """Batches in the whole run.

    Args:
      batches_per_cycle: batches in one cycle through the data.

    Returns:
      The number of training steps.

    Example:
      >>> TrainConfig(epochs=3).num_steps(batches_per_cycle=7)
      21
    """
    if self.steps is not None:
      return self.steps
    return (10 if self.epochs is None else self.epochs) * batches_per_cycle
