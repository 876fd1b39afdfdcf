"""The README's code runs, and its tables are those of the measured files."""

import importlib.util
import pathlib
import re

import jax
import jax.numpy as jnp

import isgd_jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text()


def test_the_tables_are_those_of_the_measured_files():
  spec = importlib.util.spec_from_file_location(
    'update_readme', ROOT / 'docs/update_readme.py'
  )
  update_readme = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(update_readme)
  assert update_readme.render(README) == README


def test_the_code_runs():
  (code,) = re.findall(r'```python\n(.*?)```', README, flags=re.DOTALL)
  x = jax.random.normal(jax.random.key(0), (8, 3))
  names = {
    'params': jnp.zeros(3),
    'batch': (x, x.sum(axis=1)),
    'loss_fn': lambda params, batch: jnp.mean(
      (batch[0] @ params - batch[1]) ** 2
    ),
  }
  exec(code, names)
  info = isgd_jax.get_info(names['opt_state'])
  assert int(info.num_steps) == 1
  assert jnp.all(names['params'] != 0)


def test_the_patent_is_named():
  assert '10,572,800' in README
