"""Runs at every learning rate of a grid, each until it reaches a target.

None is tuned: the rate is an axis of the map. A run is a program of blocks of
batches in one `lax.scan`, and ends where it has reached the last target, has
diverged or has spent its budget.
"""

from collections.abc import Sequence
import functools
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from isgd_jax.experiments.models import Model
from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.runs import step_report
from isgd_jax.experiments.runs import tasks
from isgd_jax.experiments.runs.outcomes import rounded
from isgd_jax.experiments.runs.records import Store
from isgd_jax.experiments.runs.runner import ComparisonPlan
from isgd_jax.experiments.runs.runner import Entry
from isgd_jax.experiments.runs.runner import run_identity
from isgd_jax.experiments.runs.steps import StepMetrics
from isgd_jax.experiments.runs.steps import initial_carry
from isgd_jax.experiments.runs.steps import training_step
from isgd_jax.experiments.runs.tasks import Parts
from isgd_jax.experiments.runs.training import RunConfig

# Test accuracies, fixed from runs of the base alone on another seed. A run ends
# at the last one.
TARGETS = (0.8, 0.85, 0.9)
# Evaluations of the network that have to be at a target on average, so that no
# lucky one counts; those of an epoch, for they are made ten times an epoch.
NUM_HELD = 10
_STEPS_PER_EVALUATION = 10
_EVALUATIONS_PER_BLOCK = 10


class Trace(NamedTuple):
  """How a run went, at each evaluation of the network.

  Attributes:
    accuracies: [n] of the test part.
    spent: [n] gradient evaluations before it.
  """

  accuracies: np.ndarray
  spent: np.ndarray


def reached(trace: Trace, target: float, num_held: int) -> int | None:
  """The gradient evaluations that a run took to a target.

  Args:
    trace: of the run.
    target: a test accuracy.
    num_held: evaluations of the network whose mean has to be at the target; 1
      for the first that is.

  Returns:
    Those spent at the last of the first such evaluations; None where there are
    none.

  Example:
    >>> trace = Trace(np.array([0.1, 0.9, 0.5, 0.8]), np.arange(10, 50, 10))
    >>> reached(trace, 0.65, 1), reached(trace, 0.65, 2)
    (20, 30)
  """
  if len(trace.accuracies) < num_held:
    return None
  means = np.lib.stride_tricks.sliding_window_view(
    trace.accuracies.astype(np.float64), num_held
  ).mean(1)
  # 0.9 in float32 is a rounding below it.
  is_there = means >= target - 1e-6
  if not is_there.any():
    return None
  return int(trace.spent[int(is_there.argmax()) + num_held - 1])


def run_rate_map(plan: ComparisonPlan, store: Store, bar: Any) -> None:
  """Makes the runs of a plan that are not on record.

  Args:
    plan: with `is_map`; its task is in a fixed cycle, without loss-adaptive
      steps.
    store: where the records are, and go. A summary has `held_80` and so on, the
      gradient evaluations until ten evaluations of the network have had 80 % on
      average, and `first_80`, until the first one had; null where it missed.
    bar: a progress bar, advanced by one a run.
  """
  task = plan.task
  model = tasks.build_task_model(task)
  test = tasks.test_part(task)
  cycles: dict[int, Parts] = {}
  for base in plan.base_optimizers:
    grid = plan.rates(base)
    for method in plan.methods:
      entry = Entry(base, method)
      for rate in grid:
        for seed in plan.reporting_seeds:
          config = method.run_config(task, base, rate, seed)
          shared = {
            'task': task.as_record(),
            'algorithm': {**config.algorithm.as_record(), 'grid': grid},
          }
          identity = run_identity(task, entry, config, 'reporting')
          bar.set_description(f'{task.name} {base} {method.name} {rate:g}')
          if store.find(identity, **shared) is None:
            if seed not in cycles:
              cycles[seed] = tasks.build_cycle(task, seed)
            record = {
              'id': identity,
              'task': task.name,
              'base': base,
              'method': method.name,
              'purpose': 'reporting',
              'learning_rate': rate,
              'seed': seed,
              'summary': run_to_target(
                config, model, cycles[seed], test, task.num_batches
              ),
            }
            store.append(record, **shared)
          bar.update()


def run_to_target(
  config: RunConfig,
  model: Model,
  cycle: Parts,
  test: Parts,
  budget: int,
  targets: Sequence[float] = TARGETS,
) -> dict[str, Any]:
  """One run, until it has reached the last target.

  Args:
    config: what to do; its rate is constant.
    model: the network.
    cycle: the batches that are visited in turn.
    test: what it is judged on.
    budget: gradient evaluations to spend; what is reached later is missed.
    targets: test accuracies.

  Returns:
    The summary of its record.
  """
  program = _compile(
    model, config.base_optimizer, config.algorithm, _shapes(cycle, test)
  )
  carry = initial_carry(
    config.base_optimizer, config.algorithm, model.init(config.seed)
  )
  size = _STEPS_PER_EVALUATION * _EVALUATIONS_PER_BLOCK
  # Once a run, and not with each block.
  cycle, test = jax.device_put((cycle, test))
  rate = np.float32(config.learning_rate)
  traces: list[Trace] = []
  num_flagged = num_steps = spent = 0
  is_over = is_diverged = False
  trace = Trace(np.zeros(0), np.zeros(0, int))
  start = time.perf_counter()
  while not is_over:
    steps = np.arange(num_steps, num_steps + size) % len(cycle.labels)
    carry, found = program.run(carry, rate, steps.astype(np.int32), cycle, test)
    accuracies, spent_at, packed = jax.device_get(found)
    metrics = step_report.unpack(StepMetrics, packed.reshape(size, -1))
    num_steps += size
    num_flagged += int(metrics.is_undertrained.sum())
    spent = int(spent_at[-1])
    is_in_time = spent_at <= budget
    traces.append(Trace(accuracies[is_in_time], spent_at[is_in_time]))
    trace = Trace(*map(np.concatenate, zip(*traces, strict=True)))
    is_diverged = not bool(np.isfinite(metrics.loss).all())
    is_over = (
      spent >= budget
      or is_diverged
      or reached(trace, max(targets), NUM_HELD) is not None
    )
  run_seconds = time.perf_counter() - start
  tail = trace.accuracies[-NUM_HELD:]
  summary = {
    **{f'held_{100 * x:.0f}': reached(trace, x, NUM_HELD) for x in targets},
    **{f'first_{100 * x:.0f}': reached(trace, x, 1) for x in targets},
    'accuracy': float(tail.mean()) if len(tail) else math.nan,
    'num_steps': num_steps,
    'num_gradient_evaluations': spent,
    'num_undertrained': num_flagged,
    'is_diverged': is_diverged,
    'run_seconds': run_seconds,
    'compile_seconds': program.take_compile_seconds(),
  }
  return rounded(summary)


class _Program:
  """A block of batches, compiled, and what that took until it was asked for."""

  def __init__(self, run: jax.stages.Compiled, compile_seconds: float):
    self.run = run
    self._compile_seconds = compile_seconds

  def take_compile_seconds(self) -> float:
    """Seconds of compilation, once; 0 from then on."""
    seconds, self._compile_seconds = self._compile_seconds, 0.0
    return seconds


def _shapes(cycle: Parts, test: Parts) -> tuple[Any, ...]:
  """Of all arrays, so that they can name a program."""
  return tuple((x.shape, x.dtype.name) for x in (*cycle, *test))


@functools.lru_cache(maxsize=32)
def _compile(
  model: Model, base_optimizer: str, algorithm: Algorithm, shapes: Any
) -> _Program:
  """Compiles the block of one program."""
  step = functools.partial(training_step, model, base_optimizer, algorithm)

  def run(carry, rate, steps, cycle, test):
    def train_on(carry, index):
      batch = cycle.inputs[index], cycle.labels[index]
      return step(carry, rate, jnp.zeros(()), *batch)

    def until_evaluation(carry, steps):
      carry, packed = jax.lax.scan(train_on, carry, steps)
      logits = model.logits_fn(carry.params, test.inputs)
      accuracy = jnp.mean(logits.argmax(-1) == test.labels)
      return carry, (accuracy, carry.num_evaluations, packed)

    return jax.lax.scan(
      until_evaluation, carry, steps.reshape(_EVALUATIONS_PER_BLOCK, -1)
    )

  start = time.perf_counter()
  carry = jax.eval_shape(
    lambda: initial_carry(base_optimizer, algorithm, model.init(0))
  )
  arrays: list[Any] = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
  num_steps = _STEPS_PER_EVALUATION * _EVALUATIONS_PER_BLOCK
  compiled = (
    jax.jit(run)
    .lower(
      carry,
      jax.ShapeDtypeStruct((), np.float32),
      jax.ShapeDtypeStruct((num_steps,), np.int32),
      Parts(*arrays[:2]),
      Parts(*arrays[2:]),
    )
    .compile()
  )
  return _Program(compiled, time.perf_counter() - start)
