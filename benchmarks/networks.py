"""The networks and batches whose training steps are timed."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from isgd_jax.experiments.models import create_model
from isgd_jax.experiments.models.transformer import Transformer


class Network(NamedTuple):
  """A network, a batch, and the loss of the one on the other.

  Attributes:
    name: for the table.
    params: pytree of float32 arrays.
    batch: what `loss_fn` takes.
    loss_fn: `loss_fn(params, batch) -> loss`.
  """

  name: str
  params: Any
  batch: Any
  loss_fn: Callable[[Any, Any], jax.Array]


def mlp(sizes: tuple[int, ...], batch_size: int) -> Network:
  """A ReLU network of fully connected layers."""
  keys = jax.random.split(jax.random.key(0), len(sizes))
  params = [
    (jax.random.normal(key, (m, n)) * (2 / m) ** 0.5, jnp.zeros(n))
    for key, m, n in zip(keys, sizes, sizes[1:], strict=False)
  ]

  def loss_fn(params, batch):
    x, labels = batch
    *hidden, (w_out, b_out) = params
    for w, b in hidden:
      x = jax.nn.relu(x @ w + b)
    return _cross_entropy(x @ w_out + b_out, labels)

  name = f'MLP {"-".join(map(str, sizes))}, batch {batch_size}'
  return Network(name, params, _images((batch_size, sizes[0])), loss_fn)


def image_network(
  name: str,
  image_shape: tuple[int, ...],
  batch_size: int,
  *,
  num_classes: int = 10,
  dtype: str = 'float32',
  is_plain: bool = False,
) -> Network:
  """A network of `isgd_jax.experiments`.

  Args:
    name: in `isgd_jax.experiments.models`.
    image_shape: height, width, channels.
    batch_size: examples.
    num_classes: at the output.
    dtype: that it computes in.
    is_plain: whether its convolutions are those of `jax.lax`, in place of
      `isgd_jax.conv_general_dilated`.
  """

  def create(key):
    rngs = nnx.Rngs(key)
    network = create_model(
      name, image_shape, num_classes, dtype=dtype, rngs=rngs
    )
    for _, module in nnx.iter_modules(network):
      if is_plain and isinstance(module, nnx.Conv):
        module.conv_general_dilated = jax.lax.conv_general_dilated
    return network

  title = f'{name}, batch {batch_size}'
  if dtype != 'float32':
    title += f', {dtype}'
  if is_plain:
    title += ', convolutions of `jax.lax`'
  batch = _images((batch_size, *image_shape), num_classes)
  return _of_module(title, create, batch)


def transformer(
  length: int, batch_size: int, *, vocabulary_size: int = 256, **sizes: Any
) -> Network:
  """A causal Transformer over tokens."""

  def create(key):
    return Transformer((length,), vocabulary_size, rngs=nnx.Rngs(key), **sizes)

  tokens = jax.random.randint(
    jax.random.key(1), (batch_size, length + 1), 0, vocabulary_size
  )
  network = _of_module('', create, (tokens[:, :-1], tokens[:, 1:]))
  millions = sum(x.size for x in jax.tree.leaves(network.params)) / 1e6
  name = f'Transformer of {millions:.1f} M, batch {batch_size} x {length}'
  return network._replace(name=name)


def _of_module(
  name: str, create: Callable[[jax.Array], nnx.Module], batch: Any
) -> Network:
  """The loss as a function of the parameters; other state as it begins."""
  key = jax.random.key(0)

  @jax.jit
  def init(key):
    _, params, rest = nnx.split(create(key), nnx.Param, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

  graph, _, _ = nnx.split(
    nnx.eval_shape(functools.partial(create, key)), nnx.Param, ...
  )
  params, rest = init(key)

  def loss_fn(params, batch):
    inputs, targets = batch
    module = nnx.merge(graph, params, rest)
    return _cross_entropy(module(inputs, train=True), targets)

  return Network(name, params, batch, loss_fn)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return jnp.mean(losses)


def _images(shape: tuple[int, ...], num_classes: int = 10) -> Any:
  """Random inputs and labels: their values do not change the time."""
  inputs = jax.random.normal(jax.random.key(1), shape)
  return inputs, jnp.arange(shape[0]) % num_classes
