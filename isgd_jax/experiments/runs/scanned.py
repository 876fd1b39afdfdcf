"""A whole training run as one program: for small networks on long streams.

A step of a small network takes a microsecond or two; calling it from Python
takes a hundred. The learning rate is an argument, so that all runs of a row
share one program. Runs follow one another: under `vmap` over 12 of them a step
of ISGD is a third of the time, but its program takes twice as long to compile,
which is most of what there is on streams of a few thousand batches.
"""

import functools
import time
from typing import NamedTuple

import jax
import numpy as np

from isgd_jax.experiments.models import Model
from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.runs import step_report
from isgd_jax.experiments.runs.steps import StepMetrics
from isgd_jax.experiments.runs.steps import initial_carry
from isgd_jax.experiments.runs.steps import training_step
from isgd_jax.experiments.runs.training import RunConfig
from isgd_jax.experiments.runs.training import RunResult
from isgd_jax.experiments.streams import TableBatches


class _Program(NamedTuple):
  """A run, compiled ahead of time, and what that took."""

  run: jax.stages.Compiled
  compile_seconds: float


def train_in_scan(
  config: RunConfig, model: Model, batches: TableBatches
) -> RunResult:
  """`training.train` on all batches of a table, in one `lax.scan`.

  Args:
    config: what to do; its method is not `'random'`.
    model: the network.
    batches: all of them.

  Returns:
    A `RunResult`.

  Raises:
    ValueError: a name in `config` is unknown, or the method is `'random'`.
  """
  if config.method == 'random':
    raise ValueError("method 'random' is not made for a scan; leave it out")
  # As networks for images take it: [num_batches, b, 1, d, 1].
  inputs = batches.inputs[:, :, np.newaxis, :, np.newaxis]
  arguments = (
    model.init(config.seed),
    np.float32(config.learning_rate),
    np.float32(
      1 / config.decay_evaluations if config.decay_evaluations else 0.0
    ),
    jax.numpy.asarray(inputs),
    jax.numpy.asarray(batches.targets),
  )
  misses = _compile.cache_info().misses
  program = _compile(
    model,
    config.base_optimizer,
    config.algorithm,
    *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arguments[-2:]),
  )
  is_new = _compile.cache_info().misses > misses
  jax.block_until_ready(arguments)
  start = time.perf_counter()
  params, packed = jax.block_until_ready(program.run(*arguments))
  run_seconds = time.perf_counter() - start
  metrics = step_report.unpack(StepMetrics, jax.device_get(packed))
  return RunResult(
    params=params,
    metrics=metrics,
    run_seconds=run_seconds,
    compile_seconds=program.compile_seconds if is_new else 0.0,
    is_diverged=not bool(np.isfinite(metrics.loss).all()),
  )


# Rows are made one after the other: old programs are not needed again.
@functools.lru_cache(maxsize=32)
def _compile(
  model: Model,
  base_optimizer: str,
  algorithm: Algorithm,
  inputs: jax.ShapeDtypeStruct,
  targets: jax.ShapeDtypeStruct,
) -> _Program:
  """Compiles the run of one program."""
  step = functools.partial(training_step, model, base_optimizer, algorithm)

  def run(params, rate, decay, inputs, targets):
    carry, packed = jax.lax.scan(
      lambda carry, batch: step(carry, rate, decay, *batch),
      initial_carry(base_optimizer, algorithm, params),
      (inputs, targets),
    )
    return carry.params, packed

  start = time.perf_counter()
  scalar = jax.ShapeDtypeStruct((), np.float32)
  params = jax.eval_shape(lambda: model.init(0))
  compiled = (
    jax.jit(run).lower(params, scalar, scalar, inputs, targets).compile()
  )
  return _Program(compiled, time.perf_counter() - start)
