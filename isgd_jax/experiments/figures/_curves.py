"""Figures of runs over time: streams and training curves, over seeds."""

from collections.abc import Mapping, Sequence
import math
import pathlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from isgd_jax import plotting
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.figures import _styles

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_NUM_GRID_POINTS = 400


class Curve(NamedTuple):
  """The evaluations of one run.

  Attributes:
    x: [num_evaluations] cost spent until each, rising.
    y: [num_evaluations] what was found; not finite where the run diverged.
  """

  x: np.ndarray
  y: np.ndarray


def draw_stream(
  path: pathlib.Path,
  curves: Mapping[str, Mapping[str, np.ndarray]],
  change_points: Sequence[int],
  title: str,
  *,
  num_averaged: int = 20,
  titles: Mapping[str, str] | None = None,
) -> 'Figure':
  """Draws rolling prequential accuracy, a panel a base optimizer.

  Args:
    path: the file.
    curves: of each base optimizer, of each method, [num_seeds, num_steps]
      prequential accuracies in [0, 1], not averaged. The line is the median
      over seeds of the rolling means, the band their least and greatest.
    change_points: steps at which the data drifted.
    title: above the figure.
    num_averaged: batches a point is the mean of: its own and those before it.
    titles: of the methods, where not those of `METHOD_STYLES`.

  Returns:
    The figure.

  Raises:
    InputError: (a `ValueError`) there is nothing to draw, or an array is not
      [num_seeds, num_steps] with at least `num_averaged` steps.
    OutputError: (an `OSError`) the file cannot be written.

  Example:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'stream.png')
    >>> accuracies = {'sgd': {'isgd': np.full([5, 40], 0.9)}}
    >>> figure = draw_stream(path, accuracies, [20], 'Drift', num_averaged=10)
    >>> len(figure.axes)
    1
  """
  _styles.check_not_empty('curves', curves)
  styles = _styles.method_styles(_methods(curves), titles)
  figure = plotting.new_figure(9.0, 1.3 + 2.4 * len(curves))
  panels = figure.subplots(
    len(curves), sharex=True, sharey=True, squeeze=False
  )[:, 0]
  drawn: list[np.ndarray] = []
  for ax, (base_optimizer, by_method) in zip(
    panels, curves.items(), strict=True
  ):
    for i, change_point in enumerate(change_points):
      ax.axvline(
        change_point,
        color=plotting.GREY,
        linestyle=':',
        linewidth=1,
        label='drift' if i == 0 else None,
      )
    for method, accuracies in by_method.items():
      accuracies = np.asarray(accuracies, np.float64)
      if accuracies.ndim != 2 or accuracies.shape[1] < num_averaged:
        raise InputError(
          f'curves[{base_optimizer!r}][{method!r}] must be [num_seeds, '
          f'num_steps] with at least num_averaged = {num_averaged} steps, got '
          f'the shape {accuracies.shape}; choose a lower num_averaged'
        )
      # Without predictions there are no right ones.
      accuracies = np.nan_to_num(accuracies, nan=0.0)
      rolling = [100 * rolling_mean(a, num_averaged) for a in accuracies]
      steps = np.arange(num_averaged - 1, accuracies.shape[1])
      drawn.append(np.array(rolling))
      _draw_median_and_range(ax, steps, drawn[-1], styles[method])
    ax.set_title(f'base optimizer: {base_optimizer}', fontsize=10, loc='left')
    ax.set_ylabel('accuracy (%)')
    ax.margins(x=0.01)
    _styles.finish(ax)
  panels[-1].set_xlabel('step')
  panels[-1].set_xlim(left=0)
  _styles.enclose(panels[-1], drawn)
  _styles.legend_below(figure, panels)
  return _styles.save(figure, path, title)


def draw_training(
  path: pathlib.Path,
  curves: Mapping[str, Mapping[str, Sequence[Curve]]],
  *,
  axis: str,
  title: str,
  y_title: str = 'test loss (nats)',
  target: float | Mapping[str, float] | None = None,
  higher_is_better: bool = False,
  log_y: bool = False,
  titles: Mapping[str, str] | None = None,
) -> 'Figure':
  """Draws evaluations against what they cost, a panel a base.

  Args:
    path: the file.
    curves: of each base optimizer, of each method, the :class:`Curve` of each
      seed. Seeds evaluated at different costs are read off between their
      evaluations, over the costs that all reached. The line is the median, the
      band the least and the greatest; a run that diverged is worse than all
      from there on, and beyond the edge of the panel.
    axis: what `x` is, with its unit, e.g. `'gradient evaluations'`.
    title: above the figure.
    y_title: what `y` is, with its unit.
    target: a horizontal line to reach, or one of each base optimizer.
    higher_is_better: of `y`.
    log_y: whether the vertical axis is logarithmic.
    titles: of the methods, where not those of `METHOD_STYLES`.

  Returns:
    The figure; the panels share the vertical axis.

  Raises:
    InputError: (a `ValueError`) there is nothing to draw, or a curve is not two
      vectors of one length.
    OutputError: (an `OSError`) the file cannot be written.

  Example:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'training.png')
    >>> curve = Curve(np.array([1.0, 9.0]), np.array([2.3, 0.4]))
    >>> figure = draw_training(
    ...   path, {'sgd': {'base': [curve]}}, axis='seconds', title='Training')
    >>> figure.axes[0].get_ylabel()
    'test loss (nats)'
  """
  _styles.check_not_empty('curves', curves)
  worst = -math.inf if higher_is_better else math.inf
  styles = _styles.method_styles(_methods(curves), titles)
  figure = plotting.new_figure(max(1 + 3.4 * len(curves), 6.0), 4.6)
  panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
  drawn: list[np.ndarray] = []
  for ax, (base_optimizer, by_method) in zip(
    panels, curves.items(), strict=True
  ):
    for method, runs in by_method.items():
      where = f'curves[{base_optimizer!r}][{method!r}]'
      grid, values = _on_one_grid(where, runs, worst)
      drawn.append(values)
      _draw_median_and_range(ax, grid, values, styles[method])
    goal = target.get(base_optimizer) if isinstance(target, Mapping) else target
    if goal is not None:
      drawn.append(np.array(goal))
      ax.axhline(
        goal, color=plotting.GREY, linestyle=':', linewidth=1.2, label='target'
      )
    ax.set_title(f'base optimizer: {base_optimizer}', fontsize=10, loc='left')
    ax.set_xlabel(axis)
    ax.margins(x=0.01)
    _styles.finish(ax)
  panels[0].set_ylabel(y_title)
  _styles.enclose(panels[0], drawn, log=log_y)
  _styles.legend_below(figure, panels)
  return _styles.save(figure, path, title)


def _methods(curves: Mapping[str, Mapping[str, object]]) -> list[str]:
  """The methods of all base optimizers, in the order they are met."""
  return [method for by_method in curves.values() for method in by_method]


def _on_one_grid(
  where: str, runs: Sequence[Curve], worst: float
) -> tuple[np.ndarray, np.ndarray]:
  """Costs [n], and the values of all runs there [num_runs, n]."""
  _styles.check_not_empty(where, runs)
  pairs = []
  for run in runs:
    x, y = np.asarray(run.x, np.float64), np.asarray(run.y, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not x.size:
      raise InputError(
        f'{where}: x and y must be vectors of one length, got the shapes '
        f'{x.shape} and {y.shape}'
      )
    pairs.append((x, np.where(np.isfinite(y), y, worst)))
  if all(np.array_equal(x, pairs[0][0]) for x, _ in pairs):
    return pairs[0][0], np.array([y for _, y in pairs])
  # A run that ended by diverging stays diverged, and cuts off no other.
  ends = [x[-1] for x, y in pairs if np.isfinite(y[-1])]
  start = max(x[0] for x, _ in pairs)
  end = min(ends) if ends else max(x[-1] for x, _ in pairs)
  grid = np.linspace(start, max(start, end), _NUM_GRID_POINTS)
  return grid, np.array([_read_off(grid, x, y, worst) for x, y in pairs])


def _read_off(
  grid: np.ndarray, x: np.ndarray, y: np.ndarray, worst: float
) -> np.ndarray:
  """Values between evaluations; `worst` beside one that is not finite."""
  is_finite = np.isfinite(y)
  values = np.interp(grid, x, np.where(is_finite, y, 0.0))
  return np.where(np.interp(grid, x, ~is_finite) > 0, worst, values)


def _draw_median_and_range(
  ax: 'Axes', x: np.ndarray, values: np.ndarray, style: _styles.MethodStyle
) -> None:
  """Median and range over seeds, [num_seeds, n]; what is infinite, outside."""
  values = np.sort(values, axis=0)
  n = len(values)
  with np.errstate(invalid='ignore'):
    median = 0.5 * values[(n - 1) // 2] + 0.5 * values[n // 2]
  ax.plot(
    x,
    np.where(np.isfinite(median), median, np.nan),
    color=style.color,
    linestyle=style.line,
    linewidth=1.6,
    label=style.title,
    zorder=3,
  )
  if n == 1:
    return
  # Beyond every panel, but a number that can be drawn.
  far = 1e3 * np.abs(values[np.isfinite(values)]).max(initial=1.0)
  ax.fill_between(
    x,
    np.clip(values[0], -far, far),
    np.clip(values[-1], -far, far),
    color=style.color,
    alpha=0.14,
    linewidth=0,
    zorder=1,
  )


def rolling_mean(values: np.ndarray, num_averaged: int) -> np.ndarray:
  """Means of each value and the ones before it.

  Args:
    values: [n].
    num_averaged: values a mean is over, at most n.

  Returns:
    [n - num_averaged + 1].

  Example:
    >>> rolling_mean(np.array([1.0, 3.0, 5.0]), 2)
    array([2., 4.])
  """
  return np.convolve(values, np.full(num_averaged, 1 / num_averaged), 'valid')
