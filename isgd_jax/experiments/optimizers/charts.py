"""Control charts by name and numbers: the one place that makes them."""

import dataclasses
from typing import Any

import isgd_jax
from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.optimizers.given_flags import given_flags

CHARTS = ('shewhart', 'ewma', 'cusum', 'run-rules', 'difference')
# Who flags: the chart, or what is beside it.
TRIGGERS = ('chart', 'random', 'adwin', 'page-hinkley', 'oracle')

# Two of three losses beyond two sigma.
_TWO_OF_THREE = isgd_jax.RunRule('beyond', 2, 3, 2.0)

# What records from before these settings were made with: left out where equal.
_UNRECORDED: dict[str, Any] = {
  'reference_sigma_multiplier': 3.0,
  'allowance': 0.5,
  'run_rules': 'none',
  'restart_after': None,
  'baseline_smoothing': 0.5,
  'cycle_length': None,
  'trigger': 'chart',
}


@dataclasses.dataclass(frozen=True)
class ChartSettings:
  """A control chart by its numbers; as they are, `isgd_jax.default_chart`.

  Attributes:
    kind: `'shewhart'`, `'ewma'`, `'cusum'`, `'run-rules'` (two of three beyond
      two sigma, and a point beyond `sigma_multiplier`) or `'difference'`.
    window_size: batches in the window.
    sigma_multiplier: sigmas between the centre line and the window's limits; of
      EWMA and CUSUM, those of their reference chart.
    sigma_estimator: as in `isgd_jax.shewhart`.
    flagged_losses: what an out-of-control loss leaves in the window, as in
      `isgd_jax.shewhart`.
    smoothing: of EWMA, the weight of the newest loss.
    limit_width: of EWMA, in its own standard deviations.
    allowance: of CUSUM, in sigmas.
    decision_interval: of CUSUM, in sigmas.
    run_rules: `'none'`, or the name of a set of `isgd_jax.with_run_rules`.
    restart_after: as in `isgd_jax.with_restart`; None never restarts.
    baseline_smoothing: of `'difference'`, the weight of a batch's newest loss.
    cycle_length: of `'difference'`, batches in a cycle; None takes the window.
    trigger: `'chart'`, or who flags in its place, from outside: `'random'`,
      `'adwin'`, `'page-hinkley'` or `'oracle'`, which knows the change points.
  """

  kind: str = 'shewhart'
  window_size: int = 50
  sigma_multiplier: float = 4.0
  sigma_estimator: str = 'std'
  flagged_losses: str = 'winsorize'
  smoothing: float = 0.3
  limit_width: float = 4.0
  allowance: float = 0.5
  decision_interval: float = 5.0
  run_rules: str = 'none'
  restart_after: int | None = None
  baseline_smoothing: float = 0.5
  cycle_length: int | None = None
  trigger: str = 'chart'

  def as_record(self) -> dict[str, Any]:
    """The settings as records have them; runs are named by these keys."""
    # The width of EWMA's limits and CUSUM's interval are kept under this key.
    width = {'ewma': self.limit_width, 'cusum': self.decision_interval}
    later: dict[str, Any] = {
      'allowance': self.allowance,
      'run_rules': self.run_rules,
      'restart_after': self.restart_after,
      'baseline_smoothing': self.baseline_smoothing,
      'cycle_length': self.cycle_length,
      'trigger': self.trigger,
    }
    if self.kind in width:
      later['reference_sigma_multiplier'] = self.sigma_multiplier
    return {
      'kind': self.kind,
      'window_size': self.window_size,
      'sigma_multiplier': width.get(self.kind, self.sigma_multiplier),
      'sigma_estimator': self.sigma_estimator,
      'flagged_losses': self.flagged_losses,
      'smoothing': self.smoothing,
      **{k: v for k, v in later.items() if v != _UNRECORDED[k]},
    }

  def build(self) -> isgd_jax.ControlChart:
    """Makes the chart.

    Returns:
      A control chart.

    Raises:
      ValueError: the kind is unknown, a number is out of range, or chart and
        rules do not go together.

    Example:
      >>> ChartSettings('ewma', limit_width=3.0).build().kind
      'ewma'
    """
    check_name('control chart', self.kind, CHARTS)
    check_name('trigger', self.trigger, TRIGGERS)
    window: dict[str, Any] = {
      'window_size': self.window_size,
      'sigma_multiplier': self.sigma_multiplier,
      'sigma_estimator': self.sigma_estimator,
      'flagged_losses': self.flagged_losses,
    }
    if self.kind == 'difference':
      chart = isgd_jax.difference_chart(
        self.cycle_length or self.window_size,
        smoothing=self.baseline_smoothing,
        **window,
      )
    else:
      chart = isgd_jax.shewhart(**window)
    if self.kind == 'ewma':
      chart = isgd_jax.ewma(self.smoothing, self.limit_width, reference=chart)
    elif self.kind == 'cusum':
      chart = isgd_jax.cusum(
        self.allowance, self.decision_interval, reference=chart
      )
    rules = [_TWO_OF_THREE] if self.kind == 'run-rules' else self.run_rules
    if rules != 'none':
      chart = isgd_jax.with_run_rules(chart, rules)
    if self.restart_after is not None:
      chart = isgd_jax.with_restart(chart, self.restart_after)
    return chart if self.trigger == 'chart' else given_flags(chart)
