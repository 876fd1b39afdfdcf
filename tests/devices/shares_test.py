"""Shares in proportion to speed, their layout, and the microbatched loss."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isgd_jax


@hypothesis.given(
  speeds=st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9),
  microbatch_size=st.integers(1, 7),
  extra=st.integers(0, 200),
)
def test_shares_are_proportional_whole_and_sum_to_the_batch(
  speeds, microbatch_size, extra
):
  num_microbatches = len(speeds) + extra
  batch_size = num_microbatches * microbatch_size
  sizes = isgd_jax.proportional_shards(
    batch_size, speeds, microbatch_size=microbatch_size
  )
  counts = np.array(sizes) // microbatch_size
  assert sum(sizes) == batch_size
  assert (counts * microbatch_size == sizes).all()
  assert (counts >= 1).all()
  quotas = num_microbatches * np.array(speeds) / np.sum(speeds)
  if (np.floor(quotas) >= 1).all():
    # Hamilton's rule keeps every share within one of its quota.
    assert (np.abs(counts - quotas) < 1 + 1e-6).all()
  # By remainders, a device may have one microbatch less than a slower one.
  order = np.argsort(speeds, kind='stable')
  assert (np.diff(counts[order]) >= -1).all()


@pytest.mark.parametrize(
  ('batch_size', 'speeds', 'expected'),
  [
    (80, (1, 2, 5), (10, 20, 50)),
    (10, (1, 1, 1), (4, 3, 3)),
    # The textbook example of largest remainders: quotas 4.16, 3.38, 2.46.
    (10, (416, 338, 246), (4, 3, 3)),
    # Too slow for one example: it takes one from the busiest device.
    (10, (1e-9, 1.0, 1.0), (1, 4, 5)),
    (7, (3.0,), (7,)),
    (6, (1e308, 1e308), (3, 3)),
  ],
)
def test_known_apportionments(batch_size, speeds, expected):
  assert isgd_jax.proportional_shards(batch_size, speeds) == expected


@pytest.mark.parametrize(
  ('speeds', 'message'),
  [
    ([1.0, 0.0], r'positive and finite, got 0 for device 1\. Leave'),
    ([-1.0, 2.0], r'got -1 for device 0'),
    ([1.0, 2.0, float('nan')], r'got nan for device 2'),
    ([1.0, float('inf')], r'got inf for device 1'),
    ([], r'a list of numbers, one for each device, got \[\]'),
    ([[1.0]], r'of shape \(1, 1\)'),
    (3.0, r'of shape \(\)'),
  ],
)
def test_throughputs_that_cannot_be(speeds, message):
  with pytest.raises(ValueError, match=message):
    isgd_jax.proportional_shards(64, speeds)


@pytest.mark.parametrize(
  ('batch_size', 'microbatch_size', 'message'),
  [
    (10, 4, r'got 10\. Use 12\.'),
    (30, 4, r'got 30\. Use 28 or 32\.'),
    (4, 4, r'each of 3 devices, got 4\. Use 12\.'),
    (0, 4, r'batch_size must be an integer of at least 1, got 0'),
    (12, 0, r'microbatch_size must be an integer of at least 1, got 0'),
  ],
)
def test_batches_that_cannot_be_divided(batch_size, microbatch_size, message):
  with pytest.raises(ValueError, match=message):
    isgd_jax.proportional_shards(
      batch_size, [1, 2, 5], microbatch_size=microbatch_size
    )


def test_each_block_begins_with_its_share():
  batch = {'x': np.arange(14.0).reshape(7, 2), 'y': np.arange(7)}
  shards = isgd_jax.pad_shards(batch, (1, 4, 2), microbatch_size=1)
  assert shards.num_microbatches.tolist() == [1, 4, 2]
  assert shards.data['y'].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 6, 6]
  np.testing.assert_array_equal(shards.data['x'], batch['x'][shards.data['y']])


@pytest.mark.parametrize(
  ('sizes', 'microbatch_size', 'message'),
  [
    ((3, 3), 1, r'add up to the examples of the batch, got \(3, 3\)'),
    ((4, 3), 2, r'multiples of microbatch_size 2, got \(4, 3\)'),
    ((7, 0), 1, r'must be positive, one for each device, got \(7, 0\)'),
    ((), 1, r'must be positive'),
  ],
)
def test_sizes_that_do_not_fit(sizes, microbatch_size, message):
  with pytest.raises(ValueError, match=message):
    isgd_jax.pad_shards(
      {'y': np.arange(7)}, sizes, microbatch_size=microbatch_size
    )


def fun(params, batch):
  return jnp.mean(jnp.square(batch['x'] @ params['w'] - batch['y']))


def problem(dtype='float32'):
  rng = np.random.default_rng(0)
  batch = {'x': rng.normal(size=(12, 3)), 'y': rng.normal(size=12)}
  params = {'w': rng.normal(size=3)}
  return jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, batch))


@pytest.mark.parametrize('count', [1, 2, 4])
@pytest.mark.parametrize('is_jitted', [False, True])
def test_the_mean_and_its_gradient_are_those_of_the_first_rows(
  count, is_jitted
):
  params, batch = problem()
  loss = isgd_jax.microbatched(fun, microbatch_size=3)
  evaluate = jax.value_and_grad(loss)
  # The number of microbatches is known only when the program runs.
  evaluate = jax.jit(evaluate) if is_jitted else evaluate
  first = jax.tree.map(lambda x: x[: 3 * count], batch)
  expected, expected_grad = jax.value_and_grad(fun)(params, first)
  value, grad = evaluate(params, batch, count)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(grad['w'], expected_grad['w'], rtol=1e-5)
  np.testing.assert_allclose(loss(params, batch, count), expected, rtol=1e-6)


def test_the_cotangent_is_taken_into_account():
  params, batch = problem()
  loss = isgd_jax.microbatched(fun, microbatch_size=4)
  scaled = jax.grad(lambda p: 3.0 * loss(p, batch, 2))(params)
  plain = jax.grad(loss)(params, batch, 2)
  np.testing.assert_allclose(scaled['w'], 3.0 * plain['w'], rtol=1e-6)


def test_parameters_in_bfloat16_keep_their_dtype():
  params, batch = problem('bfloat16')
  loss = isgd_jax.microbatched(fun, microbatch_size=4)
  value, grad = jax.jit(jax.value_and_grad(loss))(params, batch, 3)
  assert value.dtype == grad['w'].dtype == jnp.bfloat16


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_sums_of_many_microbatches_are_wide(dtype):
  """bfloat16 counts to 256, float16 to 65,504."""
  loss = isgd_jax.microbatched(lambda w, x: jnp.mean(w * x), microbatch_size=1)
  value, grad = jax.value_and_grad(loss)(
    jnp.ones((), dtype), jnp.full(1024, 100.0, dtype), 1024
  )
  assert value.dtype == grad.dtype == dtype
  assert (float(value), float(grad)) == (100.0, 100.0)


@pytest.mark.parametrize('count', [0, -1, 5])
def test_a_number_of_microbatches_that_the_block_does_not_hold(count):
  params, batch = problem()
  loss = isgd_jax.microbatched(fun, microbatch_size=3)
  with pytest.raises(ValueError, match=f'within 1 and 4, .* got {count}'):
    loss(params, batch, count)
  value, grad = jax.jit(jax.value_and_grad(loss))(params, batch, count)
  assert np.isnan(value)
  assert np.isnan(grad['w']).all()


def test_a_loss_of_a_microbatch_is_a_scalar():
  params, batch = problem()
  loss = isgd_jax.microbatched(
    lambda params, batch: batch['x'] @ params['w'], microbatch_size=3
  )
  with pytest.raises(ValueError, match=r'result of fun must be a real scalar'):
    loss(params, batch, 2)


def test_a_microbatch_that_does_not_divide_the_block():
  params, batch = problem()
  loss = isgd_jax.microbatched(fun, microbatch_size=5)
  with pytest.raises(ValueError, match='microbatch_size 5 must divide'):
    loss(params, batch, 2)


@pytest.mark.parametrize(
  'batch', [{'x': np.ones((2, 3)), 'y': np.ones(3)}, {}, {'x': np.ones((0, 3))}]
)
def test_a_batch_that_cannot_be_measured(batch):
  with pytest.raises(ValueError, match='same number of examples'):
    isgd_jax.measure_throughputs(fun, {}, batch)
