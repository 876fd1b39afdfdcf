"""What others cost that do an inner loop or carry the history of the loss.

Each over its own base, on one network; ISGD and the chart's other actions
beside them. None of them is triggered: no chase, no skipped batch, no plateau,
a line search that takes its first rate.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks import measuring
from benchmarks import networks
import isgd_jax

_RATE = 1e-3
_WINDOW_SIZE = 100


class Peer(NamedTuple):
  """An optimizer and what it is a wrapper or a variant of.

  Attributes:
    optimizer: the optimizer.
    base: as it would be used without.
    evaluations: of a gradient or a loss in a step, beside the base's one.
    arguments: of `update`, by name; some refuse what they do not know.
  """

  optimizer: Any
  base: Any
  evaluations: str
  arguments: tuple[str, ...] = ('value', 'value_fn')


def peers() -> dict[str, Peer]:
  """Name -> peer."""
  sgd, momentum = optax.sgd(_RATE), optax.sgd(_RATE, momentum=0.9)
  chart = isgd_jax.shewhart(_WINDOW_SIZE, 1e6)
  return {
    '`isgd_jax.isgd`': Peer(isgd_jax.isgd(momentum, chart), momentum, ''),
    '`isgd_jax.skip_out_of_control`': Peer(
      isgd_jax.skip_out_of_control(momentum, chart), momentum, ''
    ),
    '`isgd_jax.watch`': Peer(
      optax.chain(isgd_jax.watch(chart), momentum), momentum, ''
    ),
    '`optax.apply_if_finite`': Peer(
      optax.apply_if_finite(momentum, 5), momentum, ''
    ),
    '`optax.contrib.reduce_on_plateau`': Peer(
      optax.chain(
        momentum, optax.contrib.reduce_on_plateau(accumulation_size=100)
      ),
      momentum,
      '',
    ),
    '`optax.polyak_sgd`': Peer(optax.polyak_sgd(_RATE), sgd, ''),
    '`optax.contrib.momo`': Peer(optax.contrib.momo(_RATE), momentum, ''),
    '`optax.scale_by_backtracking_linesearch`': Peer(
      optax.chain(
        optax.sgd(_RATE),
        optax.scale_by_backtracking_linesearch(15, max_learning_rate=1.0),
      ),
      sgd,
      'at least one loss',
      ('value', 'value_fn', 'grad'),
    ),
    '`optax.contrib.sam`, opaque mode': Peer(
      optax.contrib.sam(
        momentum,
        optax.chain(optax.contrib.normalize(), optax.sgd(0.05)),
        sync_period=2,
        opaque_mode=True,
      ),
      momentum,
      'one gradient',
      ('grad_fn',),
    ),
  }


def lower(
  network: networks.Network, optimizer: Any, arguments: tuple[str, ...]
) -> Any:
  """The training step, with what a peer asks for."""
  optimizer = optax.with_extra_args_support(optimizer)

  def step(params, opt_state, batch):
    def value_fn(params):
      return network.loss_fn(params, batch)

    loss, grads = jax.value_and_grad(value_fn)(params)
    offered = {
      'value': loss,
      'value_fn': value_fn,
      'grad': grads,
      'grad_fn': lambda params, _: jax.grad(value_fn)(params),
    }
    updates, opt_state = optimizer.update(
      grads, opt_state, params, **{name: offered[name] for name in arguments}
    )
    return optax.apply_updates(params, updates), opt_state

  return jax.jit(step, donate_argnums=(0, 1)).lower(
    network.params, optimizer.init(network.params), network.batch
  )


def main(seconds: float) -> None:
  """Measures every peer on two networks."""
  rows = []
  for sizes, batch_size in (((64, 64, 10), 32), ((784, 512, 512, 10), 128)):
    network = networks.mlp(sizes, batch_size)
    for name, peer in peers().items():
      steps = {}
      for role, optimizer in (('base', peer.base), ('peer', peer.optimizer)):
        compiled = lower(network, optimizer, peer.arguments).compile()
        params = jax.tree.map(jnp.copy, network.params)
        opt_state = optax.with_extra_args_support(optimizer).init(params)
        steps[role] = measuring.stepper(
          compiled, (params, opt_state), network.batch
        )
      times = measuring.in_turn(steps, seconds, f'{network.name}, {name}')
      rows.append(
        {
          'network': network.name,
          'peer': name,
          'evaluations': peer.evaluations,
          'step': measuring.ratio(times, 'peer', 'base'),
        }
      )
      print(rows[-1], flush=True)
  measuring.append('peer_cost', rows)
