"""What a run writes while it trains: JSON lines, and TensorBoard event files.

`metrics.jsonl` (a line a step) and `evaluations.jsonl` hold no clock: a run
that was stopped and carried on writes the very bytes of one that was not.
`timing.jsonl` is for the seconds.
"""

from collections.abc import Iterable, Sequence
import contextlib
import json
import math
import os
import pathlib
import time
from typing import Any, NamedTuple, Self

import numpy as np

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.files import explained
from isgd_jax.experiments.files import read_records
from isgd_jax.experiments.files import to_json
from isgd_jax.experiments.train.steps import StepReport
from isgd_jax.experiments.train.tensorboard import EventFile

METRICS = 'metrics.jsonl'
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
TOTALS = ('num_steps', *_FIELD_OF_TOTAL)


class JsonLines:
  r"""A file of JSON lines that a run appends to, and can take up again.

  Every record has a `step`, and steps never fall.

  Attributes:
    kept: what the file held when it was opened, up to the step to go on from.

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

  kept: 'KeptLines'

  def __init__(self, path: pathlib.Path, last_step: int):
    """Opens the file and cuts off what lies behind a step.

    Args:
      path: made where it is missing.
      last_step: lines of later steps are removed, and a torn last line.

    Raises:
      InputError: a line before that is damaged; the file is left as it is.
      OutputError: the file cannot be written.
    """
    self._path = path
    with explained(path):
      path.touch()
      self.kept = _lines_up_to(path, last_step)
      self._file = open(path, 'ab', buffering=0)  # noqa: SIM115
      self._file.truncate(self.kept.num_bytes)

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
      included, under the names in `TOTALS`.
    last_evaluation: the newest record of `evaluations.jsonl`, or None.
  """

  folder: pathlib.Path
  totals: dict[str, int]
  last_evaluation: dict[str, Any] | None

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
    self._count(read_records(folder / METRICS))
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


class KeptLines(NamedTuple):
  """The lines of a file up to a step.

  Attributes:
    num_bytes: where the last of them ends.
    num_lines: how many they are.
    last: the last record, or None.
  """

  num_bytes: int
  num_lines: int
  last: dict[str, Any] | None


def _lines_up_to(path: pathlib.Path, last_step: int) -> KeptLines:
  """What to keep of a file; raises if some of it is lost among the rest."""
  kept = KeptLines(0, 0, None)
  bad_line = None
  with open(path, 'rb') as file:
    for number, line in enumerate(file, 1):
      record = _record(line)
      if record is None or record['step'] > last_step:
        bad_line = bad_line or number
      elif bad_line:
        raise InputError(
          f"line {bad_line} of '{path}' is damaged; the run cannot be carried "
          'on. Put the file back, or begin another run'
        )
      else:
        kept = KeptLines(kept.num_bytes + len(line), number, record)
  return kept


def _record(line: bytes) -> dict[str, Any] | None:
  """The record of a whole line; None of any other."""
  if not line.endswith(b'\n'):
    return None
  try:
    record = json.loads(line)
    return record if isinstance(record['step'], int) else None
  except (ValueError, TypeError, KeyError):
    return None
