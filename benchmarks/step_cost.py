"""What inconsistent SGD costs a training step: ratios to the base optimizer.

Every program of a row runs in turn in one process (A B A B ...), so that a
machine whose speed drifts slows all of them. Prints one table and appends it as
a JSON line to `--out`. Run by hand, on a machine with nothing else to do:

    make bench

Columns:
  base ms       median step of the base optimizer alone
  untriggered   median step of ISGD that flags nothing / base
  (spread)      quartiles of the pairwise ratio
  1 + m chase   median step that chases m = 5 steps / base, over 1 + m
  compile       seconds to compile the ISGD step / the base step
  memory        live bytes above the base step, in copies of the parameters
"""

import argparse
from collections.abc import Callable
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

import isgd_jax

NUM_CHASE_STEPS = 5


class Workload(NamedTuple):
  """A network, a batch, and how often to time its step."""

  name: str
  params: Any
  batch: tuple[jax.Array, jax.Array]
  logits_fn: Callable[[Any, jax.Array], jax.Array]
  num_rounds: int


def mlp(sizes: tuple[int, ...], batch_size: int, num_rounds: int) -> Workload:
  """A ReLU network of fully connected layers."""
  keys = jax.random.split(jax.random.key(0), len(sizes))
  params = [
    (jax.random.normal(key, (m, n)) * (2 / m) ** 0.5, jnp.zeros(n))
    for key, m, n in zip(keys, sizes, sizes[1:], strict=False)
  ]

  def logits_fn(params, x):
    *hidden, (w_out, b_out) = params
    for w, b in hidden:
      x = jax.nn.relu(x @ w + b)
    return x @ w_out + b_out

  name = f'MLP {"-".join(map(str, sizes))}, batch {batch_size}'
  batch = make_batch((batch_size, sizes[0]), sizes[-1])
  return Workload(name, params, batch, logits_fn, num_rounds)


def lenet(batch_size: int, num_rounds: int) -> Workload:
  """Caffe's LeNet: 431,080 parameters on 28 x 28 images."""
  shapes = ((5, 5, 1, 20), (5, 5, 20, 50), (800, 500), (500, 10))
  keys = jax.random.split(jax.random.key(0), len(shapes))
  params = [
    (
      jax.random.normal(key, shape) * (2 / np.prod(shape[:-1])) ** 0.5,
      jnp.zeros(shape[-1]),
    )
    for key, shape in zip(keys, shapes, strict=True)
  ]

  def convolve_and_pool(x, w, b):
    x = jax.lax.conv_general_dilated(
      x, w, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return jax.lax.reduce_window(
      x + b, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID'
    )

  def logits_fn(params, x):
    first, second, (w_fc, b_fc), (w_out, b_out) = params
    x = convolve_and_pool(x, *first)
    x = convolve_and_pool(x, *second)
    x = jax.nn.relu(x.reshape(len(x), -1) @ w_fc + b_fc)
    return x @ w_out + b_out

  batch = make_batch((batch_size, 28, 28, 1), 10)
  name = f'LeNet, batch {batch_size}'
  return Workload(name, params, batch, logits_fn, num_rounds)


def make_batch(
  shape: tuple[int, ...], num_classes: int
) -> tuple[jax.Array, jax.Array]:
  """Random inputs and labels: their values do not change the time."""
  inputs = jax.random.normal(jax.random.key(1), shape)
  return inputs, jnp.arange(shape[0]) % num_classes


def always_flagging(chart: isgd_jax.ControlChart) -> isgd_jax.ControlChart:
  """`chart`, with every loss above its limit and a target out of reach."""

  def update(state, loss):
    state, reading = chart.update(state, loss)
    return state, reading._replace(
      mean=jnp.zeros_like(reading.mean), is_above=jnp.isfinite(loss)
    )

  return isgd_jax.ControlChart(chart.init, update)


def programs(
  base: optax.GradientTransformation, window_size: int
) -> dict[str, optax.GradientTransformationExtraArgs]:
  """The base optimizer, ISGD that never chases, and ISGD that always does."""
  chart = isgd_jax.shewhart(window_size, 1e6)
  return {
    'base': optax.with_extra_args_support(base),
    'untriggered': isgd_jax.isgd(base, chart),
    'chase': isgd_jax.isgd(
      base,
      always_flagging(chart),
      # Steps so short that the guard and the target never end the chase.
      solver=isgd_jax.gradient_descent(1e-6),
      max_chase_steps=NUM_CHASE_STEPS,
    ),
  }


def compile_step(
  workload: Workload, optimizer: optax.GradientTransformationExtraArgs
) -> tuple[Any, float]:
  """The compiled training step, state donated, and the seconds it took."""

  def loss_fn(params, batch):
    inputs, labels = batch
    logits = workload.logits_fn(params, inputs)
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    )

  def step(params, opt_state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = optimizer.update(
      grads,
      opt_state,
      params,
      value=loss,
      value_fn=lambda p: loss_fn(p, batch),
    )
    return optax.apply_updates(params, updates), opt_state

  lowered = jax.jit(step, donate_argnums=(0, 1)).lower(
    workload.params, optimizer.init(workload.params), workload.batch
  )
  start = time.perf_counter()
  compiled = lowered.compile()
  return compiled, time.perf_counter() - start


def live_bytes(compiled: Any) -> int:
  """Temporaries and fresh outputs of a compiled step."""
  memory = compiled.memory_analysis()
  return (
    memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
  )


def measure(
  workload: Workload, base_name: str, base: Any, window_size: int
) -> dict[str, Any]:
  """One row of the table."""
  optimizers = programs(base, window_size)
  compiled, compile_seconds, carries = {}, {}, {}
  for name, optimizer in optimizers.items():
    compiled[name], compile_seconds[name] = compile_step(workload, optimizer)
    params = jax.tree.map(jnp.copy, workload.params)
    carries[name] = params, optimizer.init(params)
  seconds = {name: [] for name in optimizers}
  for _ in tqdm.trange(
    workload.num_rounds, desc=f'{workload.name}, {base_name}', leave=False
  ):
    for name, step in compiled.items():
      start = time.perf_counter()
      carries[name] = jax.block_until_ready(
        step(*carries[name], workload.batch)
      )
      seconds[name].append(time.perf_counter() - start)
  check(carries, workload.num_rounds)
  warm = {
    name: np.array(s[workload.num_rounds // 10 :])
    for name, s in seconds.items()
  }
  median = {name: float(np.median(s)) for name, s in warm.items()}
  num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(workload.params))
  return {
    'workload': workload.name,
    'base': base_name,
    'window_size': window_size,
    'base_ms': 1e3 * median['base'],
    'untriggered': median['untriggered'] / median['base'],
    'untriggered_quartiles': np.quantile(
      warm['untriggered'] / warm['base'], (0.25, 0.75)
    ).tolist(),
    'untriggered_extra_us': 1e6 * (median['untriggered'] - median['base']),
    'chase': median['chase'] / median['base'] / (1 + NUM_CHASE_STEPS),
    'compile': compile_seconds['untriggered'] / compile_seconds['base'],
    'compile_seconds': compile_seconds['untriggered'],
    'memory_copies': (
      live_bytes(compiled['untriggered']) - live_bytes(compiled['base'])
    )
    / num_bytes,
  }


def check(carries: dict[str, Any], num_steps: int) -> None:
  """Raises unless each program did what its column says."""
  expected = {'untriggered': 1, 'chase': 1 + NUM_CHASE_STEPS}
  for name, factor in expected.items():
    info = isgd_jax.get_info(carries[name][1])
    if int(info.num_gradient_evaluations) != factor * num_steps:
      raise RuntimeError(f'{name} did not do its work: {info}')


def environment() -> dict[str, Any]:
  """Hardware, versions and date."""
  packages = ('jax', 'jaxlib', 'optax', 'isgd_jax')
  return {
    'date': datetime.date.today().isoformat(),
    'device': jax.devices()[0].device_kind,
    'machine': platform.machine(),
    'num_cpus': os.cpu_count(),
    'python': platform.python_version(),
    **{name: importlib.metadata.version(name) for name in packages},
  }


def main() -> None:
  """Measures every row and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path, help='JSON lines to append')
  parser.add_argument('--quick', action='store_true', help='fewer rounds')
  options = parser.parse_args()
  scale = 5 if options.quick else 1
  momentum = optax.sgd(0.01, momentum=0.9)
  adam = optax.adam(1e-3)
  dispatch_bound = mlp((64, 64, 10), 32, 3000 // scale)
  small = mlp((784, 128, 10), 128, 1000 // scale)
  medium = mlp((784, 512, 512, 10), 128, 200 // scale)
  large = mlp((1024, 2048, 2048, 10), 256, 50 // scale)
  convolutional = lenet(128, 25 // scale)
  cases = [
    (dispatch_bound, 'momentum', momentum, 100),
    (small, 'momentum', momentum, 100),
    (small, 'momentum', momentum, 1_000_000),
    (medium, 'momentum', momentum, 100),
    (medium, 'adam', adam, 100),
    (medium, 'momentum', momentum, 1_000_000),
    (large, 'adam', adam, 100),
    (convolutional, 'momentum', momentum, 469),
  ]
  rows = [measure(*case) for case in cases]
  print(json.dumps(environment()))
  print(
    '| workload | base | window | base ms | untriggered (spread) '
    f'| chase of {NUM_CHASE_STEPS} / (1 + {NUM_CHASE_STEPS}) | compile '
    '| memory, copies |'
  )
  print('| --- | --- | --- | --- | --- | --- | --- | --- |')
  for row in rows:
    low, high = row['untriggered_quartiles']
    print(
      f'| {row["workload"]} | {row["base"]} | {row["window_size"]:,} '
      f'| {row["base_ms"]:.3f} | {row["untriggered"]:.3f} '
      f'({low:.3f} to {high:.3f}) | {row["chase"]:.3f} '
      f'| {row["compile"]:.2f} | {row["memory_copies"]:+.2f} |'
    )
  if options.out:
    with options.out.open('a') as file:
      record = {
        **environment(),
        'num_chase_steps': NUM_CHASE_STEPS,
        'rows': rows,
      }
      file.write(json.dumps(record) + '\n')


if __name__ == '__main__':
  main()
