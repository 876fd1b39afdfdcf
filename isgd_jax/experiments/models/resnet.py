"""ResNet-18 with BatchNorm."""

from collections.abc import Sequence
import functools
import itertools

from flax import nnx
import jax
import jax.numpy as jnp

from isgd_jax.experiments.models._inputs import check_image_shape
from isgd_jax.experiments.models.layers import convolution
from isgd_jax.experiments.models.pooling import max_pool

_MIN_IMAGENET_PIXELS = 64
_POOL_PADDING = ((1, 1), (1, 1))


class ResNet18(nnx.Module):
  """ResNet-18: 11,689,512 parameters for 1000 classes on 224x224x3 images.

  The stem is the published one, a 7x7 convolution of stride 2 and max-pooling,
  from 64x64 pixels. Smaller images, down to 8x8, get a 3x3 convolution of
  stride 1 and no pooling, as is common for CIFAR. Shortcuts that change the
  shape are projections (option B). The last BatchNorm scale of a block starts
  at one, not zero. Convolutions start as in He et al. (2015b).

  Args:
    example_shape: (height, width, channels) of one image.
    num_classes: the number of classes.
    dtype: what it computes in; BatchNorm computes in float32 always.
    rngs: draws the initial parameters.

  References:
    He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition,
    arXiv:1512.03385 (2015), table 1. He et al. (2015b): Delving Deep into
    Rectifiers, arXiv:1502.01852.

  Example:
    >>> network = nnx.eval_shape(
    ...   lambda: ResNet18((224, 224, 3), 1000, rngs=nnx.Rngs(0))
    ... )
    >>> params = jax.tree.leaves(nnx.state(network, nnx.Param))
    >>> sum(param.size for param in params)
    11689512
  """

  def __init__(
    self,
    example_shape: Sequence[int],
    num_classes: int,
    *,
    dtype: jax.typing.DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Draws the initial parameters."""
    height, width, channels = check_image_shape(
      'resnet18', example_shape, min_pixels=8
    )
    self.has_imagenet_stem = min(height, width) >= _MIN_IMAGENET_PIXELS
    kwargs = {'dtype': dtype, 'rngs': rngs}
    if self.has_imagenet_stem:
      self.stem = _ConvNorm(channels, 64, 7, 2, **kwargs)
    else:
      self.stem = _ConvNorm(channels, 64, 3, 1, **kwargs)
    widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
    self.blocks = nnx.List(
      _Block(before, after, **kwargs)
      for before, after in itertools.pairwise(widths)
    )
    self.out = nnx.Linear(widths[-1], num_classes, **kwargs)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits [b, num_classes], float32, of images [b, h, w, c].

    Args:
      x: images [b, h, w, c], floating, normalised.
      train: normalise with the statistics of this batch, and move the running
        statistics towards them; otherwise use the running statistics.

    Returns:
      Logits [b, num_classes], float32.
    """
    x = nnx.relu(self.stem(x, train))
    if self.has_imagenet_stem:
      x = max_pool(x, 3, 2, _POOL_PADDING)
    for block in self.blocks:
      x = block(x, train)
    return self.out(x.mean((1, 2))).astype(jnp.float32)


class _Block(nnx.Module):
  """Two 3x3 convolutions and a shortcut; stride 2 where the width grows."""

  def __init__(
    self,
    in_features: int,
    out_features: int,
    *,
    dtype: jax.typing.DTypeLike,
    rngs: nnx.Rngs,
  ):
    conv = functools.partial(_ConvNorm, dtype=dtype, rngs=rngs)
    stride = 1 if in_features == out_features else 2
    self.conv1 = conv(in_features, out_features, 3, stride)
    self.conv2 = conv(out_features, out_features, 3, 1)
    self.shortcut = (
      None if stride == 1 else conv(in_features, out_features, 1, stride)
    )

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[b, h, w, in_features] to [b, h / stride, w / stride, out_features]."""
    shortcut = x if self.shortcut is None else self.shortcut(x, train)
    x = nnx.relu(self.conv1(x, train))
    return nnx.relu(self.conv2(x, train) + shortcut)


class _ConvNorm(nnx.Module):
  """A convolution without bias, then BatchNorm."""

  def __init__(
    self,
    in_features: int,
    out_features: int,
    size: int,
    stride: int,
    *,
    dtype: jax.typing.DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.conv = convolution(
      in_features,
      out_features,
      (size, size),
      strides=stride,
      padding=size // 2,
      use_bias=False,
      kernel_init=nnx.initializers.he_normal(),
      dtype=dtype,
      rngs=rngs,
    )
    # In bfloat16 the running statistics would lose their small differences.
    self.norm = nnx.BatchNorm(
      out_features, momentum=0.9, dtype=jnp.float32, rngs=rngs
    )

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[b, h, w, in_features] to [b, h / stride, w / stride, out_features]."""
    x = self.conv(x)
    return self.norm(x, use_running_average=not train).astype(x.dtype)
