"""One training step in every way JAX maps over devices."""

import jax
import jax.numpy as jnp
import numpy as np

NUM_DEVICES = 8
AXIS = 'd'
MAPPED_MODES = ('shard_map', 'shard_map_unchecked', 'pmap', 'vmap')
MODES = (*MAPPED_MODES, 'jit')

P = jax.sharding.PartitionSpec


def make_mesh():
  return jax.make_mesh(
    (NUM_DEVICES,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,)
  )


def axis_name_in(mode):
  """Axis name that a step needs: none under plain jit."""
  return None if mode == 'jit' else AXIS


def parallel(mode, step):
  """`step(params, state, batch)` over a global batch, sharded over devices.

  It takes and returns parameters and state without a device axis, and sees to
  it that all replicas are bit-identical.
  """
  mesh = make_mesh()
  if mode == 'jit':
    sharding = jax.sharding.NamedSharding(mesh, P(AXIS))
    replicated = jax.sharding.NamedSharding(mesh, P())
    jitted = jax.jit(step, out_shardings=replicated)

    def run_jitted(params, state, batch):
      return one_of(jitted(params, state, jax.device_put(batch, sharding)))

    return run_jitted
  if mode.startswith('shard_map'):
    mapped = shard_mapped(step, mesh, is_checked=mode == 'shard_map')
    return lambda params, state, batch: one_of(mapped(params, state, batch))

  if mode == 'pmap':
    mapped = jax.pmap(step, axis_name=AXIS)
  else:
    mapped = jax.jit(jax.vmap(step, axis_name=AXIS))

  def run_stacked(params, state, batch):
    stack = lambda x: jnp.broadcast_to(x, (NUM_DEVICES, *jnp.shape(x)))
    cut = lambda x: x.reshape(NUM_DEVICES, -1, *x.shape[1:])
    out = mapped(
      *jax.tree.map(stack, (params, state)), jax.tree.map(cut, batch)
    )
    return jax.tree.map(lambda x: same(list(np.asarray(x))), out)

  return run_stacked


def shard_mapped(step, mesh, *, is_checked):
  """`step` jitted under shard_map, the batch sharded, the rest replicated."""
  return jax.jit(
    jax.shard_map(
      step,
      mesh=mesh,
      in_specs=(P(), P(), P(AXIS)),
      out_specs=(P(), P()),
      check_vma=is_checked,
    )
  )


def one_of(tree):
  """A tree of replicated arrays as NumPy arrays."""
  return jax.tree.map(
    lambda x: same([np.asarray(s.data) for s in x.addressable_shards]), tree
  )


def same(replicas):
  """The replicas' common value; each must be so, to the bit."""
  assert len(replicas) == NUM_DEVICES
  first = replicas[0]
  for other in replicas[1:]:
    assert first.tobytes() == other.tobytes(), (first, other)
  return first


def close(expected, got, **tolerances):
  """Asserts that two trees agree."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      np.asarray(a), np.asarray(b), **tolerances
    ),
    expected,
    got,
  )
