"""The code of docs/devices.md runs, and learns what it says."""

import pathlib
import re

import jax
import numpy as np

import isgd_jax

PAGE = pathlib.Path(__file__).parents[3] / 'docs/devices.md'


def test_the_code_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
  assert len(blocks) == 8
  # The number of devices is set already.
  code = blocks[0].replace("jax.config.update('jax_num_cpu_devices', 8)", '')
  code = '\n'.join([code, *blocks[1:6]])
  names = {}
  exec(compile(code, str(PAGE), 'exec'), names)
  info = isgd_jax.get_info(names['opt_state'])
  assert int(info.num_steps) == 4
  assert sum(names['sizes']) == 64
  # All four ways took the same kind of step on x . w = 1.
  params = np.asarray(names['params'])
  assert np.ptp(params) < 1e-6
  assert 0.1 < params[0] < 1.0
  careful = isgd_jax.get_info(names['careful_state'])
  assert int(careful.num_steps) == 1
  assert not careful.is_skipped
  exec(compile(blocks[6], str(PAGE), 'exec'), names)
  assert not names['params'].is_fully_replicated
  chart = jax.tree.leaves(names['opt_state'].chart_state)
  assert all(x.is_fully_replicated for x in chart)
  # Optax's momentum mixes dtypes, as a user's promotion lets it.
  with jax.numpy_dtype_promotion('standard'):
    exec(compile(blocks[7], str(PAGE), 'exec'), names)
  assert (tmp_path / 'eight/metrics.jsonl').exists()
