"""What inconsistent SGD costs a data-parallel step, as ratios to its base.

On all devices of the accelerator, or on eight virtual ones of a CPU, which
share its cores: the ratios say what ISGD adds, the times say nothing about
scaling. A process of its own, for the number of devices is set once.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import measuring
from benchmarks import networks
from benchmarks import step_cost
import isgd_jax

AXIS = 'data'
P = jax.sharding.PartitionSpec


def lower(
  mode: str, mesh: jax.sharding.Mesh, network: networks.Network, optimizer: Any
) -> tuple[Any, Any, Any]:
  """The step, lowered, its state donated; its initial carry and batch."""
  axis_name = AXIS if mode == 'shard_map' else None

  def step(params, opt_state, batch):
    loss, grads = isgd_jax.value_and_grad(network.loss_fn, axis_name=axis_name)(
      params, batch
    )
    updates, opt_state = optimizer.update(
      grads,
      opt_state,
      params,
      value=loss,
      value_fn=lambda p: network.loss_fn(p, batch),
    )
    return optax.apply_updates(params, updates), opt_state

  replicated = jax.sharding.NamedSharding(mesh, P())
  sharded = jax.sharding.NamedSharding(mesh, P(AXIS))
  if mode == 'shard_map':
    step = jax.shard_map(
      step, mesh=mesh, in_specs=(P(), P(), P(AXIS)), out_specs=P()
    )
  jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=replicated)
  params = jax.tree.map(jnp.copy, network.params)
  carry = jax.device_put((params, optimizer.init(params)), replicated)
  batch = jax.device_put(network.batch, sharded)
  return jitted.lower(*carry, batch), carry, batch


def measure(
  mode: str,
  mesh: jax.sharding.Mesh,
  network: networks.Network,
  base_name: str,
  base: Any,
  seconds: float,
) -> dict[str, Any]:
  """One row of the table."""
  options = {'axis_name': AXIS} if mode == 'shard_map' else {}
  steps, counts = {}, {}
  for name, optimizer in step_cost.programs(base, 100, **options).items():
    lowered, carry, batch = lower(mode, mesh, network, optimizer)
    compiled = lowered.compile()
    counts[name] = measuring.entry_counts(compiled, network.params)
    steps[name] = measuring.stepper(compiled, carry, batch)
  times = measuring.in_turn(steps, seconds, f'{mode}, {network.name}')
  step_cost.check(steps['untriggered'](), 1)
  each = step_cost.check(steps['chase'](), 1 + step_cost.NUM_CHASE_STEPS)
  chase = measuring.ratio(times, 'chase', 'base')['ratio']
  return {
    'mode': mode,
    'network': network.name,
    'base': base_name,
    'untriggered': measuring.ratio(times, 'untriggered', 'base'),
    'chase': {'ratio': chase / each},
    'counts': {
      key: counts['untriggered'][key] - counts['base'][key]
      for key in counts['base']
    },
  }


def main(seconds: float) -> None:
  """Measures every row."""
  mesh = jax.make_mesh(
    (jax.device_count(),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,)
  )
  bases = {'momentum': optax.sgd(0.01, momentum=0.9), 'adam': optax.adam(1e-3)}
  rows = []
  for sizes in ((784, 128, 10), (784, 512, 512, 10)):
    network = networks.mlp(sizes, 1024)
    for mode in ('jit', 'shard_map'):
      for name, base in bases.items():
        rows.append(measure(mode, mesh, network, name, base, seconds))
        print(rows[-1], flush=True)
  measuring.append(
    'data_parallel_cost',
    rows,
    num_devices=jax.device_count(),
    num_chase_steps=step_cost.NUM_CHASE_STEPS,
  )
