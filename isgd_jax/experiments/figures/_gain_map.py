"""A map of gains: a colour and a number a cell, a panel a method."""

from collections.abc import Mapping, Sequence
import math
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from isgd_jax import plotting
from isgd_jax.experiments.figures import _styles

if TYPE_CHECKING:
  from matplotlib.figure import Figure

# Gains beyond it have its colour.
_FULL_COLOUR = 0.4
_NONE_COLOUR = '#d9d9d9'


def draw_gain_map(
  path: pathlib.Path,
  panels: Mapping[str, np.ndarray],
  row_titles: Sequence[str],
  column_titles: Sequence[str],
  *,
  row_axis: str,
  column_axis: str,
  title: str,
) -> 'Figure':
  """Draws gains over two axes.

  Args:
    path: the file.
    panels: of each title, gains [rows, columns] as shares; infinite where only
      the method got there, minus infinity where only what it is compared with
      did, NaN where neither.
    row_titles: from bottom to top.
    column_titles: from left to right.
    row_axis: what the rows are.
    column_axis: what the columns are.
    title: above the figure.

  Returns:
    The figure.

  Raises:
    InputError: (a `ValueError`) there is no panel.
    OutputError: (an `OSError`) the file cannot be written.

  Example:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'map.png')
    >>> figure = draw_gain_map(path, {'isgd': np.array([[0.21, -np.inf]])},
    ...   ['0.1'], ['i.i.d.', 'skewed'], row_axis='rate', column_axis='cycle',
    ...   title='Gain')
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['+21 %', 'missed']
  """
  _styles.check_not_empty('panels', panels)
  num_rows, num_columns = len(row_titles), len(column_titles)
  width = 1.2 + len(panels) * (0.5 + 0.62 * num_columns)
  figure = plotting.new_figure(width, 1.9 + 0.5 * num_rows)
  axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
  for ax, (name, gains) in zip(axes, panels.items(), strict=True):
    clipped = np.clip(gains, -_FULL_COLOUR, _FULL_COLOUR)
    ax.set_facecolor(_NONE_COLOUR)
    ax.pcolormesh(
      np.ma.masked_invalid(clipped),
      cmap='RdBu',
      vmin=-_FULL_COLOUR,
      vmax=_FULL_COLOUR,
      edgecolors='white',
      linewidth=1,
    )
    for row, column in np.ndindex(num_rows, num_columns):
      gain = float(gains[row, column])
      is_dark = abs(gain) > 0.75 * _FULL_COLOUR
      ax.text(
        column + 0.5,
        row + 0.5,
        _cell(gain),
        ha='center',
        va='center',
        fontsize=8,
        color='white' if is_dark else 'black',
      )
    ax.set_title(name, fontsize=10)
    ax.set_xticks(
      np.arange(num_columns) + 0.5, column_titles, rotation=45, ha='right'
    )
    ax.set_yticks(np.arange(num_rows) + 0.5, row_titles)
    ax.tick_params(length=0, labelsize=8)
    ax.set_xlabel(column_axis, fontsize=9)
    _styles.finish(ax)
  axes[0].set_ylabel(row_axis, fontsize=9)
  return _styles.save(figure, path, title)


def _cell(gain: float) -> str:
  """What stands in a cell."""
  if math.isnan(gain):
    return 'both\nmissed'
  if math.isinf(gain):
    return 'base\nmissed' if gain > 0 else 'missed'
  return f'{round(100 * gain):+d} %'
