"""A trial: the first evaluation of a batch inside the loop of its chase.

`isgd` is handed the loss and gradient of a batch and evaluates again where it
chases, so the compiled step holds the network twice. Here the whole step is one
loop: its first trip evaluates, asks the chart, and takes the base update or a
first chase step; further trips chase. The network is compiled once. What that
saves in compilation, and costs in time, says whether it should be offered.

The trial has no guard, no aux and no frozen leaves.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import measuring
from benchmarks import networks
from benchmarks import step_cost
import isgd_jax
from isgd_jax._chase import trees

_WINDOW_SIZE = 100
_DAMPING = 1e-6


def lower_one_loop(
  network: networks.Network,
  base: optax.GradientTransformation,
  chart: isgd_jax.ControlChart,
) -> Any:
  """A training step that is one loop."""

  def step(params, state, batch):
    base_state, chart_state = state
    zero = jnp.zeros((), jnp.int32)

    def is_going_on(carry):
      return ~carry[-1]

    def body(carry):
      params, base_state, chart_state, target, num_trips, _ = carry
      loss, grads = jax.value_and_grad(network.loss_fn)(params, batch)
      is_first = num_trips == 0
      judged, reading = chart.update(chart_state, loss)
      chart_state = optax.tree.where(is_first, judged, chart_state)
      target = jnp.where(is_first, reading.mean, target)
      is_chasing = ~is_first | reading.is_above
      updates, moved = base.update(grads, base_state, params)
      squares = trees.squared_norm(grads, jnp.float32)
      scale = (loss - target) / (squares + _DAMPING)
      is_over = ~is_chasing | (loss <= target)
      is_over |= num_trips >= step_cost.NUM_CHASE_STEPS
      chase = optax.tree.scale(
        -jnp.where(is_first | ~is_over, scale, 0.0), grads
      )
      params = optax.apply_updates(
        params, optax.tree.where(is_chasing, chase, updates)
      )
      base_state = optax.tree.where(is_chasing, base_state, moved)
      return params, base_state, chart_state, target, num_trips + 1, is_over

    carry = (
      *(params, base_state, chart_state),
      *(jnp.zeros(()), zero, jnp.zeros((), bool)),
    )
    params, *state, _, _, _ = jax.lax.while_loop(is_going_on, body, carry)
    return params, tuple(state)

  state = base.init(network.params), chart.init()
  return jax.jit(step, donate_argnums=(0, 1)).lower(
    network.params, state, network.batch
  )


def main(seconds: float) -> None:
  """Compares both forms with the base, on networks of several depths."""
  momentum = optax.sgd(0.01, momentum=0.9)
  chart = isgd_jax.shewhart(_WINDOW_SIZE, 1e6)
  small, image = networks.mlp, networks.image_network
  rows = []
  for network in (
    small((64, 64, 10), 32),
    small((784, 512, 512, 10), 128),
    image('lenet', (28, 28, 1), 128),
    image('resnet18', (32, 32, 3), 32),
    networks.transformer(64, 32, width=128),
  ):
    optimizers = {
      'base': optax.with_extra_args_support(momentum),
      'isgd': isgd_jax.isgd(momentum, chart),
    }
    lowerings = {
      name: (lambda o=optimizer, n=network: step_cost.lower(n, o))
      for name, optimizer in optimizers.items()
    }
    lowerings['one_loop'] = lambda n=network: lower_one_loop(n, momentum, chart)
    states = {name: o.init(network.params) for name, o in optimizers.items()}
    states['one_loop'] = momentum.init(network.params), chart.init()
    steps, seconds_to_compile = {}, {}
    for name, lowering in lowerings.items():
      compiled, seconds_to_compile[name] = measuring.compile_seconds(lowering)
      carry = jax.tree.map(jnp.copy, (network.params, states[name]))
      steps[name] = measuring.stepper(compiled, carry, network.batch)
    times = measuring.in_turn(steps, seconds, network.name)
    base = seconds_to_compile['base']
    rows.append(
      {
        'network': network.name,
        'compile_seconds': seconds_to_compile,
        **{
          name: {
            'step': measuring.ratio(times, name, 'base'),
            'compile': seconds_to_compile[name] / base,
          }
          for name in ('isgd', 'one_loop')
        },
      }
    )
    print(rows[-1], flush=True)
  measuring.append('loop_trial', rows)
