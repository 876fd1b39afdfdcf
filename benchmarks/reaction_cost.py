"""What a chart of loss and gradient norm with a reaction costs a quiet step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import measuring
from benchmarks import networks
from benchmarks import step_cost
import isgd_jax


def programs(
  base: optax.GradientTransformation,
) -> dict[str, optax.GradientTransformationExtraArgs]:
  """The base, alone and clipped by its norm, and reactions that never act."""
  loss = isgd_jax.shewhart(128, 1e6)
  both = isgd_jax.any_of(loss, isgd_jax.chart_of('gradient_norm', loss))
  return {
    'base': optax.with_extra_args_support(base),
    'clip_by_global_norm': optax.with_extra_args_support(
      optax.chain(optax.clip_by_global_norm(1e6), base)
    ),
    'loss, skip': isgd_jax.react(base, loss, isgd_jax.skip()),
    'loss and norm, skip': isgd_jax.react(base, both, isgd_jax.skip()),
    'loss and norm, all': isgd_jax.react(
      base,
      both,
      *(isgd_jax.skip(), isgd_jax.clip(), isgd_jax.reset('moments')),
      isgd_jax.rewarm(3.0, 10),
    ),
  }


def measure(
  network: networks.Network, base_name: str, base: Any, seconds: float
) -> dict[str, Any]:
  """One row of the table."""
  steps = {}
  for name, optimizer in programs(base).items():
    compiled, _ = measuring.compile_seconds(
      lambda optimizer=optimizer: step_cost.lower(network, optimizer)
    )
    params = jax.tree.map(jnp.copy, network.params)
    steps[name] = measuring.stepper(
      compiled, (params, optimizer.init(params)), network.batch
    )
  times = measuring.in_turn(steps, seconds, f'{network.name}, {base_name}')
  return {
    'network': network.name,
    'base': base_name,
    **{
      name: measuring.ratio(times, name, 'base')
      for name in steps
      if name != 'base'
    },
  }


def main(seconds: float) -> None:
  """Measures every row."""
  momentum = optax.sgd(0.01, momentum=0.9)
  adam = optax.adam(1e-3)
  rows = []
  for sizes, base_name, base in (
    ((784, 512, 512, 10), 'momentum', momentum),
    ((784, 512, 512, 10), 'adam', adam),
  ):
    network = networks.mlp(sizes, 128)
    rows.append(measure(network, base_name, base, seconds))
    print(rows[-1], flush=True)
  measuring.append('reaction_cost', rows)
