"""The causes that docs/troubleshooting.md names are the causes."""

from flax import errors
from flax import nnx
import jax
import jax.numpy as jnp
import optax
import pytest

import isgd_jax

# Every loss above 1 is flagged, and chased down to 0.
ALWAYS = isgd_jax.fixed_limits(mean=0.0, sigma=0.5, sigma_multiplier=2.0)
X = jnp.array([[1.0, 0.0], [0.0, 2.0]])
PARAMS = jnp.array([3.0, 4.0])


@pytest.fixture(autouse=True)
def _as_a_user_has_it():
  """Not all of Optax traces under strict promotion."""
  with jax.numpy_dtype_promotion('standard'):
    yield


def loss_fn(params, x=X):
  return jnp.mean((x @ params) ** 2)


def step(optimizer, state, params=PARAMS, *, x=X, **extra_args):
  value, grads = jax.value_and_grad(loss_fn)(params, x)
  extra_args = {'value_fn': lambda p: loss_fn(p, x)} | extra_args
  return optimizer.update(grads, state, params, value=value, **extra_args)


def test_multi_steps_around_shows_the_last_micro_batch():
  optimizer = optax.MultiSteps(
    isgd_jax.isgd(optax.sgd(0.1), isgd_jax.default_chart(20)), 2
  )
  state = optimizer.init(PARAMS)
  for x in (X, 2 * X):
    _, state = step(optimizer, state, x=x)
  with pytest.warns(UserWarning, match='loss of the last micro-batch'):
    info = isgd_jax.get_info(state)
  assert int(info.num_steps) == 1
  assert info.loss == loss_fn(PARAMS, 2 * X)


def test_multi_steps_inside_moves_nothing_between():
  optimizer = isgd_jax.isgd(optax.MultiSteps(optax.sgd(0.1), 2), ALWAYS)
  updates, state = step(optimizer, optimizer.init(PARAMS))
  assert isgd_jax.get_info(state).is_undertrained
  assert not jnp.any(updates)


def test_inside_a_mask_it_says_what_is_wrong():
  optimizer = optax.masked(
    isgd_jax.isgd(optax.sgd(0.1), ALWAYS), {'w': True, 'b': False}
  )
  with pytest.raises(
    ValueError, match=r'isgd got parameters with optax\.MaskedNode in them'
  ):
    optimizer.init({'w': PARAMS, 'b': PARAMS})


def test_what_is_frozen_is_not_chased():
  optimizer = isgd_jax.isgd(
    optax.partition(
      {'train': optax.adam(0.1), 'freeze': optax.set_to_zero()},
      {'w': 'train', 'b': 'freeze'},
    ),
    ALWAYS,
    probation=False,  # The first chase leads.
  )
  params = {'w': PARAMS, 'b': jnp.array(1.0)}

  def loss_of(params):
    return loss_fn(params['w']) * params['b']

  value, grads = jax.value_and_grad(loss_of)(params)
  updates, state = optimizer.update(
    grads, optimizer.init(params), params, value=value, value_fn=loss_of
  )
  assert int(isgd_jax.get_info(state).num_chase_steps) > 0
  assert jnp.all(updates['w'] != 0)
  assert updates['b'] == 0


def test_another_function_than_the_one_of_value_undoes_the_chase():
  optimizer = isgd_jax.isgd(optax.sgd(0.1), ALWAYS, probation=False)
  _, state = step(
    optimizer, optimizer.init(PARAMS), value_fn=lambda p: loss_fn(p) + 1000
  )
  assert isgd_jax.get_info(state).is_chase_reverted


def test_a_module_that_is_merged_anew_raises_in_the_chase():
  model = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  optimizer = isgd_jax.isgd(optax.sgd(0.1), ALWAYS)

  def value_fn(params):
    return jnp.mean(nnx.merge(graphdef, params, rest)(X) ** 2)

  with pytest.raises(errors.TraceContextError, match='trace level'):
    optimizer.update(
      params, optimizer.init(params), params, value=9.0, value_fn=value_fn
    )


def test_without_grad_a_chase_behind_clipping_follows_the_clipped_gradient():
  solver = isgd_jax.gradient_descent(0.01)
  clipped = optax.chain(
    optax.clip(0.1),
    isgd_jax.isgd(
      optax.sgd(0.1),
      ALWAYS,
      solver=solver,
      max_chase_steps=1,
      probation=False,
    ),
  )
  grads = jax.grad(loss_fn)(PARAMS)
  raw, _ = step(clipped, clipped.init(PARAMS), grad=grads)
  seen, _ = step(clipped, clipped.init(PARAMS))
  assert jnp.allclose(raw[0] / raw[1], grads[0] / grads[1])
  assert jnp.allclose(seen[0], seen[1])


def test_what_was_donated_is_gone_and_its_info_is_not():
  optimizer = isgd_jax.isgd(optax.sgd(0.1), ALWAYS)
  donating = jax.jit(lambda state: step(optimizer, state)[1], donate_argnums=0)
  state = donating(optimizer.init(PARAMS))
  info = isgd_jax.get_info(state)
  donating(state)
  assert info.loss == loss_fn(PARAMS)
  gone = [x for x in jax.tree.leaves(state) if x.is_deleted()]
  with pytest.raises(RuntimeError, match='Array has been deleted'):
    gone[0].tolist()
