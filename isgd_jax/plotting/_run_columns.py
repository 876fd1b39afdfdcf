"""Reads the columns of a control chart from a run's JSON lines or arrays."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import numpy as np

from isgd_jax.plotting import _chart_figure

_REQUIRED = (
  *('step', 'loss', 'mean', 'control_limit', 'is_undertrained', 'final_loss'),
)
_OPTIONAL = (
  *('lower_limit', 'statistic', 'is_well_trained', 'violated_rules'),
  *('is_skipped', 'num_chase_steps', 'is_chase_reverted'),
  *('is_chase_undone', 'trust'),
)
# What an ISGDInfo calls otherwise than a ChartReading.
_NAMES_IN_READING = {
  'step': 'num_steps',
  'control_limit': 'upper_limit',
  'is_undertrained': 'is_above',
  'is_well_trained': 'is_below',
}


def read(
  source: str | os.PathLike[str] | Any,
  first_step: int | None,
  last_step: int | None,
) -> _chart_figure.Columns:
  """The columns of a run, from `first_step` to `last_step` if these are given.

  Raises:
    OSError: the file cannot be read.
    ValueError: there is nothing to draw, or it is damaged.
  """
  if isinstance(source, (str, os.PathLike)):
    path = pathlib.Path(source)
    columns, name = _of_lines(path), f"'{path}'"
  else:
    columns, name = _of_arrays(source), type(source).__name__
  steps = columns.step
  if not len(steps):
    raise ValueError(f'{name} has no steps yet: train for one, then draw.')
  falls = np.flatnonzero(np.diff(steps) <= 0)
  if falls.size:
    before, after = steps[falls[0] : falls[0] + 2]
    raise ValueError(
      f'the steps of {name} must rise, but {after} follows {before}: pass the '
      'steps of one run, each once.'
    )
  is_drawn = np.full(len(steps), True)
  if first_step is not None:
    is_drawn &= steps >= first_step
  if last_step is not None:
    is_drawn &= steps <= last_step
  if not is_drawn.any():
    raise ValueError(
      f'{name} has no steps between first_step={first_step} and '
      f'last_step={last_step}: it has {steps[0]} to {steps[-1]}.'
    )
  return _chart_figure.to_columns(
    {
      name: None if column is None else column[is_drawn]
      for name, column in columns._asdict().items()
    }
  )


def _of_lines(path: pathlib.Path) -> _chart_figure.Columns:
  """The columns of a file of JSON lines."""
  if path.is_dir():
    raise IsADirectoryError(
      f"'{path}' is a folder: pass the file of steps in it, metrics.jsonl."
    )
  try:
    lines = path.read_bytes().split(b'\n')
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f"there is no file '{path}': pass the metrics.jsonl of a run."
    ) from error
  records = []
  for number, line in enumerate(lines, start=1):
    try:
      record = json.loads(line) if line.strip() else None
      is_damaged = record is not None and not isinstance(record, dict)
    except ValueError:
      record, is_damaged = None, True
    if is_damaged and number < len(lines):
      raise ValueError(
        f"line {number} of '{path}' is damaged, no JSON object: remove it, or "
        'take the file from a backup.'
      )
    if not is_damaged and record is not None:
      records.append((number, record))

  optional = [n for n in _OPTIONAL if any(n in record for _, record in records)]
  columns: dict[str, list[Any]] = {n: [] for n in (*_REQUIRED, *optional)}
  for number, record in records:
    for name, column in columns.items():
      if name not in record:
        remedy = (
          'pass the metrics.jsonl of a run with a control chart'
          if name in _REQUIRED
          else 'other lines have it, so pass the steps of one run'
        )
        raise ValueError(
          f"line {number} of '{path}' has no field '{name}': {remedy}."
        )
      value = record[name]
      if not _is_valid(name, value):
        raise ValueError(
          f"field '{name}' in line {number} of '{path}' is damaged, it cannot "
          f'be {value!r}: remove the line, or take the file from a backup.'
        )
      column.append(value)
  return _chart_figure.to_columns(columns)


def _is_valid(name: str, value: Any) -> bool:
  """Whether a field can have this value."""
  if name.startswith('is_'):
    return isinstance(value, bool)
  if name in _chart_figure.INTEGERS:
    return isinstance(value, int) and not isinstance(value, bool)
  return value is None or (
    isinstance(value, (int, float)) and not isinstance(value, bool)
  )


def _of_arrays(source: Any) -> _chart_figure.Columns:
  """The columns of an `ISGDInfo` or `ChartReading` of arrays."""
  values = {}
  for name in (*_REQUIRED, *_OPTIONAL):
    value = getattr(source, name, None)
    if value is None:
      value = getattr(source, _NAMES_IN_READING.get(name, name), None)
    if value is not None:
      values[name] = value
  kind = type(source).__name__
  missing = [
    f"'{name}'"
    for name in ('mean', 'control_limit', 'is_undertrained')
    if name not in values
  ]
  if 'loss' not in values and 'statistic' not in values:
    missing.append("'loss' or 'statistic'")
  if missing:
    raise ValueError(
      f'source, a {kind}, lacks {", ".join(missing)}: pass the path of a '
      'metrics.jsonl, or an ISGDInfo or ChartReading of arrays [num_steps].'
    )
  if np.ndim(values['mean']) != 1:
    raise ValueError(
      f'source, a {kind}, must be of arrays [num_steps], got mean of shape '
      f'{np.shape(values["mean"])}: stack the steps, as jax.lax.scan does, or '
      'jax.tree.map(lambda *x: np.stack(x), *infos).'
    )
  return _chart_figure.to_columns(values)
