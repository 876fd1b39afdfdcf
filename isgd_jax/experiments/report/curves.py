"""The curves of one task, from its rows: how good it is along the runs."""

from collections.abc import Mapping
import pathlib
from typing import Any

import numpy as np

from isgd_jax.experiments import figures
from isgd_jax.experiments.report import verdicts
from isgd_jax.experiments.report.rows import Row
from isgd_jax.experiments.report.rows import Rows
from isgd_jax.experiments.report.rows import target
from isgd_jax.experiments.runs.outcomes import batches_per_point

# More lines than these hide one another.
_DRAWN = ('base', 'twice', 'random', 'isgd')
# Columns of an evaluation in a record.
_EVALUATIONS, _SECONDS, _ACCURACY = range(3)


def draw_task(path: pathlib.Path, rows: Rows, task: str) -> bool:
  """Draws ISGD and its controls on a task, a panel a base optimizer.

  Args:
    path: the file.
    rows: all rows.
    task: the task's name.

  Returns:
    Whether there was something to draw: rows of ISGD.

  Raises:
    OutputError: (an `OSError`) the file cannot be written.
  """
  drawn = {
    base: [
      rows[task, base, method]
      for method in _DRAWN
      if (task, base, method) in rows
    ]
    for base in verdicts.bases_of(rows, task)
  }
  if not drawn:
    return False
  first, *_ = next(iter(drawn.values()))
  if first.is_stream:
    _draw_stream(path, drawn, first.config, task)
  else:
    _draw_training(path, rows, drawn, first.config, task)
  return True


def _draw_stream(
  path: pathlib.Path,
  drawn: Mapping[str, list[Row]],
  config: Mapping[str, Any],
  task: str,
) -> None:
  """Prequential accuracy over the batches."""
  length = config['batches_per_segment']
  size = batches_per_point(config['num_segments'] * length)
  figures.draw_stream(
    path,
    {
      base: {row.method: _accuracies(row, size) for row in of_base}
      for base, of_base in drawn.items()
    },
    [i * length for i in range(1, config['num_segments'])],
    f'{task}: prequential accuracy, means over {size} batches',
    num_averaged=size,
  )


def _draw_training(
  path: pathlib.Path,
  rows: Rows,
  drawn: Mapping[str, list[Row]],
  config: Mapping[str, Any],
  task: str,
) -> None:
  """Test error over what it cost."""
  # Behind a slow source an extra evaluation costs no time: seconds tell.
  column = _SECONDS if config['seconds_per_batch'] else _EVALUATIONS
  goals = {base: target(rows, task, base) for base in drawn}
  figures.draw_training(
    path,
    {
      base: {row.method: _training(row, column) for row in of_base}
      for base, of_base in drawn.items()
    },
    axis='seconds' if column == _SECONDS else 'gradient evaluations',
    title=f'{task}: test error',
    y_title='error (%)',
    log_y=True,  # Where methods differ, all are near zero.
    target={b: 100 * (1 - g) for b, g in goals.items() if g is not None},
  )


def _accuracies(row: Row, size: int) -> np.ndarray:
  """[num_seeds, num_batches], each mean at all batches that it is of."""
  points = np.array(
    [run['accuracy_curve'] for run in row.runs.values()], np.float64
  )
  return np.repeat(points, size, axis=1)


def _training(row: Row, column: int) -> list[figures.Curve]:
  """Error in percent over a column of the evaluations, a curve a seed."""
  return [
    figures.Curve(
      np.array([e[column] for e in run['evaluations']], np.float64),
      100 - 100 * np.array([e[_ACCURACY] for e in run['evaluations']], float),
    )
    for run in row.runs.values()
  ]
