"""A run in one scan is the run that calls its step batch by batch."""

import numpy as np
import pytest

from isgd_jax.experiments import models
from isgd_jax.experiments import streams
from isgd_jax.experiments.datasets import Table
from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.optimizers.charts import ChartSettings
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
  ],
)
def test_a_scan_is_the_loop(kind, method, options):
  table = shifting_table(kind)
  model = models.build_model('mlp-32', (1, 3, 1), table.num_classes, kind)
  chart = ChartSettings(window_size=20, sigma_multiplier=2.0)
  config = RunConfig(
    method, 'adam', 0.01, seed=3, isgd=Algorithm('isgd', chart, options=options)
  )
  found = train_in_scan(
    config, model, streams.table_batches(table, batch_size=4)
  )
  expected = train(config, model, streams.table_stream(table, batch_size=4))
  for ours, theirs in zip(found.metrics, expected.metrics, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-5)
  assert found.summary().keys() == expected.summary().keys()
  assert len(found.metrics.loss) == 120
  if method in ('isgd', 'skip', 'reset'):
    assert found.metrics.is_undertrained.any()


def test_a_random_trigger_is_refused():
  table = shifting_table('classification')
  model = models.build_model('mlp-32', (1, 3, 1), 2)
  with pytest.raises(ValueError, match="'random' is not made for a scan"):
    train_in_scan(
      RunConfig('random'), model, streams.table_batches(table, batch_size=4)
    )
