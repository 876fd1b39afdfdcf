"""Parameters and optimizer state cut over the devices too (FSDP)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers
from tests.devices.many_devices import mapping
from tests.devices.many_devices.collectives_test import collectives

P = jax.sharding.PartitionSpec
AxisType = jax.sharding.AxisType
SHAPES = {'w': (16, 8), 'v': (8,)}


def loss_of(params, batch, is_explicit):
  x, y = batch
  # Explicit axes ask where the result of a contraction goes.
  by_batch = {'out_sharding': P('d')} if is_explicit else {}
  rows = {'out_sharding': P('d', None)} if is_explicit else {}
  hidden = jnp.tanh(jnp.einsum('bi,ij->bj', x, params['w'], **rows))
  out = jnp.einsum('bj,j->b', hidden, params['v'], **by_batch)
  return jnp.mean(jnp.square(out - y))


def make_step(optimizer, is_explicit=False):
  loss_fn = lambda params, batch: loss_of(params, batch, is_explicit)

  def step(params, state, batch):
    value, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, state = optimizer.update(
      grads, state, params, value=value, value_fn=lambda p: loss_fn(p, batch)
    )
    return (optax.apply_updates(params, updates), state), value

  return step


def batch_at(step):
  rng = np.random.default_rng(step)
  x = rng.normal(size=(64, 16)).astype(np.float32)
  return x, ((1.0 + 3.0 * (step % 9 == 8)) * x[:, 0]).astype(np.float32)


def initial_params():
  rng = np.random.default_rng(0)
  return {
    name: jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32)
    for name, shape in SHAPES.items()
  }


def placed(mesh, params, optimizer):
  """Parameters cut by their first axis; the state as `init` leaves it."""
  params = jax.device_put(params, jax.sharding.NamedSharding(mesh, P('d')))
  state = optimizer.init(params)
  replicated = jax.sharding.NamedSharding(mesh, P())
  # What is like no parameter (counts, the chart) goes to every device.
  state = jax.tree.map(
    lambda x: (
      x if len(x.sharding.device_set) > 1 else jax.device_put(x, replicated)
    ),
    state,
  )
  return params, state


def shardings(tree):
  """Path -> what each device holds of that array."""
  return {
    jax.tree_util.keystr(path): x.sharding.devices_indices_map(x.shape)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


@pytest.mark.every_case
@pytest.mark.parametrize('axis_type', [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize('base', ['momentum', 'adam'])
def test_isgd_works_unchanged_and_keeps_the_shardings(base, axis_type):
  is_explicit = axis_type == AxisType.Explicit
  mesh = jax.make_mesh((8,), ('d',), axis_types=(axis_type,))
  bases = {
    'momentum': optax.sgd(0.02, momentum=0.9),
    'adam': optax.adam(0.02),
  }
  optimizer = helpers.blind_isgd(bases[base], isgd_jax.shewhart(6, 1.5))
  # Optax's own Adam mixes dtypes.
  with jax.numpy_dtype_promotion('standard'):
    single = jax.jit(make_step(optimizer))
    params = initial_params()
    plain = params, optimizer.init(params)
    with jax.set_mesh(mesh):
      cut = placed(mesh, params, optimizer)
    before = shardings(cut)
    step = jax.jit(make_step(optimizer, is_explicit))
    num_chase_steps = 0
    for i in range(50):
      # From one state, for whole trajectories part by rounding.
      cut = jax.tree.map(
        lambda a, b: jax.device_put(np.asarray(a), b.sharding), plain, cut
      )
      batch = batch_at(i)
      with jax.set_mesh(mesh):
        sharding = jax.sharding.NamedSharding(mesh, P('d'))
        cut, _ = step(*cut, jax.device_put(batch, sharding))
      plain, _ = single(*plain, batch)
      mapping.close(plain, cut, rtol=2e-4, atol=2e-5)
      num_chase_steps += int(isgd_jax.get_info(plain[1]).num_chase_steps)
      assert shardings(cut) == before
    assert num_chase_steps >= 10
    # Explicit axes spell a sharding in two ways, with any optimizer.
    assert step._cache_size() <= 1 + is_explicit
    params, state = cut
    assert all(not x.is_fully_replicated for x in jax.tree.leaves(params))
    assert state.packed_info.floats.is_fully_replicated
    chart = jax.tree.leaves(state.chart_state)
    assert all(x.is_fully_replicated for x in chart)
    momenta = [x for x in jax.tree.leaves(state.base_state) if x.ndim]
    assert momenta
    assert all(not x.is_fully_replicated for x in momenta)


def test_a_step_without_a_chase_says_what_the_base_says():
  mesh = mapping.make_mesh()
  base = optax.with_extra_args_support(optax.sgd(0.02, momentum=0.9))

  def found(optimizer):
    params, state = placed(mesh, initial_params(), optimizer)
    sharded = jax.sharding.NamedSharding(mesh, P('d'))
    batch = jax.device_put(batch_at(0), sharded)
    in_shardings = jax.tree.map(lambda x: x.sharding, (params, state))
    step = jax.jit(
      make_step(optimizer),
      out_shardings=(
        in_shardings,
        jax.sharding.NamedSharding(mesh, P()),
      ),
    )
    text = step.lower(params, state, batch).compile().as_text()
    return sorted(collectives(text)['ENTRY'])

  isgd = helpers.blind_isgd(base, isgd_jax.shewhart(6, 1.5))
  assert found(isgd) == found(base) != []
