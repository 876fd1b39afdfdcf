"""The convolution has the gradient of `jax.lax` on every device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isgd_jax
from tests.devices.many_devices import mapping

P = mapping.P


def loss_of(convolve, kernel, images):
  out = convolve(
    images, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  return jnp.mean(jnp.sin(out))


def gradient(convolve, is_checked, is_averaged):
  """Of replicated kernels: summed by JAX, or averaged by `value_and_grad`."""

  def local(kernel, images):
    loss = functools.partial(loss_of, convolve, images=images)
    if is_averaged:
      return isgd_jax.value_and_grad(loss, axis_name=mapping.AXIS)(kernel)[1]
    # Where types vary the gradient of what does not is summed already.
    grad = jax.grad(loss)(kernel)
    return grad if is_checked else jax.lax.psum(grad, mapping.AXIS)

  return jax.jit(
    jax.shard_map(
      local,
      mesh=mapping.make_mesh(),
      in_specs=(P(), P(mapping.AXIS)),
      out_specs=P(),
      check_vma=is_checked,
    )
  )


@pytest.mark.parametrize('is_averaged', [True, False])
@pytest.mark.parametrize('is_checked', [True, False])
def test_the_gradient_of_a_replicated_kernel_is_that_of_jax(
  is_checked, is_averaged
):
  images = jax.random.normal(jax.random.key(0), (16, 6, 6, 3))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
  ours, theirs = (
    gradient(convolve, is_checked, is_averaged)(kernel, images)
    for convolve in (
      isgd_jax.conv_general_dilated,
      jax.lax.conv_general_dilated,
    )
  )
  np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
  assert jnp.any(ours != 0)
