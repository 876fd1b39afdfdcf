"""The frozen update equals a selection made afterwards, for all of Optax."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from isgd_jax import _frozen_update
from tests import helpers

BASES = {
  'sgd': optax.sgd(0.1),
  'momentum': optax.sgd(0.1, momentum=0.9, nesterov=True),
  'adam': optax.adam(0.1),
  'amsgrad': optax.amsgrad(0.1),
  'adafactor': optax.adafactor(0.1),
  'lamb': optax.lamb(0.1),
  'lion': optax.lion(0.1),
  'noisy_sgd': optax.noisy_sgd(0.1, key=0),
  'schedule': optax.sgd(optax.cosine_decay_schedule(0.1, 20)),
  'injected': optax.inject_hyperparams(optax.adam)(
    learning_rate=optax.linear_schedule(0.1, 0.0, 9)
  ),
  'apply_if_finite': optax.apply_if_finite(optax.adam(0.1), 3),
  'partition': optax.partition(
    {'a': optax.adam(0.1), 'b': optax.set_to_zero()}, {'w': 'a', 'b': 'b'}
  ),
  'lookahead_like': optax.chain(
    optax.trace(0.9), optax.ema(0.5), optax.scale(-0.1)
  ),
  'schedule_free': optax.contrib.schedule_free_sgd(0.1),
  'muon': optax.contrib.muon(0.1),
}


def bits(tree):
  """`tree` with random keys as their bits, which compare."""

  def leaf_bits(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf

  return jax.tree.map(leaf_bits, tree)


@pytest.mark.parametrize('name', BASES)
def test_update_unless_is_a_selection_between_the_states(name):
  base = optax.with_extra_args_support(helpers.relaxed(BASES[name]))
  params = {'w': jnp.ones((4, 3)), 'b': jnp.zeros(3)}
  state = base.init(params)
  key = jax.random.key(0)

  def update(updates, state, params):
    return base.update(updates, state, params)

  @jax.jit
  def update_unless(is_frozen, grads, state, params):
    return _frozen_update.update_unless(is_frozen, update, grads, state, params)

  jitted_update = jax.jit(update)
  for is_frozen in (False, True, False, False, True, True, False):
    key, key_w, key_b = jax.random.split(key, 3)
    grads = {
      'w': jax.random.normal(key_w, (4, 3)),
      'b': jax.random.normal(key_b, (3,)),
    }
    updates, new_state = update_unless(is_frozen, grads, state, params)
    expected, expected_state = jitted_update(grads, state, params)
    if is_frozen:
      chex.assert_trees_all_equal(bits(new_state), bits(state))
    else:
      chex.assert_trees_all_close(updates, expected, rtol=1e-5, atol=1e-7)
      chex.assert_trees_all_close(
        bits(new_state), bits(expected_state), rtol=1e-5, atol=1e-7
      )
      params = optax.apply_updates(params, updates)
    state = new_state


def test_two_state_leaves_of_one_variable_each_keep_their_own_old_value():
  def update(updates, state, params):
    del params
    new = updates + 1.0
    return 2.0 * new, (new, new, state[2], jnp.zeros(()))

  state = (
    jnp.float32(10.0),
    jnp.float32(20.0),
    jnp.float32(30.0),
    jnp.ones(()),
  )

  @jax.jit
  def run(is_frozen):
    return _frozen_update.update_unless(
      is_frozen, update, jnp.float32(1.0), state, None
    )

  assert [float(x) for x in run(True)[1]] == [10.0, 20.0, 30.0, 1.0]
  updates, new_state = run(False)
  assert float(updates) == 4.0
  assert [float(x) for x in new_state] == [2.0, 2.0, 30.0, 0.0]
