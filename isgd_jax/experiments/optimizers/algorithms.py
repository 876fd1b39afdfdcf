"""What is wrapped around a base optimizer: ISGD in its variants, or nothing."""

import dataclasses
from typing import Any

import jax
import optax

import isgd_jax
from isgd_jax._chase import probation
from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.optimizers.base_optimizers import build_base_optimizer
from isgd_jax.experiments.optimizers.charts import ChartSettings
from isgd_jax.experiments.optimizers.rival_reactions import react_out_of_control

SOLVERS = ('gauss-newton', 'gradient-descent')
_DEFAULT_CHART = ChartSettings()
KINDS = ('base', 'isgd', 'paper-isgd', 'skip', 'reset', 'react')
# What records of ISGD say where they do not: they are older than probation.
_UNRECORDED: dict[str, Any] = {'probation': False}


@dataclasses.dataclass(frozen=True)
class Algorithm:
  """One way to train, but for the base optimizer and its learning rate.

  Attributes:
    kind: `'base'`, `'isgd'`, `'paper-isgd'`, `'skip'` (drop the flagged batch
      in place of chasing it), `'reset'` (of the base optimizer's state) or
      `'react'`, whose `options` are those of `react_out_of_control`.
    chart: the control chart; unused by `'base'`. `'paper-isgd'` has its own, of
      this one's window.
    solver: `'gauss-newton'` or `'gradient-descent'`, at the learning rate of
      the base optimizer.
    solver_options: of the solver's factory, as pairs.
    options: of `isgd_jax.isgd`, as pairs. Without `probation` among them it is
      False, not the library's default: so were the runs on record made. `rules`
      are those of probation, as pairs, where they are not the library's.
    num_base_steps: of `'base'`, steps on each batch.
    chase_factor: of `'paper-isgd'`, its chase's rate over the base optimizer's.
  """

  kind: str = 'base'
  chart: ChartSettings = _DEFAULT_CHART
  solver: str = 'gauss-newton'
  solver_options: tuple[tuple[str, Any], ...] = ()
  options: tuple[tuple[str, Any], ...] = ()
  num_base_steps: int = 1
  chase_factor: float = 1.0

  def as_record(self) -> dict[str, Any]:
    """The settings as records have them; runs are named by these keys."""
    # What records from before it were made with: left out where equal.
    later = (
      {} if self.chase_factor == 1 else {'chase_factor': self.chase_factor}
    )
    return {
      'kind': self.kind,
      'chart': self.chart.as_record(),
      'solver': self.solver,
      'solver_options': self.solver_options,
      'options': self.options,
      'num_base_steps': self.num_base_steps,
      **later,
    }

  @property
  def max_evaluations(self) -> int:
    """The most gradient evaluations that a step can take."""
    if self.kind in ('base', 'skip', 'reset'):
      return self.num_base_steps
    if self.kind == 'react':
      return 2
    # The first one, those of the chase, and the one that recovers the gradient
    # where the chase is undone; on probation, that of the rival.
    options = _UNRECORDED | dict(self.options)
    return 2 + options.get('max_chase_steps', 5) + options['probation']

  def build(
    self, base_optimizer: str, learning_rate: float | jax.Array
  ) -> optax.GradientTransformationExtraArgs:
    """Makes the optimizer.

    Args:
      base_optimizer: its name.
      learning_rate: a number, which may be traced.

    Returns:
      The optimizer; its update takes `value` and `value_fn`.

    Raises:
      ValueError: a name is unknown, or a number is out of range.

    Example:
      >>> optimizer = Algorithm('isgd').build('momentum', 0.1)
    """
    check_name('algorithm', self.kind, KINDS)
    check_name('solver', self.solver, SOLVERS)
    base = build_base_optimizer(base_optimizer, learning_rate)
    if self.kind == 'base':
      return optax.with_extra_args_support(base)
    if self.kind == 'skip':
      return isgd_jax.skip_out_of_control(base, self.chart.build())
    if self.kind == 'reset':
      return isgd_jax.react(base, self.chart.build(), isgd_jax.reset())
    if self.kind == 'react':
      return react_out_of_control(
        base, self.chart.build(), **dict(self.options)
      )
    if self.kind == 'paper-isgd':
      return isgd_jax.paper_isgd(
        base,
        batches_per_epoch=self.chart.window_size,
        chase_learning_rate=self.chase_factor * learning_rate,
      )
    if self.solver == 'gauss-newton':
      solver = isgd_jax.gauss_newton(**dict(self.solver_options))
    else:
      solver = isgd_jax.gradient_descent(learning_rate)
    options = _UNRECORDED | dict(self.options)
    if 'rules' in options:
      # No setting of the library: for the ablation alone.
      options['probation'] = probation.Rules(**dict(options.pop('rules')))
    return isgd_jax.isgd(base, self.chart.build(), solver=solver, **options)
