"""Value and gradient over a device axis, on one device.

`tests/devices/many_devices/` has what needs several.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers


def mapped(fun, *args, has_aux=False, weights=None):
  """`value_and_grad(fun)` over the lanes of a vmap, at w = 3."""

  def lane(weight, *args):
    return isgd_jax.value_and_grad(
      fun,
      axis_name='lane',
      has_aux=has_aux,
      shard_weight=None if weights is None else weight,
    )(3.0, *args)

  size = len(args[0])
  weights = jnp.ones(size) if weights is None else jnp.asarray(weights)
  return jax.vmap(lane, axis_name='lane')(weights, *args)


def test_aux_of_each_lane_is_kept_and_the_rest_averaged():
  def fun(w, x):
    return jnp.mean(w * x**2), x.sum()

  x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
  (value, aux), grad = mapped(fun, x, has_aux=True)
  assert value.tolist() == [22.5, 22.5]
  assert grad.tolist() == [7.5, 7.5]
  assert aux.tolist() == [3.0, 7.0]
  (value, aux), grad = mapped(fun, x, has_aux=True, weights=[3, 1])
  assert value.tolist() == [15.0, 15.0]
  assert grad.tolist() == [5.0, 5.0]
  assert aux.tolist() == [3.0, 7.0]


@pytest.mark.parametrize('dtype', ['int32', 'float32', 'bfloat16'])
def test_weights_of_any_dtype_count(dtype):
  weights = jnp.array([250, 6, 0], dtype)
  x = jnp.array([1.0, 2.0, jnp.nan])
  value, grad = mapped(lambda w, x: w * x, x, weights=weights)
  np.testing.assert_allclose(value, 3 * (250 + 12) / 256, rtol=1e-6)
  np.testing.assert_allclose(grad, (250 + 12) / 256, rtol=1e-6)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('weights', [[257, 1], [8192, 8192], [70000, 1]])
def test_weights_that_a_narrow_loss_cannot_hold(dtype, weights):
  """Packed tokens by the thousand, at half precision."""

  def fun(w, x):
    return (w * x).astype(dtype)

  x = jnp.array([10.0, 30.0])
  value, grad = mapped(fun, x, weights=jnp.array(weights))
  mean = np.average([10.0, 30.0], weights=weights)
  # Two roundings to the loss's own dtype.
  rtol = 2 * float(jnp.finfo(dtype).eps)
  np.testing.assert_allclose(value.astype('float32'), 3 * mean, rtol=rtol)
  np.testing.assert_allclose(grad, mean, rtol=rtol)


def test_whole_weights_are_as_exact_as_a_float64_loss():
  with jax.enable_x64(True):
    value, grad = mapped(
      lambda w, x: w * x,
      jnp.array([1.0, 2.0]),
      weights=jnp.array([1, 2], jnp.int32),
    )
    np.testing.assert_allclose(value, 5.0, rtol=1e-14)
    np.testing.assert_allclose(grad, 5.0 / 3.0, rtol=1e-14)


def test_no_examples_at_all_are_no_loss():
  value, grad = mapped(lambda w, x: w * x, jnp.ones(2), weights=[0.0, 0.0])
  assert np.isnan(value).all()
  assert np.isnan(grad).all()


@pytest.mark.parametrize('weights', [None, [1.0, 2.0, 5.0], [0.0, 1.0, 1.0]])
def test_what_a_loss_takes_from_other_devices_is_differentiated(weights):
  """With BatchNorm, a device's parameters act on the losses of all."""

  def fun(w, x):
    return x * jax.lax.pmean(w * x**2, 'lane')

  x = jnp.array([1.0, 2.0, 4.0])
  value, grad = mapped(fun, x, weights=weights)
  mean_of_squares = 7.0
  expected = np.average(x, weights=weights) * mean_of_squares
  np.testing.assert_allclose(grad, expected, rtol=1e-6)
  np.testing.assert_allclose(value, 3 * expected, rtol=1e-6)


def test_a_negative_weight_found_when_it_runs_counts_as_none():
  value, grad = mapped(
    lambda w, x: w * x, jnp.array([1.0, 2.0]), weights=[-1.0, 3.0]
  )
  assert value.tolist() == [6.0, 6.0]
  assert grad.tolist() == [2.0, 2.0]


def test_the_dtype_of_a_narrow_loss_stays():
  def fun(w, x):
    return (w * x).astype(jnp.bfloat16)

  value, grad = mapped(fun, jnp.ones(2), weights=[3.0, 1.0])
  assert value.dtype == jnp.bfloat16
  assert grad.dtype == jnp.float32


def test_without_an_axis_there_is_one_share():
  fun = lambda w, x: w * x
  value, grad = isgd_jax.value_and_grad(fun, shard_weight=7.0)(3.0, 2.0)
  assert (float(value), float(grad)) == (6.0, 2.0)


@pytest.mark.parametrize('axis_name', ['lane', ('lane', 'row')])
def test_an_axis_that_is_not_bound(axis_name):
  step = isgd_jax.value_and_grad(lambda w: w**2, axis_name=axis_name)
  message = r"axis_name .*'lane'.* is not bound here\. Call this inside"
  with pytest.raises(ValueError, match=message):
    step(3.0)
  with pytest.raises(ValueError, match=message):
    jax.jit(step)(3.0)


def test_isgd_names_an_axis_that_is_not_bound():
  optimizer = helpers.blind_isgd(
    optax.sgd(0.1), isgd_jax.shewhart(20), axis_name='devices'
  )
  params = jnp.ones(3)
  with pytest.raises(ValueError, match="axis_name 'devices' is not bound here"):
    optimizer.update(
      params,
      optimizer.init(params),
      params,
      value=jnp.float32(1.0),
      value_fn=lambda p: jnp.sum(p**2),
    )


@pytest.mark.parametrize(
  ('weight', 'message'),
  [
    (np.ones(2), r'shard_weight must be a real scalar, got float\d+\[2\]'),
    ('3', r"shard_weight must be a real scalar, got '3' of type str"),
    (-1.0, r'shard_weight must be a finite number >= 0, got -1\.0'),
    (1j, r'shard_weight must be a real scalar, got 1j of type complex'),
  ],
)
def test_a_weight_that_cannot_be(weight, message):
  with pytest.raises(ValueError, match=message):
    isgd_jax.value_and_grad(jnp.sum, axis_name='d', shard_weight=weight)
