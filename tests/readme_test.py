"""The README's code runs, and its tables are those of the measured files."""

import importlib.util
import pathlib
import re

import equinox as eqx
from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import optax

import isgd_jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text()
CHARTS = (ROOT / 'docs/charts.md').read_text()
STREAMS = (ROOT / 'docs/streams.md').read_text()


def test_the_tables_are_those_of_the_measured_files():
  spec = importlib.util.spec_from_file_location(
    'update_readme', ROOT / 'docs/update_readme.py'
  )
  update_readme = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(update_readme)
  for text in (README, CHARTS, STREAMS):
    assert update_readme.render(text) == text


def test_the_code_about_charts_runs():
  names = {'isgd_jax': isgd_jax, 'jnp': jnp, 'optax': optax}
  for code in re.findall(r'```python\n(.*?)```', CHARTS, flags=re.DOTALL):
    exec(code, names)
  update, state = names['chart'].update, names['chart'].init()
  flags = []
  for loss in (1.0, 1.5, 4.0, float('nan'), 7.0, 15.0):
    state, reading = update(state, jnp.float32(loss))
    flags.append(bool(reading.is_above))
  assert flags == [False, False, True, False, False, True]


def test_the_code_about_streams_runs():
  (code,) = re.findall(r'```python\n(.*?)```', STREAMS, flags=re.DOTALL)
  names = {}
  # Optax's Adam mixes dtypes, as a user's promotion lets it.
  with jax.numpy_dtype_promotion('standard'):
    exec(code, names)
  accuracies, info = names['accuracies'], names['info']
  assert len(accuracies) == 400
  # It has learned each concept again by the end of its segment.
  for end in (100, 200, 300, 400):
    assert sum(accuracies[end - 20 : end]) / 20 > 0.7
  assert 0 < int(info.num_undertrained) < 80
  assert int(info.num_gradient_evaluations) < 1.5 * 400


def test_the_code_runs():
  names = readme_names()
  for code in re.findall(r'```python\n(.*?)```', README, flags=re.DOTALL):
    exec(code, names)
  batch = names['batch']
  info = isgd_jax.get_info(names['opt_state'])
  assert int(info.num_steps) == 1
  assert jnp.all(names['params'] != 0)

  names['nnx_step'](names['nnx_model'], names['nnx_optimizer'], batch)
  state = names['linen_step'](names['state'], batch, jax.random.key(0))
  _, eqx_state = names['equinox_step'](
    names['eqx_model'], names['eqx_state'], batch
  )
  for opt_state in (
    names['nnx_optimizer'].opt_state,
    state.opt_state,
    eqx_state,
  ):
    assert int(isgd_jax.get_info(opt_state).num_steps) == 1


def readme_names():
  """What the README's code takes for granted."""
  x = jax.random.normal(jax.random.key(0), (8, 3))
  net = nn.Sequential([nn.Dense(1), nn.Dropout(0.5, deterministic=False)])

  def loss_of(predictions, batch):
    return jnp.mean((predictions[:, 0] - batch[1]) ** 2)

  return {
    'params': jnp.zeros(3),
    'batch': (x, x.sum(axis=1)),
    'loss_fn': lambda params, batch: jnp.mean(
      (batch[0] @ params - batch[1]) ** 2
    ),
    'loss_of': loss_of,
    'nnx_model': nnx.Linear(3, 1, rngs=nnx.Rngs(0)),
    'nnx_loss': lambda model, batch: loss_of(model(batch[0]), batch),
    'net': net,
    'net_params': net.init(jax.random.key(0), x)['params'],
    'eqx_model': eqx.nn.Linear(3, 1, key=jax.random.key(0)),
    'eqx_loss': lambda model, batch: loss_of(jax.vmap(model)(batch[0]), batch),
  }


def test_the_patent_is_named():
  assert '10,572,800' in README
