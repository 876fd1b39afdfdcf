"""Many seeds of one run: one after another, or together under `jax.vmap`?

`isgd-jax compare` makes the runs of a method one after another, with one
compiled program, for the seconds of each run are one of its two costs, and runs
that go together have none of their own. This measures what that forgoes: under
`jax.vmap` over the seeds a chase runs in all whenever it runs in one.
"""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measuring
from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.runs import steps as run_steps
from isgd_jax.experiments.runs import tasks
from isgd_jax.experiments.runs.workloads import WORKLOADS

NUM_SEEDS = 5
NUM_STEPS = 200
NUM_ROUNDS = 7
TASKS = (('drift-labels', 0), ('drift-labels', 1), ('sampling-bias', 0))


def measure(task, algorithm: Algorithm) -> dict:
  """Seconds of a run of five seeds, both ways, in turn."""
  model = tasks.build_task_model(task)
  batches = [
    list(
      b
      for b, _ in zip(
        tasks.build_stream(task, seed).batches, range(NUM_STEPS), strict=False
      )
    )
    for seed in range(NUM_SEEDS)
  ]
  stacked = [
    tuple(np.stack(x) for x in zip(*of_step, strict=True))
    for of_step in zip(*batches, strict=True)
  ]
  structs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in batches[0][0]]
  program = run_steps.compile_step(model, 'momentum', algorithm, *structs)
  rate, decay = np.float32(0.03), np.float32(0.0)
  step = functools.partial(
    run_steps.training_step, model, 'momentum', algorithm
  )
  together = jax.jit(
    jax.vmap(step, in_axes=(0, None, None, 0, 0)), donate_argnums=0
  )

  def carries():
    return [program.init(model.init(seed)) for seed in range(NUM_SEEDS)]

  def run_in_turn():
    ends = []
    for carry, of_seed in zip(carries(), batches, strict=True):
      for batch in of_seed:
        carry, _ = program.step(carry, rate, decay, *batch)
      ends.append(carry)
    return ends

  def run_together():
    carry = jax.tree.map(lambda *x: jnp.stack(x), *carries())
    for batch in stacked:
      carry, _ = together(carry, rate, decay, *batch)
    return carry

  seconds = {'in_turn': [], 'together': []}
  for _ in range(NUM_ROUNDS + 1):  # the first one compiles
    for name, run in (('in_turn', run_in_turn), ('together', run_together)):
      start = time.perf_counter()
      jax.block_until_ready(run())
      seconds[name].append(time.perf_counter() - start)
  in_turn, vmapped = (statistics.median(x[1:]) for x in seconds.values())
  return {
    'task': task.name,
    'algorithm': algorithm.kind,
    'in_turn_seconds': round(in_turn, 4),
    'vmap_seconds': round(vmapped, 4),
    'vmap_over_in_turn': round(vmapped / in_turn, 3),
  }


def main(seconds: float) -> None:
  """Measures both ways; the time it takes is its own."""
  del seconds
  rows = []
  for name, i in TASKS:
    for kind in ('base', 'isgd'):
      rows.append(measure(WORKLOADS[name].tasks[i], Algorithm(kind)))
      print(rows[-1], flush=True)
  measuring.append('many_seeds', rows, num_seeds=NUM_SEEDS, num_steps=NUM_STEPS)
