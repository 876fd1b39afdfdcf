"""The planner's figures: seconds a step, and seconds to the target."""

import pathlib
from typing import TYPE_CHECKING

import numpy as np

from isgd_jax import batch_size
from isgd_jax import plotting
from isgd_jax.experiments.figures import save_figure
from isgd_jax.experiments.plan_batch_size.config import PlanConfig
from isgd_jax.experiments.plan_batch_size.plan import LAW_TITLES
from isgd_jax.experiments.plan_batch_size.plan import TOLERANCE
from isgd_jax.experiments.plan_batch_size.plan import SizePlan

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_LAW_STYLES = {
  'critical-batch': (plotting.BLUE, '-'),
  'paper': (plotting.ORANGE, '--'),
}
_DPI = 150


def draw_step_time(
  path: pathlib.Path, times: batch_size.StepSeconds, plan: SizePlan, title: str
) -> None:
  """Draws seconds a step and throughput, measured and fitted.

  Args:
    path: the file.
    times: seconds a step.
    plan: made of them.
    title: above the figure.
  """
  figure = plotting.new_figure(9.0, 4.2)
  left, right = figure.subplots(1, 2)
  sizes, model = times.batch_sizes, plan.step_time_model
  grid = np.geomspace(sizes[0], sizes[-1], 400)
  milliseconds = 1e3 * np.array(
    [times.median, times.lower_quartile, times.upper_quartile]
  )
  for ax, values, fitted, label in (
    (left, milliseconds, 1e3 * model.step_seconds(grid), 'step (ms)'),
    (
      right,
      1e3 * sizes / milliseconds,
      grid / model.step_seconds(grid),
      'throughput (examples / s)',
    ),
  ):
    ax.plot(
      grid, fitted, color=plotting.BLUE, label='fit: max(b, b0) / C1 + C2'
    )
    ax.errorbar(
      sizes,
      values[0],
      np.abs(values[1:] - values[0]) if ax is left else _span(values),
      color=plotting.BLACK,
      linestyle='none',
      marker='o',
      markersize=4,
      capsize=3,
      label='measured, median and quartiles',
    )
    if model.knee > 0:
      ax.axvline(
        model.knee,
        color=plotting.GREY,
        linestyle=':',
        label=f'knee b0 = {model.knee:.0f}',
      )
    ax.set_ylabel(label)
    _finish(ax, sizes)
    ax.set_yscale('log')
    _plain_numbers(ax)
  figure.legend(
    *left.get_legend_handles_labels(),
    loc='outside lower center',
    ncols=3,
    frameon=False,
    fontsize=9,
  )
  figure.suptitle(title, fontsize=11)
  save_figure(figure, path, dpi=_DPI)


def draw_time_to_target(
  path: pathlib.Path, config: PlanConfig, plan: SizePlan, title: str
) -> None:
  """Draws the predicted time to the target by both laws.

  Args:
    path: the file.
    config: what was planned for.
    plan: the plan.
    title: above the figure.
  """
  figure = plotting.new_figure(8.0, 4.5)
  ax = figure.add_subplot()
  sizes = plan.recommended.candidates
  grid = np.geomspace(sizes[0], sizes[-1], 400)
  for name, law in plan.laws.items():
    color, line = _LAW_STYLES[name]
    best = plan.plans[name]
    seconds = batch_size.time_to_loss(grid, plan.step_time_model, law)
    ax.plot(grid, seconds, color=color, linestyle=line, label=LAW_TITLES[name])
    low, high = best.plateau
    ax.axvspan(
      low,
      high,
      color=color,
      alpha=0.15,
      linewidth=0,
      label=f'within {TOLERANCE:.0%}: {low} to {high}',
    )
    ax.plot(
      best.batch_size,
      best.seconds,
      color=color,
      marker='o',
      linestyle='none',
      label=f'optimum: {best.batch_size}',
    )
  pilot = config.pilot_batch_size
  if sizes[0] <= pilot <= sizes[-1]:
    ax.axvline(pilot, color=plotting.GREY, linestyle=':')
    ax.annotate(
      ' pilot run',
      (pilot, 0.97),
      xycoords=ax.get_xaxis_transform(),
      fontsize=9,
      color='dimgrey',
    )
  ax.set_ylabel(f'predicted seconds to a loss of {plan.target_loss:.4g} nats')
  _finish(ax, sizes)
  ax.set_yscale('log')
  _plain_numbers(ax)
  figure.legend(
    *ax.get_legend_handles_labels(),
    loc='outside lower center',
    ncols=2,
    frameon=False,
    fontsize=9,
  )
  figure.suptitle(title, fontsize=11)
  save_figure(figure, path, dpi=_DPI)


def _span(values: np.ndarray) -> np.ndarray:
  """Distances below and above, where a long time is a low throughput."""
  return np.abs(values[:0:-1] - values[0])


def _finish(ax: 'Axes', sizes: np.ndarray) -> None:
  """A logarithmic axis of batch sizes, with powers of two on it."""
  powers = 2.0 ** np.arange(
    np.ceil(np.log2(sizes[0])), np.floor(np.log2(sizes[-1])) + 1
  )
  ax.set_xscale('log', base=2)
  ax.set_xticks(powers[:: max(len(powers) // 8, 1)])
  ax.xaxis.set_major_formatter('{x:g}')
  ax.set_xlabel('batch size (examples)')
  ax.spines[['top', 'right']].set_visible(False)


def _plain_numbers(ax: 'Axes') -> None:
  """0.05 on a logarithmic axis, not 5 x 10^-2."""
  from matplotlib import ticker

  ax.yaxis.set_major_formatter('{x:,g}')
  low, high = ax.get_ylim()
  # Over more than two decades they would run into one another.
  if high / low < 100:
    ax.yaxis.set_minor_locator(ticker.LogLocator(subs=(2.0, 3.0, 5.0)))
    ax.yaxis.set_minor_formatter('{x:,g}')
  else:
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())
