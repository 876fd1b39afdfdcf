"""Variants of ISGD: one thing changed at a time, and a few that go together.

What they change is ISGD with a chart of three sigmas, which acts more often
than `isgd_jax.default_chart`: differences show sooner. The library's defaults
are what this table and the never-hurts rule support. So is a reference chart of
four sigmas for EWMA and CUSUM: it spends less for the same loss on streams, and
CUSUM over Adam hurts on shuffled data without it.
"""

import dataclasses
from typing import Any

from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.optimizers.charts import ChartSettings

_THREE_SIGMA = Algorithm('isgd', ChartSettings(sigma_multiplier=3.0))


def _chart(**kwargs: Any) -> Algorithm:
  chart = dataclasses.replace(_THREE_SIGMA.chart, **kwargs)
  return dataclasses.replace(_THREE_SIGMA, chart=chart)


def _with(algorithm: Algorithm = _THREE_SIGMA, **options: Any) -> Algorithm:
  return dataclasses.replace(algorithm, options=tuple(options.items()))


def _solver(algorithm: Algorithm = _THREE_SIGMA, **options: Any) -> Algorithm:
  return dataclasses.replace(algorithm, solver_options=tuple(options.items()))


_EWMA = _chart(kind='ewma', limit_width=4.0)

# Of the task's window.
WINDOW_FACTORS = {
  'shewhart, half the window': 0.5,
  'shewhart, twice the window': 2.0,
  'shewhart, four times the window': 4.0,
}

VARIANTS: dict[str, Algorithm] = {
  # The chart.
  'shewhart': _THREE_SIGMA,
  'shewhart, k = 2': _chart(sigma_multiplier=2.0),
  'shewhart, k = 4': _chart(sigma_multiplier=4.0),
  'shewhart, flagged losses kept': _chart(flagged_losses='keep'),
  'shewhart, median and MAD': _chart(sigma_estimator='mad'),
  'run rules': _chart(kind='run-rules'),
  'ewma 0.3, width 4': _EWMA,
  'ewma 0.3, width 3': _chart(kind='ewma', limit_width=3.0),
  'ewma 0.1, width 4': _chart(kind='ewma', limit_width=4.0, smoothing=0.1),
  'ewma 0.5, width 4': _chart(kind='ewma', limit_width=4.0, smoothing=0.5),
  'ewma 0.3, width 4, reference 4': _chart(
    kind='ewma', limit_width=4.0, sigma_multiplier=4.0
  ),
  'cusum, h = 5': _chart(kind='cusum', decision_interval=5.0),
  'cusum, h = 8': _chart(kind='cusum', decision_interval=8.0),
  'cusum, h = 5, reference 4': _chart(
    kind='cusum', decision_interval=5.0, sigma_multiplier=4.0
  ),
  **dict.fromkeys(WINDOW_FACTORS, _THREE_SIGMA),
  # The solver and its geometry.
  "shewhart, base's metric": _solver(metric='base'),
  "ewma, base's metric": _solver(_EWMA, metric='base'),
  'shewhart, step at most 3': _solver(max_step_ratio=3.0),
  'ewma, step at most 3': _solver(_EWMA, max_step_ratio=3.0),
  'shewhart, step at most 1': _solver(max_step_ratio=1.0),
  'shewhart, gradient descent': dataclasses.replace(
    _THREE_SIGMA, solver='gradient-descent'
  ),
  # How far, how often, and what else a chased step does.
  'shewhart, chase to the limit': _with(chase_to='limit'),
  'shewhart, 1 chase step': _with(max_chase_steps=1),
  'shewhart, 2 chase steps': _with(max_chase_steps=2),
  'shewhart, 10 chase steps': _with(max_chase_steps=10),
  'shewhart, base update kept': _with(base_update_when_chasing=True),
  'shewhart, base state advanced': _with(base_state_when_chasing='advanced'),
  'shewhart, conservative weight 0': _with(conservative_weight=0.0),
  'shewhart, conservative weight 10^5': _with(conservative_weight=1e5),
  'shewhart, no guard': _with(guard=False),
}
