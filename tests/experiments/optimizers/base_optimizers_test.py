"""Base optimizers are Optax's, and the best rate is the best."""

import chex
import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest

from isgd_jax.experiments.optimizers import always_on
from isgd_jax.experiments.optimizers import base_optimizers
from isgd_jax.experiments.optimizers import strengths

PARAMS = {'w': jnp.array([1.0, -2.0]), 'b': jnp.array(0.5)}
OPTAX = {
  'sgd': optax.sgd(0.1),
  'momentum': optax.sgd(0.1, momentum=0.9),
  'nesterov': optax.sgd(0.1, momentum=0.9, nesterov=True),
  'adam': optax.adam(0.1),
  'polyak': optax.polyak_sgd(0.1),
  'momo': optax.contrib.momo(0.1),
  'adam-b1-0': optax.adam(0.1, b1=0.0),
  'adam-b1-b2': optax.adam(0.1, b1=0.99, b2=0.99),
  'l2-to-start': optax.chain(always_on.add_decay_to_start(), optax.adam(0.1)),
  'shrink-and-perturb': always_on.shrink_and_perturb(0.1),
  'upgd': always_on.upgd(0.1),
  'l2-to-start-weak': optax.chain(
    always_on.add_decay_to_start(0.001), optax.adam(0.1)
  ),
  'l2-to-start-strong': optax.chain(
    always_on.add_decay_to_start(0.1), optax.adam(0.1)
  ),
  **{
    f'{name}-{title}': build(0.1, weight_decay=strength, noise=strength)
    for name, build in {
      'shrink-and-perturb': always_on.shrink_and_perturb,
      'upgd': always_on.upgd,
    }.items()
    for title, strength in {'weak': 0.0001, 'strong': 0.01}.items()
  },
  'prodigy': optax.contrib.prodigy(0.1),
  'dog': optax.contrib.dog(0.1),
  'dowg': optax.contrib.dowg(0.1),
  'cocob': optax.contrib.cocob(0.1),
}


@pytest.mark.parametrize('name', base_optimizers.base_optimizer_names())
def test_a_traced_rate_gives_optax_s_updates(name):
  def update_with(optimizer, grads, state, value):
    optimizer = optax.with_extra_args_support(optimizer)
    return optimizer.update(grads, state, PARAMS, value=value)

  @jax.jit
  def update(rate, *args):
    optimizer = base_optimizers.build_base_optimizer(name, rate)
    return update_with(optimizer, *args)

  state = expected_state = OPTAX[name].init(PARAMS)
  for scale in (1.0, -0.3, 2.0):
    grads = jax.tree.map(lambda p, scale=scale: scale * p, PARAMS)
    value = jnp.float32(scale**2)
    updates, state = update(0.1, grads, state, value)
    expected, expected_state = update_with(
      OPTAX[name], grads, expected_state, value
    )
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
def test_fewer_rates_are_from_the_middle_of_the_full_grid(name):
  full = base_optimizers.learning_rate_grid(name)
  assert list(full) == sorted(set(full))
  if len(full) == 1:
    assert base_optimizers.learning_rate_grid(name, 3) == full == (1.0,)
    return
  for num_rates in range(1, len(full) + 1):
    rates = base_optimizers.learning_rate_grid(name, num_rates)
    start = full.index(rates[0])
    assert rates == full[start : start + num_rates]
    left_below, left_above = start, len(full) - start - num_rates
    assert abs(left_below - left_above) <= 1


@pytest.mark.parametrize('num_rates', [-1, 0, 7])
def test_more_rates_than_there_are_is_refused(num_rates):
  with pytest.raises(ValueError, match=f'within 1 and 6, got {num_rates}'):
    base_optimizers.learning_rate_grid('sgd', num_rates)


def test_unknown_name_gives_the_nearest():
  for function in (
    base_optimizers.learning_rate_grid,
    lambda name: base_optimizers.build_base_optimizer(name, 0.1),
  ):
    with pytest.raises(ValueError, match="did you mean 'momentum'"):
      function('momentun')


def test_a_strength_of_one_is_the_optimizer_s_own(monkeypatch):
  for name in ('l2-to-start', 'shrink-and-perturb', 'upgd'):
    monkeypatch.setitem(
      strengths.STRENGTHS, 'as-is', strengths.Strength(name, 1.0)
    )
    as_is = strengths.build_with_strength('as-is', 0.1)
    updates, _ = as_is.update(PARAMS, as_is.init(PARAMS), PARAMS)
    expected, _ = OPTAX[name].update(PARAMS, OPTAX[name].init(PARAMS), PARAMS)
    chex.assert_trees_all_close(updates, expected)


def test_an_unknown_strength_is_refused():
  with pytest.raises(ValueError, match="did you mean 'upgd-weak'"):
    strengths.build_with_strength('upgd-week', 0.1)
