"""Examples a second on one stream: step by step, in chunks, and beside river.

A learner of a stream predicts, then learns. Called from Python for each batch,
a small network waits for the call; a chunk of what has arrived, through one
`lax.scan` with the state and the chart carried, makes the same numbers.

deep-river (PyTorch) wants an environment of its own: `python -m venv`, `pip
install deep-river pytest`, and that Python's path in DEEP_RIVER_PYTHON. river
(Cython) is measured there too.
"""

import functools
import json
import os
import pathlib
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measuring
from benchmarks import networks
import isgd_jax

NUM_FEATURES, NUM_HIDDEN, NUM_CLASSES = 8, 32, 2
CHUNK_SIZE = 256
BATCH_SIZES = (1, 16)
RATE = 1e-3
OPTIMIZERS = {
  'adam': optax.adam(RATE),
  'isgd': isgd_jax.isgd(optax.adam(RATE), isgd_jax.default_chart(50)),
}


def make_stream(num_examples: int) -> tuple[np.ndarray, np.ndarray]:
  """Features, and classes that depend on them: [n, d] and [n]."""
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(num_examples, NUM_FEATURES)).astype(np.float32)
  return inputs, (inputs[:, 0] + inputs[:, 1] ** 2 > 1).astype(np.int32)


def make_step(optimizer: optax.GradientTransformationExtraArgs):
  """`step(carry, batch) -> (carry, loss)`: the loss is of before learning."""
  loss_fn = networks.mlp((NUM_FEATURES, NUM_HIDDEN, NUM_CLASSES), 1).loss_fn

  def step(carry, batch):
    params, opt_state = carry
    value, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = optimizer.update(
      grads,
      opt_state,
      params,
      value=value,
      value_fn=lambda p: loss_fn(p, batch),
    )
    return (optax.apply_updates(params, updates), opt_state), value

  return step


def run_step_by_step(step, carry, batches):
  """A call a batch."""
  losses = []
  for batch in batches:
    carry, loss = step(carry, batch)
    losses.append(loss)
  return carry, np.asarray(jax.device_get(losses))


def run_in_chunks(chunk_step, carry, batches):
  """A call a chunk."""
  inputs, labels = batches
  losses = []
  for start in range(0, len(inputs), CHUNK_SIZE):
    chunk = (
      inputs[start : start + CHUNK_SIZE],
      labels[start : start + CHUNK_SIZE],
    )
    carry, loss = chunk_step(carry, chunk)
    losses.append(loss)
  return carry, np.concatenate(jax.device_get(losses))


def measure(name: str, batch_size: int) -> list[dict]:
  """Both ways of one optimizer, which must agree."""
  step = make_step(OPTIMIZERS[name])
  num_batches = 16 * CHUNK_SIZE
  inputs, labels = make_stream(num_batches * batch_size)
  inputs = inputs.reshape(num_batches, batch_size, -1)
  labels = labels.reshape(num_batches, batch_size)
  params = networks.mlp((NUM_FEATURES, NUM_HIDDEN, NUM_CLASSES), 1).params
  jitted = jax.jit(step, donate_argnums=0)
  chunked = jax.jit(functools.partial(jax.lax.scan, step), donate_argnums=0)

  def new_carry():
    copied = jax.tree.map(jnp.copy, params)
    return copied, OPTIMIZERS[name].init(copied)

  runs = {
    'a call a batch': lambda carry: run_step_by_step(
      jitted, carry, list(zip(inputs, labels, strict=True))
    ),
    f'chunks of {CHUNK_SIZE}': lambda carry: run_in_chunks(
      chunked, carry, (inputs, labels)
    ),
  }
  losses = [run(new_carry())[1] for run in runs.values()]
  difference = float(np.max(np.abs(losses[0] - losses[1])))
  seconds = dict.fromkeys(runs, np.inf)
  for _ in range(5):
    for way, run in runs.items():
      carry = jax.block_until_ready(new_carry())
      start = time.perf_counter()
      jax.block_until_ready(run(carry))
      seconds[way] = min(seconds[way], time.perf_counter() - start)
  return [
    {
      'learner': f'{name}, {way}',
      'batch_size': batch_size,
      'examples_per_second': round(inputs[..., 0].size / took),
      'largest_loss_difference': difference,
    }
    for way, took in seconds.items()
  ]


def _measure_peers(python: str) -> list[dict]:
  """What `stream_peers.py` prints under another Python."""
  script = pathlib.Path(__file__).with_name('stream_peers.py')
  done = subprocess.run(
    [python, script], check=True, stdout=subprocess.PIPE, timeout=600
  )
  return [json.loads(line) for line in done.stdout.splitlines()]


def main(seconds: float) -> None:
  """Measures all; the best of five runs, each of 4,096 batches."""
  del seconds
  rows = []
  for batch_size in BATCH_SIZES:
    for name in OPTIMIZERS:
      rows += measure(name, batch_size)
  python = os.environ.get('DEEP_RIVER_PYTHON')
  if python:
    rows += _measure_peers(python)
  else:
    print('DEEP_RIVER_PYTHON is not set: river and deep-river not measured')
  for row in rows:
    print(row)
  measuring.append('stream_speed', rows, chunk_size=CHUNK_SIZE)
