"""The networks are the published ones, and keep the convention of the module.

Parameter counts and the forward pass's types come from abstract evaluation,
which draws and computes nothing.
"""

import functools
import inspect
import math

import chex
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from isgd_jax.experiments import models
from isgd_jax.experiments.models import layers
from isgd_jax.experiments.models import pooling
from isgd_jax.experiments.models import vision

# The shapes and classes that the networks were published for.
PUBLISHED = {
  'alexnet': ((227, 227, 3), 1000),
  'cifar10-quick': ((32, 32, 3), 10),
  'cnn': ((8, 8, 1), 10),
  'lenet': ((28, 28, 1), 10),
  'mlp': ((8, 8, 1), 10),
  'mlp-300-150': ((28, 28, 1), 10),
  'mlp-32': ((8, 8, 1), 10),
  'resnet18': ((224, 224, 3), 1000),
  'transformer': ((64,), 256),
  'transformer-small': ((64,), 256),
}
# The least that the networks say they need.
SMALLEST = {
  'cifar10-quick': (8, 8, 3),
  'cnn': (4, 4, 3),
  'lenet': (13, 13, 3),
  'mlp': (1, 1, 3),
  'mlp-300-150': (1, 1, 3),
  'mlp-32': (1, 1, 3),
  'resnet18': (8, 8, 3),
}


def abstract(name, example_shape, num_classes=10, **kwargs):
  """The network without any arrays."""
  return nnx.eval_shape(
    lambda: models.create_model(
      name, example_shape, num_classes, rngs=nnx.Rngs(0), **kwargs
    )
  )


def published(name, **kwargs):
  return abstract(name, *PUBLISHED[name], **kwargs)


def created(name, example_shape, num_classes=10, **kwargs):
  """The network with arrays; one program draws them all."""

  @nnx.jit
  def create():
    return models.create_model(
      name, example_shape, num_classes, rngs=nnx.Rngs(0), **kwargs
    )

  return create()


def forward(network, x, **kwargs):
  """One compiled call; state moves as it does without."""
  return nnx.jit(lambda network, x: network(x, **kwargs))(network, x)


def count(network):
  return sum(p.size for p in jax.tree.leaves(nnx.state(network, nnx.Param)))


def shapes(network):
  """{'conv1/kernel': shape}"""
  return {
    '/'.join(map(str, path)): variable.shape
    for path, variable in nnx.to_flat_state(nnx.state(network, nnx.Param))
  }


def inputs(name, example_shape, batch_size=2):
  """What the network takes, abstract."""
  dtype = {'image': jnp.float32, 'tokens': jnp.uint8}[models.input_kind(name)]
  return jax.ShapeDtypeStruct((batch_size, *example_shape), dtype)


def images(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def tokens(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(0, 256, shape), jnp.uint8)


@functools.cache
def alexnet():
  """Drawn once, as two hundred megabytes take their time."""
  return created('alexnet', (224, 224, 3), 2)


def numpy_lrn(x, size=5, k=2.0, alpha=1e-4, beta=0.75):
  """Krizhevsky et al., section 3.3, one channel at a time."""
  result = np.empty_like(x)
  num_channels = x.shape[-1]
  for i in range(num_channels):
    low, high = max(0, i - size // 2), min(num_channels - 1, i + size // 2)
    total = (x[..., low : high + 1] ** 2).sum(-1)
    result[..., i] = x[..., i] / (k + alpha * total) ** beta
  return result


def numpy_caffe_pool(x, window, stride, is_average):
  """Caffe's PoolingLayer without padding, on one image."""
  height, width, num_channels = x.shape
  pooled = [math.ceil((n - window) / stride) + 1 for n in (height, width)]
  result = np.empty((*pooled, num_channels))
  for i, j in np.ndindex(*pooled):
    top, left = i * stride, j * stride
    bottom, right = min(top + window, height), min(left + window, width)
    values = x[top:bottom, left:right]
    # Caffe divides by the window clipped to the image.
    result[i, j] = values.mean((0, 1)) if is_average else values.max((0, 1))
  return result


def numpy_conv(x, layer, padding=0, stride=1):
  """A convolution of one image, as matrix products of its patches."""
  kernel = np.asarray(layer.kernel[...])
  padding = ((padding, padding), (padding, padding), (0, 0))
  patches = np.lib.stride_tricks.sliding_window_view(
    np.pad(x, padding), kernel.shape[:2], axis=(0, 1)
  )[::stride, ::stride]
  result = np.tensordot(patches, kernel, ((3, 4, 2), (0, 1, 2)))
  return result if layer.bias is None else result + np.asarray(layer.bias[...])


def numpy_linear(x, layer):
  return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])


def relu(x):
  return np.maximum(x, 0)


def numpy_lenet(network, x):
  for layer in (network.conv1, network.conv2):
    x = numpy_caffe_pool(numpy_conv(x, layer), 2, 2, is_average=False)
  return numpy_linear(relu(numpy_linear(x.ravel(), network.fc1)), network.fc2)


def numpy_cifar10_quick(network, x):
  x = relu(numpy_caffe_pool(numpy_conv(x, network.conv1, 2), 3, 2, False))
  x = numpy_caffe_pool(relu(numpy_conv(x, network.conv2, 2)), 3, 2, True)
  x = numpy_caffe_pool(relu(numpy_conv(x, network.conv3, 2)), 3, 2, True)
  return numpy_linear(numpy_linear(x.ravel(), network.fc1), network.fc2)


def numpy_alexnet(network, x):
  """Takes 227x227 pixels."""

  def pool(x):
    return numpy_caffe_pool(x, 3, 2, is_average=False)

  x = pool(numpy_lrn(relu(numpy_conv(x, network.conv1, stride=4))))
  x = pool(numpy_lrn(relu(numpy_conv(x, network.conv2, 2))))
  x = relu(numpy_conv(x, network.conv3, 1))
  x = relu(numpy_conv(x, network.conv4, 1))
  x = pool(relu(numpy_conv(x, network.conv5, 1)))
  x = relu(numpy_linear(x.ravel(), network.fc6))
  return numpy_linear(relu(numpy_linear(x, network.fc7)), network.fc8)


def numpy_resnet18(network, x):
  """For small images, with the running statistics."""

  def conv_norm(x, layer, padding=1, stride=1):
    mean, var, scale, bias = (
      np.asarray(getattr(layer.norm, name)[...])
      for name in ('mean', 'var', 'scale', 'bias')
    )
    x = numpy_conv(x, layer.conv, padding, stride)
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

  x = relu(conv_norm(x, network.stem))
  for i, block in enumerate(network.blocks):
    halves = i in (2, 4, 6)
    branch = relu(conv_norm(x, block.conv1, stride=2 if halves else 1))
    branch = conv_norm(branch, block.conv2)
    x = relu(branch + (conv_norm(x, block.shortcut, 0, 2) if halves else x))
  return numpy_linear(x.mean((0, 1)), network.out)


def numpy_transformer(network, tokens):
  """One sequence, one head at a time."""

  def normalize(x, layer):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(
      x.var(-1, keepdims=True) + 1e-6
    )
    return x * np.asarray(layer.norm.scale[...]) + np.asarray(
      layer.norm.bias[...]
    )

  table = np.asarray(network.tokens.embedding[...])
  length = len(tokens)
  x = table[tokens] + np.asarray(network.positions.embedding[...])[:length]
  width = x.shape[-1]
  for block in network.blocks:
    size = width // block.num_heads
    qkv = numpy_linear(normalize(x, block.attention_norm), block.qkv)
    heads = []
    for start in range(0, width, size):
      q, k, v = (
        qkv[:, offset + start : offset + start + size]
        for offset in (0, width, 2 * width)
      )
      scores = np.exp(q @ k.T / np.sqrt(size)) * np.tri(length)
      heads.append(scores / scores.sum(-1, keepdims=True) @ v)
    x = x + numpy_linear(np.concatenate(heads, -1), block.attention_out)
    h = numpy_linear(normalize(x, block.mlp_norm), block.mlp_hidden)
    h = h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))) / 2
    x = x + numpy_linear(h, block.mlp_out)
  return normalize(x, network.norm) @ table.T


def test_every_name_is_tested():
  assert set(PUBLISHED) == set(models.model_names())


# LeNet, cifar10-quick: from the prototxt files in Caffe's examples/mnist and
# examples/cifar10. AlexNet: Krizhevsky, One weird trick (arXiv:1404.5997), has
# the ungrouped layers; the count is the sum of theirs. ResNet-18: torchvision
# lists 11,689,512 with its weights.
@pytest.mark.parametrize(
  ('name', 'num_parameters'),
  [
    ('alexnet', 62_378_344),
    ('cifar10-quick', 145_578),
    ('lenet', 431_080),
    # 784 x 300 + 300 + 300 x 150 + 150 + 150 x 10 + 10.
    ('mlp-300-150', 282_160),
    ('resnet18', 11_689_512),
  ],
)
def test_parameter_counts_are_the_published_ones(name, num_parameters):
  assert count(published(name)) == num_parameters


def test_two_hidden_layers_start_as_pytorch_s_linear_layers():
  network = created('mlp-300-150', *PUBLISHED['mlp-300-150'])
  layers_and_fans = (
    (network.hidden1, 784),
    (network.hidden2, 300),
    (network.out, 150),
  )
  for layer, fan_in in layers_and_fans:
    for found in (layer.kernel, layer.bias):
      scaled = np.asarray(found[...]) * fan_in**0.5
      # Uniform on [-1, 1], whose deviation is the root of a third; of ten
      # numbers little is known.
      assert abs(scaled).max() <= 1 + 1e-6
      if scaled.size > 100:
        assert abs(scaled).max() > 0.95
        np.testing.assert_allclose(scaled.std(), 3**-0.5, rtol=0.12)
        assert abs(scaled.mean()) < 0.15


def test_lenet_s_shapes_are_caffe_s():
  assert shapes(published('lenet')) == {
    'conv1/kernel': (5, 5, 1, 20),
    'conv1/bias': (20,),
    'conv2/kernel': (5, 5, 20, 50),
    'conv2/bias': (50,),
    'fc1/kernel': (4 * 4 * 50, 500),
    'fc1/bias': (500,),
    'fc2/kernel': (500, 10),
    'fc2/bias': (10,),
  }


def test_cifar10_quick_s_shapes_are_caffe_s():
  assert shapes(published('cifar10-quick')) == {
    'conv1/kernel': (5, 5, 3, 32),
    'conv1/bias': (32,),
    'conv2/kernel': (5, 5, 32, 32),
    'conv2/bias': (32,),
    'conv3/kernel': (5, 5, 32, 64),
    'conv3/bias': (64,),
    'fc1/kernel': (4 * 4 * 64, 64),
    'fc1/bias': (64,),
    'fc2/kernel': (64, 10),
    'fc2/bias': (10,),
  }


def test_transformer_s_parameter_count_is_the_closed_formula():
  vocabulary, length, width, num_layers = 50, 24, 16, 3
  network = nnx.eval_shape(
    lambda: models.Transformer(
      (length,),
      vocabulary,
      width=width,
      num_layers=num_layers,
      rngs=nnx.Rngs(0),
    )
  )
  attention = (width * 3 * width + 3 * width) + (width * width + width)
  mlp = (width * 4 * width + 4 * width) + (4 * width * width + width)
  norm = 2 * width
  # The output layer is the embedding: it adds nothing.
  assert count(network) == (
    vocabulary * width
    + length * width
    + num_layers * (norm + attention + norm + mlp)
    + norm
  )


def test_resnet_stems_differ_below_64_pixels():
  small, large = (abstract('resnet18', (n, n, 3)) for n in (63, 64))
  assert small.stem.conv.kernel.shape == (3, 3, 3, 64)
  assert large.stem.conv.kernel.shape == (7, 7, 3, 64)
  assert count(large) - count(small) == (7 * 7 - 3 * 3) * 3 * 64


@pytest.mark.parametrize(
  ('size', 'last_size', 'strides'),
  # He et al., table 1: 224 pixels end at 7x7.
  [(224, 7, [2, 1, 1, 2, 1, 2, 1, 2, 1]), (32, 4, [1, 1, 1, 2, 1, 2, 1, 2, 1])],
)
def test_resnet_s_last_layer_has_the_published_size(size, last_size, strides):
  network = abstract('resnet18', (size, size, 3))

  def last_block(network, x):
    x = network.stem(x, False)
    if network.has_imagenet_stem:
      x = nnx.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
    for block in network.blocks:
      x = block(x, False)
    return x

  features = nnx.eval_shape(
    last_block, network, inputs('resnet18', (size, size, 3))
  )
  assert features.shape == (2, last_size, last_size, 512)
  convs = [network.stem.conv, *(b.conv1.conv for b in network.blocks)]
  assert [conv.strides for conv in convs] == [
    stride if isinstance(convs[0].strides, int) else (stride, stride)
    for stride in strides
  ]


def test_the_demo_s_mlp_starts_as_plain_flax_layers_do():
  rngs = nnx.Rngs(jax.random.key(7))
  hidden, out = (
    nnx.Linear(64, 128, rngs=rngs),
    nnx.Linear(128, 10, rngs=rngs),
  )
  model = models.build_model('mlp', (8, 8, 1), 10)
  params = model.init(7)
  chex.assert_trees_all_close(
    params,
    {
      'hidden': {'kernel': hidden.kernel[...], 'bias': hidden.bias[...]},
      'out': {'kernel': out.kernel[...], 'bias': out.bias[...]},
    },
    rtol=1e-6,
  )


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    # Caffe's Xavier is uniform with variance 1 / fan-in.
    ('lenet', {'conv1': 25**-0.5, 'conv2': 500**-0.5, 'fc1': 800**-0.5}),
    (
      'cifar10-quick',
      {'conv1': 1e-4, 'conv2': 0.01, 'conv3': 0.01, 'fc1': 0.1},
    ),
  ],
)
def test_kernels_start_with_caffe_s_spread_and_biases_at_zero(name, expected):
  network = created(name, *PUBLISHED[name])
  for layer, stddev in expected.items():
    kernel = np.asarray(getattr(network, layer).kernel[...])
    assert kernel.std() == pytest.approx(stddev, rel=0.1), layer
    is_bounded = np.abs(kernel).max() < 1.74 * stddev  # uniform: sqrt(3)
    assert is_bounded == (name == 'lenet'), layer
    assert not np.any(getattr(network, layer).bias[...]), layer


def test_alexnet_starts_as_published():
  network = alexnet()
  layer_names = [f'conv{i}' for i in range(1, 6)] + ['fc6', 'fc7', 'fc8']
  for name in layer_names:
    layer = getattr(network, name)
    # "with the constant 1", section 5: these; "the constant 0": the others.
    bias = name in ('conv2', 'conv4', 'conv5', 'fc6', 'fc7')
    np.testing.assert_array_equal(layer.bias[...], float(bias), err_msg=name)
    sample = layer.kernel[...].ravel()[:10_000]
    assert float(jnp.std(sample)) == pytest.approx(0.01, rel=0.1), name


def test_alexnet_sees_the_same_in_227_pixels_and_in_224():
  """The 224 pixels, and what their padding adds, as an image of its own."""
  small, x = alexnet(), images(1, 224, 224, 3)
  large = nnx.clone(small)
  large.conv1.padding = published('alexnet').conv1.padding
  padded = jnp.pad(x, ((0, 0), (2, 1), (2, 1), (0, 0)))
  run = nnx.jit(lambda network, x: (network.conv1(x), network.features(x)))
  conv1, features = run(small, x)
  assert conv1.shape == (1, 55, 55, 96)
  assert features.shape == (1, 6, 6, 256)
  chex.assert_trees_all_close(
    run(large, padded), (conv1, features), rtol=1e-4, atol=1e-5
  )


def disturbed(network, kernel_factor=1.0):
  """Biases, scales and statistics are drawn, so that each of them shows."""
  rng = np.random.default_rng(1)

  def disturb(x):
    if x.ndim > 1:
      return kernel_factor * x
    return x + jnp.asarray(rng.uniform(0.1, 0.5, x.shape), x.dtype)

  state = nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat))
  nnx.update(network, jax.tree.map(disturb, state))
  return network


@pytest.mark.parametrize(
  ('name', 'shape', 'reference'),
  [
    ('lenet', (15, 17, 2), numpy_lenet),
    ('cifar10-quick', (9, 12, 2), numpy_cifar10_quick),
    ('resnet18', (8, 16, 2), numpy_resnet18),
  ],
)
def test_image_networks_are_their_papers_written_out(name, shape, reference):
  network, x = disturbed(created(name, shape)), images(2, *shape)
  logits = forward(network, x)
  expected = [reference(network, np.asarray(image)) for image in x]
  np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_alexnet_is_its_paper_written_out():
  x = images(1, 224, 224, 3)
  padded = np.pad(x[0], ((2, 1), (2, 1), (0, 0)))
  np.testing.assert_allclose(
    forward(alexnet(), x)[0], numpy_alexnet(alexnet(), padded), rtol=1e-3
  )


def test_transformer_is_its_paper_written_out():
  network = nnx.jit(
    lambda: models.Transformer(
      (7,), width=24, num_layers=2, num_heads=3, rngs=nnx.Rngs(0)
    )
  )()
  # Larger weights, so that attention is far from uniform.
  network, x = disturbed(network, kernel_factor=5.0), tokens(2, 6)
  np.testing.assert_allclose(
    forward(network, x),
    [numpy_transformer(network, sequence) for sequence in np.asarray(x)],
    rtol=1e-3,
    atol=1e-3,
  )


@pytest.mark.parametrize(
  'constants',
  [
    {'size': 5, 'k': 2.0, 'alpha': 1e-4, 'beta': 0.75},  # as published
    {'size': 3, 'k': 0.5, 'alpha': 0.3, 'beta': 1.5},
  ],
)
@pytest.mark.parametrize('num_channels', [1, 4, 11])
def test_local_response_normalization_is_the_published_formula(
  constants, num_channels
):
  x = 30 * np.asarray(images(2, 3, num_channels))
  np.testing.assert_allclose(
    layers.local_response_normalization(jnp.asarray(x), **constants),
    numpy_lrn(x.astype(np.float64), **constants),
    rtol=1e-5,
  )


def test_local_response_normalization_defaults_are_the_published_constants():
  signature = inspect.signature(layers.local_response_normalization)
  defaults = {n: p.default for n, p in signature.parameters.items() if n != 'x'}
  assert defaults == {'size': 5, 'k': 2.0, 'alpha': 1e-4, 'beta': 0.75}


@pytest.mark.parametrize(('window', 'stride'), [(3, 2), (2, 2)])
@pytest.mark.parametrize('shape', [(8, 8), (7, 6), (2, 3)])
def test_pooling_is_caffe_s(shape, window, stride):
  x = images(*shape) - 5  # negative: a border of zeros would show
  for pool, is_average in [
    (pooling.caffe_max_pool, False),
    (pooling.caffe_average_pool, True),
  ]:
    np.testing.assert_allclose(
      pool(x[None, :, :, None], window, stride)[0, :, :, 0],
      numpy_caffe_pool(np.asarray(x)[..., None], window, stride, is_average)[
        ..., 0
      ],
      rtol=1e-5,
    )


def test_ceil_mode_halves_32_pixels_to_4_as_caffe_does():
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  sizes = []
  for pool in (
    pooling.caffe_max_pool,
    pooling.caffe_average_pool,
    pooling.caffe_average_pool,
  ):
    x = jax.eval_shape(functools.partial(pool, window=3, stride=2), x)
    sizes.append(x.shape[1:3])
  assert sizes == [(16, 16), (8, 8), (4, 4)]


@pytest.mark.parametrize(
  ('shape', 'window', 'stride', 'padding'),
  [
    ((2, 8, 8, 3), 2, 2, ((0, 0), (0, 0))),
    ((2, 9, 7, 3), 2, 2, ((0, 0), (0, 0))),
    ((2, 8, 8, 3), 3, 2, ((0, 1), (0, 1))),
    ((2, 13, 13, 2), 3, 2, ((0, 0), (0, 0))),
    ((2, 8, 6, 2), 3, 2, ((1, 1), (1, 1))),
    ((2, 7, 6, 2), 3, 1, ((1, 1), (0, 2))),
    ((2, 9, 9, 2), 2, 3, ((0, 0), (0, 0))),
    ((1, 11, 9, 2), 5, 2, ((2, 1), (0, 0))),
  ],
)
def test_the_gradient_of_max_pooling_is_xla_s(shape, window, stride, padding):
  x = jax.random.normal(jax.random.key(0), shape)
  # Rounded, half of the values tie; which of them takes all is XLA's choice.
  x = jnp.concatenate([x, jnp.round(x), jnp.zeros_like(x)])

  def reference(x):
    return nnx.max_pool(x, (window, window), (stride, stride), padding)

  def ours(x):
    return pooling.max_pool(x, window, stride, padding)

  expected, backward = jax.vjp(reference, x)
  cotangent = jax.random.normal(jax.random.key(1), expected.shape)
  value, our_backward = jax.vjp(ours, x)
  np.testing.assert_array_equal(value, expected)
  # Windows that overlap are summed in another order.
  np.testing.assert_allclose(
    our_backward(cotangent)[0], backward(cotangent)[0], rtol=1e-5, atol=1e-6
  )


def test_the_gradient_of_max_pooling_scatters_nothing_on_a_cpu():
  def loss(x):
    return jnp.sum(jnp.square(pooling.max_pool(x, 3, 2)))

  x = jnp.zeros((1, 9, 9, 1), jnp.bfloat16)
  compiled = jax.jit(jax.grad(loss)).lower(x).compile()
  assert jax.grad(loss)(x).dtype == jnp.bfloat16
  if jax.default_backend() == 'cpu':
    assert 'select-and-scatter' not in compiled.as_text()


def test_a_token_changes_no_logits_before_it():
  network = nnx.jit(
    lambda: models.Transformer(
      (12,), width=16, num_layers=2, num_heads=2, rngs=nnx.Rngs(0)
    )
  )()
  before = tokens(2, 12)
  after = before.at[:, 5].add(np.uint8(1))
  one, other = (np.asarray(forward(network, x)) for x in (before, after))
  np.testing.assert_allclose(one[:, :5], other[:, :5], rtol=1e-6, atol=1e-7)
  # And changes all after it: attention reaches the end.
  assert (np.abs(one - other)[:, 5:].max((0, 2)) > 1e-5).all()


def test_positions_matter_and_short_sequences_are_prefixes():
  network = created('transformer', (8,), 256)
  x = tokens(1, 8)
  full = forward(network, x)
  chex.assert_trees_all_close(
    forward(network, x[:, :3]), full[:, :3], atol=1e-5
  )
  # Without positions, the last logits would not know the order before it.
  swapped = x[:, jnp.array([1, 0, 2, 3, 4, 5, 6, 7])]
  assert np.abs(forward(network, swapped) - full)[:, -1].max() > 1e-6


@pytest.mark.parametrize('dtype', [jnp.uint8, jnp.int32, jnp.int8])
def test_tokens_of_any_integer_type_are_the_same(dtype):
  network = created('transformer', (4,), 256)
  x = jnp.array([[0, 127, 3, 100]])
  chex.assert_trees_all_close(
    forward(network, x.astype(dtype)), forward(network, x), atol=1e-6
  )


def test_the_last_byte_has_an_embedding_of_its_own():
  network = created('transformer', (1,), 256)
  table = network.tokens.embedding
  table[...] = table[...].at[255].set(jnp.nan)
  assert np.isnan(forward(network, jnp.array([[255]], jnp.uint8))).any()


def test_an_untrained_transformer_is_near_uniform():
  network = created('transformer', (16,), 256)
  logits = forward(network, tokens(2, 16))
  entropy = -(jax.nn.log_softmax(logits) * jax.nn.softmax(logits)).sum(-1)
  np.testing.assert_allclose(entropy, np.log(256), rtol=0.02)


def dropping_networks():
  transformer = nnx.jit(
    lambda: models.Transformer(
      (6,),
      width=16,
      num_layers=1,
      num_heads=2,
      dropout_rate=0.5,
      rngs=nnx.Rngs(0),
    )
  )()
  yield nnx.clone(alexnet()), images(1, 224, 224, 3)
  yield transformer, tokens(1, 6)


def random_state(network):
  """Keys and counts as plain arrays, copied."""

  def copy(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.array(jax.random.key_data(x) if is_key else x)

  return jax.tree.map(copy, nnx.to_pure_dict(nnx.state(network, nnx.RngState)))


def test_dropout_differs_between_calls_and_only_in_training():
  call = nnx.jit(lambda n, x, train: n(x, train=train), static_argnums=2)
  for network, x in dropping_networks():
    train, again = (np.asarray(call(network, x, True)) for _ in range(2))
    assert np.abs(train - again).max() > 1e-6, type(network)
    before = random_state(network)
    np.testing.assert_array_equal(
      *(np.asarray(call(network, x, False)) for _ in range(2))
    )
    chex.assert_trees_all_equal(random_state(network), before)


def test_a_transformer_without_dropout_has_parameters_alone():
  _, _, rest = nnx.split(published('transformer'), nnx.Param, ...)
  assert not jax.tree.leaves(rest)


def test_batch_statistics_move_in_training_only():
  network = created('resnet18', (8, 8, 1), 3)
  x = 2 + images(4, 8, 8, 1)

  def statistics():
    return jax.tree.map(
      np.array, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
    )

  before = statistics()
  evaluated = forward(network, x)
  chex.assert_trees_all_equal(statistics(), before)
  trained = forward(network, x, train=True)
  assert np.abs(evaluated - trained).max() > 1e-3
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), statistics(), before)
  assert min(jax.tree.leaves(moved)) > 0
  # A tenth of the way to the batch's own.
  conv = np.asarray(network.stem.conv(x))
  np.testing.assert_allclose(
    network.stem.norm.mean[...],
    0.1 * conv.mean((0, 1, 2)),
    rtol=1e-4,
    atol=1e-5,
  )


def matrix_products(jaxpr):
  """Every convolution and matrix product of a program."""
  for equation in jaxpr.eqns:
    if equation.primitive.name in ('conv_general_dilated', 'dot_general'):
      yield equation
    for inner in jax.tree.leaves(
      equation.params, is_leaf=lambda p: hasattr(p, 'eqns')
    ):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        yield from matrix_products(inner)


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', PUBLISHED)
def test_dtype_is_of_the_computation_alone(name, dtype, train):
  shape, num_classes = PUBLISHED[name]
  network = published(name, dtype=dtype)
  graphdef, state = nnx.split(network)

  def call(state, x):
    network = nnx.merge(graphdef, state)
    return network(x, train=train), nnx.state(network)

  # JAX's own attention adds bfloat16 to float32.
  is_image = models.input_kind(name) == 'image'
  promotion = 'strict' if is_image else 'standard'
  with jax.numpy_dtype_promotion(promotion):
    program, (logits, new_state) = jax.make_jaxpr(call, return_shape=True)(
      state, inputs(name, shape)
    )
  assert logits.dtype == jnp.float32
  assert logits.shape[-1] == num_classes
  for kept in (state, new_state):
    floats = nnx.filter_state(kept, nnx.Any(nnx.Param, nnx.BatchStat))
    assert {leaf.dtype for leaf in jax.tree.leaves(floats)} == {
      np.dtype('float32')
    }
  products = list(matrix_products(program.jaxpr))
  assert products
  assert {v.aval.dtype for p in products for v in p.invars} == {
    jnp.dtype(dtype)
  }


@pytest.mark.parametrize('name', ['cifar10-quick', 'mlp'])
def test_bfloat16_computes_nearly_the_same(name):
  shape = SMALLEST[name]
  x = images(4, *shape)
  full, half = (
    np.asarray(forward(created(name, shape, dtype=dtype), x))
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  np.testing.assert_allclose(half, full, atol=0.05 * np.abs(full).max())
  assert np.abs(half - full).max() > 0


@pytest.mark.parametrize('name', sorted(SMALLEST))
def test_the_smallest_image_has_features_and_a_smaller_one_is_refused(name):
  height, width, channels = SMALLEST[name]
  network = abstract(name, (height, width, channels))
  assert all(math.prod(shape) > 0 for shape in shapes(network).values())
  logits = nnx.eval_shape(
    lambda n, x: n(x), network, inputs(name, SMALLEST[name])
  )
  assert logits.shape == (2, 10)
  if height > 1:
    with pytest.raises(
      ValueError,
      match=rf'example_shape.*{height - 1}.*{name}.*{height}x{width}',
    ):
      abstract(name, (height - 1, width, channels))


def test_images_need_not_be_square():
  for name in SMALLEST:
    shape = (17, 23, 2)
    logits = nnx.eval_shape(
      lambda n, x: n(x), abstract(name, shape), inputs(name, shape)
    )
    assert logits.shape == (2, 10), name


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (('resnet', (32, 32, 3), 10), "'resnet'; did you mean 'resnet18'"),
    (('alexnet', (32, 32, 3), 10), r'\(32, 32, 3\), .* 227x227 or 224x224'),
    (('alexnet', (227, 224, 3), 10), r'\(227, 224, 3\), .* 227x227 or 224x224'),
    (('lenet', (28, 28), 10), r'\(28, 28\), .* \(height, width, channels\)'),
    (('mlp', (8, 8, 0), 10), r'\(8, 8, 0\), .* each at least 1'),
    (('mlp', (64,), 10), r"\(64,\), .* 'transformer' for token sequences"),
    (('transformer', (8, 8, 1), 256), r'\(8, 8, 1\), .* pass \(length,\)'),
    (('transformer', (0,), 256), r'\(0,\), .* pass \(length,\)'),
    (('mlp', (8, 8, 1), 1), 'num_classes is 1, .* at least 2'),
  ],
)
def test_what_does_not_fit_is_refused_before_any_compute(args, message):
  # A network is not drawn: there is no generator to draw from.
  with pytest.raises(ValueError, match=message):
    models.create_model(*args, rngs=None)


def test_other_dtypes_are_refused():
  with pytest.raises(ValueError, match=r'dtype is float16, .* or bfloat16'):
    models.create_model('mlp', (8, 8, 1), 10, dtype=jnp.float16, rngs=None)


def test_a_transformer_s_bad_arguments_are_named():
  with pytest.raises(ValueError, match=r'num_heads is 3, .* width 16'):
    models.Transformer((8,), width=16, num_heads=3, rngs=nnx.Rngs(0))
  network = published('transformer')
  for x, message in [
    (jax.ShapeDtypeStruct((1, 65), jnp.int32), 'sequences of 65, .* 64'),
    (jax.ShapeDtypeStruct((1, 8), jnp.float32), 'tokens are float32'),
  ]:
    with pytest.raises(ValueError, match=message):
      nnx.eval_shape(lambda n, x: n(x), network, x)


def test_input_kinds():
  assert {n for n in PUBLISHED if models.input_kind(n) == 'tokens'} == {
    'transformer',
    'transformer-small',
  }
  with pytest.raises(ValueError, match="did you mean 'lenet'"):
    models.input_kind('le-net')


@pytest.mark.parametrize(
  ('name', 'example_shape', 'message'),
  [
    ('resnet18', (8, 8, 1), 'state besides its parameters.*create_model'),
    ('alexnet', (224, 224, 3), 'state besides its parameters.*create_model'),
  ],
)
def test_the_functional_view_refuses_what_it_cannot_hold(
  name, example_shape, message
):
  with pytest.raises(ValueError, match=message):
    models.build_model(name, example_shape, 10)


@pytest.mark.parametrize('name', ['cnn', 'lenet'])
def test_the_functional_view_is_the_network_s_loss(name):
  shape = (14, 14, 1)
  model = models.build_model(name, shape, 10)
  x, labels = images(4, *shape), jnp.array([1, 2, 3, 4])
  loss, accuracy = jax.jit(model.loss_fn)(model.init(0), (x, labels))
  network = nnx.jit(
    lambda: models.create_model(
      name, shape, 10, rngs=nnx.Rngs(jax.random.key(0))
    )
  )()
  log_probabilities = jax.nn.log_softmax(forward(network, x))
  np.testing.assert_allclose(
    loss, -log_probabilities[jnp.arange(4), labels].mean(), rtol=1e-5
  )
  assert accuracy == (log_probabilities.argmax(-1) == labels).mean()
  assert models.build_model(name, shape, 10) is model
  np.testing.assert_allclose(
    jax.nn.log_softmax(jax.jit(model.logits_fn)(model.init(0), x)),
    log_probabilities,
    rtol=1e-5,
  )


def test_the_functional_view_of_tokens_is_the_mean_over_all_positions():
  model = models.build_model('transformer-small', (8,), 16)
  params = model.init(0)
  windows = np.random.default_rng(0).integers(16, size=(3, 9)).astype(np.uint8)
  x, targets = windows[:, :-1], windows[:, 1:].astype(np.int32)
  loss, accuracy = jax.jit(model.loss_fn)(params, (x, targets))
  logits = np.asarray(model.logits_fn(params, x), np.float64)
  assert logits.shape == (3, 8, 16)
  losses = [
    np.log(np.exp(logits[b, t]).sum()) - logits[b, t, targets[b, t]]
    for b in range(3)
    for t in range(8)
  ]
  np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
  np.testing.assert_allclose(accuracy, (logits.argmax(-1) == targets).mean())


def test_the_functional_view_of_tokens_learns_what_follows_what():
  model = models.build_model('transformer-small', (8,), 16)
  params = model.init(0)
  x = (np.arange(8) + np.arange(16)[:, None]) % 16
  batch = x, (x + 1) % 16
  optimizer = optax.adam(0.01)

  @jax.jit
  def step(params, state):
    grads, _ = jax.grad(model.loss_fn, has_aux=True)(params, batch)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  for _ in range(60):
    params, state = step(params, state)
  loss, accuracy = model.loss_fn(params, batch)
  assert accuracy == 1
  assert loss < 0.1 < np.log(16) / 10


def test_the_small_transformer_is_the_transformer_in_small():
  small = published('transformer-small')
  length, width, num_layers, vocabulary = 64, 64, 2, 256
  assert len(small.blocks) == num_layers
  assert {block.num_heads for block in small.blocks} == {2}
  # The closed formula of `Transformer`.
  assert count(small) == (
    (vocabulary + length) * width
    + num_layers * (12 * width**2 + 13 * width)
    + 2 * width
  )


def test_gradients_reach_every_parameter():
  for name, shape in [('cifar10-quick', (8, 8, 1)), ('resnet18', (8, 8, 1))]:
    network, x = created(name, shape), images(4, *shape)

    @nnx.jit
    def gradient(network, x):
      return nnx.grad(
        lambda n: jnp.square(n(x, train=True) - jnp.arange(10.0)).sum()
      )(network)

    for path, grad in nnx.to_flat_state(gradient(network, x)):
      assert np.isfinite(grad[...]).all(), (name, path)
      assert np.abs(grad[...]).max() > 0, (name, path)


def test_public_networks_are_those_of_the_registry():
  classes = {type(published(name)) for name in PUBLISHED}
  exported = {getattr(models, name) for name in models.__all__}
  assert classes <= exported
  assert vision.AlexNet in classes


def test_regression_has_half_the_squared_error_and_learns():
  model = models.build_model('mlp', (1, 3, 1), 1, 'regression')
  params = model.init(0)
  inputs = jax.random.normal(jax.random.key(0), (64, 1, 3, 1))
  targets = inputs.sum((1, 2, 3))
  outputs = model.logits_fn(params, inputs)[:, 0]
  loss, error = model.loss_fn(params, (inputs, targets))
  np.testing.assert_allclose(
    loss, np.mean((outputs - targets) ** 2) / 2, rtol=1e-6
  )
  np.testing.assert_allclose(error, np.mean(abs(outputs - targets)), rtol=1e-6)
  step = jax.jit(jax.grad(lambda p: model.loss_fn(p, (inputs, targets))[0]))
  for _ in range(100):
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, step(params))
  assert model.loss_fn(params, (inputs, targets))[0] < 0.1 * loss
  with pytest.raises(ValueError, match='num_classes must be 1 for regression'):
    models.build_model('mlp', (1, 3, 1), 2, 'regression')
  with pytest.raises(ValueError, match="unknown kind 'regress'"):
    models.build_model('mlp', (1, 3, 1), 2, 'regress')
