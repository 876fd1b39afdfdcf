"""Published settings are what the optimizers get, step by step in NumPy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from isgd_jax.experiments import models
from isgd_jax.experiments.optimizers import always_on
from isgd_jax.experiments.optimizers import base_optimizers
from isgd_jax.experiments.optimizers import published
from isgd_jax.experiments.optimizers.published import PUBLISHED

# The paper's Table 3, row by row, and of S&P the code's list of runs too.
ROWS = """
inputs-sgdw rate=0.001 weight_decay=0.001
inputs-adamw rate=0.0001 b1=0.0 b2=0.99 eps=1e-8 weight_decay=0.0
inputs-s-and-p rate=0.001 noise=0.05 weight_decay=0.01
inputs-s-and-p-table rate=0.001 noise=0.1 weight_decay=0.01
inputs-upgd-w rate=0.01 noise=0.1 utility_decay=0.9999 weight_decay=0.01
labels-sgdw rate=0.01 weight_decay=0.0001
labels-adamw rate=0.0001 b1=0.0 b2=0.9999 eps=1e-8 weight_decay=0.1
labels-s-and-p rate=0.01 noise=0.005 weight_decay=0.001
labels-s-and-p-table rate=0.01 noise=0.01 weight_decay=0.001
labels-upgd-w rate=0.01 noise=0.001 utility_decay=0.9 weight_decay=0.0
"""
SETTINGS = {
  line.split()[0]: {
    k: float(v) for k, v in (x.split('=') for x in line.split()[1:])
  }
  for line in ROWS.strip().splitlines()
}


def test_settings_are_those_that_are_published():
  assert PUBLISHED.keys() == SETTINGS.keys()
  for name, found in PUBLISHED.items():
    settings = {'rate': found.learning_rate} | dict(found.settings)
    assert settings == SETTINGS[name]
    assert name.startswith(f'{found.problem}-')
    assert base_optimizers.learning_rate_grid(name, 1) == (settings['rate'],)
    assert re.search(r'Table 3|weight_lists', found.source)
  assert not PUBLISHED.keys() & set(base_optimizers.base_optimizer_names())


# The optimizers and the network as loops over arrays.


@functools.cache
def examples(num_steps):
  """Of ten classes that a network can learn."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 10, num_steps)
  centres = rng.normal(size=(10, 9))
  inputs = centres[labels] + 0.3 * rng.normal(size=(num_steps, 9))
  return inputs.reshape(-1, 1, 3, 3, 1).astype(np.float32), labels


def losses_in_numpy(name, params, num_steps):
  """Losses before each step, in float64."""
  settings = SETTINGS[name]
  rate, decay = settings['rate'], settings['weight_decay']
  noise, beta = settings.get('noise'), settings.get('utility_decay', 0.0)
  params = jax.tree.map(lambda x: np.array(x, np.float64), params)
  square = jax.tree.map(np.zeros_like, params)
  utility = jax.tree.map(np.zeros_like, params)
  key, losses = jax.random.key(0), []
  for step, (x, label) in enumerate(zip(*examples(num_steps), strict=True), 1):
    loss, grads = loss_and_grads(params, x.reshape(-1), label)
    losses.append(loss)
    if noise:
      key, drawn = jax.random.split(key)
      xi = stretch_of_noise(drawn, params)
    if 'utility_decay' in settings:
      utility = jax.tree.map(
        lambda u, g, w: beta * u + (1 - beta) * -g * w, utility, grads, params
      )
      greatest = max(u.max() for u in jax.tree.leaves(utility))
    for layer, names in params.items():
      for part, w in names.items():
        g = grads[layer][part]
        w *= 1 - rate * decay
        if 'b2' in settings:
          b2 = settings['b2']
          v = square[layer][part] = b2 * square[layer][part] + (1 - b2) * g**2
          w -= rate * g / (np.sqrt(v / (1 - b2**step)) + settings['eps'])
          continue
        if noise:
          g = g + noise * xi[layer][part]
        if 'utility_decay' in settings:
          corrected = utility[layer][part] / (1 - beta**step)
          # One minus the sigmoid, in a form that does not overflow.
          g = g * (1 - np.tanh(corrected / greatest / 2)) / 2
        w -= rate * g
  return losses


def loss_and_grads(params, x, label):
  """Of a network with two layers of ReLU, by hand."""
  h1 = x @ params['hidden1']['kernel'] + params['hidden1']['bias']
  h2 = np.maximum(h1, 0) @ params['hidden2']['kernel']
  h2 = h2 + params['hidden2']['bias']
  logits = np.maximum(h2, 0) @ params['out']['kernel'] + params['out']['bias']
  p = np.exp(logits - logits.max())
  p /= p.sum()
  d_out = p - np.eye(10)[label]
  d_2 = (params['out']['kernel'] @ d_out) * (h2 > 0)
  d_1 = (params['hidden2']['kernel'] @ d_2) * (h1 > 0)

  def layer(inputs, d):
    return {'kernel': np.outer(inputs, d), 'bias': d}

  return -np.log(p[label]), {
    'hidden1': layer(x, d_1),
    'hidden2': layer(np.maximum(h1, 0), d_2),
    'out': layer(np.maximum(h2, 0), d_out),
  }


def stretch_of_noise(key, params):
  """As many numbers in a row as there are parameters."""
  everything = np.random.default_rng(0).standard_normal(1 << 22, np.float32)
  leaves, treedef = jax.tree.flatten(params)
  size = sum(x.size for x in leaves)
  start = int(jax.random.randint(key, (), 0, len(everything) - size + 1))
  parts, end = [], start
  for x in leaves:
    parts.append(everything[end : end + x.size].reshape(x.shape))
    end += x.size
  return jax.tree.unflatten(treedef, parts)


@pytest.mark.parametrize('name', PUBLISHED)
def test_an_optimizer_is_its_authors_formula_over_hundreds_of_steps(name):
  num_steps = 300 if 'noise' not in SETTINGS[name] else 60
  model = models.build_model('mlp-300-150', (3, 3, 1), 10)
  optimizer = base_optimizers.build_base_optimizer(name, SETTINGS[name]['rate'])
  params = model.init(0)

  @jax.jit
  def run(params):
    def body(carry, batch):
      params, state = carry
      (loss, _), grads = jax.value_and_grad(model.loss_fn, has_aux=True)(
        params, batch
      )
      updates, state = optimizer.update(grads, state, params)
      return (optax.apply_updates(params, updates), state), loss

    inputs, labels = examples(num_steps)
    batches = inputs, labels[:, None].astype(np.int32)
    return jax.lax.scan(body, (params, optimizer.init(params)), batches)[1]

  found = np.asarray(run(params))
  expected = np.array(losses_in_numpy(name, params, num_steps))
  np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)
  # It learns, so that a step in the wrong direction would show.
  assert expected[-30:].mean() < expected[:30].mean()


# Noise that is drawn once


def test_a_stretch_of_noise_is_normal_and_another_at_each_step():
  zeros = {'a': jnp.zeros((100, 100)), 'b': jnp.zeros(10_000)}
  optimizer = always_on.shrink_and_perturb(1.0, noise=0.5, num_drawn=1 << 20)
  state, steps = optimizer.init(zeros), []
  for _ in range(3):
    updates, state = optimizer.update(zeros, state, zeros)
    steps.append(np.concatenate([np.ravel(x) for x in updates.values()]))
  for noise in steps:
    np.testing.assert_allclose(noise.std(), 0.5, rtol=0.03)
    assert abs(noise.mean()) < 0.02
    np.testing.assert_allclose((abs(noise) < 0.5).mean(), 0.683, atol=0.02)
  for first, second in ((0, 1), (1, 2), (0, 2)):
    correlation = np.corrcoef(steps[first], steps[second])[0, 1]
    assert abs(correlation) < 0.05


def test_fewer_numbers_than_parameters_are_refused():
  zeros = jnp.zeros(10)
  optimizer = always_on.upgd(1.0, num_drawn=9)
  with pytest.raises(ValueError, match='at least the number of parameters, 10'):
    optimizer.update(zeros, optimizer.init(zeros), zeros)


def test_references_are_of_settings_that_are_here():
  for reference in published.REFERENCES:
    problem = PUBLISHED[reference.name].problem
    assert 0 < reference.num_tasks <= published.NUM_TASKS[problem]
    assert 0 < reference.accuracy < 1
