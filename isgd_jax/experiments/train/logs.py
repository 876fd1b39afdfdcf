"""What a run writes while it trains: JSON lines, and TensorBoard event files.

`metrics.jsonl` (a line a step), `events.jsonl` and `evaluations.jsonl` hold no
clock: a run that was stopped and carried on writes the very bytes of one that
was not. `timing.jsonl` is for the seconds.
"""

from collections.abc import Iterable, Sequence
import contextlib
import math
import pathlib
import time
from typing import Any, Self

import numpy as np

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.files import read_records
from isgd_jax.experiments.files import write_records
from isgd_jax.experiments.train.events import Events
from isgd_jax.experiments.train.events import is_left_out
from isgd_jax.experiments.train.json_lines import JsonLines
from isgd_jax.experiments.train.reports import StepReport
from isgd_jax.experiments.train.tensorboard import EventFile

METRICS = 'metrics.jsonl'
EVENTS = 'events.jsonl'
EVALUATIONS = 'evaluations.jsonl'
TIMING = 'timing.jsonl'
TENSORBOARD = 'tensorboard'

_FIELD_OF_TOTAL = {
  'num_examples': 'num_examples',
  'num_undecodable': 'num_undecodable',
  'num_undertrained': 'is_undertrained',
  'num_well_trained': 'is_well_trained',
  'num_skipped': 'is_skipped',
  'num_chase_steps': 'num_chase_steps',
  'num_chases_reverted': 'is_chase_reverted',
  'num_chases_undone': 'is_chase_undone',
  'num_gradient_evaluations': 'num_gradient_evaluations',
}
TOTALS = ('num_steps', 'num_judged', 'num_left_out', *_FIELD_OF_TOTAL)


class RunLog:
  """All that a run writes but its checkpoints.

  Use it as a context, which closes the files.

  Attributes:
    folder: of the run.
    totals: what the steps so far add up to, those before a resumption
      included, under the names in `TOTALS`.
    last_evaluation: the newest record of `evaluations.jsonl`, or None.
    num_unjudged: steps since the chart last had limits, which are those of
      Phase I; 0 while it has some.
  """

  folder: pathlib.Path
  totals: dict[str, int]
  num_unjudged: int
  last_evaluation: dict[str, Any] | None

  def __init__(
    self,
    folder: pathlib.Path,
    last_step: int,
    log_every: int,
    events: Events | None = None,
  ):
    """Opens the files in a run's folder.

    Args:
      folder: of the run.
      last_step: the step that the run starts after; what the files hold of
        later ones is removed.
      log_every: steps between points in TensorBoard.
      events: what finds the events of a run; none are written without.

    Raises:
      InputError: a file has lost some of the steps before.
      OutputError: a file cannot be written.
    """
    self.folder = folder
    self._log_every = log_every
    with contextlib.ExitStack() as stack:
      open_lines = lambda name: stack.enter_context(
        JsonLines(folder / name, last_step)
      )
      self._metrics = open_lines(METRICS)
      if self._metrics.kept.num_lines != last_step:
        raise InputError(
          f"'{folder / METRICS}' has {self._metrics.kept.num_lines} of the "
          f'{last_step} steps before the checkpoint; it has lost some, and the '
          'run cannot be carried on. Put the file back, or begin another run'
        )
      self._evaluations = open_lines(EVALUATIONS)
      self._timing = open_lines(TIMING)
      self._events = stack.enter_context(
        EventFile(folder / TENSORBOARD, last_step + 1)
      )
      self._stack = stack.pop_all()
    self.last_evaluation = self._evaluations.kept.last
    self.totals = dict.fromkeys(TOTALS, 0)
    self.num_unjudged = 0
    kept = list(read_records(folder / METRICS))
    self._count(kept)
    self._events_of = events
    if events is not None:
      # They follow from the steps, whatever became of their file.
      write_records(folder / EVENTS, events.of(kept))
      self._event_lines = self._stack.enter_context(
        JsonLines(folder / EVENTS, last_step)
      )
    self._begin()

  def _begin(self) -> None:
    """Begins to gather a point."""
    # What the next point in TensorBoard is the mean of.
    self._since_point: list[dict[str, Any]] = []
    self._seconds = self._wait_seconds = 0.0
    self.skip_time()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self._stack.close()

  def progress(self) -> dict[str, Any]:
    """What the other processes of the run must know to count along.

    Returns:
      The totals and the last evaluation.
    """
    return {'totals': self.totals, 'last_evaluation': self.last_evaluation}

  def write_steps(
    self,
    positions: Sequence[tuple[int, int, int]],
    report: StepReport,
    wait_seconds: float,
  ) -> list[dict[str, Any]]:
    """Writes a block of steps.

    Args:
      positions: of each step its number (from 1), epoch and batch in the cycle.
      report: `StepReport` of arrays [len(positions)].
      wait_seconds: what the loop waited for these batches.

    Returns:
      The records, one a step.

    Raises:
      OutputError: a file cannot be written.
    """
    columns = [_numbers(column) for column in report]
    records = [
      {
        'step': step,
        'epoch': epoch,
        'batch': batch,
        **dict(zip(StepReport._fields, values, strict=True)),
      }
      for (step, epoch, batch), *values in zip(positions, *columns, strict=True)
    ]
    self._metrics.write(records)
    self._count(records)
    if self._events_of is not None:
      events = list(self._events_of.of(records))
      if events:
        self._event_lines.write(events)
    now = time.perf_counter()
    seconds, self._clock = now - self._clock, now
    for record in records:
      self._since_point.append(record)
      self._seconds += seconds / len(records)
      self._wait_seconds += wait_seconds / len(records)
      if record['step'] % self._log_every == 0:
        self._write_point()
    return records

  def skip_time(self) -> None:
    """Leaves the time since the last block out of the timing."""
    self._clock = time.perf_counter()

  def write_evaluation(
    self, step: int, epoch: int, loss: float, accuracy: float
  ) -> None:
    """Writes what the network does on the test data.

    Args:
      step: training steps done.
      epoch: cycles done.
      loss: nats.
      accuracy: share in [0, 1].

    Raises:
      OutputError: the file cannot be written.
    """
    self.last_evaluation = {
      'step': step,
      'epoch': epoch,
      'loss': loss,
      'accuracy': accuracy,
    }
    self._evaluations.write([self.last_evaluation])
    self._events.write(step, {'test/loss': loss, 'test/accuracy': accuracy})

  def sync(self) -> None:
    """Returns when the metrics are on the disk, for a checkpoint to rely on.

    Raises:
      OutputError: they cannot be.
    """
    self._metrics.sync()
    self._evaluations.sync()

  def finish(self) -> None:
    """Writes what is left for a last point in TensorBoard."""
    if self._since_point:
      self._write_point()

  def _count(self, records: Iterable[dict[str, Any]]) -> None:
    """Adds steps to the totals."""
    for record in records:
      self.totals['num_steps'] += 1
      if is_left_out(record):
        self.totals['num_left_out'] += 1
      else:
        # Records that are read back have None for what is not finite.
        limit = record.get('control_limit')
        is_judged = limit is not None and math.isfinite(limit)
        self.totals['num_judged'] += is_judged
        self.num_unjudged = 0 if is_judged else self.num_unjudged + 1
      for total, field in _FIELD_OF_TOTAL.items():
        # Runs of before probation have no such column.
        self.totals[total] += record.get(field, 0)

  def _write_point(self) -> None:
    """A point in TensorBoard, the mean over the steps since the last one."""
    records, self._since_point = self._since_point, []
    seconds, self._seconds = self._seconds, 0.0
    waited, self._wait_seconds = self._wait_seconds, 0.0
    step = records[-1]['step']

    def mean(name):
      return sum(record[name] for record in records) / len(records)

    last = records[-1]
    points = {
      'train/loss': mean('loss'),
      'train/accuracy': mean('accuracy'),
      'train/learning_rate': last['learning_rate'],
      'cost/gradient_evaluations': self.totals['num_gradient_evaluations'],
      'cost/steps_per_second': len(records) / seconds,
      'cost/share_waiting_for_data': waited / seconds,
    }
    if math.isfinite(last['mean']):
      points |= {
        'chart/mean': last['mean'],
        'chart/share_undertrained': mean('is_undertrained'),
        'chart/chase_steps': mean('num_chase_steps'),
        'chase/trust': last['trust'],
        'chase/share_on_probation': mean('is_on_probation'),
        'chase/undone': self.totals['num_chases_undone'],
      }
      if math.isfinite(last['control_limit']):
        points['chart/upper_control_limit'] = last['control_limit']
    self._events.write(step, points)
    self._timing.write(
      [
        {
          'step': step,
          'num_steps': len(records),
          'seconds': seconds,
          'wait_seconds': waited,
        }
      ]
    )


def _numbers(column: np.ndarray) -> list[Any]:
  """Plain numbers; a float32 by the shortest text that reads back as it."""
  if column.dtype == np.float32:
    return [float(str(x)) for x in column]
  return column.tolist()
