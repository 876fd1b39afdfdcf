"""A spike on one shard counts, and reactions are alike on all devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers
from tests.devices.many_devices import collectives_test
from tests.devices.many_devices import mapping

LIMIT = 3.0
CHART = isgd_jax.fixed_limits(1.0, 0.5, 4.0)
NUM_SHARDS = mapping.NUM_DEVICES


def react(axis_name, *, any_device=True, chart=CHART):
  return isgd_jax.react(
    optax.sgd(0.1, momentum=0.9),
    chart,
    isgd_jax.skip(),
    axis_name=axis_name,
    any_device=any_device,
  )


OF = {
  'react': react,
  'skip': lambda axis: isgd_jax.skip_out_of_control(
    optax.sgd(0.1, momentum=0.9), CHART, axis_name=axis, any_device=True
  ),
  'watch': lambda axis: isgd_jax.watch(CHART, axis_name=axis, any_device=True),
  'joined': lambda axis: react(
    axis,
    chart=isgd_jax.any_of(
      isgd_jax.chart_of('gradient_norm', isgd_jax.fixed_limits(1.0, 0.5, 9.0)),
      CHART,
    ),
  ),
  'isgd': lambda axis: helpers.blind_isgd(
    optax.sgd(0.1, momentum=0.9), CHART, axis_name=axis, any_device=True
  ),
}


def shard_losses(rng):
  """A loss a shard; in one of three cases a single one is beyond the limit."""
  losses = rng.uniform(0.5, 1.5, NUM_SHARDS)
  if rng.random() < 1 / 3:
    losses[rng.integers(NUM_SHARDS)] = LIMIT + 0.5
  return np.float32(losses)


@pytest.mark.parametrize('is_weighted', [False, True])
@pytest.mark.parametrize('name', OF)
@pytest.mark.parametrize('mode', mapping.MAPPED_MODES)
def test_a_spike_on_one_shard_is_flagged_on_all_devices(
  mode, name, is_weighted
):
  """The loss of the batch stays the mean, weighted where the shares are."""
  optimizer = OF[name](mapping.AXIS)

  def step(params, state, batch):
    loss, count = batch[0][0], batch[1][0]
    updates, state = optimizer.update(
      jnp.ones(3),
      state,
      params,
      value=loss,
      value_fn=lambda p: loss + 0.0 * jnp.sum(p),
      shard_weight=count if is_weighted else None,
    )
    return optax.apply_updates(params, updates), state

  eight = mapping.parallel(mode, step)
  params = jnp.ones(3)
  state = optimizer.init(params)
  rng = np.random.default_rng(0)
  flags = []
  for _ in range(20):
    losses = shard_losses(rng)
    counts = np.float32(rng.integers(0, 4, NUM_SHARDS))
    weights = counts if is_weighted else np.ones(NUM_SHARDS)
    before = params
    params, state = eight(params, state, (losses, counts))
    info = isgd_jax.get_info(state)
    expected = np.any(losses[weights > 0] > LIMIT)
    assert bool(info.is_undertrained) == expected
    mean = np.average(losses, weights=weights)
    np.testing.assert_allclose(info.loss, mean, rtol=1e-5)
    assert mean < LIMIT
    if name in ('react', 'skip', 'joined'):
      assert bool(info.is_skipped) == expected == np.array_equal(before, params)
    flags.append(expected)
  assert 3 <= sum(flags) <= 17


@pytest.mark.parametrize('mode', mapping.MAPPED_MODES)
def test_without_it_only_the_mean_counts(mode):
  optimizer = react(mapping.AXIS, any_device=False)

  def step(params, state, batch):
    updates, state = optimizer.update(
      jnp.ones(3), state, params, value=batch[0]
    )
    return params + updates, state

  losses = np.ones(NUM_SHARDS, np.float32)
  losses[3] = LIMIT + 0.5
  params = jnp.ones(3)
  _, state = mapping.parallel(mode, step)(
    params, optimizer.init(params), losses
  )
  assert not isgd_jax.get_info(state).is_undertrained


def test_a_loss_that_is_averaged_already_is_refused_where_types_say_so():
  optimizer = react(mapping.AXIS)

  def step(params, state, batch):
    value = jax.lax.pmean(batch[0], mapping.AXIS)
    return optimizer.update(jnp.ones(3), state, params, value=value)

  params = jnp.ones(3)
  with pytest.raises(ValueError, match='loss of each device'):
    mapping.parallel('shard_map', step)(
      params, optimizer.init(params), np.ones(NUM_SHARDS, np.float32)
    )


def text_of(optimizer, mode, is_weighted=False):
  """The program of a step whose value is each device's own."""

  def step(params, state, batch):
    weight = None
    loss, grads = jax.value_and_grad(collectives_test.loss_of)(params, batch)
    if mode != 'jit':
      grads = jax.lax.pmean(grads, mapping.AXIS)
      index = jax.lax.axis_index(mapping.AXIS)
      weight = 1.0 + index.astype(jnp.float32) if is_weighted else None
    updates, state = optimizer.update(
      grads, state, params, value=loss, shard_weight=weight
    )
    return optax.apply_updates(params, updates), state

  mesh = mapping.make_mesh()
  shapes = collectives_test.SHAPES
  params = {name: jnp.ones(shape) for name, shape in shapes.items()}
  batch = np.ones((16, 3), np.float32), np.ones(16, np.float32)
  if mode == 'jit':
    sharded = jax.sharding.NamedSharding(mesh, mapping.P(mapping.AXIS))
    replicated = jax.sharding.NamedSharding(mesh, mapping.P())
    jitted = jax.jit(
      step,
      in_shardings=(replicated, replicated, sharded),
      out_shardings=replicated,
    )
  else:
    jitted = mapping.shard_mapped(step, mesh, is_checked=False)
  args = params, optimizer.init(params), batch
  return jitted.lower(*args).compile().as_text()


def entry(text):
  found = collectives_test.collectives(text)
  assert set(found) == {'ENTRY'}
  return found['ENTRY']


@pytest.mark.parametrize('is_weighted', [False, True])
def test_it_sends_one_scalar_more_in_the_same_reduction(is_weighted):
  ops = {
    any_device: entry(
      text_of(
        react(mapping.AXIS, any_device=any_device),
        'shard_map_unchecked',
        is_weighted,
      )
    )
    for any_device in (False, True)
  }
  total = lambda ops: sum(num_bytes for _, num_bytes in ops)
  assert total(ops[True]) == total(ops[False]) + collectives_test.SCALAR_BYTES
  assert len(ops[True]) <= len(ops[False])


NORM = isgd_jax.chart_of('gradient_norm', isgd_jax.shewhart(8))
ALL = (isgd_jax.clip(), isgd_jax.reset(), isgd_jax.rewarm(2.0, 3))


def test_reactions_under_jit_send_what_the_base_sends():
  """Of gradients that are replicated the norm costs no all-reduce."""
  base = optax.with_extra_args_support(optax.adam(0.1))
  chart = isgd_jax.any_of(isgd_jax.shewhart(8), NORM)
  reacting = isgd_jax.react(base, chart, isgd_jax.skip(), *ALL)
  watching = isgd_jax.react(base, isgd_jax.shewhart(8))
  with jax.numpy_dtype_promotion('standard'):
    ops = entry(text_of(reacting, 'jit'))
    assert sorted(ops) == sorted(entry(text_of(watching, 'jit')))
    alone = entry(text_of(base, 'jit'))
  # The base does not use the loss: with a chart of it one scalar is reduced.
  total = lambda ops: sum(num_bytes for _, num_bytes in ops)
  assert total(ops) == total(alone) + collectives_test.SCALAR_BYTES
  assert len(ops) <= len(alone) + 1


def test_sharded_parameters_react_as_whole_ones_do():
  """And a state that was made on one device goes on when it is resharded."""
  optimizer = isgd_jax.react(
    optax.sgd(0.1, momentum=0.9),
    isgd_jax.any_of(isgd_jax.shewhart(8), NORM),
    *(isgd_jax.skip(2), isgd_jax.clip(), isgd_jax.reset('moments')),
    isgd_jax.rewarm(2.0, 3),
  )
  mesh = mapping.make_mesh()
  rng = np.random.default_rng(3)
  params = {'w': jnp.ones((16, 3)), 'b': jnp.ones(3)}

  def shardings(tree):
    return jax.tree.map(
      lambda x: jax.sharding.NamedSharding(
        mesh,
        mapping.P(mapping.AXIS) if jnp.shape(x)[:1] == (16,) else mapping.P(),
      ),
      tree,
    )

  step = jax.jit(lambda g, s, p, v: optimizer.update(g, s, p, value=v))
  state = optimizer.init(params)
  sharded = None
  num_flagged = 0
  for t in range(40):
    scale = 30.0 if t % 13 == 12 else 1.0
    grads = jax.tree.map(
      lambda p, scale=scale: np.float32(scale * rng.normal(size=p.shape)),
      params,
    )
    loss = np.float32(rng.normal(5.0, 0.1) + (t % 17 == 16))
    if t == 10:
      sharded = jax.device_put(state, shardings(state))
    if sharded is not None:
      args = grads, sharded, params
      args = tuple(jax.device_put(x, shardings(x)) for x in args)
      updates, sharded = step(*args, loss)
    expected, state = step(grads, state, params, loss)
    if sharded is not None:
      mapping.close(expected, updates, rtol=1e-4, atol=1e-6)
      mapping.close(state, sharded, rtol=1e-4, atol=1e-6)
    num_flagged += int(isgd_jax.get_info(state).is_undertrained)
  assert num_flagged >= 4
