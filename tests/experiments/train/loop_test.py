"""Whole runs in this process: results, resumption, and what stops them."""

import collections
import dataclasses
import json
import pathlib
import shutil
import signal
from typing import NamedTuple

import chex
from flax import nnx
import jax
import numpy as np
from PIL import Image
import pytest

import isgd_jax
from isgd_jax.experiments import datasets
from isgd_jax.experiments import models
from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import OutputError
from isgd_jax.experiments.errors import RunStopped
from isgd_jax.experiments.files import read_records
from isgd_jax.experiments.train import checkpoints
from isgd_jax.experiments.train import command
from isgd_jax.experiments.train import folder
from isgd_jax.experiments.train import inputs
from isgd_jax.experiments.train import logs
from isgd_jax.experiments.train import loop
from isgd_jax.experiments.train import running
from isgd_jax.experiments.train.checkpoints import to_flat
from isgd_jax.experiments.train.config import DataConfig
from isgd_jax.experiments.train.config import IsgdConfig
from isgd_jax.experiments.train.config import OptimizerConfig
from isgd_jax.experiments.train.config import TrainConfig

pytestmark = pytest.mark.whole_runs

FAST = OptimizerConfig(learning_rate=0.1)


def config(**options):
  return TrainConfig(**({'optimizer': FAST, 'epochs': 4} | options))


def records(out, name):
  return list(read_records(pathlib.Path(out) / name))


class Finished(NamedTuple):
  """A run that is over, and its folder, which stays as it is."""

  config: TrainConfig
  out: pathlib.Path
  result: loop.TrainResult

  def copy(self, out):
    return shutil.copytree(self.out, out)


def finish(run_config, out):
  # Before the fixture of a test sets it for that test.
  with jax.numpy_dtype_promotion('standard'):
    return Finished(run_config, out, loop.train(run_config, out))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return finish(config(), tmp_path_factory.mktemp('finished') / 'run')


def assert_same_logs(one, other):
  for name in (logs.METRICS, logs.EVENTS, logs.EVALUATIONS):
    assert (one / name).read_bytes() == (other / name).read_bytes()


def assert_events_add_up(out, result):
  """As many of each kind as the counters of the run and its state say."""
  events = records(out, logs.EVENTS)
  kinds = collections.Counter(event['event'] for event in events)
  assert kinds['under-trained'] == result.totals['num_undertrained']
  assert kinds['well-trained'] == result.totals['num_well_trained']
  steps = [event.get('num_chase_steps', 0) for event in events]
  assert sum(steps) == result.totals['num_chase_steps']
  info = isgd_jax.info_dict(result.state.opt_state)
  outcomes = collections.Counter(event.get('outcome') for event in events)
  assert kinds['verdict'] == info['num_chases_judged'] > 0
  assert outcomes['undone'] == info['num_chases_undone']
  shadow = [e['step'] for e in events if 'shadow' in e.get('reaction', '')]
  for event in events:
    if event['event'] == 'verdict':
      is_shadow = event['of_step'] in shadow
      assert is_shadow == (event['outcome'] in ('paid', 'did not pay'))
      assert event['of_step'] < event['step']


def assert_sound(result):
  assert np.isfinite(result.test_loss)
  for leaf in jax.tree.leaves(result.state.params):
    assert leaf.dtype == np.float32


def test_a_run_learns_and_says_what_it_did(finished):
  _, out, result = finished
  assert_sound(result)
  assert result.num_steps == 4 * 12
  assert result.test_accuracy > 0.85
  steps = records(out, logs.METRICS)
  assert [record['step'] for record in steps] == list(range(1, 49))
  # The fixed cycle: the same twelve batches in each epoch.
  assert [record['batch'] for record in steps] == [*range(12)] * 4
  assert [record['epoch'] for record in steps] == sorted([*range(4)] * 12)
  evaluations = records(out, logs.EVALUATIONS)
  assert [record['step'] for record in evaluations] == [12, 24, 36, 48]
  assert evaluations[-1]['accuracy'] == result.test_accuracy
  assert result.totals['num_examples'] == 4 * 12 * 128


def test_the_evaluation_is_over_each_test_image_once(finished):
  result = finished.result
  digits = datasets.load_dataset('digits')
  hidden, out = (
    jax.device_get(dict(result.state.params[name].items()))
    for name in ('hidden', 'out')
  )
  x = digits.test.images.reshape(len(digits.test), -1)
  x = np.maximum(x @ hidden['kernel'] + hidden['bias'], 0)
  logits = x @ out['kernel'] + out['bias']
  expected = (logits.argmax(1) == digits.test.labels).mean()
  assert result.test_accuracy == pytest.approx(expected)


@pytest.mark.parametrize(
  'options',
  [
    {'isgd': IsgdConfig(method='base')},
    {'isgd': IsgdConfig(method='paper-isgd')},
    {'data': DataConfig(sampling='reshuffle', last_batch='drop')},
    {'data': DataConfig(last_batch='short')},
    {'data': DataConfig(last_batch='pad')},
    {'precision': 'bfloat16'},
    {'model': 'cnn'},
  ],
)
def test_options_make_runs(tmp_path, options):
  assert_sound(loop.train(config(epochs=1, **options), tmp_path))


def test_a_longer_run_goes_on_as_if_it_had_been_meant_so(finished, tmp_path):
  whole = finished.result
  for steps in (24, 48):
    parts = loop.train(
      config(steps=steps, epochs=None),
      tmp_path / 'parts',
      resume=steps > 24,
    )
  chex.assert_trees_all_equal(to_flat(whole.state), to_flat(parts.state))
  assert whole[1:] == parts[1:]
  assert_same_logs(finished.out, tmp_path / 'parts')
  # Carried on where there is nothing left to do, it stays as it is.
  again = loop.train(
    config(steps=48, epochs=None), tmp_path / 'parts', resume=True
  )
  chex.assert_trees_all_equal(to_flat(whole.state), to_flat(again.state))
  assert whole[1:] == again[1:]


def test_a_run_without_a_checkpoint_begins_anew(finished, tmp_path):
  torn = tmp_path / 'torn'
  folder.save_config(config(), torn)
  (torn / logs.METRICS).write_text('{"step": 1, "loss": 9.0}\n{"st')
  result = loop.train(config(), torn, resume=True)
  chex.assert_trees_all_equal(
    to_flat(finished.result.state), to_flat(result.state)
  )
  assert_same_logs(finished.out, torn)


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(tmp_path):
  run_config = config(steps=5, epochs=None, checkpoint_every=2)
  loop.train(run_config, tmp_path)
  before = (tmp_path / logs.METRICS).read_bytes()
  shutil.rmtree(tmp_path / folder.CHECKPOINTS)
  with pytest.raises(InputError, match=r'has 5 steps, but .* has no check'):
    loop.train(run_config, tmp_path, resume=True)
  assert (tmp_path / logs.METRICS).read_bytes() == before


def test_a_run_shortened_to_where_it_is_is_evaluated_there(tmp_path):
  loop.train(config(steps=30, epochs=None, evaluate_every=30), tmp_path)
  (tmp_path / logs.EVALUATIONS).write_text('')
  for steps in (30, 20):
    result = loop.train(config(steps=steps, epochs=None), tmp_path, resume=True)
    assert result.num_steps == 30
    assert result.test_accuracy > 0.8
  evaluations = records(tmp_path, logs.EVALUATIONS)
  assert [record['step'] for record in evaluations] == [30]


class SmallNet(nnx.Module):
  """BatchNorm and dropout: model state and keys that a run must keep."""

  def __init__(self, rngs):
    self.hidden = nnx.Linear(64, 16, rngs=rngs)
    self.norm = nnx.BatchNorm(16, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.out = nnx.Linear(16, 10, rngs=rngs)

  def __call__(self, x, *, train=False):
    x = self.norm(self.hidden(x.reshape(len(x), -1)), not train)
    return self.out(self.dropout(nnx.relu(x), deterministic=not train))


CHASING = IsgdConfig(window_size=12, sigma_multiplier=1.0)
LOSS_DRIVEN = OptimizerConfig(
  learning_rate=0.1, schedule='loss-driven', rate_boundaries=(1.5, 1.0)
)


@pytest.mark.one_version
@pytest.mark.parametrize(
  'options',
  [
    {
      'isgd': CHASING,
      'optimizer': LOSS_DRIVEN,
      'data': DataConfig(last_batch='pad'),
    },
    {
      'isgd': IsgdConfig(method='paper-isgd', chase_learning_rate=0.1),
      'data': DataConfig(sampling='reshuffle', last_batch='short'),
    },
  ],
)
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not_been(
  tmp_path, monkeypatch, options
):
  """Stops within a block, while saving, and before the first step."""
  monkeypatch.setattr(
    models,
    'create_model',
    lambda *args, rngs, **kwargs: SmallNet(rngs),
  )
  run_config = config(epochs=5, checkpoint_every=7, **options)
  whole = loop.train(run_config, tmp_path / 'whole')
  assert_sound(whole)
  if options['isgd'] is CHASING:
    assert whole.totals['num_chase_steps'] > 0
    assert_events_add_up(tmp_path / 'whole', whole)

  def stop_now(*_):
    signal.raise_signal(signal.SIGTERM)

  def stop_in(owner, name, is_due):
    """Has the first call that is due stop the run, as it begins."""
    real = getattr(owner, name)

    def call(*args, **kwargs):
      if is_due(*args):
        monkeypatch.setattr(owner, name, real)
        stop_now()
      return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)

  out = tmp_path / 'torn'
  at_step = lambda step: lambda self, at, *_: at == step
  stop_in(running.Run, '_advance', lambda *_: True)
  with pytest.raises(RunStopped, match='saved after step 0'):
    loop.train(run_config, out)
  stopped = []
  for place in (
    lambda: stop_in(checkpoints.Checkpoints, 'save', at_step(14)),
    lambda: stop_in(running.Run, '_evaluate', lambda self, state, at: at == 24),
    lambda: stop_in(
      logs.RunLog, 'write_steps', lambda self, at, *_: at[-1][0] >= 33
    ),
  ):
    place()
    with pytest.raises(RunStopped) as error:
      loop.train(run_config, out, resume=True)
    stopped.append(int(str(error.value).partition('step ')[2].split(';')[0]))
  assert stopped[:2] == [14, 24]
  result = loop.train(run_config, out, resume=True)
  chex.assert_trees_all_equal(to_flat(whole.state), to_flat(result.state))
  assert whole[1:] == result[1:]
  assert_same_logs(tmp_path / 'whole', out)


def test_a_diverging_run_is_finished(tmp_path):
  wild = OptimizerConfig(learning_rate=1e30, base='sgd')
  result = loop.train(config(optimizer=wild, epochs=2), tmp_path)
  assert result.num_steps == 24
  losses = [record['loss'] for record in records(tmp_path, logs.METRICS)]
  assert losses[0] is not None
  assert losses[-1] is None
  assert np.isnan(result.test_loss)
  assert 'test loss nan' in command.summary(config(), result)
  assert command.draw_chart(tmp_path).is_file()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      {'data': DataConfig(batch_size=2000)},
      r'batch_size.*1437|1437.*batch_size.*2000',
    ),
    ({'model': 'transformer'}, 'transformer'),
    ({'model': 'alexnet'}, 'alexnet'),
    (
      {'isgd': IsgdConfig(window_size=1)},
      'window_size',
    ),
    (
      {'isgd': IsgdConfig(method='paper-isgd', window_size=5)},
      'batches_per_epoch',
    ),
    ({'data': DataConfig(data_dir='x')}, 'data_dir|data-dir'),
  ],
)
def test_what_does_not_fit_is_said_and_nothing_is_made(
  tmp_path, options, message
):
  with pytest.raises(InputError, match=message):
    loop.train(config(**options), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_another_run_s_folder_is_refused(finished, tmp_path):
  out = finished.copy(tmp_path / 'run')
  before = sorted(tmp_path.rglob('*'))
  with pytest.raises(InputError, match='holds a run already'):
    loop.train(config(), out)
  with pytest.raises(InputError, match='--seed was 0, is now 1'):
    loop.train(config(seed=1), out, resume=True)
  with pytest.raises(InputError, match='nothing to resume'):
    loop.train(config(), tmp_path / 'other', resume=True)
  assert sorted(tmp_path.rglob('*')) == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / 'file').write_text('mine')
  with pytest.raises(
    OutputError, match=r"cannot write results to '.*file/run'"
  ):
    loop.train(config(), tmp_path / 'file' / 'run')


def make_images(root, num_broken):
  """Two classes of 24 pictures, some of which are no pictures."""
  rng = np.random.default_rng(0)
  for part, count in (('train', 24), ('val', 8)):
    for label, name in enumerate(('dark', 'light')):
      path = root / part / name
      path.mkdir(parents=True)
      for i in range(count):
        pixels = rng.integers(0, 128, (40, 48, 3)) + 127 * label
        Image.fromarray(pixels.astype(np.uint8)).save(path / f'{i}.png')
  for i in range(num_broken):
    (root / 'train' / 'dark' / f'{i}.png').write_bytes(b'no picture')


def images_config(root, *, evaluate_every=None, **options):
  data = DataConfig(
    dataset='imagefolder',
    data_dir=str(root),
    image_size=32,
    batch_size=8,
    **options,
  )
  return config(
    model='cifar10-quick', data=data, epochs=2, evaluate_every=evaluate_every
  )


def test_pictures_that_cannot_be_decoded_are_named_or_counted(tmp_path):
  make_images(tmp_path / 'images', num_broken=3)
  with pytest.raises(DataError, match=r'train/dark/[012]\.png'):
    loop.train(images_config(tmp_path / 'images'), tmp_path / 'stopped')
  skipping = images_config(tmp_path / 'images', skip_undecodable=True)
  result = loop.train(skipping, tmp_path / 'skipped')
  assert result.totals['num_examples'] == 2 * (48 - 3)
  text = command.summary(skipping, result)
  assert 'could not be decoded and did not count: 6,' in text


@pytest.fixture(scope='module')
def finished_with_images(tmp_path_factory):
  root = tmp_path_factory.mktemp('images')
  make_images(root / 'images', num_broken=0)
  # At the end alone: each evaluation starts worker processes, where it has any.
  run_config = images_config(root / 'images', augment=True, evaluate_every=1000)
  return finish(run_config, root / 'run')


def test_other_images_in_the_same_folder_are_noticed(
  finished_with_images, tmp_path
):
  run_config = finished_with_images.config
  out = finished_with_images.copy(tmp_path / 'run')
  first = pathlib.Path(run_config.data.data_dir) / 'train' / 'dark' / '0.png'
  new = first.with_name('new.png')
  try:
    shutil.copy(first, new)
    with pytest.raises(InputError, match='train_examples was 48, is now 49'):
      loop.train(run_config, out, resume=True)
  finally:
    new.unlink()


def test_labels_that_were_changed_since_are_noticed(tmp_path):
  """All but the few records that a glance at the data would hit."""
  folder = tmp_path / 'mnist'
  rng = np.random.default_rng(0)
  labels = {'train': rng.integers(0, 10, 600), 't10k': rng.integers(0, 10, 20)}

  def write():
    folder.mkdir(exist_ok=True)
    for part, y in labels.items():
      pixels = np.random.default_rng(1).integers(0, 256, (len(y), 28, 28))
      for kind, array in (('images-idx3', pixels), ('labels-idx1', y)):
        array = array.astype(np.uint8)
        header = b'\0\0\x08' + bytes([array.ndim])
        header += np.array(array.shape, '>i4').tobytes()
        path = folder / f'{part}-{kind}-ubyte'
        path.write_bytes(header + array.tobytes())

  write()
  run_config = config(
    data=DataConfig(dataset='mnist', data_dir=str(folder), batch_size=60),
    epochs=1,
  )
  loop.train(run_config, tmp_path / 'run')
  untouched = np.arange(8) * 600 // 8
  changed = (labels['train'] + 1) % 10
  changed[untouched] = labels['train'][untouched]
  labels['train'] = changed
  write()
  with pytest.raises(InputError, match=r'data set is another one: train_fing'):
    loop.train(
      dataclasses.replace(run_config, epochs=2), tmp_path / 'run', resume=True
    )


def test_images_are_told_apart_by_path_class_and_size(tmp_path):
  """And not by where the folder lies, or when it was written."""

  def facts(root):
    return inputs.facts_of(inputs.load_run_dataset(images_config(root)))

  make_images(tmp_path / 'images', num_broken=1)
  before = facts(tmp_path / 'images')
  shutil.copytree(
    tmp_path / 'images', tmp_path / 'moved', copy_function=shutil.copyfile
  )
  assert facts(tmp_path / 'moved') == before
  dark = tmp_path / 'moved' / 'train' / 'dark'
  first = dark / '1.png'
  first.rename(dark / '1a.png')
  assert facts(tmp_path / 'moved') != before
  (dark / '1a.png').rename(first)
  assert facts(tmp_path / 'moved') == before
  first.write_bytes(first.read_bytes() + b' ')
  after = facts(tmp_path / 'moved')
  assert [name for name in before if after[name] != before[name]] == [
    'train_fingerprint'
  ]


@pytest.mark.processes
def test_worker_processes_change_nothing(finished_with_images, tmp_path):
  run_config = finished_with_images.config
  data = dataclasses.replace(run_config.data, num_workers=2)
  result = loop.train(dataclasses.replace(run_config, data=data), tmp_path)
  chex.assert_trees_all_equal(
    to_flat(finished_with_images.result.state), to_flat(result.state)
  )


def test_the_chart_is_drawn_of_a_run_and_of_a_part_of_it(finished, tmp_path):
  finished.copy(tmp_path / 'run')
  whole = command.draw_chart(tmp_path / 'run')
  assert whole == tmp_path / 'run' / 'control_chart.png'
  with Image.open(whole) as picture:
    assert picture.size == (800, 450)
  part = command.draw_chart(
    tmp_path / 'run', tmp_path / 'part.svg', first_step=30, last_step=40
  )
  assert part.read_text().startswith('<?xml')


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'first_step': 60}, r'no steps between first_step=60 .* has 1 to 48'),
    ({'out': 'chart.bmp'}, 'must end in one of .png, .pdf, .svg'),
  ],
)
def test_a_chart_that_cannot_be_drawn_is_explained(
  finished, arguments, message
):
  with pytest.raises(InputError, match=message):
    command.draw_chart(finished.out, **arguments)


def test_the_cycle_is_drawn_where_there_is_one(finished, tmp_path):
  finished.copy(tmp_path / 'run')
  with Image.open(command.draw_cycle(tmp_path / 'run')) as picture:
    assert picture.size == (800, 450)
  shuffled = config(data=DataConfig(sampling='reshuffle'), epochs=1)
  folder.save_config(shuffled, finished.copy(tmp_path / 'shuffled'))
  with pytest.raises(InputError, match='has no cycle'):
    command.draw_cycle(tmp_path / 'shuffled')


@pytest.mark.parametrize(
  'isgd',
  [
    IsgdConfig(method='skip', sigma_multiplier=1.0),
    IsgdConfig(chart='ewma', limit_width=1.0),
    IsgdConfig(chart='cusum', decision_interval=1.0),
    IsgdConfig(chart='difference', sigma_multiplier=1.0, method='watch'),
    IsgdConfig(run_rules='nelson', restart_after=4),
  ],
)
def test_every_chart_trains_and_is_drawn(tmp_path, isgd):
  result = loop.train(config(isgd=isgd, epochs=6), tmp_path)
  totals = result.totals
  assert totals['num_undertrained'] + totals['num_well_trained'] > 0
  assert totals['num_skipped'] <= totals['num_undertrained']
  assert command.draw_chart(tmp_path).is_file()


def test_a_chart_needs_a_run_with_a_chart(tmp_path):
  with pytest.raises(InputError, match='holds no run'):
    command.draw_chart(tmp_path)
  base = config(isgd=IsgdConfig(method='base'), epochs=1)
  folder.save_config(base, tmp_path)
  with pytest.raises(InputError, match='has no control chart'):
    command.draw_chart(tmp_path)
  (tmp_path / folder.CONFIG).unlink()
  folder.save_config(config(), tmp_path)
  with pytest.raises(InputError, match='has not made a step yet'):
    command.draw_chart(tmp_path)


def test_the_configuration_is_in_the_folder_with_what_it_was_made_with(
  finished,
):
  saved = json.loads((finished.out / folder.CONFIG).read_text())
  assert saved['config']['model'] == 'mlp'
  assert {'hardware', 'versions'} < saved.keys()
