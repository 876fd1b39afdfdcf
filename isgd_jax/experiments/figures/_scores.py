"""Figures of scores: performance profiles and forests of intervals."""

from collections.abc import Mapping, Sequence
import math
import pathlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from isgd_jax import plotting
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.figures import _styles
from isgd_jax.experiments.statistics import Interval
from isgd_jax.experiments.statistics import Profile

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure


class IntervalRow(NamedTuple):
  """One row of a forest plot.

  Attributes:
    group: heading that it stands under, e.g. `'fashion, momentum'`.
    method: its method, which says how it looks.
    interval: of what the axis says; ends and median may be infinite.
    beyond: what +infinity means, e.g. `'diverged'`.
    below: what -infinity means, in a difference.
  """

  group: str
  method: str
  interval: Interval
  beyond: str = 'not reached'
  below: str = 'other missed'


def draw_profile(
  path: pathlib.Path,
  profile: Profile,
  titles: Mapping[str, str] | None = None,
  *,
  title: str = 'Performance profile',
) -> 'Figure':
  """Draws performance profiles, a line of steps a method.

  Args:
    path: the file.
    profile: as :func:`performance_profile` returns it.
    titles: of the methods, where not those of `METHOD_STYLES`.
    title: above the figure.

  Returns:
    The figure; the legend lists the methods by falling score.

  Raises:
    OutputError: (an `OSError`) the file cannot be written.

  Example:
    >>> import tempfile
    >>> from isgd_jax.experiments import statistics
    >>> profile = statistics.performance_profile({'digits': {'isgd': 3.0}})
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'profile.png')
    >>> draw_profile(path, profile).axes[0].get_xlabel()
    'cost / least cost of the problem'
  """
  styles = _styles.method_styles(profile.shares, titles)
  figure = plotting.new_figure(9.0, 4.2)
  ax = figure.add_subplot()
  for method in sorted(styles, key=lambda m: -profile.scores[m]):
    style = styles[method]
    ax.step(
      profile.taus,
      profile.shares[method],
      where='post',
      color=style.color,
      linestyle=style.line,
      linewidth=1.8,
      label=f'{style.title} ({profile.scores[method]:.2f})',
      clip_on=False,  # Lines at 0 and 1 in full width.
    )
  ax.set_xlabel('cost / least cost of the problem')
  ax.set_ylabel('share of problems solved')
  ax.set_xlim(1, profile.taus[-1])
  ax.set_ylim(0, 1)
  _styles.finish(ax)
  problems = f'{profile.num_problems} problems'
  if profile.num_unsolved:
    problems += f'\n{profile.num_unsolved} more that none solved'
  figure.legend(
    loc='outside right center',
    frameon=False,
    fontsize=9,
    handlelength=3.2,
    title=f'method (score)\n{problems}',
    title_fontsize=9,
    alignment='left',
  )
  return _styles.save(figure, path, title)


def draw_intervals(
  path: pathlib.Path,
  rows: Sequence[IntervalRow],
  *,
  axis_title: str,
  title: str,
  reference: float | None = None,
  titles: Mapping[str, str] | None = None,
  log: bool = False,
) -> 'Figure':
  """Draws medians and their intervals, a row each.

  What is infinite is an arrow to the edge, with the row's `beyond` (or `below`)
  beside it where the median is, and `some` before it where only an end is.

  Args:
    path: the file.
    rows: from top to bottom; those of a group stand together under its heading,
      where its first is. The figure grows with them.
    axis_title: what the numbers are, with their unit.
    title: above the figure.
    reference: where to draw a vertical line, e.g. no difference.
    titles: of the methods, where not those of `METHOD_STYLES`.
    log: whether the axis is logarithmic; all that is finite is then > 0.

  Returns:
    The figure.

  Raises:
    InputError: (a `ValueError`) there are no rows, or a logarithm of what has
      none is asked for.
    OutputError: (an `OSError`) the file cannot be written.

  Example:
    >>> import tempfile
    >>> rows = [IntervalRow('digits, sgd', 'isgd', Interval(3.0, 2.0, 5.0))]
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'intervals.png')
    >>> figure = draw_intervals(path, rows, axis_title='seconds', title='Time')
    >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
    ['digits, sgd', 'ISGD']
  """
  _styles.check_not_empty('rows', rows)
  values = np.array([row.interval for row in rows]).ravel()
  finite = values[np.isfinite(values)]
  if reference is not None:
    finite = np.append(finite, reference)
  if log and (finite <= 0).any():
    raise InputError(
      f'rows and reference must be above 0 for log=True, got {finite.min():g}; '
      'use log=False'
    )
  left, right, edges = _limits(finite, values, log)
  groups: dict[str, list[IntervalRow]] = {}
  for row in rows:
    groups.setdefault(row.group, []).append(row)
  num_lines = len(rows) + len(groups)
  figure = plotting.new_figure(8.0, 1.2 + 0.22 * num_lines)
  ax = figure.add_subplot()
  if log:
    ax.set_xscale('log')
  ax.set_xlim(left, right)
  if reference is not None:
    ax.axvline(reference, color=plotting.GREY, linewidth=1, zorder=1)
  styles = _styles.method_styles((row.method for row in rows), titles)
  labels: list[str] = []
  for i, (group, members) in enumerate(groups.items()):
    if i % 2 == 0:
      ax.axhspan(
        len(labels) - 0.5,
        len(labels) + len(members) + 0.5,
        color='#f3f3f3',
        linewidth=0,
        zorder=0,
      )
    labels.append(group)
    for row in members:
      _draw_row(ax, len(labels), row, styles[row.method], edges)
      labels.append(styles[row.method].title)
  ax.set_ylim(num_lines - 0.4, -0.6)
  ax.set_yticks(range(num_lines), labels, fontsize=9)
  ax.tick_params(axis='y', length=0)
  headings = np.cumsum([0, *(len(members) + 1 for members in groups.values())])
  for heading in headings[:-1]:
    ax.get_yticklabels()[heading].set_fontweight('bold')
  ax.set_xlabel(axis_title)
  if log:
    _styles.plain_log_axis(ax.xaxis)
    ax.set_xlim(left, right)
  # Where words stand there are no numbers.
  for minor in (False, True):
    ticks = np.asarray(ax.get_xticks(minor=minor))
    is_inside = (edges[0] <= ticks) & (ticks <= edges[1]) & (finite.size > 0)
    ax.set_xticks(ticks[is_inside], minor=minor)
  ax.spines['bottom'].set_bounds(*edges)
  _styles.finish(ax)
  return _styles.save(figure, path, title)


def _limits(
  finite: np.ndarray, values: np.ndarray, log: bool
) -> tuple[float, float, tuple[float, float]]:
  """Limits of the axis, with room at an edge where words stand, and where."""
  finite = finite if finite.size else np.array([1.0])
  low, high = float(finite.min()), float(finite.max())
  forward, back = (np.log, np.exp) if log else (np.positive, np.positive)
  low, high = float(forward(low)), float(forward(high))
  span = high - low or (1.0 if log else abs(high) or 1.0)
  words = 0.36 * span
  inner = low - 0.06 * span, high + 0.06 * span
  left = inner[0] - words * bool((values == -math.inf).any())
  right = inner[1] + words * bool((values == math.inf).any())
  return (
    float(back(left)),
    float(back(right)),
    (float(back(inner[0])), float(back(inner[1]))),
  )


def _draw_row(
  ax: 'Axes',
  y: int,
  row: IntervalRow,
  style: _styles.MethodStyle,
  edges: tuple[float, float],
) -> None:
  """One interval, with arrows for what is infinite."""
  median, low, high = row.interval
  inside = np.clip([low, high], *edges)
  ax.plot(inside, [y, y], color=style.color, linewidth=2, zorder=2)
  if math.isfinite(median):
    ax.plot(
      [median],
      [y],
      color=style.color,
      marker=style.marker,
      markersize=8 if style.marker == '*' else 6,
      linestyle='none',
      zorder=3,
    )
  for is_outside, edge, side, shift, meaning in (
    (low == -math.inf, edges[0], '<', -1, row.below),
    (high == math.inf, edges[1], '>', 1, row.beyond),
  ):
    if not is_outside:
      continue
    ax.plot([edge], [y], color=style.color, marker=side, markersize=6, zorder=3)
    is_median = median == shift * math.inf
    ax.annotate(
      meaning if is_median else f'some {meaning}',
      (edge, y),
      xytext=(7 * shift, 0),
      textcoords='offset points',
      ha='left' if shift > 0 else 'right',
      va='center',
      fontsize=8,
      color='black' if is_median else 'dimgrey',
    )
