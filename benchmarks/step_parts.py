"""What the parts of a step without a chase cost, one added to the other.

A loop that does not run and hands the gradient through; the base optimizer's
state kept where there was a chase; the update chosen between that of the chase
and that of the base; the chart. What `isgd` takes beyond the last of them is
the info, and the room that its program asks for a chase.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import measuring
from benchmarks import networks
from benchmarks import step_cost
import isgd_jax
from isgd_jax import _frozen_update

# Each holds those before it.
PARTS = ('loop', 'frozen state', 'choice', 'chart')


def with_parts(
  base: optax.GradientTransformation,
  chart: isgd_jax.ControlChart,
  parts: tuple[str, ...],
) -> optax.GradientTransformationExtraArgs:
  """`base` with some parts of `isgd`, and no chase."""
  base = optax.with_extra_args_support(base)

  def init(params):
    return base.init(params), chart.init() if 'chart' in parts else ()

  def update(updates, state, params, *, value, value_fn):
    del value_fn
    base_state, chart_state = state
    is_above = value > 1e6
    if 'chart' in parts:
      chart_state, reading = chart.update(chart_state, value)
      is_above = reading.is_above

    def body(carry):
      is_above, slot, is_kept = carry
      return is_above & False, optax.tree.scale(-1.0, slot), ~is_kept

    _, slot, is_kept = jax.lax.while_loop(
      lambda carry: carry[0], body, (is_above, updates, jnp.zeros((), bool))
    )
    if 'frozen state' in parts:
      updates, base_state = _frozen_update.update_unless(
        is_kept, base.update, slot, base_state, params
      )
    else:
      updates, base_state = base.update(slot, base_state, params)
    if 'choice' in parts:
      updates = optax.tree.where(is_kept, slot, updates)
    return updates, (base_state, chart_state)

  return optax.GradientTransformationExtraArgs(init, update)


def measure(
  network: networks.Network, base_name: str, base: Any, seconds: float
) -> dict[str, Any]:
  """One row of the table."""
  chart = isgd_jax.shewhart(100, 1e6)
  optimizers = {'base': optax.with_extra_args_support(base)}
  for i, part in enumerate(PARTS):
    optimizers[part] = with_parts(base, chart, PARTS[: i + 1])
  optimizers['isgd'] = isgd_jax.isgd(base, chart)
  steps = {}
  for name, optimizer in optimizers.items():
    compiled = step_cost.lower(network, optimizer).compile()
    params = jax.tree.map(jnp.copy, network.params)
    carry = params, optimizer.init(params)
    steps[name] = measuring.stepper(compiled, carry, network.batch)
  times = measuring.in_turn(steps, seconds, f'{network.name}, {base_name}')
  return {
    'network': network.name,
    'base': base_name,
    'steps': {
      name: measuring.ratio(times, name, 'base') for name in (*PARTS, 'isgd')
    },
  }


def main(seconds: float) -> None:
  """Measures networks whose parameters are many for their batch."""
  rows = []
  for sizes, batch_size in (
    ((784, 512, 512, 10), 128),
    ((1024, 2048, 2048, 10), 256),
  ):
    network = networks.mlp(sizes, batch_size)
    for name, base in (
      ('momentum', optax.sgd(0.01, momentum=0.9)),
      ('adam', optax.adam(1e-3)),
    ):
      rows.append(measure(network, name, base, 2 * seconds))
      print(rows[-1], flush=True)
  measuring.append('step_parts', rows)
