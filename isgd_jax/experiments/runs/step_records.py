"""The steps of a run as JSON lines, one a step."""

from collections.abc import Iterator
import math
import pathlib
from typing import Any

import numpy as np

from isgd_jax.experiments import files
from isgd_jax.experiments.runs.steps import StepMetrics


def step_records(run: str, metrics: StepMetrics) -> Iterator[dict[str, Any]]:
  """The steps of one run, one record each.

  Args:
    run: the run's name, as in its own record.
    metrics: `StepMetrics` of arrays [num_steps].

  Yields:
    A record with `run`, `step` (from 0) and the metrics.

  Example:
    >>> metrics = StepMetrics(*np.zeros((9, 2)))
    >>> [record['step'] for record in step_records('a', metrics)]
    [0, 1]
  """
  for step, values in enumerate(zip(*metrics, strict=True)):
    yield {
      'run': run,
      'step': step,
      **dict(zip(metrics._fields, values, strict=True)),
    }


def read_steps(path: pathlib.Path) -> dict[str, StepMetrics]:
  """Reads step records back.

  Args:
    path: of a file of `step_records`.

  Returns:
    Of each run, by name, `StepMetrics` of arrays [num_steps]; what was not
    finite is NaN.

  Example:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / 'steps.jsonl'
    >>> metrics = StepMetrics(*np.ones((9, 2)))
    >>> files.write_records(path, step_records('a', metrics))
    >>> read_steps(path)['a'].loss
    array([1., 1.])
  """
  columns: dict[str, list[list[Any]]] = {}
  for record in files.read_records(path):
    values = [record[field] for field in StepMetrics._fields]
    columns.setdefault(record['run'], []).append(
      [math.nan if value is None else value for value in values]
    )
  return {
    run: StepMetrics(*map(np.array, zip(*values, strict=True)))
    for run, values in columns.items()
  }
