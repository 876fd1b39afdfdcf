"""One device against eight, in every way JAX maps over devices.

In a process of its own: the number of CPU devices is set once, before JAX is
first used.
"""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest

import isgd_jax

PROGRAM = textwrap.dedent("""
  import sys
  import jax
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', 8)
  import jax.numpy as jnp
  import numpy as np
  import optax
  import isgd_jax

  mode = sys.argv[1]
  mesh = jax.make_mesh((8,), ('d',), axis_types=(jax.sharding.AxisType.Auto,))
  P = jax.sharding.PartitionSpec

  def loss_fn(params, batch):
    x, y = batch
    return jnp.mean(jnp.square(jnp.tanh(x @ params['w']) @ params['v'] - y))

  def make(axis_name):
    optimizer = isgd_jax.isgd(
        optax.sgd(0.02, momentum=0.9), isgd_jax.shewhart(6, 1.5),
        axis_name=axis_name)
    def step(params, state, batch):
      loss, grads = isgd_jax.value_and_grad(loss_fn, axis_name=axis_name)(
          params, batch)
      updates, state = optimizer.update(
          grads, state, params, value=loss,
          value_fn=lambda p: loss_fn(p, batch))
      return optax.apply_updates(params, updates), state
    return optimizer, step

  optimizer, single = make(None)
  single = jax.jit(single)
  _, mapped = make('d')
  if mode.startswith('shard_map'):
    parallel = jax.jit(jax.shard_map(
        mapped, mesh=mesh, in_specs=(P(), P(), P('d')), out_specs=(P(), P()),
        check_vma=mode.endswith('True')))
  elif mode == 'jit':
    sharding = jax.sharding.NamedSharding(mesh, P('d'))
    parallel = lambda params, state, batch: single(
        params, state, jax.device_put(batch, sharding))
  else:
    transform = {'pmap': jax.pmap, 'vmap': jax.vmap}[mode]
    stacked = jax.jit(transform(mapped, axis_name='d'))
    if mode == 'pmap':
      stacked = transform(mapped, axis_name='d')
    def parallel(params, state, batch):
      stack = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * 8), tree)
      shards = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)
      out = jax.device_get(stacked(stack(params), stack(state), shards))
      for leaf in jax.tree.leaves(out):  # Replicas never part.
        assert np.array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
      return jax.tree.map(lambda x: x[0], out)

  params = {'w': jax.random.normal(jax.random.key(0), (3, 4)),
            'v': jnp.ones(4)}
  state = optimizer.init(params)
  num_chases = straddles = 0
  for i in range(60):
    x = jax.random.normal(jax.random.key(i), (64, 3))
    scale = 1.0 + 3.0 * (i % 9 == 8)
    y = scale * x[:, 0] * jnp.linspace(0.2, 2.0, 64)  # Shards differ.
    batch = (x, y)
    expected_params, expected = single(params, state, batch)
    got_params, got = parallel(params, state, batch)
    for a, b in zip(jax.tree.leaves((expected_params, expected)),
                    jax.tree.leaves((got_params, got)), strict=True):
      np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    info = isgd_jax.get_info(expected)
    limit = float(info.control_limit)
    local = [float(loss_fn(params, (x[s], y[s])))
             for s in (slice(8 * d, 8 * d + 8) for d in range(8))]
    straddles += min(local) < limit < max(local)
    num_chases += bool(info.is_undertrained)
    params, state = expected_params, expected
  assert num_chases >= 5, num_chases
  assert straddles >= 5, straddles
  print('alike in', num_chases, 'chases')
""")


@pytest.mark.parametrize(
  'mode', ['shard_map True', 'shard_map False', 'pmap', 'vmap', 'jit']
)
def test_eight_devices_do_what_one_does(mode):
  """Step by step from one state, local losses on both sides of the limit."""
  result = subprocess.run(
    [sys.executable, '-c', PROGRAM, mode.replace(' ', '_')],
    capture_output=True,
    text=True,
    timeout=240,
    check=False,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  assert 'alike in' in result.stdout


def test_value_and_grad_keeps_aux_of_each_lane_and_averages_the_rest():
  def fun(w, x, *, power):
    return jnp.mean(w * x**power), x.sum()

  mapped = jax.vmap(
    lambda w, x: isgd_jax.value_and_grad(fun, axis_name='lane', has_aux=True)(
      w, x, power=2
    ),
    in_axes=(None, 0),
    axis_name='lane',
  )
  (value, aux), grad = mapped(3.0, jnp.array([[1.0, 2.0], [3.0, 4.0]]))
  assert value.tolist() == [22.5, 22.5]
  assert grad.tolist() == [7.5, 7.5]
  assert aux.tolist() == [3.0, 7.0]
