"""One training run: a stream of batches, a method, and what it cost."""

from collections.abc import Callable
import dataclasses
import itertools
import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.models import Model
from isgd_jax.experiments.models import Params
from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.progress import progress
from isgd_jax.experiments.runs import step_report
from isgd_jax.experiments.runs.late_blocks import BLOCK_SIZE
from isgd_jax.experiments.runs.late_blocks import LateBlocks
from isgd_jax.experiments.runs.steps import STEP_KINDS
from isgd_jax.experiments.runs.steps import CompiledStep
from isgd_jax.experiments.runs.steps import StepMetrics
from isgd_jax.experiments.runs.steps import compile_step
from isgd_jax.experiments.streams import Stream

_ISGD = Algorithm('isgd')


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """What a training run does, apart from its data.

  Attributes:
    method: one of `steps.STEP_KINDS`.
    base_optimizer: one of `base_optimizers.base_optimizer_names()`.
    learning_rate: at the start.
    seed: of the initial parameters and of the random trigger.
    isgd: ISGD's settings, or those of `'react'`; the methods `'paper-isgd'`,
      `'skip'` and `'reset'` take the control chart from there, the first its
      `chase_factor` too.
    decay_evaluations: gradient evaluations over which the learning rate falls
      to zero, as half a cosine; 0 where it is constant.
  """

  method: str = 'isgd'
  base_optimizer: str = 'momentum'
  learning_rate: float = 0.1
  seed: int = 0
  isgd: Algorithm = _ISGD
  decay_evaluations: int = 0

  @property
  def algorithm(self) -> Algorithm:
    """What is wrapped around the base optimizer."""
    match self.method:
      case 'isgd' | 'react':
        return self.isgd
      case 'paper-isgd':
        factor = self.isgd.chase_factor
        return Algorithm(self.method, self.isgd.chart, chase_factor=factor)
      case 'skip' | 'reset':
        return Algorithm(self.method, self.isgd.chart)
      case 'twice':
        return Algorithm(num_base_steps=2)
      case _:
        return Algorithm()


class Evaluation(NamedTuple):
  """The network as it was at some point of a run.

  Attributes:
    num_steps: training steps before it.
    num_gradient_evaluations: spent before it.
    seconds: of training before it; evaluations take none of them.
    measures: what the function `evaluate` returned.
  """

  num_steps: int
  num_gradient_evaluations: int
  seconds: float
  measures: Any


class RunResult(NamedTuple):
  """What a run did and cost.

  Attributes:
    params: the parameters it ended with.
    metrics: `StepMetrics` of arrays [num_steps].
    run_seconds: from the first batch until the device is done, reading the
      batches included, evaluations left out.
    compile_seconds: of the program, 0 where an earlier run had compiled it.
    is_diverged: whether a loss was not finite.
    evaluations: in order, the last one at the end of the run.
    is_wrong: [num_steps] bool, the batches whose labels are random; None where
      a task has none.
  """

  params: Params
  metrics: StepMetrics
  run_seconds: float
  compile_seconds: float
  is_diverged: bool
  evaluations: tuple[Evaluation, ...] = ()
  is_wrong: np.ndarray | None = None

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
    of_right: dict[str, float] = {}
    if self.is_wrong is not None:
      loss, accuracy = (x[~self.is_wrong] for x in (m.loss, m.accuracy))
      of_right = {
        'right_loss': float(loss.mean(dtype=np.float64) * worst),
        'right_accuracy': float(accuracy.mean(dtype=np.float64) * worst),
      }
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
      **of_right,
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
  config: RunConfig,
  model: Model,
  stream: Stream,
  *,
  isgd_extra_steps: np.ndarray | None = None,
  budget: int | None = None,
  evaluate: Callable[[Params], Any] | None = None,
  num_evaluations: int = 1,
  show_progress: bool | None = None,
) -> RunResult:
  """Trains a model on a stream.

  A run whose loss is not finite is finished and marked, not interrupted.

  Args:
    config: what to do.
    model: the network.
    stream: the batches, all of one shape; read to its end, or until the budget
      is spent.
    isgd_extra_steps: extra gradient evaluations of each step of the ISGD run
      that the method `'random'` is to match; as many batches are read. Unused
      by the others.
    budget: gradient evaluations to spend; a step begun is finished. None
      spends what the stream needs.
    evaluate: called with the parameters, which it must not keep; None for
      never.
    num_evaluations: how often, evenly over the stream and at its end.
    show_progress: whether to show a progress bar on stderr; None shows it on a
      terminal only.

  Returns:
    A `RunResult`.

  Raises:
    ValueError: a name in `config` is unknown, the stream is empty,
      `isgd_extra_steps` is missing or longer than the stream, or the flags
      come from outside.

  Example:
    >>> from isgd_jax.experiments import datasets, models, streams
    >>> data = datasets.load_dataset('digits')
    >>> result = train(
    ...   RunConfig(method='base', learning_rate=0.1),
    ...   models.build_model('mlp', (8, 8, 1), 10),
    ...   streams.shuffled_epochs(data.train.images, data.train.labels,
    ...     batch_size=32, num_epochs=2, rng=np.random.default_rng(0)))
    >>> bool(result.metrics.loss[-1] < result.metrics.loss[0])
    True
  """
  check_name('method', config.method, STEP_KINDS)
  if config.algorithm.chart.trigger != 'chart':
    raise ValueError(
      f'a trigger of {config.algorithm.chart.trigger!r} is made for a scan '
      'alone; take the task that is scanned'
    )
  if stream.num_batches < 1:
    raise ValueError('the stream has no batch; lower its batch_size')
  num_calls = _num_calls(config, stream.num_batches, isgd_extra_steps)
  algorithm = config.algorithm
  batches = stream.batches
  first_batch = next(batches)
  items = zip(itertools.chain([first_batch], batches), num_calls, strict=False)
  program, compile_seconds = _compile(model, config, first_batch)
  carry = jax.block_until_ready(program.init(model.init(config.seed)))
  rate = np.float32(config.learning_rate)
  decay = np.float32(
    1 / config.decay_evaluations if config.decay_evaluations else 0.0
  )
  # Where evaluations are spent, a run has fewer steps than batches.
  num_steps = len(num_calls)
  if budget is not None:
    num_steps = min(num_steps, math.ceil(budget / algorithm.num_base_steps))
  interval = max(1, num_steps // num_evaluations) if evaluate else num_steps

  evaluations: list[Evaluation] = []
  log = _Log(config, num_steps, show_progress)
  clock = _Clock()
  with log:
    while True:
      size = min(BLOCK_SIZE, interval - log.num_steps % interval)
      if budget is not None:
        size = min(size, log.num_affordable(budget, algorithm.max_evaluations))
      block = list(itertools.islice(items, size))
      for batch, calls in block:
        carry, packed = program.step(carry, rate, decay, *batch)
        log.add(packed)
        for _ in range(calls - 1):
          carry, _ = program.step(carry, rate, decay, *batch)
      log.fetch_last_block()
      is_over = not block
      if evaluate and (is_over or log.num_steps % interval == 0):
        jax.block_until_ready(carry)
        seconds = clock.pause()
        if not evaluations or evaluations[-1].num_steps < log.num_steps:
          evaluations.append(
            Evaluation(
              log.num_steps,
              int(carry.num_evaluations),
              seconds,
              evaluate(carry.params),
            )
          )
        clock.go_on()
      if is_over:
        break
    jax.block_until_ready(carry)
    run_seconds = clock.pause()

  metrics = log.metrics()
  if config.method == 'random':
    metrics = metrics._replace(
      num_extra_steps=num_calls - 1, num_gradient_evaluations=num_calls
    )
  return RunResult(
    params=carry.params,
    metrics=metrics,
    run_seconds=run_seconds,
    compile_seconds=compile_seconds,
    is_diverged=not bool(np.isfinite(metrics.loss).all()),
    evaluations=tuple(evaluations),
  )


class _Clock:
  """Adds up the seconds between pauses."""

  def __init__(self):
    self._total = 0.0
    self._start = time.perf_counter()

  def pause(self) -> float:
    """Seconds in all."""
    self._total += time.perf_counter() - self._start
    return self._total

  def go_on(self) -> None:
    self._start = time.perf_counter()


class _Log:
  """The metrics of the steps, fetched a block late, and a progress bar."""

  def __init__(
    self, config: RunConfig, num_steps: int, show_progress: bool | None
  ):
    self.num_steps = 0
    self._late = LateBlocks()
    self._blocks: list[np.ndarray] = []
    self._num_evaluations = 0
    self._bar = progress(
      num_steps,
      title=f'{config.base_optimizer}/{config.method}',
      show=show_progress,
    )

  def __enter__(self) -> '_Log':
    self._bar.__enter__()
    return self

  def __exit__(self, *exception: Any) -> None:
    self._bar.__exit__(*exception)

  def add(self, packed: jax.Array) -> None:
    """One step's metrics, which the device may still be at."""
    self._late.add(packed)
    self.num_steps += 1

  def num_affordable(self, budget: int, max_evaluations: int) -> int:
    """Steps that surely fit into the budget; one if anything is left of it."""

    def affordable() -> int:
      unknown = self._late.num_unknown * max_evaluations
      most_spent = self._num_evaluations + unknown
      return (budget - most_spent) // max_evaluations

    if affordable() < 1:
      self.fetch_last_block()
      self.fetch_last_block()
    return max(affordable(), int(self._num_evaluations < budget))

  def fetch_last_block(self) -> None:
    """Brings the block before the one just dispatched to the host."""
    found = self._late.turn()
    if found is not None:
      block = found.packed
      metrics = step_report.unpack(StepMetrics, block)
      self._blocks.append(block)
      self._num_evaluations += int(metrics.num_gradient_evaluations.sum())
      self._bar.update(len(block))
      if not self._bar.disable:
        self._bar.set_postfix_str(
          f'loss {metrics.loss.mean():.3f}, acc {metrics.accuracy.mean():.0%}, '
          f'flagged {metrics.is_undertrained.mean():.1%}'
        )

  def metrics(self) -> StepMetrics:
    """Of all steps, in order."""
    self.fetch_last_block()
    self.fetch_last_block()
    return step_report.unpack(StepMetrics, np.concatenate(self._blocks))


def _compile(
  model: Model, config: RunConfig, batch: tuple[np.ndarray, np.ndarray]
) -> tuple[CompiledStep, float]:
  """The program, and the seconds that compiling it took just now, if it did."""
  misses = compile_step.cache_info().misses
  program = compile_step(
    model,
    config.base_optimizer,
    config.algorithm,
    *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in batch),
  )
  is_new = compile_step.cache_info().misses > misses
  return program, program.compile_seconds if is_new else 0.0


def _num_calls(
  config: RunConfig, num_batches: int, isgd_extra_steps: np.ndarray | None
) -> np.ndarray:
  """[num_steps] int: how often the program is called on each batch."""
  if config.method != 'random':
    return np.ones(num_batches, int)
  if isgd_extra_steps is None or not 0 < len(isgd_extra_steps) <= num_batches:
    got = None if isgd_extra_steps is None else len(isgd_extra_steps)
    raise ValueError(
      "method 'random' needs isgd_extra_steps, one number for each of at most "
      f'{num_batches} batches, got {got}; run the method isgd first'
    )
  return 1 + random_trigger(isgd_extra_steps, config.seed)
