"""What a run writes while it trains: JSON lines, and TensorBoard event files.

`metrics.jsonl` (a line a step) and `evaluations.jsonl` hold no clock: a run
that was stopped and carried on writes the very bytes of one that was not.
`timing.jsonl` is for the seconds.
"""

import collections
from collections.abc import Sequence
import json
import math
import os
import pathlib
import time
from typing import Any, Self

import numpy as np

from isgd_jax.experiments._errors import missing_extra
from isgd_jax.experiments.results import explained
from isgd_jax.experiments.results import read_records
from isgd_jax.experiments.results import to_json
from isgd_jax.experiments.trainer.steps import StepReport

try:
  import tensorboardX
except ImportError as error:
  raise missing_extra('tensorboardX') from error

METRICS = 'metrics.jsonl'
EVALUATIONS = 'evaluations.jsonl'
TIMING = 'timing.jsonl'
TENSORBOARD = 'tensorboard'


class JsonLines:
  r"""A file of JSON lines that a run appends to, and can take up again.

  Every record has a `step`, and steps never fall.

  Example:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'metrics.jsonl')
    >>> with JsonLines(path, last_step=0) as lines:
    ...   lines.write([{'step': 1}, {'step': 2}])
    >>> with JsonLines(path, last_step=1) as lines:
    ...   lines.write([{'step': 2, 'again': True}])
    >>> path.read_text()
    '{"step": 1}\n{"step": 2, "again": true}\n'
  """

  def __init__(self, path: pathlib.Path, last_step: int):
    """Opens the file and cuts off what lies behind a step.

    Args:
      path: made where it is missing.
      last_step: lines of later steps are removed, and a torn last line.

    Raises:
      OutputError: the file cannot be written.
    """
    self._path = path
    with explained(path):
      self._file = open(path, 'ab+', buffering=0)  # noqa: SIM115
      self._file.truncate(_end_of_step(path, last_step))

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self._file.close()

  def write(self, records: list[dict[str, Any]]) -> None:
    """Appends records, by one system call.

    Args:
      records: one a line; numbers that are not finite become null.

    Raises:
      OutputError: the file cannot be written.
    """
    text = ''.join(to_json(record) + '\n' for record in records).encode()
    with explained(self._path):
      while text:  # A disk that fills up takes a part before it refuses.
        text = text[self._file.write(text) :]

  def sync(self) -> None:
    """Returns when all that was written is on the disk.

    Raises:
      OutputError: it cannot be.
    """
    with explained(self._path):
      os.fsync(self._file.fileno())


class RunLog:
  """All that a run writes but its checkpoints.

  Use it as a context, which closes the files.

  Attributes:
    folder: of the run.
    totals: what the steps so far add up to, those before a resumption
      included: `num_steps`, `num_examples`, `num_undertrained`,
      `num_chase_steps`, `num_chases_reverted`, `num_gradient_evaluations`.
  """

  folder: pathlib.Path
  totals: collections.Counter[str]

  def __init__(self, folder: pathlib.Path, last_step: int, log_every: int):
    """Opens the files in a run's folder.

    Args:
      folder: of the run.
      last_step: the step that the run starts after; what the files hold of
        later ones is removed.
      log_every: steps between points in TensorBoard.

    Raises:
      OutputError: a file cannot be written.
    """
    self.folder = folder
    self._log_every = log_every
    self._metrics = JsonLines(folder / METRICS, last_step)
    self._evaluations = JsonLines(folder / EVALUATIONS, last_step)
    self._timing = JsonLines(folder / TIMING, last_step)
    with explained(folder / TENSORBOARD):
      self._board = tensorboardX.SummaryWriter(
        str(folder / TENSORBOARD), purge_step=last_step + 1
      )
    self.totals = collections.Counter()
    for record in read_records(folder / METRICS):
      self._count([record])
    # What the next point in TensorBoard is the mean of.
    self._since_point: list[dict[str, Any]] = []
    self._point_started = time.perf_counter()
    self._wait_seconds = 0.0

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    for lines in (self._metrics, self._evaluations, self._timing):
      lines.__exit__()
    self._board.close()

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
    self._wait_seconds += wait_seconds
    self._since_point += records
    if len(self._since_point) >= self._log_every:
      self._write_point()
    return records

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
    self._evaluations.write(
      [{'step': step, 'epoch': epoch, 'loss': loss, 'accuracy': accuracy}]
    )
    self._board.add_scalar('test/loss', loss, step)
    self._board.add_scalar('test/accuracy', accuracy, step)

  def sync(self) -> None:
    """Returns when the metrics are on the disk, for a checkpoint to rely on.

    Raises:
      OutputError: they cannot be.
    """
    self._metrics.sync()
    self._evaluations.sync()
    self._board.flush()

  def _count(self, records: list[dict[str, Any]]) -> None:
    """Adds steps to the totals."""
    for record in records:
      self.totals['num_steps'] += 1
      self.totals['num_undertrained'] += record['is_undertrained']
      self.totals['num_chases_reverted'] += record['is_chase_reverted']
      for name in (
        'num_examples',
        'num_chase_steps',
        'num_gradient_evaluations',
      ):
        self.totals[name] += record[name]

  def _write_point(self) -> None:
    """A point in TensorBoard, the mean over the steps since the last one."""
    records, self._since_point = self._since_point, []
    now = time.perf_counter()
    seconds, self._point_started = now - self._point_started, now
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
      }
      if math.isfinite(last['control_limit']):
        points['chart/upper_control_limit'] = last['control_limit']
    for tag, value in points.items():
      self._board.add_scalar(tag, value, step)
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


def _end_of_step(path: pathlib.Path, last_step: int) -> int:
  """Where the last whole line of a step up to `last_step` ends, in bytes."""
  end = 0
  with open(path, 'rb') as file:
    for line in file:
      try:
        is_kept = line.endswith(b'\n') and json.loads(line)['step'] <= last_step
      except (ValueError, TypeError, KeyError):
        is_kept = False
      if not is_kept:
        break
      end += len(line)
  return end
