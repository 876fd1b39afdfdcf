"""What is kept of a run: short enough to be kept for ever."""

from collections.abc import Mapping, Sequence
import itertools
from typing import Any

import numpy as np

from isgd_jax.experiments.runs.tasks import PERMUTED_TASKS
from isgd_jax.experiments.runs.tasks import Purpose
from isgd_jax.experiments.runs.tasks import Task
from isgd_jax.experiments.runs.training import RunResult

_NUM_CURVE_POINTS = 50
_DIGITS = 5
_CURVE_DIGITS = 4
# Highs that are less above the one before are left out of a trace.
_TRACE_STEP = 0.03
# Steps that count as the first of a permuted task.
NUM_EARLY = 100
# A tuning run is there to be compared by its loss.
_TUNING_SUMMARY = (
  *('loss', 'num_gradient_evaluations', 'run_seconds', 'compile_seconds'),
)


def outcome_of(
  task: Task,
  purpose: Purpose,
  result: RunResult,
  change_points: Sequence[int],
  *,
  has_traces: bool,
) -> dict[str, Any]:
  """What is kept of a run.

  Args:
    task: what it was on.
    purpose: of a tuning run little is kept, and no traces.
    result: the run.
    change_points: of its stream.
    has_traces: whether what happened along the run is kept, not its end alone.

  Returns:
    `summary`, numbers; `extra_steps`, how many steps took how many evaluations
    beyond their first, but not of a scanned task; of permuted tasks `tasks`,
    sums a task; and with traces, of a stream `recovery` and `accuracy_curve`,
    else `evaluations`: rows of gradient evaluations, seconds and test accuracy.
  """
  metrics = result.metrics
  summary = result.summary()
  if task.is_stream:
    summary['loss'] = summary.pop('prequential_loss')
    summary['accuracy'] = summary.pop('prequential_accuracy')
  else:
    last = result.evaluations[-1].measures
    worst = np.nan if result.is_diverged else 1.0
    summary['loss'] = last.test_loss * worst
    summary['accuracy'] = last.test_accuracy * worst
    summary['train_loss'] = last.train_loss * worst
  if purpose == 'tuning':
    summary = {name: summary[name] for name in _TUNING_SUMMARY}
  outcome: dict[str, Any] = {'summary': rounded(summary)}
  if not task.is_scanned:
    outcome['extra_steps'] = histogram(result.extra_evaluations())
  if task.order == PERMUTED_TASKS and purpose == 'reporting':
    outcome['tasks'] = task_sums(metrics, task.num_segments)
  if purpose == 'tuning' or not has_traces:
    return outcome
  if task.is_stream:
    outcome['recovery'] = recovery_trace(metrics, change_points)
    size = batches_per_point(len(metrics.accuracy))
    whole = len(metrics.accuracy) // size * size
    curve = metrics.accuracy[:whole].reshape(-1, size).mean(1)
    outcome['accuracy_curve'] = [round(float(x), 3) for x in curve]
  else:
    outcome['evaluations'] = [
      [
        e.num_gradient_evaluations,
        *rounded([e.seconds, e.measures.test_accuracy], _CURVE_DIGITS),
      ]
      for e in result.evaluations
    ]
  return outcome


def task_sums(metrics: Any, num_tasks: int) -> dict[str, list[Any]]:
  """What a run did in each of its tasks.

  Args:
    metrics: `StepMetrics` of arrays [num_steps].
    num_tasks: of equal length.

  Returns:
    Lists of [num_tasks]: right answers, mean losses in nats, flagged batches,
    those among the first `NUM_EARLY` of a task, and gradient evaluations.
  """

  def of_tasks(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64).reshape(num_tasks, -1).sum(1)

  length = len(metrics.loss) // num_tasks
  is_early = np.arange(len(metrics.loss)) % length < NUM_EARLY
  is_flagged = np.asarray(metrics.is_undertrained)
  return {
    'right': [round(x) for x in of_tasks(metrics.accuracy).tolist()],
    'loss': rounded((of_tasks(metrics.loss) / length).tolist(), _CURVE_DIGITS),
    'flagged': [round(x) for x in of_tasks(is_flagged).tolist()],
    'flagged_early': [
      round(x) for x in of_tasks(is_flagged & is_early).tolist()
    ],
    'evaluations': [
      round(x) for x in of_tasks(metrics.num_gradient_evaluations).tolist()
    ],
  }


def batches_per_point(num_batches: int) -> int:
  """How many batches of a stream a point of its `accuracy_curve` is over.

  Args:
    num_batches: of the stream.

  Returns:
    The number; what is left over at the end of the stream is in no point.

  Example:
    >>> batches_per_point(1020)
    20
  """
  return max(1, num_batches // _NUM_CURVE_POINTS)


def recovery_trace(metrics: Any, change_points: Sequence[int]) -> list[Any]:
  """What is needed to say when a run had recovered from each change.

  Args:
    metrics: `StepMetrics` of arrays [num_steps].
    change_points: first batches after a change.

  Returns:
    Of each segment but the first, a list of [batches since the change, gradient
    evaluations since then, accuracy], one for each new high of the accuracy's
    mean over ten batches, from half of the segment's best on.
  """
  window = 10
  bounds = [*change_points, len(metrics.accuracy)]
  spent = np.cumsum(metrics.num_gradient_evaluations)
  traces = []
  for start, end in itertools.pairwise(bounds):
    if end - start < window:
      traces.append([])
      continue
    averages = np.convolve(
      metrics.accuracy[start:end], np.full(window, 1 / window), 'valid'
    )
    before = spent[start - 1]
    highs, high = [], float(averages.max()) / 2 - _TRACE_STEP
    for i, accuracy in enumerate(averages):
      if accuracy >= high + _TRACE_STEP:
        high = float(accuracy)
        last = start + i + window - 1
        highs.append([i + window, int(spent[last] - before), round(high, 3)])
    traces.append(highs)
  return traces


def histogram(extra_steps: np.ndarray) -> dict[str, int]:
  """How many steps took how many evaluations beyond their first."""
  values, counts = np.unique(extra_steps, return_counts=True)
  return {str(v): int(c) for v, c in zip(values, counts, strict=True)}


def extra_steps_of(record: Mapping[str, Any]) -> np.ndarray:
  """The numbers of a `histogram`, in rising order."""
  pairs = record['extra_steps'].items()
  return np.repeat([int(v) for v, _ in pairs], [c for _, c in pairs])


def rounded(value: Any, num_digits: int = _DIGITS) -> Any:
  """Floats to so many digits, wherever they are."""
  if isinstance(value, dict):
    return {k: rounded(v, num_digits) for k, v in value.items()}
  if isinstance(value, list):
    return [rounded(v, num_digits) for v in value]
  if isinstance(value, float) and np.isfinite(value):
    return float(f'{value:.{num_digits}g}')
  return value
