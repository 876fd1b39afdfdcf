"""A whole training run as one program: for small networks on long streams.

A step of a small network takes a microsecond or two; calling it from Python
takes a hundred. The learning rate is an argument, so that all runs of a row
share one program. Runs follow one another: under `vmap` over 12 of them a step
of ISGD is a third of the time, but its program takes twice as long to compile,
which is most of what there is on streams of a few thousand batches.
"""

from collections.abc import Sequence
import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from isgd_jax.experiments.models import Model
from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.runs import detectors
from isgd_jax.experiments.runs import step_report
from isgd_jax.experiments.runs.scan_batches import ScanBatches
from isgd_jax.experiments.runs.steps import Carry
from isgd_jax.experiments.runs.steps import StepMetrics
from isgd_jax.experiments.runs.steps import initial_carry
from isgd_jax.experiments.runs.steps import training_step
from isgd_jax.experiments.runs.training import RunConfig
from isgd_jax.experiments.runs.training import RunResult
from isgd_jax.experiments.runs.training import random_trigger

# Batches that a detector's run goes on by: each flag runs them once more.
_LEAST_BLOCK, _MOST_BLOCK = 64, 256


class _Program(NamedTuple):
  """Batches in a row, compiled ahead of time, and what that took."""

  run: jax.stages.Compiled
  compile_seconds: float


class _ScanCarry(NamedTuple):
  """What one batch hands to the next.

  Attributes:
    carry: of the training step.
    debt: int32 scalar, batches to come that are predicted and not trained on.
  """

  carry: Carry
  debt: jax.Array


def train_in_scan(
  config: RunConfig,
  model: Model,
  batches: ScanBatches,
  *,
  change_points: Sequence[int] = (),
  is_real_time: bool = False,
) -> RunResult:
  """`training.train` on all batches of a stream, in one `lax.scan`.

  Or in one a block, where the batches say so.

  Where the chart's trigger is not the chart, its flags are those of the change
  points (`'oracle'`), of a detector of river on the losses, or (`'random'`) as
  many as the chart's own in the same run, moved to random batches.

  Args:
    config: what to do; its method is not `'random'`.
    model: the network.
    batches: all of them.
    change_points: that an oracle knows.
    is_real_time: whether a step that took k evaluations leaves the next k - 1
      batches untrained on. They are predicted, at no evaluation.

  Returns:
    A `RunResult`.

  Raises:
    ValueError: a name in `config` is unknown, the method is `'random'`, or an
      oracle has no change point.
    ImportError: river is missing, and asked for.
  """
  if config.method == 'random':
    raise ValueError("method 'random' is not made for a scan; leave it out")
  trigger = config.algorithm.chart.trigger
  flags: np.ndarray | None = None
  num_batches = len(batches.targets)
  block_size = batches.block_size or num_batches
  detector = None
  if trigger == 'oracle':
    if not change_points:
      raise ValueError('an oracle needs change points; this stream has none')
    flags = np.isin(np.arange(num_batches), change_points)
  elif trigger == 'random':
    chart = dataclasses.replace(config.isgd.chart, trigger='chart')
    own = dataclasses.replace(
      config, isgd=dataclasses.replace(config.isgd, chart=chart)
    )
    found = train_in_scan(own, model, batches, is_real_time=is_real_time)
    flags = random_trigger(found.metrics.is_undertrained, config.seed)
  elif trigger != 'chart':
    detector = detectors.build_detector(trigger)
    block_size = _block_size(num_batches)
    flags = np.zeros(num_batches, bool)
  run = _Run(config, model, batches, block_size, is_real_time)
  start = time.perf_counter()
  carry = jax.block_until_ready(run.initial_carry())
  if detector is None:
    carry, packed = run.to_the_end(carry, flags)
  else:
    carry, packed = detectors.run_in_closed_loop(
      run, carry, num_batches, block_size, detector
    )
  run_seconds = time.perf_counter() - start
  metrics = step_report.unpack(StepMetrics, packed)
  return RunResult(
    params=carry.carry.params,
    metrics=metrics,
    run_seconds=run_seconds,
    compile_seconds=run.compile_seconds,
    is_diverged=not bool(np.isfinite(metrics.loss).all()),
    is_wrong=batches.is_wrong,
  )


def _block_size(num_batches: int) -> int:
  """One that leaves no shorter block, which would be compiled too, if any."""
  sizes = range(_MOST_BLOCK, _LEAST_BLOCK - 1, -1)
  return next((s for s in sizes if num_batches % s == 0), min(128, num_batches))


class _Run:
  """The programs of a run and their arguments."""

  def __init__(
    self,
    config: RunConfig,
    model: Model,
    batches: ScanBatches,
    block_size: int,
    is_real_time: bool,
  ):
    self._config, self._model = config, model
    self._batches = batches
    self._block_size = block_size
    self._has_flags = config.algorithm.chart.trigger != 'chart'
    self._is_real_time = is_real_time
    self.compile_seconds = 0.0
    # The last block may be shorter, and is then a program of its own.
    sizes = {block_size, len(batches.targets) % block_size or block_size}
    self._programs = {size: self._compiled(size) for size in sizes}
    decay = config.decay_evaluations
    self._rates = (
      np.float32(config.learning_rate),
      np.float32(1 / decay if decay else 0.0),
    )

  def initial_carry(self) -> _ScanCarry:
    """Of the first block."""
    carry = initial_carry(
      self._config.base_optimizer,
      self._config.algorithm,
      self._model.init(self._config.seed),
    )
    return _ScanCarry(carry, jnp.zeros((), jnp.int32))

  def to_the_end(
    self, carry: _ScanCarry, flags: np.ndarray | None
  ) -> tuple[_ScanCarry, np.ndarray]:
    """All batches, block by block."""
    found = []
    for start in range(0, len(self._batches.targets), self._block_size):
      end = start + self._block_size
      of_block = None if flags is None else flags[start:end]
      carry, packed = self(carry, start, of_block)
      found.append(packed)
    return carry, np.concatenate(found)

  def __call__(
    self, carry: _ScanCarry, start: int, flags: np.ndarray | None
  ) -> tuple[_ScanCarry, np.ndarray]:
    """A block from `start` on, or as many batches as there are flags."""
    left = len(self._batches.targets) - start
    size = min(self._block_size, left) if flags is None else len(flags)
    end = start + size
    inputs, targets = self._batches.inputs, self._batches.targets
    xs: list[Any] = [inputs[start:end], targets[start:end]]
    if self._has_flags:
      xs.append(flags)
    carry, packed = self._programs[size].run(carry, *self._rates, *xs)
    return carry, np.asarray(jax.device_get(packed))

  def _compiled(self, size: int) -> _Program:
    misses = _compile.cache_info().misses
    program = _compile(
      self._model,
      self._config.base_optimizer,
      self._config.algorithm,
      *(
        jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
        for x in self._batches[:2]
      ),
      self._has_flags,
      self._is_real_time,
    )
    if _compile.cache_info().misses > misses:
      self.compile_seconds += program.compile_seconds
    return program


# Rows are made one after the other: old programs are not needed again.
@functools.lru_cache(maxsize=32)
def _compile(
  model: Model,
  base_optimizer: str,
  algorithm: Algorithm,
  inputs: jax.ShapeDtypeStruct,
  targets: jax.ShapeDtypeStruct,
  has_flags: bool,
  is_real_time: bool,
) -> _Program:
  """Compiles the run of one program."""
  step = functools.partial(training_step, model, base_optimizer, algorithm)

  def train_on(carry, rate, decay, batch):
    return step(carry, rate, decay, *batch)

  def body(rate, decay, carry, batch):
    if not is_real_time:
      new, packed = train_on(carry.carry, rate, decay, batch)
      return _ScanCarry(new, carry.debt), packed
    new, packed = jax.lax.cond(
      carry.debt > 0,
      lambda c: (c, _predicted_only(model, c.params, batch)),
      lambda c: train_on(c, rate, decay, batch),
      carry.carry,
    )
    spent = new.num_evaluations - carry.carry.num_evaluations
    debt = jnp.where(carry.debt > 0, carry.debt, spent) - 1
    return _ScanCarry(new, debt), packed

  def run(carry, rate, decay, *xs):
    return jax.lax.scan(functools.partial(body, rate, decay), carry, xs)

  start = time.perf_counter()
  scalar = jax.ShapeDtypeStruct((), np.float32)
  carry = jax.eval_shape(
    lambda: _ScanCarry(
      initial_carry(base_optimizer, algorithm, model.init(0)),
      jnp.zeros((), jnp.int32),
    )
  )
  xs = [inputs, targets]
  if has_flags:
    xs.append(jax.ShapeDtypeStruct(inputs.shape[:1], bool))
  compiled = jax.jit(run).lower(carry, scalar, scalar, *xs).compile()
  return _Program(compiled, time.perf_counter() - start)


def _predicted_only(model: Model, params: Any, batch: Any) -> jax.Array:
  """The metrics of a batch that is not trained on."""
  loss, accuracy = model.loss_fn(params, tuple(batch[:2]))
  nothing: dict[str, Any] = dict.fromkeys(StepMetrics._fields, 0)
  nothing |= dict.fromkeys(('mean', 'sigma', 'control_limit'), jnp.nan)
  nothing |= {'loss': loss, 'accuracy': accuracy, 'final_loss': loss}
  return step_report.pack(StepMetrics(**nothing))
