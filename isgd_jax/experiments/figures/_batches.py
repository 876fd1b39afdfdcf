"""Figures of batch losses: by epoch, kind of batch, and place in the cycle."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from isgd_jax import plotting
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.figures import _styles

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Of lines that are told apart by name; blue is what is not of one class.
_LINE_COLORS = (
  plotting.VERMILION,
  plotting.GREEN,
  plotting.BLACK,
  plotting.ORANGE,
  plotting.PURPLE,
)
_LINE_DASHES = ('-', (0.0, (4.0, 1.5)), (0.0, (1.0, 1.2)), '-.')


def draw_loss_distributions(
  path: pathlib.Path,
  losses: Mapping[str, np.ndarray],
  *,
  title: str,
  titles: Mapping[str, str] | None = None,
  log_y: bool = True,
) -> 'Figure':
  """Draws the distribution of batch losses in each epoch.

  Args:
    path: the file.
    losses: of each method, a panel each, [num_epochs, num_batches], nats; what
      is not finite is above all that is.
    title: above the figure.
    titles: of the methods, where not those of `METHOD_STYLES`.
    log_y: whether the vertical axis, which the panels share, is logarithmic.

  Returns:
    The figure: bands from the 5th to the 95th percentile and between the
    quartiles, and a line at the median.

  Raises:
    InputError: (a `ValueError`) there is nothing to draw, or an array is not
      [num_epochs, num_batches].
    OutputError: (an `OSError`) the file cannot be written.

  Example:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'losses.png')
    >>> losses = np.random.default_rng(0).uniform(0.1, 2.0, size=(2, 3, 50))
    >>> figure = draw_loss_distributions(
    ...   path, {'base': losses[0], 'isgd': losses[1]}, title='Batch losses')
    >>> [ax.get_title(loc='left') for ax in figure.axes]
    ['base', 'ISGD']
  """
  _styles.check_not_empty('losses', losses)
  styles = _styles.method_styles(losses, titles)
  figure = plotting.new_figure(max(1 + 3.8 * len(losses), 5.0), 4.2)
  panels = figure.subplots(1, len(losses), sharey=True, squeeze=False)[0]
  drawn: list[np.ndarray] = []
  for ax, (method, values) in zip(panels, losses.items(), strict=True):
    values = _table(f'losses[{method!r}]', values, 'num_epochs, num_batches')
    epochs = np.arange(1, len(values) + 1)
    drawn.append(_draw_bands(ax, epochs, values.T, styles[method].color))
    ax.set_title(styles[method].title, fontsize=10, loc='left')
    ax.set_xlabel('epoch')
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.margins(x=0.01)
    _styles.finish(ax)
  panels[0].set_ylabel('batch loss (nats)')
  _styles.enclose(panels[0], drawn, log=log_y)
  _styles.legend_below(figure, panels[:1])
  return _styles.save(figure, path, title)


def draw_batch_kinds(
  path: pathlib.Path,
  steps: np.ndarray,
  single_class: np.ndarray,
  iid: np.ndarray,
  *,
  title: str,
  class_names: Sequence[str] | None = None,
  log_y: bool = False,
) -> 'Figure':
  """Draws losses of single-class batches against i.i.d. ones.

  Args:
    path: the file.
    steps: [num_points] training steps at which the losses were found, rising.
    single_class: [num_classes, num_points] losses of a batch of each class,
      nats.
    iid: [num_batches, num_points] losses of i.i.d. batches, nats.
    title: above the figure.
    class_names: [num_classes] at the ends of the lines; their numbers if None.
    log_y: whether the vertical axis is logarithmic.

  Returns:
    The figure.

  Raises:
    InputError: (a `ValueError`) the shapes do not go together.
    OutputError: (an `OSError`) the file cannot be written.

  Example:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'kinds.png')
    >>> figure = draw_batch_kinds(
    ...   path, np.arange(4), np.ones([10, 4]), np.ones([20, 4]), title='Bias')
    >>> figure.axes[0].get_xlabel()
    'step'
  """
  steps = np.asarray(steps)
  single_class = _table('single_class', single_class, 'num_classes, num_points')
  iid = _table('iid', iid, 'num_batches, num_points')
  if class_names is None:
    class_names = [str(i) for i in range(len(single_class))]
  for name, found, expected in (
    ('single_class', single_class.shape[1], len(steps)),
    ('iid', iid.shape[1], len(steps)),
    ('class_names', len(class_names), len(single_class)),
  ):
    if found != expected:
      raise InputError(
        f'{name} must have {expected} entries, one for each of '
        f'{"single_class" if name == "class_names" else "steps"}, got {found}'
      )
  figure = plotting.new_figure(8.0, 4.5)
  ax = figure.add_subplot()
  bounds = _draw_bands(ax, steps, iid, plotting.BLUE, 'i.i.d. batches, ')
  styles = _line_styles(single_class)
  for losses, style in zip(single_class, styles, strict=True):
    finite = np.where(np.isfinite(losses), losses, np.nan)
    ax.plot(steps, finite, linewidth=1.1, **style)
  ax.plot([], [], color=plotting.GREY, label='batches of one class')
  ax.set_xlabel('step')
  ax.set_ylabel('batch loss (nats)')
  ax.margins(x=0.01)
  _styles.enclose(ax, [bounds, single_class], log=log_y)
  _styles.finish(ax)
  _name_line_ends(ax, single_class, class_names, styles)
  _styles.legend_below(figure, [ax], ncols=2)
  return _styles.save(figure, path, title)


def draw_positions(
  path: pathlib.Path, losses: Mapping[str, np.ndarray], *, title: str
) -> 'Figure':
  """Draws batch losses by position in the cycle and epoch.

  Each loss is over its epoch's median, so that what is peculiar to a batch is
  a column through all epochs, however far the loss has fallen.

  Args:
    path: the file.
    losses: of each panel's title, [num_epochs, cycle_length], nats, >= 0; what
      is not finite is grey.
    title: above the figure.

  Returns:
    The figure; the panels share the colours, the last axes are their bar.

  Raises:
    InputError: (a `ValueError`) there is nothing to draw, or an array is not
      [num_epochs, cycle_length].
    OutputError: (an `OSError`) the file cannot be written.

  Example:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'positions.png')
    >>> losses = np.random.default_rng(0).uniform(0.1, 2.0, size=(3, 50))
    >>> figure = draw_positions(path, {'fixed cycle': losses}, title='Bias')
    >>> figure.axes[0].get_ylabel()
    'epoch'
  """
  import matplotlib
  from matplotlib import colors
  from matplotlib import ticker

  _styles.check_not_empty('losses', losses)
  ratios = {
    name: _over_median(_table(f'losses[{name!r}]', values, 'num_epochs, n'))
    for name, values in losses.items()
  }
  logs = np.abs(np.concatenate([r.compressed() for r in ratios.values()]))
  # A few batches beyond the colours leave the others to be told apart.
  reach = max(float(np.quantile(logs, 0.99)) if logs.size else 0.0, 0.1)
  shades = matplotlib.colormaps['PuOr_r'].with_extremes(bad=plotting.GREY)
  figure = plotting.new_figure(
    9.0, 1.2 + sum(0.6 + min(0.12 * len(r), 2.2) for r in ratios.values())
  )
  panels = figure.subplots(
    len(ratios), squeeze=False, height_ratios=[len(r) for r in ratios.values()]
  )[:, 0]
  for ax, (name, values) in zip(panels, ratios.items(), strict=True):
    ax.imshow(
      values,
      aspect='auto',
      interpolation='nearest',
      cmap=shades,
      norm=colors.Normalize(-reach, reach),
      extent=(-0.5, values.shape[1] - 0.5, len(values) + 0.5, 0.5),
    )
    ax.set_title(name, fontsize=10, loc='left')
    ax.set_ylabel('epoch')
    for axis in (ax.xaxis, ax.yaxis):
      axis.set_major_locator(ticker.MaxNLocator(6, integer=True))
  panels[-1].set_xlabel('position in the cycle (batch)')
  figure.colorbar(
    panels[-1].get_images()[0],
    ax=list(panels),
    label="loss / the epoch's median",
    extend='both',
    format=ticker.FuncFormatter(lambda x, _: f'{2**x:.2g}'),
    pad=0.02,
    aspect=30,
  )
  return _styles.save(figure, path, title)


def _table(name: str, values: np.ndarray, shape: str) -> np.ndarray:
  """Float64 [m, n] with NaN as infinity, or an error."""
  values = np.asarray(values, np.float64)
  if values.ndim != 2 or not values.size:
    raise InputError(f'{name} must be [{shape}], got the shape {values.shape}')
  return np.where(np.isnan(values), np.inf, values)


def _over_median(losses: np.ndarray) -> np.ma.MaskedArray:
  """log2 of losses over their row's median, masked where it is not finite."""
  medians = np.quantile(losses, 0.5, axis=1, method='nearest', keepdims=True)
  with np.errstate(divide='ignore', invalid='ignore'):
    return np.ma.masked_invalid(np.log2(losses / medians))


def _draw_bands(
  ax: 'Axes', x: np.ndarray, values: np.ndarray, color: str, prefix: str = ''
) -> np.ndarray:
  """Median and bands of [num_values, n] values at [n] places; their bounds."""
  bounds = np.quantile(values, _QUANTILES, axis=0, method='nearest')
  # What is infinite is far above the panel.
  far = 1e3 * bounds[np.isfinite(bounds)].max(initial=1.0)
  for i, alpha, label in (
    (0, 0.18, '5th to 95th percentile'),
    (1, 0.35, 'quartiles'),
  ):
    ax.fill_between(
      x,
      np.minimum(bounds[i], far),
      np.minimum(bounds[-1 - i], far),
      color=color,
      alpha=alpha,
      linewidth=0,
      label=prefix + label,
    )
  ax.plot(
    x,
    np.where(np.isfinite(bounds[2]), bounds[2], np.nan),
    color=color,
    linewidth=1.6,
    label=f'{prefix}median',
  )
  return bounds


def _line_styles(lines: np.ndarray) -> list[dict[str, Any]]:
  """A colour and dashes for each line, unlike those of lines that end near."""
  styles: list[dict[str, Any]] = [{} for _ in lines]
  for rank, line in enumerate(np.argsort(lines[:, -1], kind='stable')):
    turn, color = divmod(rank, len(_LINE_COLORS))
    styles[line] = {
      'color': _LINE_COLORS[color],
      'linestyle': _LINE_DASHES[turn % len(_LINE_DASHES)],
    }
  return styles


def _name_line_ends(
  ax: 'Axes',
  lines: np.ndarray,
  names: Sequence[str],
  styles: Sequence[Mapping[str, Any]],
) -> None:
  """Names at the right ends of lines, moved apart where they would meet.

  A stroke leads from the end of a line to its name, both of its colour.
  """
  # In fractions of the panel's height, whatever its scale; what is not finite
  # is named at the top.
  to_panel = ax.transData + ax.transAxes.inverted()
  top = ax.get_ylim()[1]
  ends = np.where(np.isfinite(lines[:, -1]), lines[:, -1], top)
  ends = np.maximum(ends, ax.get_ylim()[0])
  heights = to_panel.transform([(ax.get_xlim()[1], y) for y in ends])[:, 1]
  gap = min(0.045, 1 / len(lines))
  order = np.argsort(heights, kind='stable').tolist()
  # Heights less the least ones may not fall: midway between pushing names up
  # and pushing them down, so that a crowd stays about where it is.
  spare = heights[order] - gap * np.arange(len(lines))
  up = np.maximum.accumulate(spare)
  down = np.minimum.accumulate(spare[::-1])[::-1]
  spare = np.clip((up + down) / 2, 0, 1 - gap * (len(lines) - 1))
  for rank, line in enumerate(order):
    is_finite = np.isfinite(lines[line, -1])
    height = spare[rank] + gap * rank
    color = styles[line]['color']
    ax.annotate(
      str(names[line]) if is_finite else f'{names[line]}: not finite',
      (1.035, height),
      xycoords='axes fraction',
      va='center',
      fontsize=8,
      color=color,
    )
    ax.plot(
      [_end_of_lines(ax), 1.03],
      [heights[line], height],
      transform=ax.transAxes,
      clip_on=False,
      color=color,
      linewidth=0.7,
    )


def _end_of_lines(ax: 'Axes') -> float:
  """Where the lines end, as a share of the panel's width."""
  low, high = ax.get_xlim()
  return (ax.dataLim.x1 - low) / (high - low)
