"""The Flax helpers, and Equinox without one, where a chase meets model state.

The network has BatchNorm and dropout, so that any evaluation too many shows:
in the statistics, in the keys, or in a loss under another dropout mask.
"""

import chex
import equinox as eqx
from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax import training
from tests import helpers

WIDTH = 16


@pytest.fixture(autouse=True)
def standard_promotion():
  """Flax and Equinox do not promise to trace under strict promotion."""
  with jax.numpy_dtype_promotion('standard'):
    yield


def batches(num_steps=14, shift_at=10):
  """Regression batches whose targets jump, so that the chart flags one."""
  for step in range(num_steps):
    x = jax.random.normal(jax.random.key(step), (32, 3))
    yield x, x.sum(1) + (8.0 if step >= shift_at else 0.0)


def chasing(base):
  return helpers.blind_isgd(base, isgd_jax.shewhart(8, 3.0))


def info_of(opt_state):
  return jax.device_get(isgd_jax.get_info(opt_state))


class NNXNet(nnx.Module):
  def __init__(self, rngs):
    self.hidden = nnx.Linear(3, WIDTH, rngs=rngs)
    self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.out = nnx.Linear(WIDTH, 1, rngs=rngs)

  def __call__(self, x):
    x = self.dropout(nnx.relu(self.norm(self.hidden(x))))
    return self.out(x)[:, 0]


def nnx_loss(model, x, y):
  predictions = model(x)
  return jnp.mean((predictions - y) ** 2), predictions


evaluate_nnx_loss = nnx.jit(nnx_loss)


@nnx.jit
def nnx_step(model, optimizer, x, y):
  value_fn = training.nnx_value_fn(nnx_loss, model, x, y, has_aux=True)
  (loss, _), grads = nnx.value_and_grad(nnx_loss, has_aux=True)(model, x, y)
  optimizer.update(model, grads, value=loss, value_fn=value_fn)
  return loss


def test_nnx_chase_leaves_statistics_and_keys_of_the_first_evaluation():
  model = NNXNet(nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, chasing(optax.sgd(0.02)), wrt=nnx.Param)
  num_chased = 0
  for x, y in batches():
    before = nnx.clone(model)
    once = nnx.clone(model)
    loss, _ = evaluate_nnx_loss(once, x, y)
    nnx_step(model, optimizer, x, y)
    chex.assert_trees_all_close(
      jax.tree.map(_plain, nnx.as_pure(nnx.state(model, _not_param))),
      jax.tree.map(_plain, nnx.as_pure(nnx.state(once, _not_param))),
      rtol=1e-5,
    )
    info = info_of(optimizer.opt_state)
    np.testing.assert_allclose(info.loss, loss, rtol=1e-5)
    if info.num_chase_steps:
      num_chased += 1
      # The chase's last loss is that of the new weights under the old keys.
      nnx.update(before, nnx.state(model, nnx.Param))
      left, _ = evaluate_nnx_loss(before, x, y)
      np.testing.assert_allclose(info.final_loss, left, rtol=1e-4)
      assert left < loss
  assert num_chased


def test_nnx_value_fn_keeps_the_state_of_when_it_was_made():
  model = NNXNet(nnx.Rngs(0))
  x, y = next(batches())
  value_fn = training.nnx_value_fn(nnx_loss, model, x, y, has_aux=True)
  params = nnx.as_pure(nnx.state(model, nnx.Param))
  first = value_fn(params)
  loss, _ = nnx_loss(model, x, y)
  np.testing.assert_array_equal(first, loss)
  np.testing.assert_array_equal(value_fn(params), loss)
  # Now the keys have moved on, and so has the loss of the model itself.
  assert nnx_loss(model, x, y)[0] != loss


def test_nnx_value_fn_hands_arguments_on_and_takes_a_filter():
  model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))

  def loss_fn(model, x, *, scale):
    return scale * model(x).sum()

  is_kernel = nnx.PathContains('kernel')
  value_fn = training.nnx_value_fn(
    loss_fn, model, jnp.ones((2, 3)), wrt=is_kernel, scale=2.0
  )
  kernel = nnx.as_pure(nnx.state(model, is_kernel))
  np.testing.assert_allclose(
    value_fn(jax.tree.map(jnp.zeros_like, kernel)), 0.0
  )
  np.testing.assert_allclose(
    value_fn(jax.tree.map(jnp.ones_like, kernel)), 12.0
  )


class Stateful(nnx.Module):
  """A second module in train mode, beside the one that is trained."""

  def __init__(self, rngs):
    self.norm = nnx.BatchNorm(3, rngs=rngs)
    self.counter = nnx.BatchStat(jnp.zeros(()))

  def __call__(self, x):
    self.counter[...] += 1.0
    return self.norm(x)


def dropped_out(rngs, x):
  return x * jax.random.bernoulli(rngs.dropout(), 0.8, x.shape)


# What makes the objects, and how each of them changes the loss or is changed.
MUTABLE = {
  'rngs': (
    lambda: nnx.Rngs(dropout=1),
    lambda rngs, x: dropped_out(rngs, x),
  ),
  'metric': (
    lambda: nnx.metrics.Average(),
    lambda metric, x: metric.update(values=jnp.float32(7.0)),
  ),
  'module': (
    lambda: Stateful(nnx.Rngs(2)),
    lambda module, x: module(x),
  ),
  'variable': (
    lambda: nnx.BatchStat(jnp.zeros(())),
    lambda variable, x: variable.set_value(variable[...] + 1.0),
  ),
}


@pytest.mark.parametrize('kind', MUTABLE)
@pytest.mark.parametrize('is_nested', [False, True])
def test_nnx_objects_among_the_arguments_move_with_the_first_evaluation_alone(
  kind, is_nested
):
  make, use = MUTABLE[kind]

  def loss_fn(model, x, y, thing):
    thing = thing['in'][0] if is_nested else thing
    used = use(thing, x)
    x = used if kind in ('rngs', 'module') else x
    return jnp.mean((model(x)[:, 0] - y) ** 2)

  @nnx.jit
  def step(model, optimizer, x, y, thing):
    value_fn = training.nnx_value_fn(loss_fn, model, x, y, thing=thing)
    loss, grads = nnx.value_and_grad(loss_fn)(model, x, y, thing)
    optimizer.update(model, grads, value=loss, value_fn=value_fn)

  model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, chasing(optax.sgd(0.02)), wrt=nnx.Param)
  thing = {'in': [make(), jnp.ones(2), None]} if is_nested else make()
  num_chased = 0
  for x, y in batches():
    before, once = nnx.clone((model, thing)), nnx.clone((model, thing))
    loss = loss_fn(once[0], x, y, once[1])
    step(model, optimizer, x, y, thing)
    chex.assert_trees_all_close(
      *(
        jax.tree.map(_plain, nnx.as_pure(nnx.state([tree])))
        for tree in (thing, once[1])
      ),
      rtol=1e-5,
    )
    info = info_of(optimizer.opt_state)
    np.testing.assert_allclose(info.loss, loss, rtol=1e-5)
    if info.num_chase_steps:
      num_chased += 1
      # The chase's last loss is that of the new weights under the old state.
      left = loss_fn(model, x, y, before[1])
      np.testing.assert_allclose(info.final_loss, left, rtol=1e-4)
  assert num_chased


def test_nnx_objects_that_share_a_variable_share_it_in_their_copies():
  model = nnx.Linear(3, 1, use_bias=False, rngs=nnx.Rngs(0))
  tied = nnx.List([model.kernel])

  def loss_fn(model, tied):
    return jnp.sum(model.kernel[...]) + jnp.sum(tied[0][...])

  value_fn = training.nnx_value_fn(loss_fn, model, tied)
  params = nnx.as_pure(nnx.state(model, nnx.Param))
  ones = jax.tree.map(jnp.ones_like, params)
  np.testing.assert_allclose(value_fn(ones), 6.0)


@pytest.mark.parametrize(
  ('wrt', 'optimizer_wrt', 'message'),
  [
    (nnx.Param, nnx.PathContains('kernel'), 'hands over not bias'),
    (nnx.PathContains('bias'), nnx.Param, 'hands over but kernel'),
    (
      nnx.PathContains('bias'),
      nnx.PathContains('kernel'),
      'hands over not bias, but kernel',
    ),
  ],
)
def test_a_wrt_that_is_not_the_optimizer_s_is_said(wrt, optimizer_wrt, message):
  model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
  loss_fn = lambda model, x: model(x).sum()
  optimizer = nnx.Optimizer(model, chasing(optax.sgd(0.1)), wrt=optimizer_wrt)
  x = jnp.ones((2, 3))
  value_fn = training.nnx_value_fn(loss_fn, model, x, wrt=wrt)
  loss, grads = nnx.value_and_grad(
    loss_fn, argnums=nnx.DiffState(0, optimizer_wrt)
  )(model, x)
  with pytest.raises(ValueError, match=f'wrt must be the filter.*{message}'):
    optimizer.update(model, grads, value=loss, value_fn=value_fn)


def _not_param(path, variable):
  return not issubclass(getattr(variable, 'type', type(variable)), nnx.Param)


def _plain(leaf):
  is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  return jax.random.key_data(leaf) if is_key else leaf


class LinenNet(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Dense(WIDTH)(x)
    x = nn.BatchNorm(use_running_average=False)(x)
    x = nn.Dropout(0.5, deterministic=False)(nn.relu(x))
    return nn.Dense(1)(x)[:, 0]


class LinenState(training.TrainState):
  batch_stats: dict
  key: jax.Array


def linen_state(tx):
  model = LinenNet()
  variables = model.init(
    {'params': jax.random.key(0), 'dropout': jax.random.key(1)},
    jnp.zeros((1, 3)),
  )
  return LinenState.create(
    apply_fn=model.apply,
    params=variables['params'],
    tx=tx,
    batch_stats=variables['batch_stats'],
    key=jax.random.key(2),
  )


def linen_loss(params, state, x, y):
  key = jax.random.fold_in(state.key, state.step)
  predictions, moved = state.apply_fn(
    {'params': params, 'batch_stats': state.batch_stats},
    x,
    rngs={'dropout': key},
    mutable=['batch_stats'],
  )
  return jnp.mean((predictions - y) ** 2), moved['batch_stats']


@jax.jit
def linen_step(state, x, y):
  (loss, batch_stats), grads = jax.value_and_grad(linen_loss, has_aux=True)(
    state.params, state, x, y
  )
  return state.apply_gradients(
    grads=grads,
    value=loss,
    value_fn=lambda p: linen_loss(p, state, x, y)[0],
    batch_stats=batch_stats,
  )


@pytest.mark.parametrize('is_chained', [False, True])
def test_linen_chase_leaves_statistics_and_keys_of_the_first_evaluation(
  is_chained,
):
  tx = chasing(optax.sgd(0.02))
  # Clipping ahead of isgd: the chase must see the raw gradient.
  tx = optax.chain(optax.clip_by_global_norm(0.1), tx) if is_chained else tx
  state = linen_state(tx)
  num_chased = 0
  for x, y in batches():
    before = state
    loss, once = linen_loss(state.params, state, x, y)
    state = linen_step(state, x, y)
    chex.assert_trees_all_close(state.batch_stats, once, rtol=1e-5)
    np.testing.assert_array_equal(
      jax.random.key_data(state.key), jax.random.key_data(before.key)
    )
    info = info_of(state.opt_state)
    if info.num_chase_steps:
      num_chased += 1
      left, _ = linen_loss(state.params, before, x, y)
      np.testing.assert_allclose(info.final_loss, left, rtol=1e-4)
      assert left < loss
  assert num_chased
  assert state.step == 14


def test_linen_state_in_a_chain_chases_as_with_the_raw_gradient():
  """The first chase step of a clipped chain equals that of isgd alone."""

  def one_chase_step(tx):
    state = linen_state(tx)
    for x, y in batches(num_steps=11, shift_at=10):
      before, state = state, linen_step(state, x, y)
    assert info_of(state.opt_state).num_chase_steps == 1
    return before, state

  # A base that does not move the weights, so both arrive at the same batch.
  rate = lambda step: jnp.where(step < 10, 0.0, 0.02)
  isgd = lambda: helpers.blind_isgd(
    optax.sgd(rate), isgd_jax.shewhart(8, 3.0), max_chase_steps=1
  )
  _, alone = one_chase_step(isgd())
  _, chained = one_chase_step(
    optax.chain(optax.clip_by_global_norm(1e-3), isgd())
  )
  chex.assert_trees_all_close(alone.params, chained.params, rtol=1e-5)


def test_linen_state_serves_any_optimizer_as_flax_does():
  from flax.training import train_state

  x, y = next(batches())
  ours = linen_state(optax.sgd(0.1))
  theirs = train_state.TrainState.create(
    apply_fn=ours.apply_fn, params=ours.params, tx=optax.sgd(0.1)
  )
  grads = jax.grad(linen_loss, has_aux=True)(ours.params, ours, x, y)[0]
  ours = ours.apply_gradients(grads=grads)
  theirs = theirs.apply_gradients(grads=grads)
  chex.assert_trees_all_equal(ours.params, theirs.params)
  assert ours.step == theirs.step == 1


def test_linen_state_overwrites_float8_scales_with_their_gradients():
  owg = '_overwrite_with_gradient'
  params = {'params': {'w': jnp.ones(3)}, owg: {'scale': jnp.ones(())}}

  def loss_fn(params):
    return jnp.sum((params['params']['w'] * params[owg]['scale'] - 3.0) ** 2)

  state = training.TrainState.create(
    apply_fn=None, params=params, tx=chasing(optax.sgd(0.01))
  )
  loss, grads = jax.value_and_grad(loss_fn)(params)
  state = state.apply_gradients(grads=grads, value=loss, value_fn=loss_fn)
  np.testing.assert_array_equal(state.params[owg]['scale'], grads[owg]['scale'])
  np.testing.assert_allclose(
    state.params['params']['w'], 1.0 - 0.01 * grads['params']['w']
  )


def test_linen_state_hands_on_what_it_is_given():
  seen = []

  def update(updates, state, params=None, **extra_args):
    seen.append(extra_args)
    return updates, state

  tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
  state = linen_state(tx)
  raw = jax.tree.map(jnp.ones_like, state.params)
  state.apply_gradients(grads=state.params, grad=raw)
  state.apply_gradients(grads=state.params, value=1.0)
  assert seen[0].keys() == {'grad'}
  assert seen[0]['grad'] is raw
  assert seen[1].keys() == {'grad', 'value'}


def test_linen_state_says_what_isgd_misses():
  state = linen_state(chasing(optax.sgd(0.1)))
  with pytest.raises(ValueError, match='isgd needs value'):
    state.apply_gradients(grads=state.params)


class EquinoxNet(eqx.Module):
  hidden: eqx.nn.Linear
  norm: eqx.nn.BatchNorm
  dropout: eqx.nn.Dropout
  out: eqx.nn.Linear

  def __init__(self, key):
    keys = jax.random.split(key)
    self.hidden = eqx.nn.Linear(3, WIDTH, key=keys[0])
    self.norm = eqx.nn.BatchNorm(WIDTH, axis_name='batch', mode='batch')
    self.dropout = eqx.nn.Dropout(0.5)
    self.out = eqx.nn.Linear(WIDTH, 1, key=keys[1])

  def __call__(self, x, state, key):
    x, state = self.norm(self.hidden(x), state)
    return self.out(self.dropout(jax.nn.relu(x), key=key))[0], state


def equinox_loss(model, state, key, x, y):
  keys = jax.random.split(key, len(x))
  predictions, state = jax.vmap(
    model, axis_name='batch', in_axes=(0, None, 0), out_axes=(0, None)
  )(x, state, keys)
  return jnp.mean((predictions - y) ** 2), state


def test_equinox_needs_no_helper():
  model, state = eqx.nn.make_with_state(EquinoxNet)(jax.random.key(0))
  optimizer = chasing(optax.sgd(0.02))
  opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

  @eqx.filter_jit
  def step(model, state, opt_state, key, x, y):
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(params):
      return equinox_loss(eqx.combine(params, static), state, key, x, y)

    (loss, moved), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, opt_state = optimizer.update(
      grads, opt_state, params, value=loss, value_fn=lambda p: loss_fn(p)[0]
    )
    return eqx.apply_updates(model, updates), moved, opt_state

  num_chased = 0
  for i, (x, y) in enumerate(batches()):
    key = jax.random.key(100 + i)
    loss, once = equinox_loss(model, state, key, x, y)
    before = state
    model, state, opt_state = step(model, state, opt_state, key, x, y)
    chex.assert_trees_all_close(
      jax.tree.leaves(state), jax.tree.leaves(once), rtol=1e-5
    )
    info = info_of(opt_state)
    if info.num_chase_steps:
      num_chased += 1
      left, _ = equinox_loss(model, before, key, x, y)
      np.testing.assert_allclose(info.final_loss, left, rtol=1e-4)
      assert left < loss
  assert num_chased
