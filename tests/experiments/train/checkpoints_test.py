"""Checkpoints: exact, whole or absent, and clear about what does not fit."""

import pathlib
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import OutputError
from isgd_jax.experiments.train.checkpoints import Checkpoints
from isgd_jax.experiments.train.checkpoints import to_flat
from isgd_jax.experiments.train.config import TrainConfig
from tests import helpers

CONFIG = TrainConfig()


def make_state(seed=0, width=5):
  """Parameters, typed keys, and the state of ISGD around Adam."""
  key = jax.random.key(seed)
  params = {
    'layers': [
      {'kernel': jax.random.normal(key, (3, width))},
      {'kernel': jax.random.normal(key, (width,), jnp.bfloat16)},
    ]
  }
  optimizer = helpers.blind_isgd(
    optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    isgd_jax.shewhart(20),
  )
  model_state = {'dropout': {'key': key, 'count': jnp.uint32(seed)}}
  return params, model_state, optimizer.init(params)


def test_a_state_comes_back_bit_for_bit(tmp_path):
  state = make_state(seed=3)
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    checkpoints.save(7, state, CONFIG)
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    step, restored = checkpoints.restore(
      jax.eval_shape(lambda: make_state(0)), CONFIG
    )
  assert step == 7
  chex.assert_trees_all_equal_structs(state, restored)
  chex.assert_trees_all_equal_dtypes(to_flat(state), to_flat(restored))
  chex.assert_trees_all_equal(to_flat(state), to_flat(restored))


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
  overwrite = jax.jit(
    lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0
  )
  state = {'w': jnp.arange(2.0**20)}
  with Checkpoints(tmp_path, keep=3) as checkpoints:
    checkpoints.save(1, state, CONFIG)
    for _ in range(20):
      state = overwrite(state)
    checkpoints.wait()
    _, restored = checkpoints.restore(state, CONFIG)
  np.testing.assert_array_equal(restored['w'], np.arange(2.0**20))


def test_the_newest_are_kept(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(step, {'w': jnp.full(3, float(step))}, CONFIG)
    checkpoints.save(3, {'w': jnp.zeros(3)}, CONFIG)  # There already: kept.
    checkpoints.wait()
    step, state = checkpoints.restore({'w': jnp.zeros(3)}, CONFIG)
  assert (step, state['w'][0]) == (3, 3.0)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['2', '3']


def test_what_an_interrupted_save_left_is_no_checkpoint(tmp_path):
  with Checkpoints(tmp_path, keep=5) as checkpoints:
    checkpoints.save(1, {'w': jnp.ones(3)}, CONFIG)
  torn = tmp_path / '2.orbax-checkpoint-tmp'
  shutil.copytree(tmp_path / '1', torn)
  with Checkpoints(tmp_path, keep=5) as checkpoints:
    assert checkpoints.latest_step == 1


def test_no_checkpoint_is_said(tmp_path):
  with (
    Checkpoints(tmp_path, keep=1) as checkpoints,
    pytest.raises(InputError, match='has no checkpoint'),
  ):
    checkpoints.restore({'w': jnp.ones(3)}, CONFIG)


@pytest.mark.parametrize(
  ('config', 'make', 'message'),
  [
    (
      TrainConfig(model='lenet'),
      make_state,
      "was made with other options: --model was 'mlp', is now 'lenet'",
    ),
    (
      CONFIG,
      lambda: make_state(width=6),
      r'0.layers.0.kernel was float32\[3, 5\], is now float32\[3, 6\]',
    ),
    (CONFIG, lambda: make_state()[:2], r'2\.base_state.* is now nothing'),
  ],
)
def test_another_run_is_refused_and_told_apart(tmp_path, config, make, message):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, make_state(), CONFIG)
    with pytest.raises(InputError, match=message) as error:
      checkpoints.restore(make(), config)
  assert str(tmp_path / '1') in str(error.value)


def test_other_data_are_refused_and_told_apart(tmp_path):
  state = {'w': jnp.ones(3)}
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, state, CONFIG, {'train_examples': 48, 'classes': 2})
    with pytest.raises(InputError, match='train_examples was 48, is now 50'):
      checkpoints.restore(state, CONFIG, {'train_examples': 50, 'classes': 2})


def test_a_checkpoint_of_the_old_checksum_is_refused_in_words(tmp_path):
  state = {'w': jnp.ones(3)}
  old = {'train_examples': 48, 'checksum': '0123456789abcdef'}
  now = {'train_examples': 48, 'train_fingerprint': '0' * 32}
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, state, CONFIG, old)
    with pytest.raises(
      InputError, match=r'looked at 8 records .* begin another run'
    ):
      checkpoints.restore(state, CONFIG, now)


OTHER_DEVICE = """
import sys
import jax
jax.config.update('jax_num_cpu_devices', 2)
import jax.numpy as jnp
from isgd_jax.experiments.train.checkpoints import Checkpoints
from isgd_jax.experiments.train.config import TrainConfig
state = jax.device_put({'w': jnp.arange(3.0)}, jax.devices()[1])
with Checkpoints(sys.argv[1], keep=1) as checkpoints:
  checkpoints.save(1, state, TrainConfig())
"""


@pytest.mark.processes
def test_a_checkpoint_outlives_the_device_it_came_from(tmp_path):
  subprocess.run(
    [sys.executable, '-c', OTHER_DEVICE, str(tmp_path)],
    timeout=120,
    cwd=pathlib.Path(isgd_jax.__file__).parents[1],
    check=True,
  )
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    _, state = checkpoints.restore({'w': jnp.zeros(3)}, CONFIG)
  np.testing.assert_array_equal(state['w'], np.arange(3.0))


def test_a_damaged_checkpoint_is_named(tmp_path):
  state = {'w': jnp.arange(1000.0)}
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, state, CONFIG)
  for path in (tmp_path / '1' / 'state').rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[:10])
  with (
    Checkpoints(tmp_path, keep=1) as checkpoints,
    pytest.raises(InputError, match=r"cannot read checkpoint '.*/1': .*remove"),
  ):
    checkpoints.restore(state, CONFIG)


# No process can write a file of more than 100 kB here, as on a full disk.
FULL_DISK = """
import resource, sys
import jax.numpy as jnp
from isgd_jax.experiments.errors import OutputError
from isgd_jax.experiments.train.checkpoints import Checkpoints
from isgd_jax.experiments.train.config import TrainConfig
with Checkpoints(sys.argv[1], keep=1) as checkpoints:
  checkpoints.save(1, {'w': jnp.ones(1000)}, TrainConfig())
  checkpoints.wait()
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
  try:
    noise = jnp.sin(jnp.arange(1e6) ** 2)
    checkpoints.save(2, {'w': noise}, TrainConfig())
    checkpoints.wait()
  except OutputError as error:
    print(error)
"""


@pytest.mark.processes
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(tmp_path):
  pytest.importorskip('resource')
  result = subprocess.run(
    [sys.executable, '-c', FULL_DISK, str(tmp_path)],
    capture_output=True,
    text=True,
    timeout=120,
    cwd=pathlib.Path(isgd_jax.__file__).parents[1],
    check=False,
  )
  assert 'cannot save the checkpoint' in result.stdout, result.stderr
  assert 'the last good one, of step 1, is intact' in result.stdout
  assert 'Make room and carry on with --resume' in result.stdout
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    step, state = checkpoints.restore({'w': jnp.zeros(1000)}, CONFIG)
  assert step == 1
  np.testing.assert_array_equal(state['w'], np.ones(1000))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  file = tmp_path / 'file'
  file.write_text('mine')
  with pytest.raises(OutputError, match='cannot open the checkpoint'):
    Checkpoints(file / 'checkpoints', keep=1)
