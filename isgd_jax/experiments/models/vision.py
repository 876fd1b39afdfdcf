"""Networks for images without BatchNorm: MLP, CNN, LeNet to AlexNet.

All take `example_shape` (height, width, channels) and `num_classes`; called,
they map normalised images [b, h, w, c] to float32 logits [b, num_classes].
"""

from collections.abc import Sequence
import functools

from flax import nnx
import jax
import jax.numpy as jnp

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.models._inputs import check_image_shape
from isgd_jax.experiments.models.layers import convolution
from isgd_jax.experiments.models.layers import local_response_normalization
from isgd_jax.experiments.models.pooling import caffe_average_pool
from isgd_jax.experiments.models.pooling import caffe_max_pool
from isgd_jax.experiments.models.pooling import max_pool

Dtype = jax.typing.DTypeLike


class MLP(nnx.Module):
  """Two layers, 128 hidden units unless told; Flax's default initialization.

  Example:
    >>> network = MLP((8, 8, 1), 10, rngs=nnx.Rngs(0))
    >>> network(jnp.zeros((2, 8, 8, 1))).shape
    (2, 10)
  """

  def __init__(
    self,
    example_shape: Sequence[int],
    num_classes: int,
    *,
    num_hidden: int = 128,
    dtype: Dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Draws the initial parameters; see the module for the arguments."""
    height, width, channels = check_image_shape('mlp', example_shape)
    linear = functools.partial(nnx.Linear, dtype=dtype, rngs=rngs)
    self.hidden = linear(height * width * channels, num_hidden)
    self.out = linear(num_hidden, num_classes)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits [b, num_classes] of images [b, h, w, c]."""
    del train
    x = nnx.relu(self.hidden(_flatten(x)))
    return self.out(x).astype(jnp.float32)


class TwoHiddenMLP(nnx.Module):
  """Three layers, 300 and 150 hidden units; initialized as PyTorch's are.

  Weights and biases are uniform within one over the root of the fan-in.

  References:
    Elsayed and Mahmood, Addressing Loss of Plasticity and Catastrophic
    Forgetting in Continual Learning, ICLR 2024, appendix I.2.

  Example:
    >>> network = nnx.eval_shape(
    ...   lambda: TwoHiddenMLP((28, 28, 1), 10, rngs=nnx.Rngs(0))
    ... )
    >>> params = jax.tree.leaves(nnx.state(network, nnx.Param))
    >>> sum(param.size for param in params)
    282160
  """

  def __init__(
    self,
    example_shape: Sequence[int],
    num_classes: int,
    *,
    dtype: Dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Draws the initial parameters; see the module for the arguments."""
    height, width, channels = check_image_shape('mlp-300-150', example_shape)

    def linear(fan_in: int, fan_out: int) -> nnx.Linear:
      def uniform(key, shape, dtype, **kwargs):
        del kwargs
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

      return nnx.Linear(
        fan_in,
        fan_out,
        kernel_init=uniform,
        bias_init=uniform,
        dtype=dtype,
        rngs=rngs,
      )

    self.hidden1 = linear(height * width * channels, 300)
    self.hidden2 = linear(300, 150)
    self.out = linear(150, num_classes)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits [b, num_classes] of images [b, h, w, c]."""
    del train
    x = nnx.relu(self.hidden1(_flatten(x)))
    x = nnx.relu(self.hidden2(x))
    return self.out(x).astype(jnp.float32)


class CNN(nnx.Module):
  """Two 3x3 convolutions with 2x2 max-pooling, then one linear layer.

  From 4x4 pixels. Flax's default initialization.

  Example:
    >>> network = nnx.eval_shape(lambda: CNN((8, 8, 1), 10, rngs=nnx.Rngs(0)))
    >>> network.out.kernel.shape
    (128, 10)
  """

  def __init__(
    self,
    example_shape: Sequence[int],
    num_classes: int,
    *,
    dtype: Dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Draws the initial parameters; see the module for the arguments."""
    height, width, channels = check_image_shape(
      'cnn', example_shape, min_pixels=4
    )
    conv = functools.partial(convolution, dtype=dtype, rngs=rngs)
    self.conv1 = conv(channels, 16, (3, 3))
    self.conv2 = conv(16, 32, (3, 3))
    features = (height // 4) * (width // 4) * 32
    self.out = nnx.Linear(features, num_classes, dtype=dtype, rngs=rngs)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits [b, num_classes] of images [b, h, w, c]."""
    del train
    x = max_pool(nnx.relu(self.conv1(x)), 2, 2)
    x = max_pool(nnx.relu(self.conv2(x)), 2, 2)
    return self.out(_flatten(x)).astype(jnp.float32)


class LeNet(nnx.Module):
  """Caffe's LeNet: 431,080 parameters on 28x28x1 images of 10 classes.

  From 13x13 pixels. No ReLU after the convolutions, as in Caffe. Caffe's
  'xavier' filler divides by the fan-in alone; that is `lecun_uniform` in JAX.

  References:
    `examples/mnist/lenet_train_test.prototxt` in Caffe, after LeCun, Bottou,
    Bengio and Haffner, Gradient-Based Learning Applied to Document Recognition,
    Proceedings of the IEEE 86(11), 1998.

  Example:
    >>> network = nnx.eval_shape(
    ...   lambda: LeNet((28, 28, 1), 10, rngs=nnx.Rngs(0))
    ... )
    >>> params = jax.tree.leaves(nnx.state(network, nnx.Param))
    >>> sum(param.size for param in params)
    431080
  """

  def __init__(
    self,
    example_shape: Sequence[int],
    num_classes: int,
    *,
    dtype: Dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Draws the initial parameters; see the module for the arguments."""
    shape = check_image_shape('lenet', example_shape, min_pixels=13)
    xavier = {
      'kernel_init': nnx.initializers.lecun_uniform(),
      'dtype': dtype,
      'rngs': rngs,
    }
    self.conv1 = convolution(shape[-1], 20, (5, 5), padding='VALID', **xavier)
    self.conv2 = convolution(20, 50, (5, 5), padding='VALID', **xavier)
    self.fc1 = nnx.Linear(_num_features(self, shape), 500, **xavier)
    self.fc2 = nnx.Linear(500, num_classes, **xavier)

  def features(self, x: jax.Array) -> jax.Array:
    """What the linear layers see, [b, h', w', 50] of images [b, h, w, c]."""
    x = caffe_max_pool(self.conv1(x), 2, 2)
    return caffe_max_pool(self.conv2(x), 2, 2)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits [b, num_classes] of images [b, h, w, c]."""
    del train
    x = nnx.relu(self.fc1(_flatten(self.features(x))))
    return self.fc2(x).astype(jnp.float32)


class Cifar10Quick(nnx.Module):
  """Caffe's cifar10_quick: 145,578 parameters on 32x32x3 images of 10 classes.

  From 8x8 pixels. No ReLU between the linear layers, as in Caffe. The first
  layer starts at a standard deviation of 1e-4: Caffe's images are bytes less
  the mean image, not scaled, so scaled images may want a larger rate at first.

  References:
    `examples/cifar10/cifar10_quick_train_test.prototxt` in Caffe, after
    Krizhevsky's cuda-convnet.

  Example:
    >>> network = nnx.eval_shape(
    ...   lambda: Cifar10Quick((32, 32, 3), 10, rngs=nnx.Rngs(0))
    ... )
    >>> params = jax.tree.leaves(nnx.state(network, nnx.Param))
    >>> sum(param.size for param in params)
    145578
  """

  def __init__(
    self,
    example_shape: Sequence[int],
    num_classes: int,
    *,
    dtype: Dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Draws the initial parameters; see the module for the arguments."""
    shape = check_image_shape('cifar10-quick', example_shape, min_pixels=8)
    gaussian = nnx.initializers.normal
    conv = functools.partial(
      convolution, kernel_size=(5, 5), padding=2, dtype=dtype, rngs=rngs
    )
    linear = functools.partial(
      nnx.Linear, kernel_init=gaussian(0.1), dtype=dtype, rngs=rngs
    )
    self.conv1 = conv(shape[-1], 32, kernel_init=gaussian(1e-4))
    self.conv2 = conv(32, 32, kernel_init=gaussian(0.01))
    self.conv3 = conv(32, 64, kernel_init=gaussian(0.01))
    self.fc1 = linear(_num_features(self, shape), 64)
    self.fc2 = linear(64, num_classes)

  def features(self, x: jax.Array) -> jax.Array:
    """What the linear layers see, [b, h', w', 64] of images [b, h, w, c]."""
    x = nnx.relu(caffe_max_pool(self.conv1(x), 3, 2))
    x = caffe_average_pool(nnx.relu(self.conv2(x)), 3, 2)
    return caffe_average_pool(nnx.relu(self.conv3(x)), 3, 2)

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits [b, num_classes] of images [b, h, w, c]."""
    del train
    x = self.fc1(_flatten(self.features(x)))
    return self.fc2(x).astype(jnp.float32)


class AlexNet(nnx.Module):
  """AlexNet on one device: 62,378,344 parameters for 1000 classes.

  For 227x227 pixels, or 224x224, which are padded with two rows and columns
  before and one after. As published, but the convolutions see all channels:
  the two groups were for two GPUs.

  References:
    Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep
    Convolutional Neural Networks, NeurIPS 2012: section 3 for the layers,
    section 5 for the initialization.

  Example:
    >>> network = nnx.eval_shape(
    ...   lambda: AlexNet((227, 227, 3), 1000, rngs=nnx.Rngs(0))
    ... )
    >>> params = jax.tree.leaves(nnx.state(network, nnx.Param))
    >>> sum(param.size for param in params)
    62378344
  """

  def __init__(
    self,
    example_shape: Sequence[int],
    num_classes: int,
    *,
    dtype: Dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Draws the initial parameters; see the module for the arguments."""
    shape = check_image_shape('alexnet', example_shape)
    # Both give the published 55x55 outputs.
    paddings = {(227, 227): 'VALID', (224, 224): [(2, 1), (2, 1)]}
    if shape[:2] not in paddings:
      raise InputError(
        f'example_shape is {example_shape!r}, but alexnet takes images of '
        '227x227 or 224x224 pixels: crop or resize the images or choose '
        'another network'
      )
    gaussian = {
      'kernel_init': nnx.initializers.normal(0.01),
      'dtype': dtype,
      'rngs': rngs,
    }
    ones = nnx.initializers.ones
    conv = functools.partial(convolution, **gaussian)
    linear = functools.partial(nnx.Linear, **gaussian)
    self.conv1 = conv(
      shape[-1], 96, (11, 11), strides=4, padding=paddings[shape[:2]]
    )
    self.conv2 = conv(96, 256, (5, 5), bias_init=ones)
    self.conv3 = conv(256, 384, (3, 3))
    self.conv4 = conv(384, 384, (3, 3), bias_init=ones)
    self.conv5 = conv(384, 256, (3, 3), bias_init=ones)
    self.fc6 = linear(6 * 6 * 256, 4096, bias_init=ones)
    self.fc7 = linear(4096, 4096, bias_init=ones)
    self.fc8 = linear(4096, num_classes)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)

  def features(self, x: jax.Array) -> jax.Array:
    """What the linear layers see, [b, 6, 6, 256] of images [b, h, w, c]."""
    pool = functools.partial(max_pool, window=3, stride=2)
    normalize = local_response_normalization
    x = pool(normalize(nnx.relu(self.conv1(x))))
    x = pool(normalize(nnx.relu(self.conv2(x))))
    x = nnx.relu(self.conv3(x))
    x = nnx.relu(self.conv4(x))
    return pool(nnx.relu(self.conv5(x)))

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits [b, num_classes] of images [b, h, w, c]."""
    x = _flatten(self.features(x))
    for layer in (self.fc6, self.fc7):
      x = self.dropout(nnx.relu(layer(x)), deterministic=not train)
    return self.fc8(x).astype(jnp.float32)


def _flatten(x: jax.Array) -> jax.Array:
  """[b, h, w, c] as [b, h * w * c]."""
  return x.reshape(x.shape[0], -1)


def _num_features(
  network: LeNet | Cifar10Quick, shape: tuple[int, int, int]
) -> int:
  """How many features one image gives, found without computing them."""
  images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  return nnx.eval_shape(lambda n, x: n.features(x), network, images).size
