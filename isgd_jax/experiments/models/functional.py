"""A functional view of the networks that are functions of parameters alone."""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import optax

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.models._losses import cross_entropy
from isgd_jax.experiments.models.registry import Kind
from isgd_jax.experiments.models.registry import create_model

Params = Any
Batch = tuple[jax.typing.ArrayLike, jax.typing.ArrayLike]


class Model(NamedTuple):
  """A network as pure functions over a dictionary of parameters.

  Inputs are images [b, h, w, c], floating, with targets [b], or tokens [b, t],
  integer, with targets [b, t]: of each token the one that follows it.

  Attributes:
    init: `init(seed) -> params`, a nested dictionary of float32 arrays.
    loss_fn: `loss_fn(params, (inputs, targets)) -> (loss, accuracy)`, the mean
      softmax cross-entropy in nats and the share of right answers over all
      targets (of tokens, over all positions), scalars. Targets are int32. Of
      regression, `(loss, error)`: half the mean squared error and the mean
      absolute error, of targets [b] float32.
    logits_fn: `logits_fn(params, inputs) -> logits`, [b, num_classes] of images
      and [b, t, num_classes] of tokens, float32.
  """

  init: Callable[[int], Params]
  loss_fn: Callable[[Params, Batch], tuple[jax.Array, jax.Array]]
  logits_fn: Callable[[Params, jax.typing.ArrayLike], jax.Array]


@functools.cache
def build_model(
  name: str,
  example_shape: Sequence[int],
  num_classes: int,
  kind: Kind = 'classification',
) -> Model:
  """A functional view (`nnx.split`, `nnx.merge`) of one of the networks.

  Args:
    name: of a network without BatchNorm and dropout, such as `'mlp'`, `'cnn'`
      or `'transformer-small'`.
    example_shape: of one example: (height, width, channels) of an image, or
      (length,) of a token sequence, a tuple.
    num_classes: the number of classes; of tokens, the size of the vocabulary;
      1 for regression.
    kind: whether the targets are classes, or numbers of about zero mean and
      unit variance, such as `streams.table_batches` gives.

  Returns:
    A `Model`; the same object for the same arguments.

  Raises:
    ValueError: the name is unknown (the message gives the nearest valid names),
      the network cannot take such examples, it has more state than its
      parameters, or regression has several outputs.

  Example:
    >>> import numpy as np
    >>> model = build_model('mlp', (8, 8, 1), 10)
    >>> params = model.init(0)
    >>> batch = np.zeros((4, 8, 8, 1)), np.zeros(4, np.int32)
    >>> loss, accuracy = jax.jit(model.loss_fn)(params, batch)
    >>> jax.jit(model.logits_fn)(params, batch[0]).shape
    (4, 10)
  """

  def create(key: jax.Array) -> nnx.Module:
    return create_model(
      name, example_shape, num_classes, kind=kind, rngs=nnx.Rngs(key)
    )

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

  def logits_fn(params: Params, inputs: jax.typing.ArrayLike) -> jax.Array:
    return nnx.merge(graphdef, params)(inputs)

  def loss_fn(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    inputs, targets = batch
    logits = logits_fn(params, inputs)
    if kind == 'regression':
      outputs = logits[..., 0]
      losses = optax.l2_loss(outputs, targets)
      return losses.mean(), abs(outputs - targets).mean()
    losses, is_right = cross_entropy(logits, targets)
    return losses.mean(), is_right.mean()

  return Model(
    init=lambda seed: init_from_key(jax.random.key(seed)),
    loss_fn=loss_fn,
    logits_fn=logits_fn,
  )
