"""The batch-size planner's models: recovery, closed forms, bad input."""

import warnings

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from isgd_jax import batch_size

pytestmark = pytest.mark.one_version

SIZES = np.array([8, 16, 32, 64, 128, 256, 512, 1024])


def times(c1, c2, knee=0.0, noise=0.0, seed=0):
  """Seconds with log-normal noise, as medians of real steps have."""
  rng = np.random.default_rng(seed)
  exact = np.maximum(SIZES, knee) / c1 + c2
  return exact * np.exp(noise * rng.normal(size=len(SIZES)))


def fit_quietly(*args):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return batch_size.fit_step_time(*args)


@pytest.mark.parametrize('knee', [0.0, 50.0, 100.0])
@pytest.mark.parametrize(('c1', 'c2'), [(2e4, 4e-3), (1e6, 1e-4), (300.0, 0.1)])
def test_exact_times_are_recovered_exactly(c1, c2, knee):
  model = fit_quietly(SIZES, times(c1, c2, knee))
  np.testing.assert_allclose(model.examples_per_second, c1, rtol=1e-5)
  np.testing.assert_allclose(model.overhead_seconds, c2, rtol=1e-4)
  np.testing.assert_allclose(model.knee, knee, rtol=1e-4)
  assert model.r_squared > 1 - 1e-9
  assert model.relative_deviation < 1e-6
  np.testing.assert_allclose(
    model.step_seconds(SIZES), times(c1, c2, knee), rtol=1e-5
  )


@pytest.mark.parametrize(
  ('knee', 'noise'), [(0.0, 0.02), (0.0, 0.05), (100.0, 0.02)]
)
def test_noisy_times_are_recovered_within_the_stated_errors(knee, noise):
  """Two standard errors hold 85 % of 100 draws (Student's t: 90 %)."""
  c1, c2 = 2e4, 4e-3
  inside = []
  num_knees = 0
  for seed in range(100):
    model = fit_quietly(SIZES, times(c1, c2, knee, noise, seed))
    num_knees += model.knee > 0
    inside.append(
      (
        abs(model.examples_per_second - c1)
        < 2 * model.examples_per_second_error,
        abs(model.overhead_seconds - c2) < 2 * model.overhead_seconds_error,
      )
    )
  assert (np.mean(inside, axis=0) > 0.8).all(), np.mean(inside, axis=0)
  assert num_knees == 100 if knee else num_knees <= 5


def test_one_disturbed_size_does_not_carry_the_fit_away():
  seconds = times(2e4, 4e-3, noise=0.01)
  seconds[3] *= 3.0
  model = fit_quietly(SIZES, seconds)
  np.testing.assert_allclose(model.examples_per_second, 2e4, rtol=0.05)
  np.testing.assert_allclose(model.overhead_seconds, 4e-3, rtol=0.15)


def test_what_the_times_cannot_tell_is_said():
  with pytest.warns(UserWarning, match='overhead_seconds .* may be 0'):
    model = batch_size.fit_step_time(SIZES, times(2e4, 1e-5, noise=0.05))
  assert len(model.doubts) == 1
  assert 'measure smaller batches' in model.doubts[0]
  noisy = fit_quietly(SIZES, times(2e4, 4e-3, noise=0.4, seed=1))
  assert any('examples_per_second' in doubt for doubt in noisy.doubts)
  assert any('differ from the fit by' in doubt for doubt in noisy.doubts)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    clear = batch_size.fit_step_time(SIZES, times(2e4, 4e-3, noise=0.005))
  assert clear.doubts == ()


@pytest.mark.parametrize(
  ('sizes', 'seconds', 'message'),
  [
    (
      [8, 16],
      [1.0, 2.0],
      r'at least three different sizes, got \[8\.0, 16\.0\]',
    ),
    ([8, 8, 16], [1.0, 1.0, 2.0], 'at least three different sizes'),
    ([8, 16, 32], [1.0, 2.0], r'of one length, got shapes \(3,\) and \(2,\)'),
    ([8, 16, -1], [1.0, 2.0, 3.0], 'batch_sizes must be positive .* got -1'),
    ([8, 16, 32], [1.0, 0.0, 3.0], 'step_seconds must be positive .* got 0'),
    ([8, 16, 32], [1.0, float('nan'), 3.0], 'step_seconds must be .* got nan'),
    ([8, 16, 32], [3.0, 2.0, 1.0], 'must grow .* got 3 s at 8 and 1 s at 32'),
    ([8, 16, 32, 64], [1.0, 1.02, 0.99, 1.01], 'must grow with batch_sizes'),
  ],
)
def test_times_that_cannot_be_fitted(sizes, seconds, message):
  with pytest.raises(ValueError, match=message):
    fit_quietly(sizes, seconds)


@hypothesis.given(
  size=st.floats(1, 1e6), target=st.floats(1e-4, 1e2), scale=st.floats(0.1, 10)
)
def test_the_paper_s_steps_solve_the_paper_s_bound(size, target, scale):
  steps = batch_size.steps_to_loss(size, target, loss_scale=scale)
  bound = scale * (1 / np.sqrt(size * steps) + 1 / steps)
  np.testing.assert_allclose(bound, target, rtol=1e-9)


def test_the_floor_is_out_of_reach():
  above = batch_size.steps_to_loss(64, 0.6, loss_floor=0.5)
  np.testing.assert_allclose(above, batch_size.steps_to_loss(64, 0.1))
  for target in (0.5, 0.4):
    with pytest.raises(ValueError, match=r'must be above loss_floor 0\.5'):
      batch_size.steps_to_loss(64, target, loss_floor=0.5)
  with pytest.raises(ValueError, match='batch_size must be positive, got 0'):
    batch_size.steps_to_loss([16, 0], 0.5)


def test_the_paper_s_scale_is_recovered_from_noisy_steps():
  true = batch_size.paper_law(0.3, loss_scale=5.0, loss_floor=0.1)
  rng = np.random.default_rng(0)
  steps = true.steps(SIZES) * np.exp(0.05 * rng.normal(size=len(SIZES)))
  law = batch_size.fit_paper_law(SIZES, steps, 0.3, loss_floor=0.1)
  np.testing.assert_allclose(law.loss_scale, 5.0, rtol=0.05)
  # Against a second minimiser.
  other = scipy.optimize.minimize(
    lambda x: np.sum(
      np.log(true._replace(loss_scale=x[0]).steps(SIZES) / steps) ** 2
    ),
    [1.0],
    method='Nelder-Mead',
  )
  np.testing.assert_allclose(law.loss_scale, other.x[0], rtol=1e-3)


def test_the_critical_batch_size_is_recovered_within_the_stated_error():
  inside = []
  for seed in range(100):
    rng = np.random.default_rng(seed)
    exact = 500 * (1 + 120 / SIZES)
    law = batch_size.fit_critical_batch_law(
      SIZES, exact * np.exp(0.05 * rng.normal(size=len(SIZES)))
    )
    inside.append(
      (
        abs(law.min_steps - 500) < 2 * law.min_steps_error,
        abs(law.critical_batch_size - 120) < 2 * law.critical_batch_size_error,
      )
    )
  assert (np.mean(inside, axis=0) > 0.85).all()


@pytest.mark.parametrize(
  ('sizes', 'steps', 'message'),
  [
    ([8, 16], [5, 4], 'at least three different sizes'),
    ([8, 16, 32], [5, 4, 0], 'steps must be positive and finite, got 0'),
    ([8, 16, 32], [5, 4, np.inf], 'Leave out runs that did not reach'),
    ([8, 16, 32], [5, 4], 'of one length'),
  ],
)
def test_steps_that_cannot_be_fitted(sizes, steps, message):
  with pytest.raises(ValueError, match=message):
    batch_size.fit_critical_batch_law(sizes, steps)


def machine(c1=2e4, c2=4e-3, knee=0.0):
  return batch_size.StepTimeModel(c1, c2, knee, 0, 0, 0, 1, 0, ())


@hypothesis.given(
  c1=st.floats(1e2, 1e6),
  c2=st.floats(1e-5, 1.0),
  critical=st.floats(1.0, 1e5),
  knee=st.sampled_from([0.0, 30.0, 3000.0]),
)
def test_the_closed_form_is_the_minimum(c1, c2, critical, knee):
  """max(knee, sqrt(B_crit C1 C2)), against a numerical minimiser."""
  model = machine(c1, c2, knee)
  law = batch_size.critical_batch_law(critical)
  closed = max(knee, np.sqrt(critical * c1 * c2))
  seconds = lambda log_b: float(
    batch_size.time_to_loss(np.exp(log_b), model, law)
  )
  found = scipy.optimize.minimize_scalar(
    seconds,
    bounds=(np.log(closed) - 8, np.log(closed) + 8),
    method='bounded',
    options={'xatol': 1e-9},
  )
  assert seconds(np.log(closed)) <= found.fun * (1 + 1e-9)


LAWS = {
  'critical': batch_size.critical_batch_law(300.0),
  'paper': batch_size.paper_law(0.05),
}


@pytest.mark.parametrize('law', LAWS)
@hypothesis.given(
  c1=st.floats(1e2, 1e6), c2=st.floats(1e-5, 1.0), factor=st.floats(1.0, 100.0)
)
def test_a_faster_machine_never_gets_a_smaller_batch(law, c1, c2, factor):
  sizes = 2 ** np.arange(1, 20)
  slow = batch_size.optimal_batch_size(machine(c1, c2), LAWS[law], sizes)
  fast = batch_size.optimal_batch_size(
    machine(factor * c1, c2), LAWS[law], sizes
  )
  assert fast.batch_size >= slow.batch_size
  assert fast.seconds <= slow.seconds
  # Nor one that has more to say to the other devices.
  chatty = batch_size.optimal_batch_size(
    machine(c1, factor * c2), LAWS[law], sizes
  )
  assert chatty.batch_size >= slow.batch_size


def test_a_plan_is_the_best_feasible_candidate():
  model, law = machine(), LAWS['critical']
  plan = batch_size.optimal_batch_size(
    model, law, range(1, 2000), num_devices=6, max_batch_size=100
  )
  assert (plan.candidates % 6 == 0).all()
  assert plan.candidates.max() == 96
  seconds = batch_size.time_to_loss(plan.candidates, model, law)
  assert plan.batch_size == plan.candidates[np.argmin(seconds)]
  assert plan.seconds == seconds.min()
  low, high = plan.plateau
  inside = (plan.candidates >= low) & (plan.candidates <= high)
  np.testing.assert_array_equal(inside, seconds <= 1.05 * seconds.min())


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'num_devices': 7}, r'a multiple of num_devices 7, got \[8, 16\]'),
    ({'max_batch_size': 4}, r'num_devices 1 up to 4, got \[8, 16\]'),
    ({'tolerance': -0.1}, 'tolerance must be a finite number >= 0'),
    ({'num_devices': 0}, 'num_devices must be an integer of at least 1'),
  ],
)
def test_plans_that_cannot_be(options, message):
  with pytest.raises(ValueError, match=message):
    batch_size.optimal_batch_size(
      machine(), LAWS['critical'], [8, 16], **options
    )


def linear_loss(w, x):
  """Its gradient is the mean of x."""
  return jnp.mean(x @ w)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_noise_scale_of_a_known_covariance(dtype):
  """Within the stated error: draws of 20 batches of 16."""
  mean, spread = np.array([1.0, -2.0, 0.5]), np.array([1.0, 2.0, 4.0])
  expected = np.sum(spread**2) / np.sum(mean**2)
  w = jnp.ones(3, dtype)
  inside, scales = [], []
  rng = np.random.default_rng(0)
  for _ in range(60 if dtype == 'float32' else 20):
    x = mean + spread * rng.normal(size=(20, 16, 3))
    noise = batch_size.gradient_noise_scale(
      jax.value_and_grad(linear_loss), w, list(jnp.asarray(x, dtype))
    )
    inside.append(
      abs(noise.noise_scale - expected) < 2 * noise.noise_scale_error
    )
    scales.append(noise.noise_scale)
  assert np.mean(inside) > 0.85
  assert abs(np.median(scales) / expected - 1) < 0.15
  assert (noise.batch_size, noise.num_batches) == (16, 20)


def test_the_noise_scale_of_two_batch_sizes_is_one():
  """The published form, from one small and one large batch norm."""
  rng = np.random.default_rng(1)
  x = jnp.asarray(1.0 + 3.0 * rng.normal(size=(40, 8, 5)), jnp.float32)
  noise = batch_size.gradient_noise_scale(
    jax.value_and_grad(linear_loss), jnp.ones(5), list(x)
  )
  gradients = np.asarray(x, np.float64).mean(axis=1)
  small = np.mean(np.sum(gradients**2, axis=1))
  large = np.sum(gradients.mean(axis=0) ** 2)
  b, big = 8, 320
  norm = (big * large - b * small) / (big - b)
  trace = (small - large) / (1 / b - 1 / big)
  np.testing.assert_allclose(noise.squared_gradient_norm, norm, rtol=1e-4)
  np.testing.assert_allclose(noise.trace_covariance, trace, rtol=1e-4)


def test_a_gradient_that_is_all_noise_has_no_scale():
  x = jnp.asarray([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
  batches = [row[None] for row in x]
  noise = batch_size.gradient_noise_scale(
    jax.value_and_grad(linear_loss), jnp.ones(2), batches
  )
  assert noise.squared_gradient_norm < 0
  assert noise.noise_scale == noise.noise_scale_error == float('inf')


@pytest.mark.parametrize(
  ('batches', 'message'),
  [
    ([np.ones((4, 2))] * 2, 'at least three, got 2'),
    ([np.ones((4, 2)), np.ones((4, 2)), np.ones((3, 2))], 'one number of'),
    ([np.ones((0, 2))] * 3, 'at least 1, got leading axes'),
  ],
)
def test_batches_that_tell_no_noise_scale(batches, message):
  with pytest.raises(ValueError, match=message):
    batch_size.gradient_noise_scale(
      jax.value_and_grad(linear_loss), jnp.ones(2), batches
    )


def failing_at(limit, error):
  def make_step(size):
    if size >= limit:
      raise error
    return lambda: jnp.zeros(size)

  return make_step


OUT_OF_MEMORY = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')


@pytest.mark.parametrize('error', [OUT_OF_MEMORY, MemoryError()])
def test_timing_stops_where_memory_runs_out(error):
  measured = batch_size.measure_step_seconds(
    failing_at(32, error), [64, 8, 16, 32], num_repeats=3
  )
  assert measured.batch_sizes.tolist() == [8, 16]
  assert measured.out_of_memory_at == 32
  assert measured.median.shape == (2,)
  with pytest.raises(MemoryError, match=r'not even the smallest .* 8, fits'):
    batch_size.measure_step_seconds(failing_at(8, error), [8, 16])


def test_other_errors_of_a_step_are_not_hidden():
  error = jax.errors.JaxRuntimeError('INTERNAL: a bug')
  with pytest.raises(jax.errors.JaxRuntimeError, match='a bug'):
    batch_size.measure_step_seconds(failing_at(8, error), [8, 16])


def test_every_size_is_prepared_once_and_timed_as_often():
  calls = {8: 0, 16: 0}
  ticks = []

  def make_step(size):
    def step():
      calls[size] += 1
      return jnp.zeros(())

    return step

  measured = batch_size.measure_step_seconds(
    make_step, [16, 8, 8], num_repeats=5, on_progress=lambda: ticks.append(1)
  )
  assert calls == {8: 7, 16: 7}
  assert len(ticks) == 2 + 2 * 5
  assert (measured.lower_quartile <= measured.median).all()
  assert (measured.median <= measured.upper_quartile).all()
  assert measured.out_of_memory_at is None


@pytest.mark.parametrize(
  ('sizes', 'repeats', 'message'),
  [
    ([], 3, 'at least one size, got none'),
    ([8, 0], 3, 'each of batch_sizes must be an integer of at least 1, got 0'),
    ([8, 1.5], 3, r'got 1\.5'),
    ([8], 2, 'num_repeats must be an integer of at least 3, got 2'),
  ],
)
def test_sizes_that_cannot_be_timed(sizes, repeats, message):
  with pytest.raises(ValueError, match=message):
    batch_size.measure_step_seconds(
      failing_at(99, None), sizes, num_repeats=repeats
    )


def test_scaling_tells_what_each_step_is(monkeypatch):
  """On a clock of its own: seconds are those of the step."""
  from isgd_jax.batch_size import _step_timing

  def make_step(num_devices, size, is_synchronised):
    share = size / num_devices
    seconds = 1.0 + share / 10
    if is_synchronised and num_devices > 1:
      seconds += 0.1 * num_devices
    return lambda: seconds

  monkeypatch.setattr(_step_timing, 'seconds_of', lambda step: step())
  rows = batch_size.measure_scaling(make_step, 40, [4, 2], num_repeats=3)
  assert [row.kind for row in rows] == ['global'] * 3 + ['local'] * 3
  assert [row.num_devices for row in rows] == [1, 2, 4] * 2
  assert [row.batch_size for row in rows] == [40, 40, 40, 40, 80, 160]
  expected = [5.0, 3.2, 2.4, 5.0, 5.2, 5.4]
  np.testing.assert_allclose([row.step_seconds for row in rows], expected)
  np.testing.assert_allclose(
    [row.synchronisation_seconds for row in rows], [0, 0.2, 0.4] * 2, atol=1e-9
  )
  np.testing.assert_allclose(
    [row.efficiency for row in rows],
    [1, 5 / 6.4, 5 / 9.6, 1, 5 / 5.2, 5 / 5.4],
  )


def test_scaling_needs_a_batch_that_the_devices_divide():
  with pytest.raises(ValueError, match='for 3 devices use 39 or 42'):
    batch_size.measure_scaling(lambda *_: lambda: 0.0, 40, [2, 3])


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((0.0, 8, 16), 'learning_rate must be a finite number above 0'),
    ((0.1, 0, 16), 'old_batch_size must be an integer of at least 1'),
  ],
)
def test_rates_that_cannot_be_scaled(arguments, message):
  with pytest.raises(ValueError, match=message):
    batch_size.scale_learning_rate(*arguments)
  with pytest.raises(ValueError, match="rule must be 'linear' or 'sqrt'"):
    batch_size.scale_learning_rate(0.1, 8, 16, rule='cubic')
