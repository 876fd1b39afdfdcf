"""Rivals react as their sources say; unflagged, they are the base alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax.experiments.optimizers import given_flags
from isgd_jax.experiments.optimizers import rival_reactions

RATE, B1, B2, EPS = 0.1, 0.9, 0.999, 1e-8
START = np.array([1.0, -2.0, 3.0])
CHART = given_flags.given_flags(isgd_jax.shewhart(window_size=20))


def grad_at(params, step):
  """Of a quadratic loss whose centre moves."""
  return params - np.array([0.5, 1.0, -1.0]) * np.cos(step)


def loss_of(params, step):
  return 0.5 * jnp.sum(grad_at(params, step) ** 2)


def run(base, reaction, flags, **numbers):
  """Parameters after each step, and what each took beyond its evaluation."""
  optimizer = rival_reactions.react_out_of_control(
    base, CHART, reaction, **numbers
  )
  params = jnp.asarray(START, jnp.float32)
  state = optimizer.init(params)
  path, extra = [], []
  for step, is_flagged in enumerate(flags):
    updates, state = optimizer.update(
      grad_at(params, step),
      given_flags.set_flag(state, is_flagged),
      params,
      value=loss_of(params, step),
      value_fn=lambda p, step=step: loss_of(p, step),
    )
    params = optax.apply_updates(params, updates)
    path.append(params)
    extra.append(int(state.num_extra))
  return np.array(path), extra


def adam_in_numpy(flags, reaction):
  """Kingma and Ba's Algorithm 1, with a reset of one part of its state."""
  w, m, v, t = START.copy(), np.zeros(3), np.zeros(3), 0
  path = []
  for step, is_flagged in enumerate(flags):
    if is_flagged and reaction == 'moments':
      m, v = np.zeros(3), np.zeros(3)
    if is_flagged and reaction == 'count':
      t = 0
    g = grad_at(w, step)
    t += 1
    m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
    w = w - RATE * m / (1 - B1**t) / (np.sqrt(v / (1 - B2**t)) + EPS)
    path.append(w)
  return np.array(path)


FLAGS = [False] * 5 + [True] + [False] * 4 + [True, True, False]


@pytest.mark.parametrize('reaction', ['moments', 'count'])
def test_a_part_of_adam_s_state_starts_again(reaction):
  found, extra = run(optax.adam(RATE), reaction, FLAGS)
  expected = adam_in_numpy(FLAGS, reaction)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  assert not any(extra)
  # And it makes a difference.
  other = adam_in_numpy([False] * len(FLAGS), reaction)
  assert np.abs(other - expected).max() > 0.01


@pytest.mark.parametrize('reaction', ['moments', 'count'])
def test_over_adam_a_reset_is_the_library_s(reaction):
  found, _ = run(optax.adam(RATE), reaction, FLAGS)
  optimizer = isgd_jax.react(optax.adam(RATE), CHART, isgd_jax.reset(reaction))
  params = jnp.asarray(START, jnp.float32)
  state, path = optimizer.init(params), []
  for step, is_flagged in enumerate(FLAGS):
    state = given_flags.set_flag(state, is_flagged)
    updates, state = optimizer.update(
      grad_at(params, step), state, params, value=loss_of(params, step)
    )
    params = optax.apply_updates(params, updates)
    path.append(params)
  np.testing.assert_array_equal(found, path)


def test_a_trace_of_momentum_is_a_moment_and_no_count():
  for reaction, is_reset in (('moments', True), ('count', False)):
    found, _ = run(optax.sgd(RATE, momentum=0.9), reaction, [False, True])
    w, trace = START.copy(), np.zeros(3)
    for step in range(2):
      if step == 1 and is_reset:
        trace[:] = 0
      trace = 0.9 * trace + grad_at(w, step)
      w = w - RATE * trace
    np.testing.assert_allclose(found[-1], w, rtol=1e-5)


def test_a_rewarmed_rate_comes_down_in_a_straight_line():
  flags = [False, True] + [False] * 7
  found, extra = run(optax.sgd(RATE), 'rewarm', flags, factor=5.0, num_steps=4)
  w, path = START.copy(), []
  for step, scale in enumerate((1, 5, 4, 3, 2, 1, 1, 1, 1)):
    w = w - RATE * scale * grad_at(w, step)
    path.append(w)
  np.testing.assert_allclose(found, path, rtol=1e-5)
  assert not any(extra)


def test_shrinking_goes_a_share_of_the_way_to_the_start():
  found, extra = run(optax.sgd(RATE), 'shrink', [False, True], weight=0.25)
  first = START - RATE * grad_at(START, 0)
  second = 0.75 * first + 0.25 * START - RATE * grad_at(first, 1)
  np.testing.assert_allclose(found, [first, second], rtol=1e-5)
  assert not any(extra)


@pytest.mark.parametrize('base', [optax.sgd(RATE), optax.adam(RATE)])
def test_an_echo_is_the_base_twice_on_the_flagged_batch(base):
  found, extra = run(base, 'echo', [False, True, False])
  params = jnp.asarray(START, jnp.float32)
  state, path = base.init(params), []
  for step, times in enumerate((1, 2, 1)):
    for _ in range(times):
      updates, state = base.update(grad_at(params, step), state, params)
      params = optax.apply_updates(params, updates)
    path.append(params)
  np.testing.assert_allclose(found, path, rtol=1e-5)
  assert extra == [0, 1, 0]


@pytest.mark.parametrize('reaction', rival_reactions.REACTIONS)
def test_without_a_flag_it_is_the_base_alone(reaction):
  base = optax.adam(RATE)
  found, extra = run(base, reaction, [False] * 6)
  params = jnp.asarray(START, jnp.float32)
  state = base.init(params)
  for step in range(6):
    updates, state = base.update(grad_at(params, step), state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(found[step], params)
  assert not any(extra)


def test_a_reaction_that_there_is_none_of_gives_the_nearest():
  with pytest.raises(ValueError, match="did you mean 'moments'"):
    rival_reactions.react_out_of_control(optax.sgd(0.1), CHART, 'moment')


def test_the_chart_flags_what_it_is_told_and_keeps_its_limits():
  plain = isgd_jax.shewhart(window_size=5)
  chart = given_flags.given_flags(plain)
  state, plain_state = chart.init(), plain.init()
  for i, loss in enumerate((1.0, 1.2, 0.9, 1.1, 1.0, 9.0, 1.0)):
    is_flagged = i in (2, 6)
    state, reading = chart.update(given_flags.set_flag(state, is_flagged), loss)
    plain_state, expected = plain.update(plain_state, loss)
    assert bool(reading.is_above) == is_flagged
    assert not bool(reading.is_below)
    chex.assert_trees_all_equal(
      reading._replace(is_above=expected.is_above, is_below=expected.is_below),
      expected,
    )


def test_a_flag_may_be_traced_and_reaches_a_chart_inside_an_optimizer():
  optimizer = isgd_jax.skip_out_of_control(optax.sgd(0.1), CHART)
  params = jnp.ones(2)

  @jax.jit
  def update(state, is_flagged):
    state = given_flags.set_flag(state, is_flagged)
    return optimizer.update(jnp.ones(2), state, params, value=1.0)

  for is_flagged in (True, False):
    updates, _ = update(optimizer.init(params), is_flagged)
    assert bool((updates == 0).all()) == is_flagged
