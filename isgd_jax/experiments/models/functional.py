"""A functional view of the networks that are functions of parameters alone."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import optax

from isgd_jax.experiments._errors import InputError
from isgd_jax.experiments.models.registry import create_model
from isgd_jax.experiments.models.registry import input_kind

Params = Any
Batch = tuple[jax.typing.ArrayLike, jax.typing.ArrayLike]
Shape = tuple[int, int, int]


class Model(NamedTuple):
  """A network as two pure functions over a dictionary of parameters.

  Attributes:
    init: `init(seed) -> params`, a nested dictionary of float32 arrays.
    loss_fn: `loss_fn(params, (images, labels)) -> (loss, accuracy)`, the mean
      softmax cross-entropy in nats and the share of right answers, scalars.
  """

  init: Callable[[int], Params]
  loss_fn: Callable[[Params, Batch], tuple[jax.Array, jax.Array]]


@functools.cache
def build_model(name: str, image_shape: Shape, num_classes: int) -> Model:
  """A functional view (`nnx.split`, `nnx.merge`) of one of the networks.

  Args:
    name: of a network for images without BatchNorm and dropout, such as
      `'mlp'` or `'cnn'`.
    image_shape: (height, width, channels) of one image.
    num_classes: the number of classes.

  Returns:
    A `Model`; the same object for the same arguments.

  Raises:
    ValueError: the name is unknown (the message gives the nearest valid names),
      the network cannot take such images, or it has more state than its
      parameters.

  Example:
    >>> import numpy as np
    >>> model = build_model('mlp', (8, 8, 1), 10)
    >>> params = model.init(0)
    >>> batch = np.zeros((4, 8, 8, 1)), np.zeros(4, np.int32)
    >>> loss, accuracy = jax.jit(model.loss_fn)(params, batch)
  """
  if input_kind(name) != 'image':
    raise InputError(
      f'model {name!r} takes {input_kind(name)}, but this needs a network for '
      'images: choose mlp or cnn, or make the network with create_model'
    )

  def create(key: jax.Array) -> nnx.Module:
    return create_model(name, image_shape, num_classes, rngs=nnx.Rngs(key))

  abstract = nnx.eval_shape(lambda: create(jax.random.key(0)))
  graphdef, _, other = nnx.split(abstract, nnx.Param, ...)
  if jax.tree.leaves(other):
    raise InputError(
      f'model {name!r} has state besides its parameters (BatchNorm, dropout), '
      'but this needs a network without: choose mlp or cnn, or make the '
      'network with create_model and keep its state'
    )

  @jax.jit
  def init_from_key(key: jax.Array) -> Params:
    return nnx.to_pure_dict(nnx.state(create(key), nnx.Param))

  def loss_fn(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    images, labels = batch
    logits = nnx.merge(graphdef, params)(images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), (logits.argmax(-1) == labels).mean()

  return Model(lambda seed: init_from_key(jax.random.key(seed)), loss_fn)
