"""Gradient accumulation in NNX: against a loop over the microbatches."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax import training
from tests import helpers

SIZE, NUM = 4, 3


@pytest.fixture(autouse=True)
def standard_promotion():
  """Flax does not promise to trace under strict promotion."""
  with jax.numpy_dtype_promotion('standard'):
    yield


class Net(nnx.Module):
  """BatchNorm and dropout: what an evaluation too many would show in."""

  def __init__(self, rngs, rate=0.5):
    self.hidden = nnx.Linear(3, 8, rngs=rngs)
    self.norm = nnx.BatchNorm(8, rngs=rngs)
    self.dropout = nnx.Dropout(rate, rngs=rngs)
    self.out = nnx.Linear(8, 1, rngs=rngs)

  def __call__(self, x):
    x = self.dropout(nnx.relu(self.norm(self.hidden(x))))
    return self.out(x)[:, 0]


def loss_fn(model, x, y):
  return jnp.mean((model(x) - y) ** 2)


def batch(seed=0, num=NUM * SIZE):
  x = jax.random.normal(jax.random.key(seed), (num, 3))
  return x, x.sum(1)


def other_state(model):
  return nnx.as_pure(nnx.split(model, nnx.Param, ...)[2])


def assert_close(one, other, **tolerance):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      helpers_data(a), helpers_data(b), **tolerance
    ),
    nnx.as_pure(one),
    nnx.as_pure(other),
  )


def helpers_data(x):
  is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return jax.random.key_data(x) if is_key else x


def by_a_loop(model, x, y):
  """The mean loss and gradient over the microbatches; moves the model."""
  losses, grads = [], []
  for start in range(0, len(x), SIZE):
    part = x[start : start + SIZE], y[start : start + SIZE]
    loss, grad = nnx.value_and_grad(loss_fn)(model, *part)
    losses.append(loss)
    grads.append(nnx.as_pure(grad))
  mean = lambda *leaves: sum(leaves) / len(leaves)
  return mean(*losses), jax.tree.map(mean, *grads)


@pytest.mark.parametrize('is_jitted', [False, True])
def test_it_is_a_loop_over_the_microbatches(is_jitted):
  model, expected_model = Net(nnx.Rngs(0)), Net(nnx.Rngs(0))
  accumulate = training.nnx_microbatched(loss_fn, microbatch_size=SIZE)
  run = lambda model, x, y: accumulate(model, x, y)[:2]
  loss, grads = (nnx.jit(run) if is_jitted else run)(model, *batch())
  expected_loss, expected_grads = by_a_loop(expected_model, *batch())
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  assert_close(grads, expected_grads, rtol=1e-4, atol=1e-6)
  # Statistics and keys as after the loop: three evaluations, not one, not six.
  assert_close(other_state(model), other_state(expected_model), rtol=1e-5)
  assert int(model.dropout.rngs.count[...]) == NUM


def test_without_state_it_is_the_whole_batch():
  def plain_loss(model, x, y):
    return jnp.mean((model(x)[:, 0] - y) ** 2)

  model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
  accumulate = training.nnx_microbatched(plain_loss, microbatch_size=SIZE)
  loss, grads, _ = accumulate(model, *batch())
  expected = nnx.value_and_grad(plain_loss)(model, *batch())
  np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
  assert_close(grads, expected[1], rtol=1e-5, atol=1e-6)


def test_the_chase_sees_the_keys_of_the_first_evaluation_and_leaves_no_trace():
  model = Net(nnx.Rngs(0))
  params = nnx.as_pure(nnx.state(model, nnx.Param))
  accumulate = training.nnx_microbatched(loss_fn, microbatch_size=SIZE)
  loss, grads, value_fn = accumulate(model, *batch())
  moved = jax.tree.map(lambda x: x, other_state(model))
  for _ in range(2):
    again, grads_again = jax.value_and_grad(value_fn)(params)
    assert again == loss == value_fn(params)
    jax.tree.map(np.testing.assert_array_equal, grads_again, nnx.as_pure(grads))
  assert_close(other_state(model), moved, rtol=0)
  elsewhere = jax.tree.map(lambda x: x + 0.1, params)
  assert value_fn(elsewhere) != loss


def test_a_loop_with_chases_goes_as_one_over_whole_batches():
  """Without BatchNorm and dropout the two are the same but for rounding."""

  def plain_loss(model, x, y):
    return jnp.mean((model(x)[:, 0] - y) ** 2)

  def train(step_of):
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    chasing = helpers.blind_isgd(optax.sgd(0.05), isgd_jax.shewhart(6, 3.0))
    optimizer = nnx.Optimizer(model, chasing, wrt=nnx.Param)
    step = nnx.jit(step_of)
    for seed in range(9):
      x, y = batch(seed)
      step(model, optimizer, x, y + (9.0 if seed >= 7 else 0.0))
    return model, isgd_jax.info_dict(optimizer.opt_state)

  accumulate = training.nnx_microbatched(plain_loss, microbatch_size=SIZE)

  def accumulating(model, optimizer, x, y):
    loss, grads, value_fn = accumulate(model, x, y)
    optimizer.update(model, grads, value=loss, value_fn=value_fn)

  def at_once(model, optimizer, x, y):
    value_fn = training.nnx_value_fn(plain_loss, model, x, y)
    loss, grads = nnx.value_and_grad(plain_loss)(model, x, y)
    optimizer.update(model, grads, value=loss, value_fn=value_fn)

  (model, info), (expected, expected_info) = map(train, (accumulating, at_once))
  assert info['num_undertrained'] == expected_info['num_undertrained'] > 0
  assert info['num_gradient_evaluations'] > info['num_steps']
  assert (
    info['num_gradient_evaluations']
    == expected_info['num_gradient_evaluations']
  )
  assert_close(
    nnx.state(model, nnx.Param),
    nnx.state(expected, nnx.Param),
    rtol=1e-4,
    atol=1e-5,
  )


def test_aux_is_stacked():
  model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))

  def with_aux(model, batch):
    predictions = model(batch['x'])[:, 0]
    return jnp.mean((predictions - batch['y']) ** 2), predictions

  x, y = batch()
  accumulate = training.nnx_microbatched(
    with_aux, microbatch_size=SIZE, has_aux=True
  )
  (loss, aux), _, value_fn = accumulate(model, {'x': x, 'y': y})
  assert aux.shape == (NUM, SIZE)
  np.testing.assert_allclose(aux.reshape(-1), model(x)[:, 0], rtol=1e-5)
  assert value_fn(nnx.state(model, nnx.Param)) == loss


def test_memory_is_that_of_one_microbatch():
  """What a compiled step holds at once does not grow with their number."""
  wide = 256

  def held(num):
    model = nnx.Sequential(
      nnx.Linear(3, wide, rngs=nnx.Rngs(0)),
      jnp.tanh,
      nnx.Linear(wide, 1, rngs=nnx.Rngs(1)),
    )
    accumulate = training.nnx_microbatched(
      lambda model, x: jnp.mean(model(x) ** 2), microbatch_size=64
    )
    graphdef, params = nnx.split(model)

    def step(params, x):
      return accumulate(nnx.merge(graphdef, params), x)[1]

    x = jax.ShapeDtypeStruct((64 * num, 3), jnp.float32)
    analysis = jax.jit(step).lower(params, x).compile().memory_analysis()
    return analysis.temp_size_in_bytes

  assert held(16) < 1.5 * held(1) + 64 * 16 * 3 * 4


class Counting(nnx.Module):
  """Makes state of its own in a call."""

  def __init__(self):
    self.w = nnx.Param(jnp.ones(3))

  def __call__(self, x):
    self.seen = nnx.Variable(jnp.zeros(()))
    return x @ self.w[...]


@pytest.mark.parametrize(
  ('model', 'args', 'message'),
  [
    (
      lambda: Net(nnx.Rngs(0)),
      batch(num=10),
      r'microbatch_size 4 must divide the rows .* batch\[0\] has shape \(10, 3',
    ),
    (
      lambda: Net(nnx.Rngs(0)),
      (batch()[0], batch()[1][:8]),
      r'of which all its arrays have as many',
    ),
    (lambda: Net(nnx.Rngs(0)), (1.0, 2.0), r'batch\[0\] has shape \(\)'),
    (
      lambda: Net(nnx.Rngs(0)),
      (*batch(), nnx.Rngs(3)),
      r'batch\[2\] is an NNX object, a Rngs',
    ),
    (Counting, batch(), r'makes state that the module did not have .*seen'),
  ],
)
def test_what_cannot_be_is_said(model, args, message):
  loss = lambda model, x, y, *rest: jnp.mean((model(x) - y) ** 2)
  accumulate = training.nnx_microbatched(loss, microbatch_size=SIZE)
  with pytest.raises(ValueError, match=message):
    accumulate(model(), *args)


def test_a_loss_that_is_no_scalar_and_another_wrt_are_said():
  model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
  vector = training.nnx_microbatched(
    lambda model, x, y: (model(x)[:, 0] - y) ** 2, microbatch_size=SIZE
  )
  with pytest.raises(ValueError, match='has_aux=True'):
    vector(model, *batch())
  with pytest.raises(ValueError, match='microbatch_size must be an integer'):
    training.nnx_microbatched(loss_fn, microbatch_size=0)
  accumulate = training.nnx_microbatched(
    lambda model, x, y: jnp.mean((model(x)[:, 0] - y) ** 2),
    microbatch_size=SIZE,
  )
  _, _, value_fn = accumulate(model, *batch())
  with pytest.raises(ValueError, match='Give nnx_microbatched and nnx'):
    value_fn({'kernel': jnp.zeros((3, 1))})


def test_the_loss_in_plain_jax_says_where_nnx_goes():
  """A module among the parameters has keys and counts in it."""
  plain = isgd_jax.microbatched(
    lambda model, batch: loss_fn(model, *batch), microbatch_size=SIZE
  )
  with pytest.raises(ValueError, match=r'params must be float.*nnx_microb'):
    plain(Net(nnx.Rngs(0)), batch(), NUM)
  with pytest.raises(ValueError, match=r"got int32 at params\['n'\]"):
    plain({'w': jnp.ones(3), 'n': jnp.int32(3)}, batch(), NUM)
