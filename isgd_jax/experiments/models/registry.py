"""The networks by name."""

from collections.abc import Callable, Mapping, Sequence
import functools
import typing
from typing import Literal

from flax import nnx
import jax
import jax.numpy as jnp

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.models.resnet import ResNet18
from isgd_jax.experiments.models.transformer import Transformer
from isgd_jax.experiments.models.vision import CNN
from isgd_jax.experiments.models.vision import MLP
from isgd_jax.experiments.models.vision import AlexNet
from isgd_jax.experiments.models.vision import Cifar10Quick
from isgd_jax.experiments.models.vision import LeNet
from isgd_jax.experiments.models.vision import TwoHiddenMLP

InputKind = Literal['image', 'tokens']

Kind = Literal['classification', 'regression']

_NETWORKS: Mapping[str, tuple[Callable[..., nnx.Module], InputKind]] = {
  'alexnet': (AlexNet, 'image'),
  'cifar10-quick': (Cifar10Quick, 'image'),
  'cnn': (CNN, 'image'),
  'lenet': (LeNet, 'image'),
  'mlp': (MLP, 'image'),
  # For streams of tables: tens of thousands of steps a run, by the hundred.
  'mlp-32': (functools.partial(MLP, num_hidden=32), 'image'),
  'mlp-300-150': (TwoHiddenMLP, 'image'),
  'resnet18': (ResNet18, 'image'),
  'transformer': (Transformer, 'tokens'),
  # Fast enough on a CPU for runs by the hundred: a seventh of the parameters.
  'transformer-small': (
    functools.partial(Transformer, width=64, num_layers=2, num_heads=2),
    'tokens',
  ),
}


def model_names() -> tuple[str, ...]:
  """The names that `create_model` knows.

  Returns:
    The names, sorted.

  Example:
    >>> model_names()[:4]
    ('alexnet', 'cifar10-quick', 'cnn', 'lenet')
  """
  return tuple(sorted(_NETWORKS))


def input_kind(name: str) -> InputKind:
  """What a network takes.

  Args:
    name: one of `model_names()`.

  Returns:
    `'image'`: [b, h, w, c], floating; or `'tokens'`: [b, t], integer.

  Raises:
    ValueError: the name is unknown; the message gives the nearest valid names.

  Example:
    >>> input_kind('transformer')
    'tokens'
  """
  return _NETWORKS[check_name('model', name, _NETWORKS)][1]


def create_model(
  name: str,
  example_shape: Sequence[int],
  num_classes: int,
  *,
  kind: Kind = 'classification',
  dtype: jax.typing.DTypeLike = jnp.float32,
  rngs: nnx.Rngs,
) -> nnx.Module:
  """Makes a network and draws its initial parameters.

  Args:
    name: one of `model_names()`. `'transformer'` is of width 128, with 4 layers
      of 4 heads, `'transformer-small'` of width 64, with 2 layers of 2 heads.
    example_shape: of one example: (height, width, channels) of an image, or
      (length,) of a token sequence.
    num_classes: the number of classes; of tokens, the size of the vocabulary;
      1 for regression.
    kind: whether the outputs are logits of classes, or one number.
    dtype: what the network computes in, float32 or bfloat16; parameters,
      BatchNorm statistics and logits are float32 with either.
    rngs: draws the initial parameters, and the dropout.

  Returns:
    A module: `module(x, train=False)` gives logits [b, num_classes] of images
    [b, h, w, c], or [b, t, num_classes] of tokens [b, t], float32.

  Raises:
    ValueError: the name is unknown (the message gives the nearest valid names),
      or the network cannot take such examples, classes or dtype.

  Example:
    >>> network = create_model('mlp', (28, 28, 1), 10, rngs=nnx.Rngs(0))
    >>> network(jnp.zeros((2, 28, 28, 1)), train=True).shape
    (2, 10)
  """
  network, _ = _NETWORKS[check_name('model', name, _NETWORKS)]
  check_name('kind', kind, typing.get_args(Kind))
  if kind == 'regression' and num_classes != 1:
    raise InputError(
      f'num_classes must be 1 for regression, got {num_classes}: a number has '
      'one output'
    )
  if kind == 'classification' and num_classes < 2:
    raise InputError(f'num_classes is {num_classes}, but must be at least 2')
  if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
    raise InputError(
      f'dtype is {jnp.dtype(dtype)}, but must be float32 or bfloat16'
    )
  return network(example_shape, num_classes, dtype=dtype, rngs=rngs)
