"""What inconsistent SGD costs a data-parallel step, as ratios to its base.

On all devices of the accelerator, or on `--num-devices` virtual ones of a CPU.
As in `step_cost.py`, the programs of a row run in turn in one process. Virtual
devices share the cores of their host: the ratios say what ISGD adds, the times
say nothing about scaling.

    make bench

Columns:
  base ms       median step of the base optimizer alone
  untriggered   median step of ISGD that flags nothing / base
  (spread)      quartiles of the pairwise ratio
  1 + m chase   median step that chases m = 5 steps / base, over 1 + m
"""

import argparse
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import step_cost
import tqdm

import isgd_jax

AXIS = 'data'
P = jax.sharding.PartitionSpec


def make_program(mode: str, mesh: jax.sharding.Mesh, workload, optimizer):
  """The jitted step, state donated, and its initial carry and batch."""
  axis_name = AXIS if mode == 'shard_map' else None

  def loss_fn(params, batch):
    inputs, labels = batch
    logits = workload.logits_fn(params, inputs)
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    )

  def step(carry, batch):
    params, opt_state, _ = carry
    loss, grads = isgd_jax.value_and_grad(loss_fn, axis_name=axis_name)(
      params, batch
    )
    updates, opt_state = optimizer.update(
      grads,
      opt_state,
      params,
      value=loss,
      value_fn=lambda p: loss_fn(p, batch),
    )
    return optax.apply_updates(params, updates), opt_state, loss

  replicated = jax.sharding.NamedSharding(mesh, P())
  sharded = jax.sharding.NamedSharding(mesh, P(AXIS))
  if mode == 'shard_map':
    step = jax.shard_map(
      step, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P()
    )
  jitted = jax.jit(step, donate_argnums=0, out_shardings=replicated)
  params = jax.tree.map(jnp.copy, workload.params)
  carry = params, optimizer.init(params), jnp.zeros(())
  return (
    jitted,
    jax.device_put(carry, replicated),
    jax.device_put(workload.batch, sharded),
  )


def programs(base: optax.GradientTransformation, mode: str) -> dict[str, Any]:
  """As `step_cost.programs`, with the losses averaged over the devices."""
  chart = isgd_jax.shewhart(100, 1e6)
  axis_name = AXIS if mode == 'shard_map' else None
  return {
    'base': optax.with_extra_args_support(base),
    'untriggered': isgd_jax.isgd(base, chart, axis_name=axis_name),
    'chase': isgd_jax.isgd(
      base,
      step_cost.always_flagging(chart),
      solver=isgd_jax.gradient_descent(1e-6),
      max_chase_steps=step_cost.NUM_CHASE_STEPS,
      axis_name=axis_name,
    ),
  }


def measure(
  mode: str, mesh: jax.sharding.Mesh, workload, base_name: str, base: Any
) -> dict[str, Any]:
  """One row of the table."""
  optimizers = programs(base, mode)
  steps, carries, batches = {}, {}, {}
  for name, optimizer in optimizers.items():
    steps[name], carries[name], batches[name] = make_program(
      mode, mesh, workload, optimizer
    )
  seconds = {name: [] for name in optimizers}
  for _ in tqdm.trange(
    workload.num_rounds, desc=f'{mode}, {workload.name}', leave=False
  ):
    for name, step in steps.items():
      start = time.perf_counter()
      carries[name] = jax.block_until_ready(step(carries[name], batches[name]))
      seconds[name].append(time.perf_counter() - start)
  step_cost.check(carries, workload.num_rounds)
  warm = {
    name: np.array(s[workload.num_rounds // 10 :])
    for name, s in seconds.items()
  }
  median = {name: float(np.median(s)) for name, s in warm.items()}
  return {
    'mode': mode,
    'workload': workload.name,
    'base': base_name,
    'base_ms': 1e3 * median['base'],
    'untriggered': median['untriggered'] / median['base'],
    'untriggered_quartiles': np.quantile(
      warm['untriggered'] / warm['base'], (0.25, 0.75)
    ).tolist(),
    'chase': median['chase'] / median['base'] / (1 + step_cost.NUM_CHASE_STEPS),
  }


def main() -> None:
  """Measures every row and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path, help='JSON lines to append')
  parser.add_argument('--num-devices', type=int, default=8, help='on a CPU')
  parser.add_argument('--quick', action='store_true', help='fewer rounds')
  options = parser.parse_args()
  jax.config.update('jax_num_cpu_devices', options.num_devices)
  mesh = jax.make_mesh(
    (jax.device_count(),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,)
  )
  scale = 5 if options.quick else 1
  workloads = [
    step_cost.mlp((784, 128, 10), 1024, 200 // scale),
    step_cost.mlp((784, 512, 512, 10), 1024, 30 // scale),
  ]
  bases = {'momentum': optax.sgd(0.01, momentum=0.9), 'adam': optax.adam(1e-3)}
  rows = [
    measure(mode, mesh, workload, name, base)
    for workload in workloads
    for mode in ('jit', 'shard_map')
    for name, base in bases.items()
  ]
  environment = {
    **step_cost.environment(),
    'num_devices': jax.device_count(),
    'num_chase_steps': step_cost.NUM_CHASE_STEPS,
  }
  print(json.dumps(environment))
  m = step_cost.NUM_CHASE_STEPS
  print(
    '| step | base | base ms | untriggered (spread) '
    f'| chase of {m} / (1 + {m}) |'
  )
  print('| --- | --- | --- | --- | --- |')
  for row in rows:
    low, high = row['untriggered_quartiles']
    print(
      f'| {row["workload"]}, {row["mode"]} | {row["base"]} '
      f'| {row["base_ms"]:.2f} | {row["untriggered"]:.3f} ({low:.3f} to '
      f'{high:.3f}) | {row["chase"]:.2f} |'
    )
  if options.out:
    with options.out.open('a') as file:
      file.write(json.dumps({**environment, 'rows': rows}) + '\n')


if __name__ == '__main__':
  main()
