"""Base optimizers are Optax's, and the best rate is the best."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from isgd_jax.experiments import base_optimizers

PARAMS = {'w': jnp.array([1.0, -2.0]), 'b': jnp.array(0.5)}
OPTAX = {
  'sgd': optax.sgd(0.1),
  'momentum': optax.sgd(0.1, momentum=0.9),
  'nesterov': optax.sgd(0.1, momentum=0.9, nesterov=True),
  'adam': optax.adam(0.1),
}


@pytest.mark.parametrize('name', base_optimizers.base_optimizer_names())
def test_a_traced_rate_gives_optax_s_updates(name):
  @jax.jit
  def update(rate, grads, state):
    optimizer = base_optimizers.build_base_optimizer(name, rate)
    return optimizer.update(grads, state, PARAMS)

  state = expected_state = OPTAX[name].init(PARAMS)
  for scale in (1.0, -0.3, 2.0):
    grads = jax.tree.map(lambda p, scale=scale: scale * p, PARAMS)
    updates, state = update(0.1, grads, state)
    expected, expected_state = OPTAX[name].update(grads, expected_state, PARAMS)
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('losses', 'best'),
  [
    ({0.1: [0.5], 0.3: [0.2], 1.0: [0.9]}, 0.3),
    ({0.1: [0.5, 0.5, 0.5], 0.3: [0.1, 0.6, 0.7]}, 0.1),  # the median counts
    ({0.3: [0.5], 0.1: [0.5]}, 0.1),
    ({0.1: [0.9], 0.3: [float('nan')], 1.0: [float('inf')]}, 0.1),
    ({0.1: [float('nan')], 0.3: [float('nan')]}, 0.1),  # all diverged
  ],
)
def test_best_rate_has_the_lowest_median_and_never_diverges_if_one_does_not(
  losses, best
):
  assert base_optimizers.best_rate(losses) == best


def test_best_rate_of_nothing_is_refused():
  with pytest.raises(ValueError, match='no learning rate'):
    base_optimizers.best_rate({})


@pytest.mark.parametrize('name', base_optimizers.base_optimizer_names())
def test_quick_rates_are_some_of_the_full_ones(name):
  full = base_optimizers.learning_rate_grid(name)
  quick = base_optimizers.learning_rate_grid(name, quick=True)
  assert set(quick) < set(full)
  assert list(full) == sorted(full)


def test_unknown_name_gives_the_nearest():
  for function in (
    base_optimizers.learning_rate_grid,
    lambda name: base_optimizers.build_base_optimizer(name, 0.1),
  ):
    with pytest.raises(ValueError, match=r"did you mean 'momentum'\?"):
      function('momentun')
