"""One device against eight, in every way JAX maps over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers
from tests.devices.many_devices import mapping

NUM_STEPS = 200
BATCH_SIZE = 64


def loss_of(params, batch):
  """Mean over the examples that count."""
  x, y, mask = batch
  losses = jnp.square(jnp.tanh(x @ params['w']) @ params['v'] - y)
  return jnp.sum(mask * losses) / jnp.sum(mask)


def make_step(axis_name, *, is_weighted=False, optimizer=None):
  optimizer = optimizer or helpers.blind_isgd(
    optax.sgd(0.02, momentum=0.9),
    isgd_jax.shewhart(6, 1.5),
    axis_name=axis_name,
  )

  def step(params, state, batch):
    weight = jnp.sum(batch[2]) if is_weighted else None
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
    return optax.apply_updates(params, updates), state

  return optimizer, step


def initial_params(dtype='float32'):
  rng = np.random.default_rng(0)
  return {
    'w': jnp.asarray(rng.normal(size=(3, 4)), dtype),
    'v': jnp.ones(4, dtype),
  }


def batch_at(step, *, dtype='float32', is_masked=False, hardness=4.0, period=9):
  """A batch whose shards differ; the last one of a period is hard."""
  rng = np.random.default_rng(step)
  x = rng.normal(size=(BATCH_SIZE, 3))
  scale = hardness if step % period == period - 1 else 1.0
  y = scale * x[:, 0] * np.linspace(0.2, 2.0, BATCH_SIZE)
  mask = np.ones(BATCH_SIZE)
  if is_masked:
    # Shares of 0, 1, ... examples; what is masked would spoil any sum.
    size = BATCH_SIZE // mapping.NUM_DEVICES
    counts = rng.permutation(mapping.NUM_DEVICES)
    mask = (np.arange(size) < counts[:, None]).reshape(-1).astype(float)
    x = np.where(mask[:, None] > 0, x, 1e3)
  return tuple(np.asarray(a, dtype) for a in (x, y, mask))


def local_losses(params, batch):
  shards = [
    [a.reshape(mapping.NUM_DEVICES, -1, *a.shape[1:])[i] for a in batch]
    for i in range(mapping.NUM_DEVICES)
  ]
  return [float(loss_of(params, s)) for s in shards if s[2].sum()]


@pytest.mark.every_case
@pytest.mark.parametrize('is_masked', [False, True])
@pytest.mark.parametrize('mode', mapping.MODES)
def test_every_step_is_that_of_one_device(mode, is_masked):
  """From one state, with local losses on both sides of the limit."""
  optimizer, step = make_step(None)
  single = jax.jit(step)
  axis_name = mapping.axis_name_in(mode)
  eight = mapping.parallel(mode, make_step(axis_name, is_weighted=is_masked)[1])
  params = initial_params()
  state = optimizer.init(params)
  num_chases = num_straddles = 0
  for i in range(60 if is_masked else NUM_STEPS):
    batch = batch_at(i, is_masked=is_masked)
    expected = single(params, state, batch)
    got = eight(params, state, batch)
    mapping.close(expected, got, rtol=2e-4, atol=2e-5)
    info = isgd_jax.get_info(expected[1])
    if i % 9 == 8:
      local = local_losses(params, batch)
      num_straddles += min(local) < float(info.control_limit) < max(local)
    num_chases += int(info.num_chase_steps) > 0
    params, state = expected
  assert num_chases >= 5, num_chases
  assert num_straddles >= 3, num_straddles


@pytest.mark.parametrize('mode', mapping.MODES)
def test_whole_trajectories_agree_in_float64(mode):
  """A chase of a very hard batch is chaotic, so these are less so."""
  with jax.enable_x64(True):
    optimizer, step = make_step(None)
    single = jax.jit(step)
    axis_name = mapping.axis_name_in(mode)
    is_weighted = mode != 'jit'
    eight = mapping.parallel(
      mode, make_step(axis_name, is_weighted=is_weighted)[1]
    )
    params = initial_params('float64')
    expected = got = (params, optimizer.init(params))
    for i in range(NUM_STEPS):
      batch = batch_at(i, dtype='float64', hardness=2.0, is_masked=True)
      expected = single(*expected, batch)
      got = eight(*got, batch)
    mapping.close(expected, got, rtol=1e-6, atol=1e-9)
    assert int(isgd_jax.get_info(expected[1]).num_undertrained) >= 20


@pytest.mark.parametrize('mode', ['shard_map', 'pmap'])
def test_the_published_algorithm_decides_once_too(mode):
  make = lambda axis_name: isgd_jax.paper_isgd(
    optax.sgd(0.02, momentum=0.9),
    batches_per_epoch=20,
    chase_learning_rate=0.001,
    axis_name=axis_name,
  )
  optimizer, step = make_step(None, optimizer=make(None))
  single = jax.jit(step)
  eight = mapping.parallel(
    mode,
    make_step(mapping.AXIS, is_weighted=True, optimizer=make(mapping.AXIS))[1],
  )
  params = initial_params()
  state = optimizer.init(params)
  num_chase_steps = 0
  for i in range(80):
    batch = batch_at(i, is_masked=True, hardness=8.0, period=25)
    expected = single(params, state, batch)
    mapping.close(expected, eight(params, state, batch), rtol=2e-4, atol=2e-5)
    num_chase_steps += int(isgd_jax.get_info(expected[1]).num_chase_steps)
    params, state = expected
  assert num_chase_steps >= 3


@pytest.mark.parametrize('mode', mapping.MAPPED_MODES)
def test_a_share_of_nothing_but_padding_adds_nothing(mode):
  """Also where its local loss and gradient are not numbers."""

  def step(params, state, batch):
    weight = jnp.sum(batch[2])
    value, grad = isgd_jax.value_and_grad(
      loss_of, axis_name=mapping.AXIS, shard_weight=weight
    )(params, batch)
    return grad, value

  x, y, _ = batch_at(3)
  mask = (np.arange(BATCH_SIZE) < 11).astype(np.float32)  # Six are idle.
  params = initial_params()
  grad, value = mapping.parallel(mode, step)(params, 0.0, (x, y, mask))
  batch = x[:11], y[:11], mask[:11]
  expected = jax.value_and_grad(loss_of)(params, batch)
  mapping.close(expected, (value, grad), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('weight', [None, 3.0, 'varying'])
@pytest.mark.parametrize('mode', mapping.MAPPED_MODES)
def test_a_loss_that_is_reduced_already_is_differentiated_once(mode, weight):
  def step(params, state, x):
    loss = lambda w: jax.lax.pmean(jnp.mean(w * x), mapping.AXIS)
    share = weight
    if weight == 'varying':
      share = 1.0 + jax.lax.axis_index(mapping.AXIS).astype(jnp.float32)
    value, grad = isgd_jax.value_and_grad(
      loss, axis_name=mapping.AXIS, shard_weight=share
    )(params)
    return grad, value

  x = np.arange(16, dtype=np.float32)
  grad, value = mapping.parallel(mode, step)(jnp.float32(2.0), 0.0, x)
  mapping.close((7.5, 15.0), (grad, value), rtol=1e-6)


@pytest.mark.parametrize('is_checked', [False, True])
def test_a_weight_may_vary_over_one_of_two_axes(is_checked):
  mesh = jax.make_mesh(
    (4, 2), ('a', 'b'), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  P = jax.sharding.PartitionSpec

  def step(x):
    weight = 1 + jax.lax.axis_index('a')
    return isgd_jax.value_and_grad(
      lambda w: jnp.mean(w * x), axis_name=('a', 'b'), shard_weight=weight
    )(jnp.float32(2.0))

  x = np.arange(8, dtype=np.float32)
  value, grad = jax.jit(
    jax.shard_map(
      step,
      mesh=mesh,
      in_specs=P(('a', 'b')),
      out_specs=P(),
      check_vma=is_checked,
    )
  )(x)
  expected = np.average(x, weights=[1, 1, 2, 2, 3, 3, 4, 4])
  mapping.close((2 * expected, expected), (value, grad), rtol=1e-6)


ACTIONS = {
  'isgd': lambda axis: isgd_jax.isgd(
    optax.sgd(0.02, momentum=0.9), isgd_jax.shewhart(6, 1.5), axis_name=axis
  ),
  'blind': lambda axis: helpers.blind_isgd(
    optax.sgd(0.02, momentum=0.9), isgd_jax.shewhart(6, 1.5), axis_name=axis
  ),
  'skip': lambda axis: isgd_jax.skip_out_of_control(
    optax.sgd(0.02, momentum=0.9), isgd_jax.shewhart(6, 1.5), axis_name=axis
  ),
  'watch': lambda axis: optax.chain(
    isgd_jax.watch(isgd_jax.shewhart(6, 1.5), axis_name=axis),
    optax.sgd(0.02, momentum=0.9),
  ),
}


@pytest.mark.parametrize('is_weighted', [False, True])
@pytest.mark.parametrize('action', ACTIONS)
@pytest.mark.parametrize('mode', mapping.MAPPED_MODES)
def test_a_device_that_passes_its_own_loss_decides_with_all_others(
  mode, action, is_weighted
):
  """It would wait for ever in a chase, or skip where others do not."""
  optimizer = ACTIONS[action](mapping.AXIS)

  def step(params, state, batch):
    weight = jnp.sum(batch[2]) if is_weighted else None
    _, grads = isgd_jax.value_and_grad(
      loss_of, axis_name=mapping.AXIS, shard_weight=weight
    )(params, batch)
    own = loss_of(params, batch)
    updates, state = optimizer.update(
      grads,
      state,
      params,
      value=own,
      value_fn=lambda p: loss_of(p, batch),
      shard_weight=weight,
    )
    return optax.apply_updates(params, updates), state

  eight = mapping.parallel(mode, step)
  params = initial_params()
  state = optimizer.init(params)
  num_flagged = 0
  for index in range(40):
    batch = batch_at(index, is_masked=is_weighted)
    loss = loss_of(params, batch)
    params, state = eight(params, state, batch)
    info = isgd_jax.get_info(state)
    np.testing.assert_allclose(info.loss, loss, rtol=1e-4)
    num_flagged += bool(info.is_undertrained)
  assert num_flagged > 0
