"""Draws a control chart from columns of numbers: the artists of `plotting`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
  from matplotlib.axes import Axes

ArrayLike = Any

BLACK = '#000000'
GREY = '#999999'
ORANGE = '#E69F00'
SKY_BLUE = '#56B4E9'
GREEN = '#009E73'
BLUE = '#0072B2'
VERMILION = '#D55E00'
PURPLE = '#CC79A7'

# By run rule, open, so that a flagged point shows within.
_RULE_MARKERS = ('H', 's', 'D', '^', '<', '>', 'p', '*')
INTEGERS = ('step', 'violated_rules', 'num_chase_steps')
# At this height, a share of the axes', stands what has no height of its own.
_TOP = 0.975


class Columns(NamedTuple):
  """A run in columns, each [num_steps]; None is left out of the picture.

  Attributes:
    step: the steps' numbers, int64, rising.
    loss: batch losses, float64; None where only the statistic is known.
    mean: centre line, float64.
    control_limit: upper control limit, float64; not finite in Phase I.
    is_undertrained: flagged above, bool.
    final_loss: what a chase left, float64.
    lower_limit: lower control limit, float64.
    statistic: what is held against the limits, float64; None for the loss.
    is_well_trained: flagged below, bool.
    violated_rules: int64, bit i for the i-th run rule.
    is_skipped: batches that were dropped, bool.
    num_chase_steps: chase steps taken, int64.
    is_chase_reverted: chases that did not better their own batch, bool.
    is_chase_undone: batches that undid the chase before them, bool.
    trust: of chases, which lead from 1 on, float64.
  """

  step: np.ndarray
  loss: np.ndarray | None
  mean: np.ndarray
  control_limit: np.ndarray
  is_undertrained: np.ndarray
  final_loss: np.ndarray | None = None
  lower_limit: np.ndarray | None = None
  statistic: np.ndarray | None = None
  is_well_trained: np.ndarray | None = None
  violated_rules: np.ndarray | None = None
  is_skipped: np.ndarray | None = None
  num_chase_steps: np.ndarray | None = None
  is_chase_reverted: np.ndarray | None = None
  is_chase_undone: np.ndarray | None = None
  trust: np.ndarray | None = None

  @property
  def has_trust(self) -> bool:
    """Whether any chase was judged."""
    return self.trust is not None and bool(np.nan_to_num(self.trust).any())


def to_columns(values: Mapping[str, ArrayLike | None]) -> Columns:
  """Converts fields of :class:`Columns`; steps are counted if not given.

  Raises:
    ValueError: they are no vectors of one length, or of the wrong kind.
  """
  columns: dict[str, Any] = {'loss': None}
  shapes = {}
  for name, value in values.items():
    if value is None:
      continue
    column = np.asarray(value)
    if name.startswith('is_'):
      column = column.astype(bool)
    elif name in INTEGERS:
      if column.size and column.dtype.kind not in 'iu':
        raise ValueError(
          f'{name} must be integers, got an array of {column.dtype}.'
        )
      column = column.astype(np.int64)
    else:
      column = column.astype(np.float64)
    columns[name], shapes[name] = column, column.shape
  if len(set(shapes.values())) != 1 or columns['mean'].ndim != 1:
    *names, last = shapes
    raise ValueError(
      f'{", ".join(names)} and {last} must be vectors of one length, got '
      f'shapes {list(shapes.values())}.'
    )
  columns.setdefault('step', np.arange(len(columns['mean'])))
  return Columns(**columns)


def draw(ax: Axes, columns: Columns) -> None:
  """Draws the chart, labels the axes, and puts a legend above."""
  # Phase I has no limits yet, and a centre line of next to nothing.
  is_monitoring = np.isfinite(columns.control_limit)

  def monitored(values: np.ndarray) -> np.ndarray:
    return np.where(is_monitoring & np.isfinite(values), values, np.nan)

  _shade_phase_one(ax, columns.step, is_monitoring)
  mean, upper = monitored(columns.mean), monitored(columns.control_limit)
  loss, held, has_statistic = _line(columns, monitored)

  if loss is not None:
    style = {'linewidth': 0.8, 'color': SKY_BLUE}
    if has_statistic:
      style = {'color': GREY, 'marker': '.', 'markersize': 3, 'alpha': 0.7}
      style |= {'linestyle': 'none'}
    _plot(ax, columns.step, loss, label='loss', zorder=1, **style)
  if has_statistic:
    style = {'linewidth': 1.2, 'color': SKY_BLUE}
    _plot(ax, columns.step, held, label='statistic', zorder=1.5, **style)
  lower = np.full_like(upper, np.nan)
  if columns.lower_limit is not None:
    lower = monitored(columns.lower_limit)
  _draw_limits(ax, columns.step, mean, upper, lower)
  _draw_chases(ax, columns)
  _draw_events(
    ax, columns, loss, held, is_beyond=(held > upper) | (held < lower)
  )

  ax.set_xlabel('step')
  name = 'loss and statistic' if has_statistic else 'batch loss'
  ax.set_ylabel(f'{"statistic" if loss is None else name} (nats)')
  ax.margins(x=0.01)
  ax.spines[['top', 'right']].set_visible(False)
  draw_legend(ax)


def draw_legend(ax: Axes) -> None:
  """A legend above the axes, of what their scale can show."""
  is_log = ax.get_yscale() == 'log'
  entries = [
    (handle, label)
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    if not (is_log and _is_below_zero(handle))
  ]
  if not entries:
    return
  handles, labels = zip(*entries, strict=True)
  # In letters, of which a row has room for some 110 at 800 pixels.
  width = sum(len(label) + 6 for label in labels)
  # Beside nothing: above the data no line can pass under it.
  ax.legend(
    handles,
    labels,
    loc='lower center',
    bbox_to_anchor=(0.5, 1.0),
    ncols=len(labels) if width <= 110 else 4,
    frameon=False,
    fontsize=9,
    handlelength=1.6,
    columnspacing=1.2,
  )


def _is_below_zero(handle: Any) -> bool:
  if not hasattr(handle, 'get_ydata'):
    return False
  # Of a line across the axes these are a list.
  return not (np.asarray(handle.get_ydata()) > 0).any()


def _shade_phase_one(
  ax: Axes, steps: np.ndarray, is_monitoring: np.ndarray
) -> None:
  """Shades where the chart has no limits yet, so that nothing is judged."""
  edges = np.flatnonzero(np.diff(np.r_[False, ~is_monitoring, False]))
  for number, (first, end) in enumerate(edges.reshape(-1, 2)):
    ax.axvspan(
      float(steps[first]) - 0.5,
      float(steps[end - 1]) + 0.5,
      color=GREY,
      alpha=0.18,
      linewidth=0,
      zorder=0,
      label='Phase I: no limits yet' if number == 0 else None,
    )


def _line(
  columns: Columns, monitored: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray | None, np.ndarray, bool]:
  """The losses, what is held against the limits, and whether they differ."""
  if columns.loss is None:
    assert columns.statistic is not None
    return None, monitored(columns.statistic), True
  is_finite = np.isfinite(columns.loss)
  loss = np.where(is_finite, columns.loss, np.nan)
  if columns.statistic is None or np.array_equal(
    columns.statistic[is_finite], loss[is_finite]
  ):
    return loss, loss, False
  return loss, monitored(columns.statistic), True


def _draw_limits(
  ax: Axes, steps: np.ndarray, mean: np.ndarray, upper: Any, lower: Any
) -> None:
  """Lines, or dashes where each step's limits are unlike the ones before."""
  style: dict[str, Any] = {'linewidth': 1.4}
  styles = [style | {'linestyle': linestyle} for linestyle in ('-', '--', '-.')]
  jumps, widths = np.abs(np.diff(mean)), upper - mean
  is_jump, is_width = np.isfinite(jumps), np.isfinite(widths)
  # A difference chart: lines up and down would hide the losses between.
  if is_jump.any() and 2 * jumps[is_jump].mean() > np.median(widths[is_width]):
    dash = {'linestyle': 'none', 'marker': '_', 'markersize': 5}
    styles = [dash | {'markeredgewidth': width} for width in (1.4, 1.4, 0.8)]
  for values, color, label, style in zip(
    (mean, upper, lower),
    (BLACK, ORANGE, ORANGE),
    ('centre line (mean)', 'upper control limit', 'lower control limit'),
    styles,
    strict=True,
  ):
    _plot(ax, steps, values, color=color, label=label, **style)


def draw_trust(ax: Axes, columns: Columns) -> None:
  """Draws trust over time, for a panel under the chart."""
  assert columns.trust is not None
  trust = np.where(np.isfinite(columns.trust), columns.trust, np.nan)
  ax.axhline(1.0, color=GREY, linestyle=':', linewidth=1, zorder=1)
  ax.plot(columns.step, trust, color=BLUE, linewidth=1.2, zorder=2)
  ax.fill_between(
    columns.step,
    1.0,
    np.fmax(trust, 1.0),
    color=BLUE,
    alpha=0.25,
    linewidth=0,
  )
  ax.set_ylim(
    min(-0.2, np.nanmin(trust) - 0.2), max(1.4, np.nanmax(trust) * 1.1)
  )
  ax.set_xlabel('step')
  ax.set_ylabel('trust')
  # Above the line the chased parameters are in use.
  ax.text(
    1.0,
    1.0,
    ' leads',
    transform=ax.get_yaxis_transform(),
    va='center',
    fontsize=8,
    color=GREY,
  )
  ax.margins(x=0.01)
  ax.spines[['top', 'right']].set_visible(False)


def _draw_chases(ax: Axes, columns: Columns) -> None:
  """Vertical strokes from the loss found to the loss left."""
  if columns.loss is None or columns.final_loss is None:
    return
  is_chased = columns.is_undertrained & (columns.final_loss < columns.loss)
  is_chased &= np.isfinite(columns.final_loss) & np.isfinite(columns.loss)
  if is_chased.any():
    ax.vlines(
      columns.step[is_chased],
      columns.final_loss[is_chased],
      columns.loss[is_chased],
      color=BLUE,
      linewidth=2,
      label='chase',
      zorder=3,
    )


def _draw_events(
  ax: Axes,
  columns: Columns,
  loss: np.ndarray | None,
  held: np.ndarray,
  is_beyond: np.ndarray,
) -> None:
  """Markers, each kind with a shape of its own."""

  def mark(is_marked: Any, values: np.ndarray, **style: Any) -> None:
    if is_marked is not None:
      x, y = columns.step[is_marked], values[is_marked]
      _plot(ax, x, y, linestyle='none', **style)

  style = {'color': VERMILION, 'marker': 'o', 'markersize': 4, 'zorder': 4}
  mark(columns.is_undertrained, held, label='under-trained batch', **style)
  style = {'color': GREEN, 'marker': 'v', 'markersize': 5, 'zorder': 4}
  mark(columns.is_well_trained, held, label='well-trained batch', **style)

  if loss is not None and columns.num_chase_steps is not None:
    # A chase that neither moved the parameters nor fell back was a trial.
    is_trial = (columns.num_chase_steps > 0) & ~(columns.final_loss < loss)
    if columns.is_chase_reverted is not None:
      is_trial &= ~columns.is_chase_reverted
    style = {'color': BLUE, 'marker': 'o', 'markersize': 8, 'zorder': 3.8}
    style |= {'fillstyle': 'none', 'markeredgewidth': 1.2}
    mark(is_trial, loss, label='chase in the shadow', **style)

  if columns.violated_rules is not None:
    rules = np.where(is_beyond, 0, columns.violated_rules)
    num_rings = np.zeros(len(rules), np.int64)
    for bit in range(32):
      is_violated = (rules >> bit) & 1 == 1
      num_rings += is_violated
      style = {
        'color': PURPLE,
        'fillstyle': 'none',
        'marker': _RULE_MARKERS[bit % len(_RULE_MARKERS)],
        'markeredgewidth': 1.2,
        'zorder': 3.5,
      }
      label: str | None = f'run rule {bit + 1}'
      # Rings of several rules around one point lie within one another.
      for ring in range(1, num_rings.max(initial=0) + 1):
        is_marked = is_violated & (num_rings == ring)
        if is_marked.any():
          size = 5.5 + 2.5 * ring
          mark(is_marked, held, markersize=size, label=label, **style)
          label = None

  anchor = held if loss is None else loss
  style = {'color': BLACK, 'marker': 'x', 'markersize': 6, 'zorder': 5}
  style |= {'label': 'skipped batch'}
  mark(columns.is_skipped, anchor, **style)
  style = {'color': BLACK, 'marker': '<', 'markersize': 6, 'zorder': 5}
  mark(columns.is_chase_undone, anchor, label='chase undone here', **style)
  if loss is not None:
    top = np.full(len(loss), _TOP)
    style = {'color': BLACK, 'marker': '|', 'markersize': 9, 'zorder': 4}
    style |= {'transform': ax.get_xaxis_transform()}
    mark(~np.isfinite(loss), top, label='loss not finite', **style)


def _plot(ax: Axes, x: np.ndarray, y: np.ndarray, **style: Any) -> None:
  """`ax.plot`, unless there is nothing to see."""
  if np.isfinite(y).any():
    ax.plot(x, y, **style)
