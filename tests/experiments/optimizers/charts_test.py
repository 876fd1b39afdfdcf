"""One builder of charts: every command has the same chart of a name."""

import pathlib
import re
import typing

import jax
import numpy as np
import pytest

import isgd_jax
from isgd_jax import experiments
from isgd_jax.experiments.optimizers import charts
from isgd_jax.experiments.optimizers.charts import ChartSettings
from isgd_jax.experiments.runs.ablation import VARIANTS
from isgd_jax.experiments.train.config import IsgdConfig
from isgd_jax.experiments.train.optimizers import chart_settings

NAMES = typing.get_args(IsgdConfig.__dataclass_fields__['chart'].type)


def losses_of_a_run(num_losses=4_000):
  """Falling losses, some of them odd, and some shifts that last."""
  rng = np.random.default_rng(0)
  trend = 2.0 * np.exp(-np.arange(num_losses) / 1_500)
  noise = 0.1 * rng.standard_normal(num_losses)
  odd = 0.6 * (rng.random(num_losses) < 0.02)
  shifts = 0.2 * (np.arange(num_losses) % 500 > 480)
  return np.asarray(trend + noise + odd + shifts, np.float32)


def flags(chart, losses):
  _, readings = jax.lax.scan(chart.update, chart.init(), losses)
  return np.asarray(readings.is_above)


@pytest.mark.parametrize('name', NAMES)
def test_compare_and_train_flag_the_same_losses_by_the_same_settings(name):
  losses = losses_of_a_run()
  ours = flags(ChartSettings(name, window_size=50).build(), losses)
  config = IsgdConfig(chart=name, window_size=50)
  theirs = flags(chart_settings(config, batches_per_cycle=50).build(), losses)
  assert ours.any()
  np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
  'factory',
  [
    *('shewhart', 'ewma', 'cusum', 'difference_chart'),
    *('with_run_rules', 'with_restart'),
  ],
)
def test_a_chart_is_made_in_one_place_only(factory):
  """Doctests, whose lines begin with `>>>` or `...`, may make their own."""
  assert callable(getattr(isgd_jax, factory))
  call = re.compile(
    rf'^(?!\s*(>>>|\.\.\.|\W*f?\')).*\bisgd_jax\.{factory}\(', re.M
  )
  folder = pathlib.Path(experiments.__file__).parent
  found = {
    str(path.relative_to(folder)): len(call.findall(path.read_text()))
    for path in folder.rglob('*.py')
  }
  assert {k: v for k, v in found.items() if v} == {'optimizers/charts.py': 1}


@pytest.mark.parametrize('kind', charts.CHARTS)
@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('sigma_multiplier', 2.5),
    ('allowance', 0.25),
    ('run_rules', 'nelson'),
    ('restart_after', 3),
    ('baseline_smoothing', 0.25),
    ('cycle_length', 7),
    ('smoothing', 0.1),
    ('window_size', 20),
    ('limit_width', 2.0),
    ('decision_interval', 7.0),
  ],
)
def test_a_setting_that_changes_the_chart_changes_the_record(
  kind, field, value
):
  """Else a run under other settings would pass for one on record."""
  of_one_kind = {'limit_width': 'ewma', 'decision_interval': 'cusum'}
  if of_one_kind.get(field, kind) == kind:
    changed = ChartSettings(kind, **{field: value})
    assert changed.as_record() != ChartSettings(kind).as_record()


def test_variants_of_before_keep_their_records():
  """Their reference chart of 3 sigma is not named in them."""
  for name in ('ewma 0.3, width 4', 'cusum, h = 5'):
    chart = VARIANTS[name].chart
    assert chart.sigma_multiplier == 3.0
    assert list(chart.as_record()) == list(ChartSettings().as_record())
    other = VARIANTS[f'{name}, reference 4'].chart.as_record()
    assert other['reference_sigma_multiplier'] == 4.0
