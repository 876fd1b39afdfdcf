"""What is always on, against its authors' formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from isgd_jax.experiments.optimizers import always_on

START = {'w': np.array([[1.0, -2.0], [0.5, 0.3]]), 'b': np.array([0.1])}
RATE = 0.1


def grads_at(params, step):
  return {
    name: np.cos(step + len(p)) * np.asarray(p) + 0.3 * (step - 2.5)
    for name, p in params.items()
  }


def run(optimizer, num_steps=4):
  """The parameters after each step, in float32."""
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), START)
  state, path = optimizer.init(params), []
  for step in range(num_steps):
    grads = jax.tree.map(jnp.asarray, grads_at(params, step))
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    path.append(jax.tree.map(np.asarray, params))
  return path


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def upgd_in_numpy(weight_decay, utility_decay, num_steps=4):
  """`FirstOrderGlobalUPGD` of its authors, line by line, without noise."""
  params = {name: p.copy() for name, p in START.items()}
  average = {name: np.zeros_like(p) for name, p in params.items()}
  path = []
  for step in range(num_steps):
    grads, greatest = grads_at(params, step), -np.inf
    for name, p in params.items():
      average[name] *= utility_decay
      average[name] += (1 - utility_decay) * (-grads[name] * p)
      greatest = max(greatest, average[name].max())
    for name, p in params.items():
      correction = 1 - utility_decay ** (step + 1)
      scaled = sigmoid(average[name] / correction / greatest)
      p *= 1 - RATE * weight_decay
      p += -RATE * grads[name] * (1 - scaled)
    path.append({name: p.copy() for name, p in params.items()})
  return path


@pytest.mark.parametrize(
  ('weight_decay', 'utility_decay'), [(0.0, 0.999), (0.01, 0.9), (0.1, 0.0)]
)
def test_upgd_is_that_of_its_authors(weight_decay, utility_decay):
  found = run(
    always_on.upgd(
      RATE, weight_decay=weight_decay, utility_decay=utility_decay, noise=0.0
    )
  )
  expected = upgd_in_numpy(weight_decay, utility_decay)
  for ours, theirs in zip(found, expected, strict=True):
    for name in START:
      np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-4)


def test_upgd_s_noise_is_of_its_size_and_less_where_there_is_utility():
  shape = (20_000,)
  params = {'useful': jnp.ones(shape), 'useless': jnp.zeros(shape)}
  grads = {'useful': -jnp.ones(shape), 'useless': jnp.zeros(shape)}
  optimizer = always_on.upgd(1.0, weight_decay=0.0, noise=0.5)
  quiet = always_on.upgd(1.0, weight_decay=0.0, noise=0.0)
  found, expected = (
    o.update(grads, o.init(params), params)[0] for o in (optimizer, quiet)
  )
  noise = jax.tree.map(lambda a, b: np.asarray(a - b), found, expected)
  # Without utility half of it passes. The greatest average is not corrected
  # for its bias, and so at first a thousandth of the corrected one.
  np.testing.assert_allclose(noise['useless'].std(), 0.25, rtol=0.03)
  np.testing.assert_allclose(noise['useful'], 0.0, atol=1e-6)
  assert abs(noise['useless'].mean()) < 0.01


def test_shrink_and_perturb_is_sgd_with_decay_and_noise():
  found = run(always_on.shrink_and_perturb(RATE, weight_decay=0.5, noise=0.0))
  params = {name: p.copy() for name, p in START.items()}
  for step, ours in enumerate(found):
    grads = grads_at(params, step)
    for name, p in params.items():
      params[name] = (1 - RATE * 0.5) * p - RATE * grads[name]
      np.testing.assert_allclose(ours[name], params[name], rtol=1e-4)
  zeros = {'w': jnp.zeros(20_000)}
  noisy = always_on.shrink_and_perturb(2.0, noise=0.3)
  state = noisy.init(zeros)
  first, state = noisy.update(zeros, state, zeros)
  second, _ = noisy.update(zeros, state, zeros)
  np.testing.assert_allclose(first['w'].std(), 0.6, rtol=0.03)
  # Drawn anew at each step.
  assert abs(np.corrcoef(first['w'], second['w'])[0, 1]) < 0.05


def test_decay_to_the_start_is_the_gradient_of_its_penalty():
  penalty = always_on.add_decay_to_start(0.3)
  start = jnp.array([1.0, -2.0])
  state, here = penalty.init(start), jnp.array([0.5, 4.0])

  def regularized(w):
    return jnp.sum(w**3) + 0.3 * jnp.sum((w - start) ** 2)

  found, _ = penalty.update(3 * here**2, state, here)
  np.testing.assert_allclose(found, jax.grad(regularized)(here), rtol=1e-6)
