"""BatchNorm under data parallelism: statistics of the global batch."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers
from tests.devices.many_devices import mapping


class Network(nn.Module):
  axis_name: str | None

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(4)(x)
    # Flax mixes dtypes only where its own is left to chance.
    x = nn.BatchNorm(
      use_running_average=False, axis_name=self.axis_name, momentum=0.5
    )(x)
    return nn.Dense(1)(jnp.tanh(x))[:, 0]


def make_step(axis_name, *, is_weighted=False):
  network = Network(axis_name)
  optimizer = helpers.blind_isgd(
    optax.sgd(0.05, momentum=0.9),
    isgd_jax.shewhart(6, 1.5),
    axis_name=axis_name,
    has_aux=True,
  )

  def step(params, state, batch):
    opt_state, statistics = state
    x, y = batch

    def loss_of(params):
      out, moved = network.apply(
        {'params': params, 'batch_stats': statistics}, x, mutable='batch_stats'
      )
      return jnp.mean(jnp.square(out - y)), moved['batch_stats']

    weight = jnp.float32(len(y)) if is_weighted else None
    (loss, statistics_after), grads = isgd_jax.value_and_grad(
      loss_of, axis_name=axis_name, has_aux=True, shard_weight=weight
    )(params)
    if axis_name:  # Alike already; this says so to check_vma.
      statistics_after = jax.lax.pmean(statistics_after, axis_name)
    updates, opt_state = optimizer.update(
      grads,
      opt_state,
      params,
      value=loss,
      value_fn=loss_of,
      shard_weight=weight,
    )
    return optax.apply_updates(params, updates), (opt_state, statistics_after)

  return network, optimizer, step


def batch_at(step):
  rng = np.random.default_rng(step)
  # Each device's rows have another mean, so local statistics would show.
  x = rng.normal(size=(64, 3)) + np.repeat(np.arange(8), 8)[:, None]
  y = (1.0 + 3.0 * (step % 9 == 8)) * np.sin(x[:, 0])
  return x.astype(np.float32), y.astype(np.float32)


@pytest.mark.every_case
@pytest.mark.parametrize(
  ('mode', 'is_weighted'),
  [
    ('shard_map', False),
    ('shard_map', True),
    ('shard_map_unchecked', True),
    ('pmap', False),
  ],
)
def test_eight_devices_normalise_as_one(mode, is_weighted):
  network, optimizer, step = make_step(None)
  single = jax.jit(step)
  eight = mapping.parallel(
    mode, make_step(mapping.AXIS, is_weighted=is_weighted)[2]
  )
  with jax.numpy_dtype_promotion('standard'):
    variables = network.init(jax.random.key(0), batch_at(0)[0])
    params = variables['params']
    state = optimizer.init(params), variables['batch_stats']
    num_chase_steps = 0
    for i in range(30):
      batch = batch_at(i)
      expected = single(params, state, batch)
      got = eight(params, state, batch)
      mapping.close(expected, got, rtol=5e-4, atol=5e-5)
      params, state = expected
      num_chase_steps += int(isgd_jax.get_info(state[0]).num_chase_steps)
  assert num_chase_steps >= 5
