"""Figures of the control chart (matplotlib, the extra `plot`).

The colours are Okabe and Ito's, which people with any kind of colour vision
can tell apart (https://jfly.uni-koeln.de/color/).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

ArrayLike = Any

BLACK = '#000000'
GREY = '#999999'
ORANGE = '#E69F00'
SKY_BLUE = '#56B4E9'
GREEN = '#009E73'
BLUE = '#0072B2'
VERMILION = '#D55E00'
PURPLE = '#CC79A7'


def new_figure(
  width_inches: float = 8.0, height_inches: float = 4.5
) -> 'Figure':
  """A figure that needs no display and no pyplot, and that nobody has to close.

  Args:
    width_inches: its width, at 100 dots an inch.
    height_inches: its height.

  Returns:
    The figure; `figure.savefig(path)` writes it.

  Raises:
    ImportError: matplotlib is missing; the message names the extra.

  Example:
    >>> new_figure(6, 4).get_size_inches().tolist()
    [6.0, 4.0]
  """
  try:
    from matplotlib import figure
  except ImportError as error:
    raise ImportError(
      "isgd_jax.plotting needs matplotlib: pip install 'isgd_jax[plot]'",
      name='matplotlib',
    ) from error
  return figure.Figure(
    (width_inches, height_inches), dpi=100, layout='constrained'
  )


def plot_control_chart(
  loss: ArrayLike,
  mean: ArrayLike,
  control_limit: ArrayLike,
  is_undertrained: ArrayLike,
  final_loss: ArrayLike,
  *,
  change_points: Sequence[int] = (),
  first_step: int = 0,
  ax: 'Axes | None' = None,
) -> 'Axes':
  """Draws the control chart of a training run.

  The batch losses, the centre line and the upper control limit as they moved,
  the under-trained batches, and each chase as a vertical stroke from the loss
  that it found to the loss that it left.

  Args:
    loss: [num_steps] batch losses, nats.
    mean: [num_steps] centre line.
    control_limit: [num_steps] upper control limit; infinite in Phase I, where
      neither line is drawn.
    is_undertrained: [num_steps] bool, the flagged batches.
    final_loss: [num_steps] what a chase left; `loss` where there was none.
    change_points: steps at which the data are known to have drifted.
    first_step: the number of the first of the steps.
    ax: axes to draw on, or None for a new figure.

  Returns:
    The axes, for titles, scales and saving.

  Raises:
    ImportError: matplotlib is missing; the message names the extra.
    ValueError: the arrays are not of one length.

  Example:
    >>> loss = np.array([1.0, 1.1, 0.9, 3.0, 1.0])
    >>> ax = plot_control_chart(
    ...   loss, mean=np.full(5, 1.0), control_limit=np.full(5, 1.3),
    ...   is_undertrained=loss > 1.3, final_loss=np.minimum(loss, 1.0))
    >>> ax.get_ylabel()
    'batch loss (nats)'
  """
  loss, mean, limit, final_loss = (
    np.asarray(a, np.float64) for a in (loss, mean, control_limit, final_loss)
  )
  flagged = np.asarray(is_undertrained, bool)
  lengths = [a.shape for a in (loss, mean, limit, flagged, final_loss)]
  if len(set(lengths)) != 1 or loss.ndim != 1:
    raise ValueError(
      'loss, mean, control_limit, is_undertrained and final_loss must be '
      f'vectors of one length, got shapes {lengths}'
    )
  ax = new_figure().add_subplot() if ax is None else ax
  steps = first_step + np.arange(len(loss))
  # Phase I has no limits yet, and a centre line of next to nothing.
  is_monitoring = np.isfinite(limit)
  limit = np.where(is_monitoring, limit, np.nan)
  mean = np.where(is_monitoring, mean, np.nan)
  chased = flagged & (final_loss < loss)

  for i, change_point in enumerate(change_points):
    label = 'drift' if i == 0 else None
    ax.axvline(
      change_point, color=GREY, linestyle=':', linewidth=1, label=label
    )
  ax.plot(steps, loss, color=SKY_BLUE, linewidth=0.8, label='loss', zorder=1)
  ax.plot(steps, mean, color=BLACK, linewidth=1.4, label='centre line (mean)')
  ax.plot(
    steps,
    limit,
    color=ORANGE,
    linewidth=1.4,
    linestyle='--',
    label='upper control limit',
  )
  ax.vlines(
    steps[chased],
    final_loss[chased],
    loss[chased],
    color=BLUE,
    linewidth=2,
    label='chase',
    zorder=3,
  )
  ax.plot(
    steps[flagged],
    loss[flagged],
    color=VERMILION,
    linestyle='none',
    marker='o',
    markersize=4,
    label='under-trained batch',
    zorder=4,
  )
  ax.set_xlabel('step')
  ax.set_ylabel('batch loss (nats)')
  ax.margins(x=0.01)
  ax.spines[['top', 'right']].set_visible(False)
  # Beside nothing: above the data no line can pass under it.
  ax.legend(
    loc='lower center',
    bbox_to_anchor=(0.5, 1.0),
    ncols=6,
    frameon=False,
    fontsize=9,
    handlelength=1.6,
    columnspacing=1.2,
  )
  return ax
