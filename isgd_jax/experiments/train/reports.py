"""What a training step reports, of a batch that is trained on or left out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import isgd_jax
from isgd_jax.experiments.runs import step_report

_OF_CHART = (
  *('mean', 'sigma', 'control_limit', 'is_undertrained', 'is_chase_reverted'),
  *('num_chase_steps', 'final_loss', 'lower_limit', 'statistic'),
  *('is_well_trained', 'is_skipped', 'violated_rules'),
  *('trust', 'is_on_probation', 'is_chase_undone', 'num_chases_paid'),
)
# Of a batch that is left out the chart says nothing.
_UNFLAGGED = (
  *('is_undertrained', 'is_chase_reverted', 'num_chase_steps'),
  *('is_well_trained', 'violated_rules', 'is_chase_undone'),
)


class StepReport(NamedTuple):
  """What one step reports; scalars, or [num_steps] for a run.

  Attributes:
    loss: of the batch before training on it (prequential), nats.
    accuracy: of the batch before training on it, share in [0, 1].
    learning_rate: of the base optimizer at this step; NaN where its state does
      not show one (`optax.inject_hyperparams` does).
    num_examples: examples of the batch that counted.
    num_undecodable: examples that did not, having no label.
    mean: the control chart's centre line; NaN without a chart.
    sigma: the chart's standard deviation; NaN without a chart.
    control_limit: the chart's upper limit, infinite in Phase I; NaN without a
      chart.
    is_undertrained: whether the chart flagged the batch.
    is_chase_reverted: whether a chase did not better its batch.
    num_chase_steps: chase steps taken.
    final_loss: what a chase left; `loss` where there was none.
    num_gradient_evaluations: spent on this step; 0 where the batch was left
      out by the user, and only there.
    lower_limit: the chart's lower limit; as `control_limit`.
    statistic: what the chart held against its limits; NaN without a chart.
    is_well_trained: whether the chart found the loss too low.
    is_skipped: whether the batch was dropped.
    violated_rules: run rules that the loss violated, bit i for the i-th.
    trust: what chases gained on the batches after them, over the least at which
      they lead; NaN without a chart.
    is_on_probation: whether the next batch judges a chase.
    is_chase_undone: whether this batch undid the chase before it.
    num_chases_paid: chases so far that were judged to have lowered the losses
      after them.
  """

  loss: Any
  accuracy: Any
  learning_rate: Any
  num_examples: Any
  num_undecodable: Any
  mean: Any
  sigma: Any
  control_limit: Any
  is_undertrained: Any
  is_chase_reverted: Any
  num_chase_steps: Any
  final_loss: Any
  num_gradient_evaluations: Any
  lower_limit: Any
  statistic: Any
  is_well_trained: Any
  is_skipped: Any
  violated_rules: Any
  trust: Any
  is_on_probation: Any
  is_chase_undone: Any
  num_chases_paid: Any


def report_of_step(
  loss: jax.Array,
  accuracy: jax.Array,
  num_examples: jax.Array,
  num_undecodable: jax.Array,
  old_state: Any,
  new_state: Any,
) -> jax.Array:
  """The report of a step as one float32 vector.

  Args:
    loss: of the batch, nats.
    accuracy: share in [0, 1].
    num_examples: that counted.
    num_undecodable: that did not.
    old_state: of the optimizer, before the step.
    new_state: after it.

  Returns:
    [number of fields] float32, for `unpack`.

  Example:
    >>> of_step = report_of_step(1.5, 0.5, 8, 0, {}, {})
    >>> float(unpack(of_step[None]).loss[0])
    1.5
  """
  evaluations = 1
  if _has_info(new_state):
    evaluations = (
      isgd_jax.get_info(new_state).num_gradient_evaluations
      - isgd_jax.get_info(old_state).num_gradient_evaluations
    )
  return step_report.pack(
    StepReport(
      loss=loss,
      accuracy=accuracy,
      learning_rate=_learning_rate(new_state),
      num_examples=num_examples,
      num_undecodable=num_undecodable,
      num_gradient_evaluations=evaluations,
      **step_report.of_chart(loss, new_state, _OF_CHART),
    )
  )


def report_of_left_out(
  loss: jax.Array,
  accuracy: jax.Array,
  num_examples: jax.Array,
  num_undecodable: jax.Array,
  opt_state: Any,
) -> jax.Array:
  """The report of a step that leaves its batch out: the chart as it stands.

  Args:
    loss: of the batch, nats.
    accuracy: share in [0, 1].
    num_examples: that would have counted.
    num_undecodable: that would not.
    opt_state: of the optimizer, which the step leaves as it is.

  Returns:
    [number of fields] float32, for `unpack`: nothing is flagged, nothing spent.

  Example:
    >>> of_step = report_of_left_out(1.5, 0.5, 8, 0, {})
    >>> int(unpack(of_step[None]).num_gradient_evaluations[0])
    0
  """
  of_chart = step_report.of_chart(loss, opt_state, _OF_CHART)
  of_chart |= dict.fromkeys(_UNFLAGGED, 0)
  of_chart |= {'final_loss': loss, 'is_skipped': True}
  if _has_info(opt_state):
    # Where the chart holds the loss itself against its limits.
    info = isgd_jax.get_info(opt_state)
    is_loss = info.statistic == info.loss
    of_chart['statistic'] = jnp.where(is_loss, loss, info.statistic)
  return step_report.pack(
    StepReport(
      loss=loss,
      accuracy=accuracy,
      learning_rate=_learning_rate(opt_state),
      num_examples=num_examples,
      num_undecodable=num_undecodable,
      num_gradient_evaluations=0,
      **of_chart,
    )
  )


def unpack(packed: np.ndarray) -> StepReport:
  """Takes apart what steps reported.

  Args:
    packed: [num_steps, number of fields] float32.

  Returns:
    `StepReport` of arrays [num_steps]: float32, counts int64, flags bool.

  Example:
    >>> unpack(np.zeros((2, len(StepReport._fields)))).is_undertrained
    array([False, False])
  """
  return step_report.unpack(StepReport, packed)


def _has_info(opt_state: Any) -> bool:
  return isinstance(opt_state, isgd_jax.ISGDState | isgd_jax.SkipState)


def _learning_rate(opt_state: Any) -> float | jax.Array:
  """Of the base optimizer; NaN where its state does not show one."""
  rate = optax.tree.get(
    opt_state,
    'learning_rate',
    filtering=lambda _, value: isinstance(value, jax.Array),
  )
  # `scale_by_mean_loss`'s state; 1 without it.
  nodes = jax.tree.leaves(opt_state, is_leaf=_is_scale_state)
  scale = next((n.scale for n in nodes if _is_scale_state(n)), 1.0)
  return jnp.nan if rate is None else rate * scale


def _is_scale_state(node: Any) -> bool:
  return isinstance(node, isgd_jax.ScaleByMeanLossState)
