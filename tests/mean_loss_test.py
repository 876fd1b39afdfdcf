"""Rates driven by the chart's mean: an oracle, the paper's rates, the traps."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers

ALEXNET = {2.0: 0.1, 1.2: 0.1}


def make_reading(mean, upper_limit=100.0):
  zero, false = jnp.zeros(()), jnp.zeros((), bool)
  return isgd_jax.ChartReading(
    jnp.float32(mean), zero, zero, jnp.float32(upper_limit), false, false
  )


def scales_of(optimizer, readings):
  """The scale of each step, from its updates, for unit gradients."""
  state = optimizer.init(jnp.ones(2))
  scales = []
  for reading in readings:
    updates, new_state = optimizer.update(
      jnp.ones(2), state, chart_reading=reading
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    state = new_state
    chex.assert_trees_all_equal(updates, jnp.full(2, state.scale))
    scales.append(float(state.scale))
  return scales


def test_a_boundary_is_passed_below_it_and_for_good():
  means = [3.0, 2.0, 1.99, 2.5, 1.2, 1.19, 0.0, 5.0]
  scales = scales_of(
    isgd_jax.scale_by_mean_loss(ALEXNET), map(make_reading, means)
  )
  np.testing.assert_allclose(scales, [1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])


def test_boundaries_may_come_in_any_order_and_be_passed_at_once():
  optimizer = isgd_jax.scale_by_mean_loss({0.5: 0.5, 3: 1, 2.0: 0.25})
  scales = scales_of(optimizer, map(make_reading, [2.5, 0.1, 1.0]))
  np.testing.assert_allclose(scales, [1, 0.125, 0.125])


def test_phase_i_and_means_that_are_not_finite_leave_the_scale():
  readings = [
    make_reading(0.5, upper_limit=np.inf),
    make_reading(np.nan),
    make_reading(-np.inf),
    make_reading(np.inf),
    make_reading(1.5),
    make_reading(0.5, upper_limit=np.inf),
    make_reading(np.nan),
  ]
  scales = scales_of(isgd_jax.scale_by_mean_loss(ALEXNET), readings)
  np.testing.assert_allclose(scales, [1] * 4 + [0.1] * 3)


@pytest.mark.parametrize('wrapper', ['isgd', 'only watches', 'paper_isgd'])
def test_alexnets_three_rates(wrapper):
  """0.015 in [2, inf), 0.0015 in [1.2, 2), 0.00015 in [0, 1.2)."""
  base = optax.chain(optax.sgd(0.015), isgd_jax.scale_by_mean_loss(ALEXNET))
  if wrapper == 'paper_isgd':
    optimizer = isgd_jax.paper_isgd(
      base, batches_per_epoch=11, chase_learning_rate=0.1
    )
  else:
    max_chase_steps = 0 if wrapper == 'only watches' else 5
    optimizer = helpers.blind_isgd(
      base, isgd_jax.shewhart(11), max_chase_steps=max_chase_steps
    )
  params = jnp.zeros(3)
  state = optimizer.init(params)
  rates = []
  step = jax.jit(
    lambda loss, state: optimizer.update(
      jnp.ones(3), state, params, value=loss, value_fn=jnp.sum
    )
  )
  for loss in np.linspace(3, 0.5, 80, dtype=np.float32):
    updates, state = step(loss, state)
    info = isgd_jax.get_info(state)
    assert not info.is_undertrained
    is_known = np.isfinite(info.control_limit)
    mean = float(info.mean) if is_known else np.inf
    rates.append(-float(updates[0]))
    expected = 0.015 if mean >= 2 else 0.0015 if mean >= 1.2 else 0.00015
    np.testing.assert_allclose(rates[-1], expected, rtol=1e-6)
  assert len({round(rate, 6) for rate in rates}) == 3
  assert sorted(rates, reverse=True) == rates


@jax.enable_x64(True)
def test_a_training_run_is_that_of_a_numpy_oracle():
  """Momentum SGD on least squares, until the mean is below each boundary."""
  rng = np.random.default_rng(0)
  w_true, window_size = 2 * rng.normal(size=4), 5
  boundaries = {2.0: 0.5, 0.8: 0.2, 0.3: 0.5}
  batches = []
  for _ in range(120):
    x = rng.normal(size=(16, 4))
    batches.append((x, x @ w_true + 0.1 * rng.normal(size=16)))

  w, trace, window, lowest = np.zeros(4), np.zeros(4), [], np.inf
  expected, expected_scales = [], []
  for x, y in batches:
    residual = x @ w - y
    if len(window) == window_size:
      lowest = min(lowest, np.mean(window))
    scale = np.prod([s for b, s in boundaries.items() if lowest < b])
    window = [*window, np.mean(residual**2)][-window_size:]
    trace = 2 * x.T @ residual / len(y) + 0.5 * trace
    w = w - scale * 0.05 * trace
    expected.append(w)
    expected_scales.append(scale)

  loss_fn = lambda w, batch: jnp.mean(jnp.square(batch[0] @ w - batch[1]))
  optimizer = helpers.blind_isgd(
    optax.chain(
      optax.sgd(0.05, momentum=0.5), isgd_jax.scale_by_mean_loss(boundaries)
    ),
    isgd_jax.shewhart(window_size, sigma_multiplier=1e6),
  )

  def step(carry, batch):
    w, state = carry
    loss, grad = jax.value_and_grad(loss_fn)(w, batch)
    updates, state = optimizer.update(
      grad, state, w, value=loss, value_fn=lambda w: loss_fn(w, batch)
    )
    w = optax.apply_updates(w, updates)
    return (w, state), (w, optax.tree.get(state, 'scale'))

  stacked = tuple(np.stack(arrays) for arrays in zip(*batches, strict=True))
  w = jnp.zeros(4)
  _, (got, scales) = jax.lax.scan(step, (w, optimizer.init(w)), stacked)
  np.testing.assert_allclose(scales, expected_scales, rtol=1e-6)
  np.testing.assert_allclose(got, np.stack(expected), rtol=1e-6)
  assert len(set(expected_scales)) == 4


def chased_step(base, losses, wrap):
  """Updates and state of `wrap(base)` after `losses`, the last one chased."""
  loss_fn = lambda w: jnp.sum(jnp.square(w))
  optimizer = wrap(base)
  params = jnp.full(3, 2.0)
  state = optimizer.init(params)
  step = jax.jit(
    lambda loss, state: optimizer.update(
      jax.grad(loss_fn)(params), state, params, value=loss, value_fn=loss_fn
    )
  )
  history = []
  for loss in losses:
    updates, state = step(loss, state)
    history.append((updates, state))
  return history


def test_a_chase_is_not_scaled_and_freezes_the_scale():
  """On a chased step the mean is below the boundary for the first time."""
  # Window means before each loss: 3, then 2.2 on the chased step, then 4.8.
  losses = [5.0, 2.0, 2.0, 0.5, 9.0, 0.5, 0.5, 0.5]
  wrap = lambda base: helpers.blind_isgd(base, isgd_jax.shewhart(3, 1.0))
  scaled = optax.chain(
    optax.sgd(0.1), isgd_jax.scale_by_mean_loss({1.6: 0.125})
  )
  history = chased_step(scaled, losses, wrap)
  plain = chased_step(optax.sgd(0.1), losses, wrap)
  scales = [float(optax.tree.get(state, 'scale')) for _, state in history]
  infos = [isgd_jax.get_info(state) for _, state in history]
  is_chased = [int(info.num_chase_steps) > 0 for info in infos]
  assert is_chased == [False] * 4 + [True] + [False] * 3
  assert float(infos[4].mean) == 1.5  # Below the boundary, but frozen.
  assert scales == [1.0] * 8
  for (updates, _), (plain_updates, _) in zip(history, plain, strict=True):
    chex.assert_trees_all_equal(updates, plain_updates)
  # Without a chase the same reading counts.
  watched = chased_step(
    scaled,
    losses,
    lambda base: helpers.blind_isgd(
      base, isgd_jax.shewhart(3, 1.0), max_chase_steps=0
    ),
  )
  assert [float(optax.tree.get(s, 'scale')) for _, s in watched] == [
    *[1.0] * 4,
    *[0.125] * 4,
  ]


def test_where_the_base_advances_its_update_is_scaled_and_the_chase_is_not():
  losses = [5.0, 2.0, 2.0, 0.5, 9.0]
  wrap = lambda base: helpers.blind_isgd(
    base, isgd_jax.shewhart(3, 1.0), base_update_when_chasing=True
  )
  scaled = optax.chain(
    optax.sgd(0.1), isgd_jax.scale_by_mean_loss({1.6: 0.125})
  )
  updates, state = chased_step(scaled, losses, wrap)[-1]
  assert float(optax.tree.get(state, 'scale')) == 0.125
  # The rate it ends with, from the start: the same last step.
  expected, same = chased_step(optax.sgd(0.0125), losses, wrap)[-1]
  assert int(isgd_jax.get_info(same).num_chase_steps) > 0
  chex.assert_trees_all_close(updates, expected, rtol=1e-5)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32', 'float64'])
def test_updates_keep_their_dtype_and_the_state_its_own(dtype):
  with jax.enable_x64(dtype == 'float64'):
    optimizer = isgd_jax.scale_by_mean_loss({2.0: 0.1})
    params = {'w': jnp.ones(3, dtype), 'b': jnp.full((), 3.0, dtype)}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    updates, new_state = update(params, state, chart_reading=make_reading(1.0))
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    assert new_state.scale.dtype == jnp.float32
    assert not new_state.scale.weak_type
    expected = (np.float32(0.1) * np.float32(3)).astype(dtype)
    np.testing.assert_allclose(updates['b'], expected, rtol=1e-7)


def test_it_composes():
  """In chains, injected, jitted, scanned; one structure of state for life."""

  def base(rate):
    return optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.chain(optax.sgd(rate), isgd_jax.scale_by_mean_loss(ALEXNET)),
    )

  injected = helpers.relaxed(
    optax.inject_hyperparams(isgd_jax.scale_by_mean_loss)(
      boundaries_and_scales=ALEXNET
    )
  )
  chart = isgd_jax.shewhart(3, sigma_multiplier=50.0)
  optimizers = [
    helpers.blind_isgd(base(0.1), chart),
    helpers.blind_isgd(
      helpers.relaxed(optax.inject_hyperparams(base)(rate=0.1)), chart
    ),
    helpers.blind_isgd(
      optax.chain(
        optax.clip_by_global_norm(1.0), optax.chain(optax.sgd(0.1), injected)
      ),
      chart,
    ),
    optax.chain(
      optax.identity(),
      optax.inject_hyperparams(
        functools.partial(isgd_jax.isgd, base(0.1), chart)
      )(max_chase_steps=4),
    ),
  ]
  losses = jnp.array([3.0, 3.0, 2.9, 1.9, 1.5, 1.4, 1.3, 1.0, 0.9, 0.8, 2.0])
  results = []
  for optimizer in optimizers:
    params = {'w': jnp.ones((2, 2))}
    state = optimizer.init(params)
    mapped = optax.tree.map_params(optimizer, lambda p: p, state)
    chex.assert_trees_all_equal(mapped, state)

    def step(carry, loss):
      params, state = carry
      updates, state = optimizer.update(  # noqa: B023
        jax.tree.map(jnp.ones_like, params),
        state,
        params,
        value=loss,
        value_fn=lambda p: jnp.sum(p['w']),
      )
      return (optax.apply_updates(params, updates), state), updates['w']

    run = jax.jit(functools.partial(jax.lax.scan, step))
    (params, new_state), updates = run((params, state), losses)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    results.append(updates)
  ratios = results[0][:, 0, 0] / results[0][0, 0, 0]
  assert {round(float(ratio), 4) for ratio in ratios} == {1.0, 0.1, 0.01}
  for result in results[1:]:
    chex.assert_trees_all_close(result, results[0], rtol=1e-6)


def test_a_line_search_does_not_mind_the_reading():
  """Optax's refuse extra arguments that value_fn does not take."""
  optimizer = helpers.blind_isgd(
    optax.chain(
      optax.sgd(0.5),
      helpers.relaxed(optax.scale_by_backtracking_linesearch(10)),
      isgd_jax.scale_by_mean_loss({100.0: 0.5}),
    ),
    isgd_jax.shewhart(2, sigma_multiplier=1e3),
  )
  params = jnp.ones(3)
  state = optimizer.init(params)
  value_fn = lambda params, weight: weight * jnp.sum(jnp.square(params))
  for _ in range(3):
    updates, state = optimizer.update(
      2 * params,
      state,
      params,
      value=3.0,
      value_fn=value_fn,
      grad=2 * params,
      weight=1.0,
    )
  assert float(optax.tree.get(state, 'scale')) == 0.5
  assert jnp.all(updates < 0)


def test_the_charts_reading_is_handed_on_and_no_other():
  """Whatever the caller passes by that name."""
  seen = []

  def update_fn(updates, state, params=None, **extra_args):
    seen.append(extra_args['chart_reading'])
    return updates, state

  base = optax.GradientTransformationExtraArgs(lambda params: (), update_fn)
  optimizer = helpers.blind_isgd(base, isgd_jax.shewhart(2), max_chase_steps=0)
  params = jnp.ones(2)
  _, state = optimizer.update(
    params, optimizer.init(params), params, value=3.0, chart_reading='theirs'
  )
  optimizer.update(params, state, params, value=1.0)
  assert [float(reading.mean) for reading in seen] == [0.0, 3.0]


def test_outside_isgd_it_says_where_it_belongs():
  optimizer = isgd_jax.scale_by_mean_loss(ALEXNET)
  state = optimizer.init(jnp.ones(2))
  for kwargs in ({}, {'chart_reading': 1.0}):
    with pytest.raises(ValueError, match=r'needs chart_reading.* inside isgd'):
      optimizer.update(jnp.ones(2), state, **kwargs)


@pytest.mark.parametrize(
  ('boundaries_and_scales', 'message'),
  [
    ({}, 'boundaries_and_scales must map at least one .* got {}'),
    (None, 'boundaries_and_scales must map at least one .* got None'),
    ({0.0: 0.1}, 'boundary in boundaries_and_scales must .* above 0, got 0.0'),
    ({np.inf: 0.1}, 'boundary in boundaries_and_scales must .* got inf'),
    ({'two': 0.1}, "boundary in boundaries_and_scales must .* got 'two'"),
    ({2.0: 0.0}, r'scale of boundary 2.0 in .* above 0, got 0.0'),
    ({2.0: np.nan}, r'scale of boundary 2.0 in .* got nan'),
    ({2.0: 1.5}, r'scale of boundary 2.0 in .* at most 1, got 1.5'),
    ({2.0: 1e-30, 1.0: 1e-30}, 'product that float32 holds'),
  ],
)
def test_bad_arguments_are_refused(boundaries_and_scales, message):
  with pytest.raises(ValueError, match=message):
    isgd_jax.scale_by_mean_loss(boundaries_and_scales)
