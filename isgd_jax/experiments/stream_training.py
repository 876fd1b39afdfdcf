"""One training run: a stream of batches, a method, and what it cost."""

from collections.abc import Iterator
import dataclasses
import itertools
import sys
import time
from typing import NamedTuple

import jax
import numpy as np

from isgd_jax.experiments._errors import check_name
from isgd_jax.experiments._errors import missing_extra
from isgd_jax.experiments.methods import METHODS
from isgd_jax.experiments.methods import CompiledStep
from isgd_jax.experiments.methods import IsgdSettings
from isgd_jax.experiments.methods import StepMetrics
from isgd_jax.experiments.methods import compile_step
from isgd_jax.experiments.methods import unpack
from isgd_jax.experiments.models import Model
from isgd_jax.experiments.models import Params
from isgd_jax.experiments.streams import Stream

try:
  import tqdm
except ImportError as error:
  raise missing_extra('tqdm') from error

# Metrics are fetched this many steps at a time, and one block late: by then
# the device has the steps of the next block to work on.
_BLOCK_SIZE = 32


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """What a training run does, apart from its data.

  Attributes:
    method: `'base'`, `'twice'`, `'random'` or `'isgd'`.
    base_optimizer: `'sgd'`, `'momentum'`, `'nesterov'` or `'adam'`.
    learning_rate: constant.
    seed: of the initial parameters and of the random trigger.
    isgd: the control chart of the method `'isgd'`.
  """

  method: str = 'isgd'
  base_optimizer: str = 'momentum'
  learning_rate: float = 0.1
  seed: int = 0
  isgd: IsgdSettings = dataclasses.field(default_factory=IsgdSettings)


class TrainResult(NamedTuple):
  """What a run did and cost.

  Attributes:
    params: the parameters it ended with.
    metrics: `StepMetrics` of arrays [num_steps].
    run_seconds: from the first batch until the device is done, reading the
      batches included.
    compile_seconds: of the program, 0 where an earlier run had compiled it.
    is_diverged: whether a loss was not finite.
  """

  params: Params
  metrics: StepMetrics
  run_seconds: float
  compile_seconds: float
  is_diverged: bool

  def extra_evaluations(self) -> np.ndarray:
    """Gradient evaluations of each step beyond its first: [num_steps] int."""
    return self.metrics.num_gradient_evaluations - 1

  def summary(self) -> dict[str, float | int | bool]:
    """The run in a few numbers: losses in nats, shares in [0, 1].

    Returns:
      A dictionary. Means are over the run; where it diverged they are NaN.
    """
    m = self.metrics
    worst = np.nan if self.is_diverged else 1.0
    return {
      'num_steps': len(m.loss),
      'prequential_loss': float(m.loss.mean(dtype=np.float64) * worst),
      'prequential_accuracy': float(m.accuracy.mean(dtype=np.float64) * worst),
      'num_gradient_evaluations': int(m.num_gradient_evaluations.sum()),
      'num_undertrained': int(m.is_undertrained.sum()),
      'share_undertrained': float(m.is_undertrained.mean()),
      'num_extra_steps': int(m.num_extra_steps.sum()),
      'run_seconds': self.run_seconds,
      'compile_seconds': self.compile_seconds,
      'is_diverged': self.is_diverged,
    }


def random_trigger(extra_steps: np.ndarray, seed: int) -> np.ndarray:
  """ISGD's extra steps, moved to randomly chosen batches.

  Args:
    extra_steps: [num_steps] extra gradient evaluations of each ISGD step.
    seed: of the permutation.

  Returns:
    The same numbers in random order.

  Example:
    >>> sorted(random_trigger(np.array([0, 0, 3, 1]), seed=0).tolist())
    [0, 0, 1, 3]
  """
  return np.random.default_rng(seed).permutation(extra_steps)


def train(
  config: TrainConfig,
  model: Model,
  stream: Stream,
  *,
  isgd_extra_steps: np.ndarray | None = None,
  show_progress: bool | None = None,
) -> TrainResult:
  """Trains a model on a stream.

  A run whose loss is not finite is finished and marked, not interrupted.

  Args:
    config: what to do.
    model: the network.
    stream: the batches, all of one shape; read to its end.
    isgd_extra_steps: [num_batches] extra gradient evaluations of each step of
      the ISGD run that the method `'random'` is to match; unused by the others.
    show_progress: whether to show a progress bar on stderr; None shows it on a
      terminal only.

  Returns:
    A `TrainResult`.

  Raises:
    ValueError: a name in `config` is unknown, the stream is empty, or
      `isgd_extra_steps` is missing or of the wrong length.

  Example:
    >>> from isgd_jax.experiments import datasets, models, streams
    >>> data = datasets.load_dataset('digits')
    >>> result = train(
    ...   TrainConfig(method='base', learning_rate=0.1),
    ...   models.build_model('mlp', (8, 8, 1), 10),
    ...   streams.shuffled_epochs(data.train.images, data.train.labels,
    ...     batch_size=32, num_epochs=2, rng=np.random.default_rng(0)))
    >>> bool(result.metrics.loss[-1] < result.metrics.loss[0])
    True
  """
  check_name('method', config.method, METHODS)
  num_calls = _num_calls(config, stream.num_batches, isgd_extra_steps)
  if stream.num_batches < 1:
    raise ValueError('the stream has no batch; lower its batch_size')
  batches = stream.batches
  first_batch = next(batches)
  batches = itertools.chain([first_batch], batches)

  program, compile_seconds = _compile(model, config, first_batch[0].shape)
  carry = jax.block_until_ready(program.init(model.init(config.seed)))

  bar = tqdm.tqdm(
    total=stream.num_batches,
    desc=f'{config.base_optimizer}/{config.method}',
    unit='step',
    file=sys.stderr,
    disable=None if show_progress is None else not show_progress,
  )
  learning_rate = np.float32(config.learning_rate)
  blocks = []
  start = time.perf_counter()
  with bar:
    pending = []
    for block in _blocks(zip(batches, num_calls, strict=True)):
      dispatched = []
      for (images, labels), calls in block:
        carry, packed = program.step(carry, learning_rate, images, labels)
        dispatched.append(packed)
        for _ in range(calls - 1):
          carry, _ = program.step(carry, learning_rate, images, labels)
      _fetch(pending, blocks, bar)
      pending = dispatched
    _fetch(pending, blocks, bar)
  jax.block_until_ready(carry)
  run_seconds = time.perf_counter() - start

  metrics = unpack(np.concatenate(blocks))
  if config.method == 'random':
    metrics = metrics._replace(
      num_extra_steps=num_calls - 1, num_gradient_evaluations=num_calls
    )
  return TrainResult(
    params=carry.params,
    metrics=metrics,
    run_seconds=run_seconds,
    compile_seconds=compile_seconds,
    is_diverged=not bool(np.isfinite(metrics.loss).all()),
  )


def _compile(
  model: Model, config: TrainConfig, batch_shape: tuple[int, int, int, int]
) -> tuple[CompiledStep, float]:
  """The program, and the seconds that compiling it took just now, if it did."""
  misses = compile_step.cache_info().misses
  program = compile_step(
    model,
    config.base_optimizer,
    config.isgd if config.method == 'isgd' else None,
    batch_shape,
    num_base_steps=2 if config.method == 'twice' else 1,
  )
  is_new = compile_step.cache_info().misses > misses
  return program, program.compile_seconds if is_new else 0.0


def _num_calls(
  config: TrainConfig, num_batches: int, isgd_extra_steps: np.ndarray | None
) -> np.ndarray:
  """[num_batches] int: how often the program is called on each batch."""
  if config.method != 'random':
    return np.ones(num_batches, int)
  if isgd_extra_steps is None or len(isgd_extra_steps) != num_batches:
    got = None if isgd_extra_steps is None else len(isgd_extra_steps)
    raise ValueError(
      "method 'random' needs isgd_extra_steps, one number for each of the "
      f'{num_batches} batches, got {got}; run the method isgd first'
    )
  return 1 + random_trigger(isgd_extra_steps, config.seed)


def _blocks(items: Iterator) -> Iterator[list]:
  """Cuts an iterator into blocks of `_BLOCK_SIZE`; the last may be short."""
  return iter(lambda: list(itertools.islice(items, _BLOCK_SIZE)), [])


def _fetch(pending: list[jax.Array], blocks: list, bar: tqdm.tqdm) -> None:
  """Brings a block of metrics to the host and shows it."""
  if not pending:
    return
  block = np.stack(jax.device_get(pending))
  blocks.append(block)
  bar.update(len(block))
  if not bar.disable:
    metrics = unpack(block)
    flagged = unpack(np.concatenate(blocks)).is_undertrained
    bar.set_postfix(
      loss=f'{metrics.loss.mean():.3f}',
      accuracy=f'{metrics.accuracy.mean():.1%}',
      flagged=f'{flagged.mean():.1%}',
    )
