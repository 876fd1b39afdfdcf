"""The convolution is that of `jax.lax`, and stays fast in a loop on a CPU."""

import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers

pytestmark = pytest.mark.cheap_compile

NHWC = ('NHWC', 'HWIO', 'NHWC')
GEOMETRIES = {
  'valid': ((5, 8, 9, 3), (3, 2, 3, 4), NHWC, {'padding': 'VALID'}),
  'same': ((5, 8, 9, 3), (3, 4, 3, 4), NHWC, {'padding': 'SAME'}),
  'strides': (
    (5, 11, 9, 3),
    (3, 2, 3, 4),
    NHWC,
    {'padding': 'SAME', 'window_strides': (3, 2)},
  ),
  'strides that leave pixels over': (
    (5, 12, 9, 3),
    (4, 3, 3, 4),
    NHWC,
    {'padding': 'VALID', 'window_strides': (3, 2)},
  ),
  'pairs': (
    (5, 8, 9, 3),
    (3, 2, 3, 4),
    NHWC,
    {'padding': [(2, 0), (0, 1)], 'window_strides': (1, 2)},
  ),
  'cropped': (
    (5, 8, 9, 3),
    (3, 2, 3, 4),
    NHWC,
    {'padding': [(-1, 0), (0, -2)]},
  ),
  'dilated kernel': (
    (5, 8, 9, 3),
    (3, 2, 3, 4),
    NHWC,
    {'padding': 'SAME', 'rhs_dilation': (2, 3), 'window_strides': (2, 1)},
  ),
  'dilated input': (
    (5, 4, 5, 3),
    (3, 2, 3, 4),
    NHWC,
    {'padding': [(1, 1), (0, 2)], 'lhs_dilation': (2, 3)},
  ),
  'one dimension': (
    (5, 8, 3),
    (3, 3, 4),
    ('NWC', 'WIO', 'NWC'),
    {'padding': 'SAME', 'window_strides': (2,)},
  ),
  'three dimensions': (
    (2, 5, 4, 6, 3),
    (3, 2, 2, 3, 4),
    ('NDHWC', 'DHWIO', 'NDHWC'),
    {'padding': 'VALID', 'window_strides': (1, 2, 1)},
  ),
  # These are left to `jax.lax`.
  'groups': (
    (5, 8, 9, 4),
    (3, 2, 2, 6),
    NHWC,
    {'padding': 'SAME', 'feature_group_count': 2},
  ),
  'groups of examples': (
    (6, 8, 9, 4),
    (3, 2, 4, 6),
    NHWC,
    {'padding': 'SAME', 'batch_group_count': 2},
  ),
  'channels first': (
    (5, 3, 8, 9),
    (4, 3, 3, 2),
    ('NCHW', 'OIHW', 'NCHW'),
    {'padding': 'SAME'},
  ),
}


def derivatives(convolve, lhs, rhs, numbers, options):
  """The result, and the cotangents of both operands."""
  strides = options.get('window_strides', (1,) * (lhs.ndim - 2))
  options = options | {'window_strides': strides, 'dimension_numbers': numbers}

  def loss_fn(lhs, rhs):
    out = convolve(lhs, rhs, **options)
    return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

  (_, out), grads = jax.jit(jax.value_and_grad(loss_fn, (0, 1), has_aux=True))(
    lhs, rhs
  )
  return out, *grads


@pytest.mark.parametrize(
  ('name', 'dtype'),
  [*((name, 'float32') for name in GEOMETRIES), ('strides', 'bfloat16')],
)
def test_value_and_gradients_are_those_of_jax(name, dtype):
  lhs_shape, rhs_shape, numbers, options = GEOMETRIES[name]
  keys = jax.random.split(jax.random.key(0))
  lhs = jax.random.normal(keys[0], lhs_shape, dtype)
  rhs = jax.random.normal(keys[1], rhs_shape, dtype)
  ours, theirs = (
    derivatives(convolve, lhs, rhs, numbers, options)
    for convolve in (
      isgd_jax.conv_general_dilated,
      jax.lax.conv_general_dilated,
    )
  )
  # XLA may sum the products in another order.
  tolerance = {'float32': 2e-5, 'bfloat16': 0.1}[dtype]
  for x, y in zip(ours, theirs, strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_allclose(
      np.float64(x), np.float64(y), atol=tolerance, rtol=tolerance
    )


def test_another_type_of_result_is_left_to_jax():
  lhs, rhs = (
    jnp.ones((1, 4, 4, 2), 'bfloat16'),
    jnp.ones((2, 2, 2, 3), 'bfloat16'),
  )
  out = isgd_jax.conv_general_dilated(
    lhs,
    rhs,
    (1, 1),
    'VALID',
    dimension_numbers=NHWC,
    preferred_element_type='float32',
  )
  assert out.dtype == jnp.float32


def test_errors_are_those_of_jax():
  lhs, rhs = jnp.ones((1, 4, 4, 2)), jnp.ones((2, 2, 7, 3))
  messages = []
  for convolve in (isgd_jax.conv_general_dilated, jax.lax.conv_general_dilated):
    with pytest.raises((TypeError, ValueError)) as error:
      convolve(lhs, rhs, (1, 1), 'VALID', dimension_numbers=NHWC)
    messages.append(str(error.value))
  assert messages[0] == messages[1]


def test_each_lane_of_vmap_has_its_own_gradient():
  lhs = jax.random.normal(jax.random.key(0), (2, 4, 6, 6, 3))
  rhs = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))

  def gradient(lhs):
    return jax.grad(
      lambda rhs: jnp.sum(
        jnp.sin(
          isgd_jax.conv_general_dilated(
            lhs, rhs, (1, 1), 'SAME', dimension_numbers=NHWC
          )
        )
      )
    )(rhs)

  lanes = jax.vmap(gradient)(lhs)
  for i in range(2):
    np.testing.assert_allclose(lanes[i], gradient(lhs[i]), atol=2e-5)


class Network(nnx.Module):
  """Two convolutions and a linear layer."""

  def __init__(self, rngs, **options):
    self.conv1 = nnx.Conv(3, 8, (3, 3), rngs=rngs, **options)
    self.conv2 = nnx.Conv(8, 8, (3, 3), strides=2, rngs=rngs, **options)
    self.out = nnx.Linear(8 * 16, 10, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.conv2(nnx.relu(self.conv1(x))))
    return self.out(x.reshape(len(x), -1))


@pytest.mark.skipif(
  jax.default_backend() != 'cpu', reason='the layout is that of XLA for CPUs'
)
@pytest.mark.parametrize('is_ours', [True, False])
def test_every_convolution_of_a_chase_has_the_fast_layout_on_a_cpu(is_ours):
  """Without ours some have another: if not, XLA has learned it, drop ours."""
  options = (
    {'conv_general_dilated': isgd_jax.conv_general_dilated} if is_ours else {}
  )
  graph, params = nnx.split(Network(nnx.Rngs(0), **options))
  optimizer = helpers.blind_isgd(optax.sgd(0.1), isgd_jax.shewhart(20))

  @jax.jit
  def step(params, opt_state, x, y):
    def loss_fn(params):
      logits = nnx.merge(graph, params)(x)
      return jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(logits, y)
      )

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = optimizer.update(
      grads, opt_state, params, value=loss, value_fn=loss_fn
    )
    return optax.apply_updates(params, updates), opt_state

  x, y = jnp.zeros((16, 8, 8, 3)), jnp.zeros(16, jnp.int32)
  compiled = step.lower(params, optimizer.init(params), x, y).compile()
  layouts = re.findall(
    r' convolution\(.*?dim_labels=([\w>-]+)', compiled.as_text()
  )
  # Three a layer, less the first input's; outside of the loop, and inside.
  assert len(layouts) == 10
  assert (set(layouts) == {'b01f_01io->b01f'}) == is_ours
