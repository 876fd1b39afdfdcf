"""The figures: a chart, a run, a cycle."""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from isgd_jax import _checks
from isgd_jax import _extras
from isgd_jax.plotting import _chart_figure
from isgd_jax.plotting import _run_columns

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

ArrayLike = Any


def new_figure(width_inches: float = 8.0, height_inches: float = 4.5) -> Figure:
  """A figure that needs no display and no pyplot, and that nobody has to close.

  Args:
    width_inches: its width, at 100 dots an inch.
    height_inches: its height.

  Returns:
    The figure; :func:`save_figure` writes it.

  Raises:
    ImportError: matplotlib is missing; the message names the extra.

  Example:
    >>> new_figure(6, 4).get_size_inches().tolist()
    [6.0, 4.0]
  """
  try:
    from matplotlib import figure
  except ImportError as error:
    raise _extras.missing(
      'isgd_jax.plotting', 'matplotlib', 'plot', 'matplotlib'
    ) from error
  return figure.Figure(
    (width_inches, height_inches), dpi=100, layout='constrained'
  )


def save_figure(
  figure: Figure, path: str | os.PathLike[str], *, dpi: float | None = None
) -> None:
  """Writes a figure, so that the same figure is the same file.

  An SVG has its marks named by their contents and no date in it, a PDF no date.

  Args:
    figure: the figure.
    path: the file; its ending says what it is: `.png`, `.svg`, `.pdf` or
      another that matplotlib knows.
    dpi: dots an inch, where there are dots; None takes the figure's.

  Raises:
    OSError: the file cannot be written.
    ValueError: matplotlib does not know the ending.

  Example:
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'empty.svg')
    >>> save_figure(new_figure(), path)
    >>> 'svg' in path.read_text(), 'dc:date' in path.read_text()
    (True, False)
  """
  import matplotlib

  metadata = {'.svg': {'Date': None}, '.pdf': {'CreationDate': None}}
  # The salt is what matplotlib would otherwise draw by chance.
  with matplotlib.rc_context({'svg.hashsalt': 'isgd_jax'}):
    figure.savefig(
      path,
      dpi='figure' if dpi is None else dpi,
      metadata=metadata.get(os.path.splitext(path)[1].lower()),
    )


def plot_control_chart(
  loss: ArrayLike,
  mean: ArrayLike,
  control_limit: ArrayLike,
  is_undertrained: ArrayLike,
  final_loss: ArrayLike,
  *,
  lower_limit: ArrayLike | None = None,
  statistic: ArrayLike | None = None,
  is_well_trained: ArrayLike | None = None,
  violated_rules: ArrayLike | None = None,
  is_skipped: ArrayLike | None = None,
  num_chase_steps: ArrayLike | None = None,
  is_chase_reverted: ArrayLike | None = None,
  is_chase_undone: ArrayLike | None = None,
  trust: ArrayLike | None = None,
  change_points: Sequence[int] = (),
  first_step: int = 0,
  ax: Axes | None = None,
  trust_ax: Axes | None = None,
) -> Axes:
  """Draws the control chart of a training run.

  The batch losses, the centre line and the control limits as they moved, the
  flagged batches, and each chase as a vertical stroke from the loss that it
  found to the loss that it left. The legend names what there is to see.

  Args:
    loss: [num_steps] batch losses, nats. One that is not finite is a gap, and a
      tick at the top.
    mean: [num_steps] centre line, nats.
    control_limit: [num_steps] upper control limit, nats; not finite in Phase I,
      where no line is drawn.
    is_undertrained: [num_steps] bool, the batches flagged above.
    final_loss: [num_steps] what a chase left, nats; `loss` where there was
      none.
    lower_limit: [num_steps] lower control limit, nats.
    statistic: [num_steps] what the chart holds against its limits, nats. Where
      it differs from the loss it is the line, with the flags upon it, and the
      losses are points.
    is_well_trained: [num_steps] bool, the batches flagged below.
    violated_rules: [num_steps] int, bit i for the i-th run rule. A step that is
      not itself beyond a limit gets a ring for each rule, named from 1 on.
    is_skipped: [num_steps] bool, the batches that were dropped.
    num_chase_steps: [num_steps] int, chase steps taken. Chases that left the
      loss as it was were tried in the shadow, and get a ring.
    is_chase_reverted: [num_steps] bool, chases that fell back to the base
      update; they get no ring.
    is_chase_undone: [num_steps] bool, the batches that undid the chase before
      them.
    trust: [num_steps] what chases gained on the batches after them; from 1 on
      the chased parameters lead. A panel under the chart, if any was judged.
    change_points: steps at which the data are known to have drifted.
    first_step: the number of the first of the steps.
    ax: axes to draw on, or None for a new figure.
    trust_ax: axes for trust, where `ax` is given; without it trust is left
      out.

  Returns:
    The axes, for titles, scales and saving.

  Raises:
    ImportError: matplotlib is missing; the message names the extra.
    ValueError: the arrays are not of one length, or rules are no integers.

  Example:
    >>> loss = np.array([1.0, 1.1, 0.9, 3.0, 1.0])
    >>> ax = plot_control_chart(
    ...   loss, mean=np.full(5, 1.0), control_limit=np.full(5, 1.3),
    ...   is_undertrained=loss > 1.3, final_loss=np.minimum(loss, 1.0))
    >>> ax.get_ylabel()
    'batch loss (nats)'
  """
  columns = _chart_figure.to_columns(
    {
      'loss': loss,
      'mean': mean,
      'control_limit': control_limit,
      'is_undertrained': is_undertrained,
      'final_loss': final_loss,
      'lower_limit': lower_limit,
      'statistic': statistic,
      'is_well_trained': is_well_trained,
      'violated_rules': violated_rules,
      'is_skipped': is_skipped,
      'num_chase_steps': num_chase_steps,
      'is_chase_reverted': is_chase_reverted,
      'is_chase_undone': is_chase_undone,
      'trust': trust,
    }
  )
  columns = columns._replace(step=first_step + columns.step)
  ax, trust_ax = _axes(columns, ax, trust_ax)
  for i, change_point in enumerate(change_points):
    label = 'drift' if i == 0 else None
    ax.axvline(
      change_point,
      color=_chart_figure.GREY,
      linestyle=':',
      linewidth=1,
      label=label,
    )
  _draw(ax, trust_ax, columns)
  return ax


def plot_run(
  source: str | os.PathLike[str] | Any,
  *,
  first_step: int | None = None,
  last_step: int | None = None,
  ax: Axes | None = None,
  trust_ax: Axes | None = None,
) -> Axes:
  r"""Draws the control chart of a run from what the run has kept.

  Args:
    source: one of

      * the path of a file of JSON lines with `step`, `loss`, `mean`,
        `control_limit`, `is_undertrained` and `final_loss`, and perhaps
        `lower_limit`, `statistic`, `is_well_trained`, `violated_rules`,
        `is_skipped`, `num_chase_steps`, `is_chase_reverted`,
        `is_chase_undone` and `trust`, null standing for what is not finite: the
        `metrics.jsonl` of `isgd-jax train`. A last line without an end is still
        being written, and left out.
      * an :class:`isgd_jax.ISGDInfo` of arrays [num_steps], as `jax.lax.scan`
        stacks them; its `num_steps` numbers the steps.
      * an :class:`isgd_jax.ChartReading` of arrays [num_steps], which has
        no loss, only the statistic; its steps are numbered from 0.

    first_step: number of the first step to draw; None for the run's first.
    last_step: number of the last; None for the run's last.
    ax: axes to draw on, or None for a new figure.
    trust_ax: as in :func:`plot_control_chart`.

  Returns:
    The axes, for titles, scales and saving.

  Raises:
    ImportError: matplotlib is missing; the message names the extra.
    OSError: the file cannot be read.
    ValueError: there are no steps to draw, a field is missing, a line is
      damaged, or the steps do not rise.

  Example:
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'metrics.jsonl')
    >>> _ = path.write_text(
    ...   '{"step": 1, "loss": 2.5, "mean": 2.0, "control_limit": null,'
    ...   ' "is_undertrained": false, "final_loss": 2.5}\n')
    >>> plot_run(path).get_xlabel()
    'step'
  """
  columns = _run_columns.read(source, first_step, last_step)
  ax, trust_ax = _axes(columns, ax, trust_ax)
  _draw(ax, trust_ax, columns)
  return ax


def _axes(
  columns: _chart_figure.Columns, ax: Axes | None, trust_ax: Axes | None
) -> tuple[Axes, Axes | None]:
  """The axes given, or new ones: a chart, and a panel if there is trust."""
  if ax is not None:
    return ax, trust_ax
  if not columns.has_trust or trust_ax is not None:
    return new_figure().add_subplot(), trust_ax
  axes: Any = new_figure(8.0, 5.4).subplots(
    2, sharex=True, height_ratios=(5, 1)
  )
  return axes[0], axes[1]


def _draw(
  ax: Axes, trust_ax: Axes | None, columns: _chart_figure.Columns
) -> None:
  """Draws the chart, and trust where there is a place for it."""
  _chart_figure.draw(ax, columns)
  if trust_ax is not None and columns.has_trust:
    _chart_figure.draw_trust(trust_ax, columns)
    ax.set_xlabel('')


def plot_cycle(
  loss: ArrayLike,
  cycle_length: int,
  *,
  max_epochs: int = 8,
  ax: Axes | None = None,
) -> Axes:
  """Draws batch losses by position in the cycle, a line an epoch.

  What is peculiar to a batch shows as a column through all epochs: sampling
  bias, and intrinsic difference (Wang et al., figure 1).

  Args:
    loss: [num_steps] losses, nats, of a fixed cycle of batches from its start.
      One that is not finite is a gap; the last epoch may be partial.
    cycle_length: batches in a cycle, >= 1.
    max_epochs: most lines to draw, >= 1, the first epoch and the last among
      them, the others evenly between.
    ax: axes to draw on, or None for a new figure.

  Returns:
    The axes, for titles, scales and saving; a bar beside them names the epochs,
    from 0 on.

  Raises:
    ImportError: matplotlib is missing; the message names the extra.
    ValueError: an argument is out of range.

  Example:
    >>> loss = np.array([2.0, 2.0, 5.0, 1.0, 1.0, 4.0, 0.5])
    >>> ax = plot_cycle(loss, cycle_length=3)
    >>> [line.get_ydata().tolist() for line in ax.get_lines()]
    [[2.0, 2.0, 5.0], [1.0, 1.0, 4.0], [0.5]]
  """
  cycle_length = _checks.check_integer('cycle_length', cycle_length, minimum=1)
  max_epochs = _checks.check_integer('max_epochs', max_epochs, minimum=1)
  loss = np.asarray(loss, np.float64)
  if loss.ndim != 1 or not loss.size:
    raise ValueError(
      f'loss must be a vector of at least one loss, got shape {loss.shape}.'
    )
  ax = new_figure().add_subplot() if ax is None else ax
  import matplotlib
  from matplotlib import cm
  from matplotlib import colors
  from matplotlib import ticker

  loss = np.where(np.isfinite(loss), loss, np.nan)
  num_epochs = -(-len(loss) // cycle_length)
  epochs = np.linspace(0, num_epochs - 1, min(max_epochs, num_epochs))
  epochs = epochs.round().astype(int)
  # From dark to light, but not to the yellow that white paper swallows.
  shades = matplotlib.colormaps['viridis'](np.linspace(0, 0.88, len(epochs)))
  for epoch, shade in zip(epochs, shades, strict=True):
    start = epoch * cycle_length
    of_epoch = loss[start : start + cycle_length]
    ax.plot(
      np.arange(len(of_epoch)),
      of_epoch,
      color=shade,
      linewidth=1,
      marker='.',  # A loss between two gaps has no line.
      markersize=4 if cycle_length <= 100 else 2,
      label=f'epoch {epoch}',
    )
  norm = colors.BoundaryNorm(np.arange(len(epochs) + 1) - 0.5, len(epochs))
  bar = ax.figure.colorbar(
    cm.ScalarMappable(norm, colors.ListedColormap(shades)),
    ax=ax,
    label='epoch',
    ticks=range(len(epochs)),
    pad=0.02,
    aspect=30,
  )
  bar.ax.set_yticklabels([str(epoch) for epoch in epochs])
  bar.ax.tick_params(which='both', length=0)
  bar.outline.set_visible(False)
  ax.set_xlabel('position in the cycle (batch)')
  ax.set_ylabel('batch loss (nats)')
  ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  ax.margins(x=0.01)
  ax.spines[['top', 'right']].set_visible(False)
  return ax
