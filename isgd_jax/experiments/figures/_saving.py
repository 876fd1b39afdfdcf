"""Writing figures: whole or not at all, in the format that was asked for."""

import pathlib
from typing import TYPE_CHECKING, Literal

from isgd_jax import plotting
from isgd_jax.experiments.files import replace_file

if TYPE_CHECKING:
  from matplotlib.figure import Figure

FigureFormat = Literal['png', 'svg', 'pdf']


def save_figure(
  figure: 'Figure', path: pathlib.Path, *, dpi: float | None = None
) -> None:
  """Writes a figure in one piece; the same figure is the same file.

  Args:
    figure: the figure.
    path: the file, whose ending says what it is.
    dpi: dots an inch, where there are dots; None takes the figure's.

  Raises:
    OutputError: (an `OSError`) the file cannot be written.

  Example:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'empty.svg')
    >>> save_figure(plotting.new_figure(), path)
    >>> path.read_text().startswith('<?xml')
    True
  """
  replace_file(path, lambda new: plotting.save_figure(figure, new, dpi=dpi))
