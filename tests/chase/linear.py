"""A linear model and its training loop, for tests that look at every step."""

import jax
import jax.numpy as jnp
import optax


def loss_fn(params, batch):
  x, y = batch
  return jnp.mean(jnp.square(x @ params['w'] + params['b'] - y))


def train(optimizer, batches, *, is_jitted=True, passes_grad=False):
  """Parameters and state after every step."""

  def step(params, opt_state, batch):
    value, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = optimizer.update(
      grads,
      opt_state,
      params,
      value=value,
      value_fn=lambda p: loss_fn(p, batch),
      **({'grad': grads} if passes_grad else {}),
    )
    return optax.apply_updates(params, updates), opt_state

  step = jax.jit(step) if is_jitted else step
  params = {'w': jnp.zeros(3), 'b': jnp.zeros(())}
  opt_state = optimizer.init(params)
  for batch in batches:
    params, opt_state = step(params, opt_state, batch)
    yield params, opt_state
