"""A run in one scan is the run that calls its step batch by batch."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from isgd_jax.experiments import models
from isgd_jax.experiments import streams
from isgd_jax.experiments.datasets import Table
from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.optimizers.charts import ChartSettings
from isgd_jax.experiments.optimizers.given_flags import set_flag
from isgd_jax.experiments.optimizers.rival_reactions import REACTIONS
from isgd_jax.experiments.runs import detectors
from isgd_jax.experiments.runs.methods import METHODS
from isgd_jax.experiments.runs.scan_batches import ScanBatches
from isgd_jax.experiments.runs.scanned import train_in_scan
from isgd_jax.experiments.runs.training import RunConfig
from isgd_jax.experiments.runs.training import train


def shifting_table(kind):
  """Whose meaning turns halfway, so that there is something to chase."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(64 + 4 * 120, 3))
  sign = np.where(np.arange(len(x)) < 300, 1.0, -1.0)
  y = sign * (x @ np.array([1.0, -2.0, 0.5]))
  if kind == 'classification':
    return Table('t', x, (y > 0).astype(np.int32), kind, 2, ('a', 'b', 'c'))
  return Table('t', x, y, kind, 1, ('a', 'b', 'c'))


def batches_of(table):
  batches = streams.table_batches(table, batch_size=4)
  inputs = batches.inputs[:, :, np.newaxis, :, np.newaxis]
  return ScanBatches(inputs, batches.targets)


@pytest.mark.parametrize('kind', ['classification', 'regression'])
@pytest.mark.parametrize(
  ('method', 'options'),
  [
    ('base', ()),
    ('twice', ()),
    ('isgd', ()),
    ('isgd', (('probation', True),)),
    ('skip', ()),
    ('reset', ()),
    *(('react', (('reaction', name),)) for name in REACTIONS),
  ],
)
def test_a_scan_is_the_loop(kind, method, options):
  table = shifting_table(kind)
  model = models.build_model('mlp-32', (1, 3, 1), table.num_classes, kind)
  chart = ChartSettings(window_size=20, sigma_multiplier=2.0)
  config = RunConfig(
    *(method, 'adam', 0.01),
    seed=3,
    isgd=Algorithm(
      method if method == 'react' else 'isgd', chart, options=options
    ),
  )
  found = train_in_scan(config, model, batches_of(table))
  expected = train(config, model, streams.table_stream(table, batch_size=4))
  for ours, theirs in zip(found.metrics, expected.metrics, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-5)
  assert found.summary().keys() == expected.summary().keys()
  assert len(found.metrics.loss) == 120
  if method in ('isgd', 'skip', 'reset', 'react'):
    assert found.metrics.is_undertrained.any()
  if method == 'react':
    extra = found.metrics.is_undertrained & ('echo' in dict(options).values())
    np.testing.assert_array_equal(found.extra_evaluations(), extra)


@pytest.mark.parametrize('name', ['base', 'isgd', 'random-reset'])
@pytest.mark.parametrize('block_size', [40, 50])
def test_a_run_in_blocks_is_the_run_in_one(name, block_size):
  table = shifting_table('classification')
  model = models.build_model('mlp-32', (1, 3, 1), table.num_classes)
  method = METHODS[name]
  chart = dataclasses.replace(
    method.isgd.chart, window_size=20, sigma_multiplier=2.0
  )
  config = RunConfig(
    *(method.kind, 'adam', 0.01),
    isgd=dataclasses.replace(method.isgd, chart=chart),
  )
  batches = batches_of(table)
  whole = train_in_scan(config, model, batches)
  parts = train_in_scan(config, model, batches._replace(block_size=block_size))
  for ours, theirs in zip(parts.metrics, whole.metrics, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
  assert len(parts.metrics.loss) == 120


def test_a_random_trigger_is_refused():
  table = shifting_table('classification')
  model = models.build_model('mlp-32', (1, 3, 1), 2)
  with pytest.raises(ValueError, match="'random' is not made for a scan"):
    train_in_scan(RunConfig('random'), model, batches_of(table))


# Flags from elsewhere


def triggered(name, table, **kwargs):
  """A run of a method on a made-up table, and its configuration."""
  model = models.build_model('mlp-32', (1, 3, 1), table.num_classes)
  method = METHODS[name]
  chart = dataclasses.replace(
    method.isgd.chart, window_size=20, sigma_multiplier=2.0
  )
  config = RunConfig(
    *(method.kind, 'adam', 0.03),
    seed=1,
    isgd=dataclasses.replace(method.isgd, chart=chart),
  )
  return train_in_scan(config, model, batches_of(table), **kwargs), config


@pytest.mark.parametrize('reaction', ['isgd', 'reset', 'echo', 'rewarm-10'])
def test_an_oracle_flags_the_change_points_and_nothing_else(reaction):
  table = shifting_table('classification')
  found, _ = triggered(f'oracle-{reaction}', table, change_points=(60, 90))
  assert np.flatnonzero(found.metrics.is_undertrained).tolist() == [60, 90]
  spent = found.metrics.num_gradient_evaluations
  assert (np.delete(spent, [60, 90]) == 1).all()
  assert (spent[60] > 1) == (reaction in ('isgd', 'echo'))


def test_an_oracle_without_change_points_is_refused():
  with pytest.raises(ValueError, match='an oracle needs change points'):
    triggered('oracle-isgd', shifting_table('classification'))


@pytest.mark.parametrize('reaction', ['isgd', 'reset', 'echo'])
def test_a_random_trigger_flags_as_many_batches_as_the_chart(reaction):
  table = shifting_table('classification')
  found, _ = triggered(f'random-{reaction}', table)
  own, _ = triggered(reaction, table)
  flags, of_chart = (r.metrics.is_undertrained for r in (found, own))
  assert flags.sum() == of_chart.sum() > 0
  assert (flags != of_chart).any()


class Rise:
  """Flags a loss that is half above the mean of the five before."""

  def __init__(self):
    self.losses = []

  def __call__(self, loss):
    self.losses.append(loss)
    before = self.losses[-6:-1]
    return len(before) == 5 and loss > 1.5 * np.mean(before)


@pytest.mark.parametrize('reaction', ['isgd', 'reset', 'echo'])
def test_a_detector_is_asked_at_each_batch(reaction, monkeypatch):
  """Against a loop that asks it between the loss and the step."""
  monkeypatch.setattr(detectors, 'build_detector', lambda name: Rise())
  table = shifting_table('classification')
  found, config = triggered(f'adwin-{reaction}', table)
  model = models.build_model('mlp-32', (1, 3, 1), table.num_classes)
  optimizer = config.algorithm.build('adam', 0.03)
  params = model.init(1)
  state, detector, losses, flags = optimizer.init(params), Rise(), [], []
  value_and_grad = jax.jit(jax.value_and_grad(model.loss_fn, has_aux=True))

  @jax.jit
  def update(params, state, grads, loss, batch):
    updates, state = optimizer.update(
      grads,
      state,
      params,
      value=loss,
      value_fn=lambda p: model.loss_fn(p, batch)[0],
    )
    return optax.apply_updates(params, updates), state

  for batch in zip(*batches_of(table)[:2], strict=True):
    (loss, _), grads = value_and_grad(params, batch)
    losses.append(float(loss))
    flags.append(detector(losses[-1]))
    params, state = update(
      params, set_flag(state, flags[-1]), grads, loss, batch
    )
  assert sum(flags) > 3
  np.testing.assert_array_equal(found.metrics.is_undertrained, flags)
  np.testing.assert_allclose(found.metrics.loss, losses, rtol=1e-3, atol=1e-5)


def test_flags_from_elsewhere_are_made_for_a_scan_alone():
  table = shifting_table('classification')
  _, config = triggered('random-reset', table)
  model = models.build_model('mlp-32', (1, 3, 1), table.num_classes)
  with pytest.raises(
    ValueError, match="trigger of 'random' is made for a scan"
  ):
    train(config, model, streams.table_stream(table, batch_size=4))


# In real time


@pytest.mark.parametrize('name', ['base', 'twice', 'isgd'])
def test_in_real_time_what_a_step_took_more_is_not_trained_on(name):
  """A step of k evaluations, then k - 1 batches that leave no trace."""
  table = shifting_table('classification')
  found, config = triggered(name, table, is_real_time=True)
  spent = found.metrics.num_gradient_evaluations
  debt, trained_on = 0, []
  for k in spent:
    trained_on.append(debt == 0)
    assert (k == 0) == (debt > 0)
    debt = debt - 1 if debt else k - 1
  np.testing.assert_array_equal(spent > 0, trained_on)
  # The batches that were trained on, alone, are the same run.
  batches = batches_of(table)
  kept = ScanBatches(*(x[np.array(trained_on)] for x in batches[:2]))
  model = models.build_model('mlp-32', (1, 3, 1), table.num_classes)
  alone = train_in_scan(config, model, kept)
  np.testing.assert_allclose(
    found.metrics.loss[trained_on], alone.metrics.loss, rtol=1e-4, atol=1e-6
  )
  assert found.metrics.num_gradient_evaluations.sum() == spent.sum()
  if name == 'base':
    assert all(trained_on)
  if name == 'twice':
    np.testing.assert_array_equal(trained_on[::2], True)
    assert not any(trained_on[1::2])
