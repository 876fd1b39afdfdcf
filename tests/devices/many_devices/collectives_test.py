"""What devices say to one another, read from the compiled program."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers
from tests.devices.many_devices import mapping

BASE = optax.with_extra_args_support(optax.sgd(0.02, momentum=0.9))
SHAPES = {'w': (3, 4), 'v': (4,)}
GRADIENT_BYTES = 4 * (3 * 4 + 4)
SCALAR_BYTES = 4
COLLECTIVE = re.compile(
  r'= (\S.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|'
  r'collective-permute)(?:-start)?\('
)


def loss_of(params, batch):
  x, y = batch
  return jnp.mean(jnp.square(jnp.tanh(x @ params['w']) @ params['v'] - y))


def make_step(optimizer, axis_name, *, is_weighted=False):
  def step(params, state, batch):
    weight = jnp.float32(3.0) if is_weighted else None
    if is_weighted and axis_name:  # Another number on each device.
      weight = 1.0 + jax.lax.axis_index(axis_name).astype(jnp.float32)
    loss, grads = isgd_jax.value_and_grad(
      loss_of, axis_name=axis_name, shard_weight=weight
    )(params, batch)
    updates, state = optimizer.update(
      grads,
      state,
      params,
      value=loss,
      value_fn=lambda p: loss_of(p, batch),
      shard_weight=weight,
    )
    return optax.apply_updates(params, updates), (state, loss)

  return step


def compiled_text(mode, make_optimizer, *, is_weighted=False):
  """The optimized program of a step."""
  axis_name = mapping.axis_name_in(mode)
  optimizer = make_optimizer(axis_name)
  step = make_step(optimizer, axis_name, is_weighted=is_weighted)
  mesh = mapping.make_mesh()
  params = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
  batch = np.ones((16, 3), np.float32), np.ones(16, np.float32)
  args = params, optimizer.init(params), batch
  if mode == 'jit':
    sharded = jax.sharding.NamedSharding(mesh, mapping.P(mapping.AXIS))
    replicated = jax.sharding.NamedSharding(mesh, mapping.P())
    jitted = jax.jit(
      step,
      in_shardings=(replicated, replicated, sharded),
      out_shardings=replicated,
    )
  else:
    jitted = mapping.shard_mapped(step, mesh, is_checked=mode == 'shard_map')
  return jitted.lower(*args).compile().as_text()


def collectives(text):
  """Computation -> bytes of each of its collectives; ENTRY is the main path."""
  found = {}
  computation = ''
  for line in text.splitlines():
    if head := re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', line):
      computation = 'ENTRY' if head[1] else head[2]
    if match := COLLECTIVE.search(line):
      shapes = re.findall(r'[a-z]\w*\[([\d,]*)\]', match[1])
      num_bytes = sum(
        4 * math.prod(int(n) for n in shape.split(',') if n) for shape in shapes
      )
      found.setdefault(computation, []).append((match[2], num_bytes))
  return found


def isgd_of(axis_name):
  return helpers.blind_isgd(
    BASE, isgd_jax.shewhart(6, 1.5), axis_name=axis_name
  )


def update_then_chase_of(axis_name):
  return helpers.blind_isgd(
    BASE,
    isgd_jax.shewhart(6, 1.5),
    axis_name=axis_name,
    base_update_when_chasing=True,
  )


@pytest.mark.every_case
@pytest.mark.parametrize('make_optimizer', [isgd_of, update_then_chase_of])
@pytest.mark.parametrize(
  ('mode', 'is_weighted'),
  [
    ('shard_map', False),
    ('shard_map', True),
    ('shard_map_unchecked', False),
    ('shard_map_unchecked', True),
    ('jit', False),
  ],
)
def test_a_step_without_a_chase_says_what_the_base_says(
  mode, is_weighted, make_optimizer
):
  base = collectives(
    compiled_text(mode, lambda _: BASE, is_weighted=is_weighted)
  )
  isgd = collectives(
    compiled_text(mode, make_optimizer, is_weighted=is_weighted)
  )
  assert set(base) == {'ENTRY'}
  # Where no type says that all devices have one loss, it is averaged: a scalar.
  total_of = lambda ops: sum(num_bytes for _, num_bytes in ops)
  averaged = SCALAR_BYTES * (mode == 'shard_map_unchecked')
  assert total_of(isgd['ENTRY']) == total_of(base['ENTRY']) + averaged
  if not averaged:
    assert sorted(isgd['ENTRY']) == sorted(base['ENTRY'])
  total = sum(num_bytes for _, num_bytes in base['ENTRY'])
  assert total == GRADIENT_BYTES + (1 + is_weighted) * SCALAR_BYTES


@pytest.mark.parametrize('mode', ['shard_map', 'shard_map_unchecked', 'jit'])
def test_a_chase_step_reduces_a_gradient_and_a_scalar(mode):
  found = collectives(compiled_text(mode, isgd_of))
  del found['ENTRY']
  total = sum(n for ops in found.values() for _, n in ops)
  assert {kind for ops in found.values() for kind, _ in ops} == {'all-reduce'}
  assert total == GRADIENT_BYTES + SCALAR_BYTES, found
