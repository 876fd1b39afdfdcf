"""Small Flax NNX classifiers for 8x8 images, and a functional view of them."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import optax

from isgd_jax.experiments._errors import check_name
from isgd_jax.experiments._errors import missing_extra

try:
  from flax import nnx
except ImportError as error:
  raise missing_extra('flax') from error

Params = Any
Batch = tuple[jax.typing.ArrayLike, jax.typing.ArrayLike]
Shape = tuple[int, int, int]


class MLP(nnx.Module):
  """Two layers, 128 hidden units."""

  def __init__(self, image_shape: Shape, num_classes: int, *, rngs: nnx.Rngs):
    """Draws the initial parameters."""
    height, width, channels = image_shape
    self.hidden = nnx.Linear(height * width * channels, 128, rngs=rngs)
    self.out = nnx.Linear(128, num_classes, rngs=rngs)

  def __call__(self, images: jax.Array) -> jax.Array:
    """Logits [b, num_classes] of images [b, h, w, c]."""
    x = images.reshape(images.shape[0], -1)
    return self.out(nnx.relu(self.hidden(x)))


class CNN(nnx.Module):
  """Two 3x3 convolutions with 2x2 max-pooling, then one linear layer."""

  def __init__(self, image_shape: Shape, num_classes: int, *, rngs: nnx.Rngs):
    """Draws the initial parameters."""
    height, width, channels = image_shape
    self.conv1 = nnx.Conv(channels, 16, (3, 3), rngs=rngs)
    self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
    features = (height // 4) * (width // 4) * 32
    self.out = nnx.Linear(features, num_classes, rngs=rngs)

  def __call__(self, images: jax.Array) -> jax.Array:
    """Logits [b, num_classes] of images [b, h, w, c]."""
    x = nnx.max_pool(nnx.relu(self.conv1(images)), (2, 2), strides=(2, 2))
    x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), strides=(2, 2))
    return self.out(x.reshape(x.shape[0], -1))


_MODELS = {'mlp': MLP, 'cnn': CNN}


class Model(NamedTuple):
  """A network as two pure functions over a dictionary of parameters.

  Attributes:
    init: `init(seed) -> params`, a nested dictionary of float32 arrays.
    loss_fn: `loss_fn(params, (images, labels)) -> (loss, accuracy)`, the mean
      softmax cross-entropy in nats and the share of right answers, scalars.
  """

  init: Callable[[int], Params]
  loss_fn: Callable[[Params, Batch], tuple[jax.Array, jax.Array]]


def model_names() -> tuple[str, ...]:
  """The names that `build_model` knows.

  Returns:
    The names, sorted.

  Example:
    >>> model_names()
    ('cnn', 'mlp')
  """
  return tuple(sorted(_MODELS))


@functools.cache
def build_model(name: str, image_shape: Shape, num_classes: int) -> Model:
  """A functional view (`nnx.split`, `nnx.merge`) of one of the networks.

  Args:
    name: `'mlp'` or `'cnn'`.
    image_shape: (height, width, channels) of one image.
    num_classes: the number of classes.

  Returns:
    A `Model`; the same object for the same arguments.

  Raises:
    ValueError: the name is unknown; the message gives the nearest valid names.

  Example:
    >>> import numpy as np
    >>> model = build_model('mlp', (8, 8, 1), 10)
    >>> params = model.init(0)
    >>> batch = np.zeros((4, 8, 8, 1)), np.zeros(4, np.int32)
    >>> loss, accuracy = model.loss_fn(params, batch)
  """
  module = _MODELS[check_name('model', name, _MODELS)]

  def create(key: jax.Array) -> nnx.Module:
    return module(image_shape, num_classes, rngs=nnx.Rngs(key))

  graphdef = nnx.graphdef(nnx.eval_shape(lambda: create(jax.random.key(0))))

  @jax.jit
  def init_from_key(key: jax.Array) -> Params:
    return nnx.to_pure_dict(nnx.state(create(key), nnx.Param))

  def loss_fn(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    images, labels = batch
    logits = nnx.merge(graphdef, params)(images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), (logits.argmax(-1) == labels).mean()

  return Model(lambda seed: init_from_key(jax.random.key(seed)), loss_fn)
