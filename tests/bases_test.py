"""Every optimizer of Optax as the base: it works, or one sentence says why not.

docs/troubleshooting.md has the list of those that do not.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import isgd_jax

pytestmark = [
  pytest.mark.cheap_compile,
  pytest.mark.battery,
  pytest.mark.filterwarnings('ignore::UserWarning'),
  pytest.mark.filterwarnings('ignore::DeprecationWarning'),
]

RATE = 0.01
OF_A_RATE = (
  *('adabelief', 'adadelta', 'adafactor', 'adagrad', 'adam', 'adamax'),
  *('adamaxw', 'adamw', 'adan', 'amsgrad', 'fromage', 'lamb', 'lars', 'lion'),
  *('nadam', 'nadamw', 'novograd', 'optimistic_gradient_descent'),
  *('optimistic_adam', 'polyak_sgd', 'radam', 'rmsprop', 'rprop', 'sgd'),
  *('sign_sgd', 'signum', 'yogi'),
)
CONTRIB_OF_A_RATE = (
  *('acprop', 'ademamix', 'adopt', 'galore', 'madgrad', 'momo', 'momo_adam'),
  *('muon', 'schedule_free_adamw', 'schedule_free_sgd'),
  'simplified_ademamix',
)
CONTRIB_OF_NO_RATE = ('cocob', 'dadapt_adamw', 'dog', 'dowg', 'prodigy')
LABELS = {'w': 'a', 'v': 'a', 'b': 'b'}
IS_TRAINED = {'w': True, 'v': True, 'b': False}


def _chain_with_sgd(transformation):
  return optax.chain(transformation, optax.sgd(RATE))


def _those_of(module, names, *args):
  """The named optimizers that this version of Optax has."""
  return {
    name: functools.partial(getattr(module, name), *args)
    for name in names
    if hasattr(module, name)
  }


BASES = {
  **_those_of(optax, OF_A_RATE, RATE),
  **_those_of(optax.contrib, CONTRIB_OF_A_RATE, RATE),
  **_those_of(optax.contrib, CONTRIB_OF_NO_RATE),
  'noisy_sgd': lambda: optax.noisy_sgd(RATE, key=0),
  'lbfgs': lambda: optax.lbfgs(),
  'lbfgs without a search': lambda: optax.lbfgs(RATE, linesearch=None),
  'backtracking': lambda: optax.chain(
    optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)
  ),
  'zoom': lambda: optax.chain(
    optax.sgd(1.0), optax.scale_by_zoom_linesearch(10)
  ),
  'mechanize': lambda: optax.contrib.mechanize(optax.sgd(RATE)),
  'reduce_on_plateau': lambda: optax.chain(
    optax.sgd(RATE), optax.contrib.reduce_on_plateau()
  ),
  'sam': lambda: optax.contrib.sam(
    optax.sgd(RATE),
    optax.chain(optax.contrib.normalize(), optax.sgd(0.05)),
  ),
  'apply_if_finite': lambda: optax.apply_if_finite(optax.adam(RATE), 3),
  'apply_every': lambda: _chain_with_sgd(optax.apply_every(1)),
  'inject_hyperparams': lambda: optax.inject_hyperparams(optax.adam)(
    learning_rate=RATE
  ),
  'MultiSteps': lambda: optax.MultiSteps(
    optax.sgd(RATE), 1
  ).gradient_transformation(),
  'partition': lambda: optax.partition(
    {'a': optax.adam(RATE), 'b': optax.set_to_zero()}, LABELS
  ),
  'flatten': lambda: optax.flatten(optax.adam(RATE)),
  'keep_params_nonnegative': lambda: optax.chain(
    optax.sgd(RATE), optax.keep_params_nonnegative()
  ),
  'ema': lambda: optax.chain(optax.sgd(RATE), optax.ema(0.9)),
  'clip': lambda: _chain_with_sgd(optax.clip(1.0)),
  'adaptive_grad_clip': lambda: _chain_with_sgd(optax.adaptive_grad_clip(0.01)),
  'zero_nans': lambda: _chain_with_sgd(optax.zero_nans()),
  'trust ratio': lambda: _chain_with_sgd(optax.scale_by_trust_ratio()),
  'noise': lambda: _chain_with_sgd(optax.add_noise(0.01, 0.5, 0)),
  'decay': lambda: _chain_with_sgd(optax.add_decayed_weights(0.1)),
  'schedule': lambda: optax.sgd(
    optax.warmup_cosine_decay_schedule(0.0, RATE, 5, 50)
  ),
  'scale_by_mean_loss': lambda: _chain_with_sgd(
    isgd_jax.scale_by_mean_loss({2.0: 0.1})
  ),
}
WRAPPERS = {
  'isgd': lambda base: isgd_jax.isgd(base, isgd_jax.shewhart(8, 2.0)),
  'skip': lambda base: isgd_jax.skip_out_of_control(
    base, isgd_jax.shewhart(8, 2.0)
  ),
}


@pytest.fixture(autouse=True)
def standard_promotion():
  """Not all of Optax traces in strict promotion."""
  with jax.numpy_dtype_promotion('standard'):
    yield


def loss_fn(params, batch):
  x, y = batch
  outputs = jnp.tanh(x @ params['w']) @ params['v'] + params['b']
  return jnp.mean(jnp.square(outputs - y))


def make_batch(step, shift):
  x = jax.random.normal(jax.random.key(step), (16, 3))
  return x, jnp.sin(x[:, 0]) + shift


def run(optimizer, num_steps=44):
  """Parameters and info; the data shift twice, late enough for probation."""
  params = {
    'w': 0.5 * jax.random.normal(jax.random.key(9), (3, 4)),
    'v': jnp.ones(4),
    'b': jnp.full(1, 0.1),
  }
  opt_state = optimizer.init(params)

  @jax.jit
  def step(params, opt_state, batch):
    value, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = optimizer.update(
      grads,
      opt_state,
      params,
      value=value,
      grad=grads,
      value_fn=lambda p: loss_fn(p, batch),
    )
    return optax.apply_updates(params, updates), opt_state

  for index in range(num_steps):
    batch = make_batch(index, 6.0 if index in (36, 41) else 0.0)
    params, opt_state = step(params, opt_state, batch)
  return params, isgd_jax.get_info(opt_state)


@pytest.mark.parametrize('wrapper', WRAPPERS)
@pytest.mark.parametrize('name', BASES)
def test_it_works_around_every_base(name, wrapper):
  params, info = run(WRAPPERS[wrapper](BASES[name]()))
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params))
  assert int(info.num_steps) == 44
  assert int(info.num_undertrained) > 0
  # Every other step of sam climbs, and the memory of L-BFGS may seem to.
  if name not in ('sam', 'lbfgs without a search'):
    assert int(info.num_chases_refused) == 0
  if wrapper == 'isgd':
    is_chased = int(info.num_gradient_evaluations) > 44
    assert is_chased or name == 'lbfgs without a search'
  else:
    assert int(info.num_skipped) > 0


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_a_base_that_changes_its_state_is_named(wrapper):
  base = _chain_with_sgd(
    optax.GradientTransformation(
      lambda params: optax.EmptyState(),
      lambda updates, state, params=None: (
        updates,
        optax.TraceState(updates),
      ),
    )
  )
  with pytest.raises(ValueError, match='with the state EmptyState changed the'):
    run(WRAPPERS[wrapper](base), num_steps=1)
