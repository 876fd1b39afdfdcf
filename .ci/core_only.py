"""Imports and runs the installed wheel where only core dependencies are."""

import importlib.metadata
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import optax

import isgd_jax

assert pathlib.Path.cwd() not in pathlib.Path(isgd_jax.__file__).parents
assert (pathlib.Path(isgd_jax.__file__).parent / 'py.typed').exists()
for absent in (
  *('datasets', 'flax', 'grain', 'matplotlib', 'orbax', 'sklearn'),
  *('tensorboardX', 'tqdm', 'tyro'),
):
  assert importlib.util.find_spec(absent) is None, absent

# What is behind an extra says so.
for use, extra in {
  'import isgd_jax.training': 'flax',
  'from isgd_jax import sampling; sampling.fixed_cycle([1], 1, seed=0)': 'data',
  'from isgd_jax import plotting; plotting.new_figure()': 'plot',
}.items():
  message = ''
  try:
    exec(use)
  except ImportError as error:
    message = str(error)
  # From the wheel that this was installed from.
  assert f'.whl[{extra}]' in message, (use, message)


def loss_fn(params):
  """A loss to run one step on."""
  return jnp.sum(jnp.square(params))


optimizer = isgd_jax.isgd(optax.adam(0.1), isgd_jax.shewhart(2))
params = jnp.ones(3)
opt_state = optimizer.init(params)
loss, grads = jax.value_and_grad(loss_fn)(params)
optimizer.update(grads, opt_state, params, value=loss, value_fn=loss_fn)
print('isgd_jax', importlib.metadata.version('isgd_jax'), 'needs jax', end=' ')
print(jax.__version__, 'and optax', optax.__version__, 'alone')
