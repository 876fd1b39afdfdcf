"""What inconsistent SGD costs a training step, as ratios to its base."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import measuring
from benchmarks import networks
import isgd_jax

NUM_CHASE_STEPS = 5
_MOMENTUM = optax.sgd(0.01, momentum=0.9)
_ADAM = optax.adam(1e-3)


def always_flagging(chart: isgd_jax.ControlChart) -> isgd_jax.ControlChart:
  """`chart`, with every loss above its limit and a target out of reach."""

  def update(state, loss):
    state, reading = chart.update(state, loss)
    return state, reading._replace(
      mean=jnp.zeros_like(reading.mean), is_above=jnp.isfinite(loss)
    )

  return isgd_jax.ControlChart(chart.init, update)


def programs(
  base: optax.GradientTransformation, window_size: int, **options: Any
) -> dict[str, optax.GradientTransformationExtraArgs]:
  """The base optimizer, ISGD that never chases, and ISGD that always does."""
  chart = isgd_jax.shewhart(window_size, 1e6)
  return {
    'base': optax.with_extra_args_support(base),
    'untriggered': isgd_jax.isgd(base, chart, **options),
    'chase': isgd_jax.isgd(
      base,
      always_flagging(chart),
      # Steps so short that the guard and the target never end the chase.
      solver=isgd_jax.gradient_descent(1e-6),
      max_chase_steps=NUM_CHASE_STEPS,
      # On probation most would be refused.
      probation=False,
      **options,
    ),
  }


def lower(network: networks.Network, optimizer: Any) -> Any:
  """The training step, lowered anew, its state donated."""

  def step(params, opt_state, batch):
    loss, grads = jax.value_and_grad(network.loss_fn)(params, batch)
    updates, opt_state = optimizer.update(
      grads,
      opt_state,
      params,
      value=loss,
      value_fn=lambda p: network.loss_fn(p, batch),
    )
    return optax.apply_updates(params, updates), opt_state

  return jax.jit(step, donate_argnums=(0, 1)).lower(
    network.params, optimizer.init(network.params), network.batch
  )


def measure(
  network: networks.Network,
  base_name: str,
  base: Any,
  window_size: int,
  seconds: float,
) -> dict[str, Any]:
  """One row of the table."""
  compiled, compile_seconds, steps = {}, {}, {}
  for name, optimizer in programs(base, window_size).items():
    compiled[name], compile_seconds[name] = measuring.compile_seconds(
      lambda optimizer=optimizer: lower(network, optimizer)
    )
    params = jax.tree.map(jnp.copy, network.params)
    steps[name] = measuring.stepper(
      compiled[name], (params, optimizer.init(params)), network.batch
    )
  title = f'{network.name}, {base_name}'
  plain = measuring.in_turn(
    {name: steps[name] for name in ('base', 'untriggered')}, seconds, title
  )
  chased = measuring.in_turn(
    {name: steps[name] for name in ('base', 'chase')},
    seconds,
    f'{title}, chase',
  )
  check(steps['untriggered'](), 1)
  each = check(steps['chase'](), 1 + NUM_CHASE_STEPS)
  num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(network.params))
  counts, base_counts = (
    measuring.entry_counts(compiled[name], network.params)
    for name in ('untriggered', 'base')
  )
  chase = measuring.ratio(chased, 'chase', 'base')
  return {
    'network': network.name,
    'base': base_name,
    'window_size': window_size,
    'untriggered': measuring.ratio(plain, 'untriggered', 'base'),
    'chase': {
      'ratio': chase['ratio'] / each,
      'quartiles': [x / each for x in chase['quartiles']],
    },
    'compile': compile_seconds['untriggered'] / compile_seconds['base'],
    'compile_seconds': compile_seconds['untriggered'],
    'memory_copies': (
      measuring.live_bytes(compiled['untriggered'])
      - measuring.live_bytes(compiled['base'])
    )
    / num_bytes,
    'counts': {k: counts[k] - base_counts[k] for k in counts},
  }


def check(carry: Any, evaluations_per_step: int) -> float:
  """Raises unless a program did what its column says.

  Steps so short leave the loss nearly as it was. The guard then undoes the
  chase, which takes one evaluation more.

  Returns:
    The evaluations that a step took, with those.
  """
  info = isgd_jax.get_info(carry[1])
  expected = evaluations_per_step * int(info.num_steps)
  expected += int(info.num_chases_reverted)
  if int(info.num_gradient_evaluations) != expected:
    raise RuntimeError(f'a program did not do its work: {info}')
  return expected / int(info.num_steps)


def cases() -> list[tuple[networks.Network, str, Any, int]]:
  """Network, base optimizer, window."""
  image = networks.image_network
  common = [
    (networks.mlp((64, 64, 10), 32), 'momentum', _MOMENTUM, 100),
    (networks.mlp((784, 512, 512, 10), 128), 'momentum', _MOMENTUM, 100),
    (networks.mlp((784, 512, 512, 10), 128), 'adam', _ADAM, 100),
    (networks.mlp((784, 512, 512, 10), 128), 'momentum', _MOMENTUM, 1_000_000),
    (networks.mlp((1024, 2048, 2048, 10), 256), 'adam', _ADAM, 100),
    (image('lenet', (28, 28, 1), 128), 'momentum', _MOMENTUM, 469),
    (
      image('lenet', (28, 28, 1), 128, is_plain=True),
      *('momentum', _MOMENTUM, 469),
    ),
    (image('cifar10-quick', (32, 32, 3), 100), 'momentum', _MOMENTUM, 500),
  ]
  if jax.default_backend() == 'cpu':
    # A step of 128 images takes a CPU several seconds.
    return [
      *common,
      (
        image('alexnet', (227, 227, 3), 8, num_classes=1000),
        *('momentum', _MOMENTUM, 1000),
      ),
      (image('resnet18', (32, 32, 3), 32), 'momentum', _MOMENTUM, 500),
      (networks.transformer(64, 32, width=128), 'adam', _ADAM, 500),
    ]
  return [
    *common,
    (image('resnet18', (32, 32, 3), 128), 'momentum', _MOMENTUM, 500),
    (
      image('alexnet', (227, 227, 3), 128, num_classes=1000),
      *('momentum', _MOMENTUM, 1000),
    ),
    (
      image('alexnet', (227, 227, 3), 1536, num_classes=1000, dtype='bfloat16'),
      *('momentum', _MOMENTUM, 1000),
    ),
    (
      networks.transformer(
        1024,
        8,
        vocabulary_size=50257,
        width=768,
        num_layers=12,
        num_heads=12,
        dtype='bfloat16',
      ),
      *('adam', _ADAM, 1000),
    ),
  ]


def main(seconds: float) -> None:
  """Measures every row; about `seconds` of timing each, twice."""
  rows = []
  for case in cases():
    rows.append(measure(*case, seconds=seconds))
    print(rows[-1], flush=True)
  measuring.append('step_cost', rows, num_chase_steps=NUM_CHASE_STEPS)
