"""Shares of unequal size, each in its own number of microbatches."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers
from tests.devices.many_devices import mapping
from tests.devices.many_devices.collectives_test import collectives

MICROBATCH_SIZE = 4
# 1 : 2 : 5, for the last of the devices most.
SPEEDS = (1, 2, 5, 1, 2, 5, 1, 2)
BATCH_SIZE = 32 * MICROBATCH_SIZE
P = jax.sharding.PartitionSpec


def loss_of(params, batch):
  x, y = batch
  return jnp.mean(jnp.square(jnp.tanh(x @ params['w']) @ params['v'] - y))


local_loss = isgd_jax.microbatched(loss_of, microbatch_size=MICROBATCH_SIZE)


def make_params():
  return {
    'w': jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32),
    'v': jnp.ones(4),
  }


def batch_at(step):
  rng = np.random.default_rng(step)
  x = rng.normal(size=(BATCH_SIZE, 3)).astype(np.float32)
  return x, ((1.0 + 3.0 * (step % 9 == 8)) * x[:, 0]).astype(np.float32)


def shards_of(batch, sharding=None):
  sizes = isgd_jax.proportional_shards(
    BATCH_SIZE, SPEEDS, microbatch_size=MICROBATCH_SIZE
  )
  return isgd_jax.pad_shards(
    batch, sizes, microbatch_size=MICROBATCH_SIZE, sharding=sharding
  )


def make_step(optimizer):
  def step(params, state, shards):
    count = shards.num_microbatches[0]
    loss_fn = lambda p: local_loss(p, shards.data, count)
    value, grads = isgd_jax.value_and_grad(
      loss_fn, axis_name=mapping.AXIS, shard_weight=count
    )(params)
    updates, state = optimizer.update(
      grads, state, params, value=value, value_fn=loss_fn, shard_weight=count
    )
    return optax.apply_updates(params, updates), state

  return step


@pytest.mark.every_case
@pytest.mark.parametrize('mode', ['shard_map', 'shard_map_unchecked', 'pmap'])
def test_the_gradient_is_that_of_the_global_batch(mode):
  def step(params, state, shards):
    count = shards.num_microbatches[0]
    value, grad = isgd_jax.value_and_grad(
      local_loss, axis_name=mapping.AXIS, shard_weight=count
    )(params, shards.data, count)
    return grad, value

  shards = shards_of(batch_at(0))
  assert sorted(shards.num_microbatches) == [2, 2, 2, 3, 3, 3, 8, 9]
  # Padding that is computed with would show.
  is_padding = np.tile(np.arange(36), 8) >= np.repeat(
    shards.num_microbatches * MICROBATCH_SIZE, 36
  )
  x, y = shards.data
  shards = shards._replace(data=(np.where(is_padding[:, None], np.nan, x), y))
  params = make_params()
  grad, value = mapping.parallel(mode, step)(params, 0.0, shards)
  expected = jax.value_and_grad(loss_of)(params, batch_at(0))
  mapping.close(expected, (value, grad), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize('mode', ['shard_map', 'shard_map_unchecked', 'pmap'])
def test_every_step_is_that_of_one_device(mode):
  make = lambda axis_name: helpers.blind_isgd(
    optax.sgd(0.02, momentum=0.9),
    isgd_jax.shewhart(6, 1.5),
    axis_name=axis_name,
  )
  optimizer = make(None)

  @jax.jit
  def single(params, state, batch):
    value, grads = jax.value_and_grad(loss_of)(params, batch)
    updates, state = optimizer.update(
      grads, state, params, value=value, value_fn=lambda p: loss_of(p, batch)
    )
    return optax.apply_updates(params, updates), state

  eight = mapping.parallel(mode, make_step(make(mapping.AXIS)))
  params = make_params()
  state = optimizer.init(params)
  num_chase_steps = 0
  for i in range(40):
    batch = batch_at(i)
    expected = single(params, state, batch)
    mapping.close(
      expected, eight(params, state, shards_of(batch)), rtol=2e-4, atol=2e-5
    )
    num_chase_steps += int(isgd_jax.get_info(expected[1]).num_chase_steps)
    params, state = expected
  assert num_chase_steps >= 5


def test_no_device_waits_for_another_between_microbatches():
  """No collective in the loop whose number of trips differs."""
  mesh = mapping.make_mesh()
  optimizer = optax.with_extra_args_support(optax.sgd(0.1))
  sharding = jax.sharding.NamedSharding(mesh, P(mapping.AXIS))
  shards = shards_of(batch_at(0), sharding)
  assert shards.data[0].sharding == sharding
  params = make_params()

  def step(params, state, shards):
    count = shards.num_microbatches[0]
    _, grads = isgd_jax.value_and_grad(
      local_loss, axis_name=mapping.AXIS, shard_weight=count
    )(params, shards.data, count)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  text = (
    mapping.shard_mapped(step, mesh, is_checked=True)
    .lower(params, optimizer.init(params), shards)
    .compile()
    .as_text()
  )
  found = collectives(text)
  assert set(found) == {'ENTRY'}
  assert {kind for kind, _ in found['ENTRY']} == {'all-reduce'}
  assert re.search(r' while\(', text[text.index('\nENTRY') :])


def test_sizes_are_checked_against_the_devices():
  sharding = jax.sharding.NamedSharding(mapping.make_mesh(), P(mapping.AXIS))
  with pytest.raises(ValueError, match='one for each of the 8 parts'):
    isgd_jax.pad_shards(
      np.zeros(12), (4, 4, 4), microbatch_size=4, sharding=sharding
    )


def test_every_device_is_measured():
  throughputs = isgd_jax.measure_throughputs(
    loss_of, make_params(), batch_at(0), num_repeats=2
  )
  assert throughputs.shape == (8,)
  assert (throughputs > 0).all()
  two = isgd_jax.measure_throughputs(
    loss_of,
    make_params(),
    batch_at(0),
    devices=jax.devices()[3:5],
    num_repeats=2,
  )
  assert two.shape == (2,)
