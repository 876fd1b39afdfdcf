"""Small steps inside one `lax.scan`, where streams are learned.

Nothing is flagged: what is measured is what every step pays. A step of a small
network takes microseconds, so each operation, and each array that the scan
carries, shows.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import measuring
from benchmarks import networks
import isgd_jax

WINDOW_SIZE = 50
# (layers, batch size, steps in a scan)
CASES = (
  ((8, 32, 10), 1, 4096),
  ((8, 32, 10), 16, 2048),
  ((64, 32, 10), 16, 1024),
  ((64, 64, 10), 64, 512),
  ((140, 64, 10), 64, 256),
  ((784, 128, 10), 64, 32),
  ((784, 512, 512, 10), 128, 4),
)
BASES = {
  'momentum': lambda: optax.sgd(1e-4, momentum=0.9),
  'adam': lambda: optax.adam(1e-5),
}


def _never_flagging() -> isgd_jax.ControlChart:
  """As by default, but for limits that nothing passes."""
  return isgd_jax.shewhart(WINDOW_SIZE, 1e6, flagged_losses='winsorize')


METHODS = {
  'base': optax.with_extra_args_support,
  'watch': lambda base: optax.chain(isgd_jax.watch(_never_flagging()), base),
  'skip': lambda base: isgd_jax.skip_out_of_control(base, _never_flagging()),
  'isgd, probation=False': lambda base: isgd_jax.isgd(
    base, _never_flagging(), probation=False
  ),
  'isgd': lambda base: isgd_jax.isgd(base, _never_flagging()),
}


def compile_scan(network: networks.Network, optimizer: Any, num_steps: int):
  """Steps on one batch, as one program; and its first carry."""

  def step(carry, scale):
    params, opt_state = carry
    inputs, labels = network.batch
    # Else XLA takes what does not depend on the step out of the loop.
    batch = inputs * scale, labels

    def loss_fn(params):
      return network.loss_fn(params, batch)

    value, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = optimizer.update(
      grads, opt_state, params, value=value, value_fn=loss_fn
    )
    return (optax.apply_updates(params, updates), opt_state), value

  def run(params, opt_state, scales):
    carry, losses = jax.lax.scan(step, (params, opt_state), scales)
    return *carry, losses

  params = jax.tree.map(jnp.copy, network.params)
  carry = params, jax.jit(optimizer.init)(params)
  scales = jnp.linspace(1.0, 1.01, num_steps)
  jitted = jax.jit(run, donate_argnums=(0, 1))
  return jitted.lower(*carry, scales).compile(), carry, scales


def _stepper(compiled: Any, carry: Any, scales: jax.Array):
  """Runs the scan on from where it stopped."""
  state = [carry]

  def run():
    *state[0], losses = compiled(*state[0], scales)
    return losses

  return run


def measure(layers, batch_size: int, num_steps: int, base: str, seconds: float):
  """One row: each method's step over the base's."""
  network = networks.mlp(layers, batch_size)
  runs = {
    name: _stepper(*compile_scan(network, make(BASES[base]()), num_steps))
    for name, make in METHODS.items()
  }
  found = measuring.in_turn(runs, seconds, f'{network.name}, {base}')
  row = {
    'network': network.name,
    'base': base,
    'num_steps': num_steps,
    'base_us': 1e6 * float(found['base'].min()) / num_steps,
  }
  for name in METHODS:
    if name != 'base':
      # Beside other work the median is that of the other work.
      row[name] = measuring.ratio(found, name, 'base') | {
        'fastest': float(found[name].min() / found['base'].min())
      }
  return row


def main(seconds: float) -> None:
  """All cases."""
  rows = []
  for base in BASES:
    for layers, batch_size, num_steps in CASES:
      row = measure(layers, batch_size, num_steps, base, seconds)
      rows.append(row)
      ratios = {
        name: round(row[name]['fastest'], 2)
        for name in METHODS
        if name != 'base'
      }
      print(row['network'], base, f'{row["base_us"]:.1f} us', ratios)
  measuring.append('scan_cost', rows, window_size=WINDOW_SIZE)
