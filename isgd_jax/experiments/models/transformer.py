"""A small causal Transformer over bytes."""

from collections.abc import Sequence

from flax import nnx
import jax
import jax.numpy as jnp

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.models._inputs import check_sequence_shape


class Transformer(nnx.Module):
  """Predicts each next token from those before it; pre-norm, as GPT-2.

  Positions are learned. The output layer is tied to the token embedding.
  Weights start normal with a standard deviation of 0.02, those that write to
  the residual stream divided by sqrt(2 * num_layers); biases start at zero.

  With V = `vocabulary_size`, T = length, D = `width`, L = `num_layers` it has
  V D + T D + L (12 D^2 + 13 D) + 2 D parameters.

  Args:
    example_shape: (length,), the longest sequence it can take, in tokens.
    vocabulary_size: the number of different tokens; 256 for bytes.
    width: size of the residual stream.
    num_layers: blocks of attention and MLP.
    num_heads: attention heads in a block; divides `width`.
    dropout_rate: share in [0, 1) of the embedding's and of each branch's
      outputs that is dropped in training; at 0 there is no dropout state.
    dtype: what it computes in; LayerNorm computes in float32 always.
    rngs: draws the initial parameters, and the dropout.

  Raises:
    InputError: (a `ValueError`) `example_shape` is no sequence, or the heads do
      not divide the width.

  References:
    Vaswani et al., Attention Is All You Need, arXiv:1706.03762 (2017); Radford
    et al., Language Models are Unsupervised Multitask Learners (2019).

  Example:
    >>> network = nnx.eval_shape(lambda: Transformer((64,), rngs=nnx.Rngs(0)))
    >>> tokens = jax.ShapeDtypeStruct((2, 64), jnp.uint8)
    >>> nnx.eval_shape(lambda n, x: n(x), network, tokens).shape
    (2, 64, 256)
  """

  def __init__(
    self,
    example_shape: Sequence[int],
    vocabulary_size: int = 256,
    *,
    width: int = 128,
    num_layers: int = 4,
    num_heads: int = 4,
    dropout_rate: float = 0.0,
    dtype: jax.typing.DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Draws the initial parameters."""
    self.max_length = check_sequence_shape('transformer', example_shape)
    if width % num_heads:
      raise InputError(
        f'num_heads is {num_heads}, which does not divide width {width}: '
        'choose a divisor'
      )
    kwargs = {'dtype': dtype, 'rngs': rngs}
    embedding = {'embedding_init': nnx.initializers.normal(0.02), **kwargs}
    self.tokens = nnx.Embed(vocabulary_size, width, **embedding)
    self.positions = nnx.Embed(self.max_length, width, **embedding)
    self.dropout = _dropout(dropout_rate, rngs)
    residual_stddev = 0.02 / (2 * num_layers) ** 0.5
    self.blocks = nnx.List(
      _Block(width, num_heads, dropout_rate, residual_stddev, **kwargs)
      for _ in range(num_layers)
    )
    self.norm = _LayerNorm(width, **kwargs)

  def __call__(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits of the token after each of `tokens`.

    Args:
      tokens: [b, t], any integer type, t at most the length.
      train: whether to drop out.

    Returns:
      Logits [b, t, vocabulary_size], float32.

    Raises:
      InputError: (a `ValueError`) the sequences are too long.
    """
    length = tokens.shape[1]
    if length > self.max_length:
      raise InputError(
        f'tokens are sequences of {length}, but the network was made for at '
        f'most {self.max_length}: cut them or make it with ({length},)'
      )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
      raise InputError(
        f'tokens are {tokens.dtype}, but must be integers: pass the token ids'
      )
    x = self.tokens(tokens) + self.positions(jnp.arange(length))
    x = self.dropout(x, deterministic=not train)
    for block in self.blocks:
      x = block(x, train)
    return self.tokens.attend(self.norm(x)).astype(jnp.float32)


class _Block(nnx.Module):
  """Causal self-attention, then an MLP four times as wide, both residual."""

  def __init__(
    self,
    width: int,
    num_heads: int,
    dropout_rate: float,
    residual_stddev: float,
    *,
    dtype: jax.typing.DTypeLike,
    rngs: nnx.Rngs,
  ):
    kwargs = {'dtype': dtype, 'rngs': rngs}
    inner = {'kernel_init': nnx.initializers.normal(0.02), **kwargs}
    outer = {'kernel_init': nnx.initializers.normal(residual_stddev), **kwargs}
    self.num_heads = num_heads
    self.attention_norm = _LayerNorm(width, **kwargs)
    self.qkv = nnx.Linear(width, 3 * width, **inner)
    self.attention_out = nnx.Linear(width, width, **outer)
    self.mlp_norm = _LayerNorm(width, **kwargs)
    self.mlp_hidden = nnx.Linear(width, 4 * width, **inner)
    self.mlp_out = nnx.Linear(4 * width, width, **outer)
    self.dropout = _dropout(dropout_rate, rngs)

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[b, t, width] to [b, t, width]."""
    x = x + self.dropout(self._attend(x), deterministic=not train)
    hidden = nnx.gelu(self.mlp_hidden(self.mlp_norm(x)))
    return x + self.dropout(self.mlp_out(hidden), deterministic=not train)

  def _attend(self, x: jax.Array) -> jax.Array:
    """Each position's look at itself and those before it, [b, t, width]."""
    batch_size, length, width = x.shape
    qkv = self.qkv(self.attention_norm(x)).reshape(
      batch_size, length, 3, self.num_heads, width // self.num_heads
    )
    attended = jax.nn.dot_product_attention(
      qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True
    )
    return self.attention_out(attended.reshape(x.shape))


class _LayerNorm(nnx.Module):
  """LayerNorm in float32, its output in `dtype`."""

  def __init__(
    self, width: int, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs
  ):
    self.dtype = dtype
    self.norm = nnx.LayerNorm(width, dtype=jnp.float32, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., width] to [..., width]."""
    return self.norm(x).astype(self.dtype)


def _dropout(rate: float, rngs: nnx.Rngs) -> nnx.Dropout:
  """Dropout, with a random state only where it drops anything."""
  return nnx.Dropout(rate, rngs=rngs if rate > 0 else None)
