"""The demo's figures, drawn from its step records."""

from collections.abc import Mapping, Sequence
import pathlib

import numpy as np

from isgd_jax import plotting
from isgd_jax.experiments.demo.summary import METHOD_TITLES
from isgd_jax.experiments.figures import rolling_mean
from isgd_jax.experiments.figures import save_figure
from isgd_jax.experiments.runs.steps import StepMetrics

_METHOD_STYLES = {
  'base': (plotting.BLACK, '-'),
  'twice': (plotting.GREEN, '--'),
  'random': (plotting.ORANGE, '-.'),
  'isgd': (plotting.BLUE, '-'),
}


def draw_control_chart(
  path: pathlib.Path,
  metrics: StepMetrics,
  change_points: Sequence[int],
  title: str,
) -> None:
  """Draws the control chart of one ISGD run.

  Args:
    path: the file.
    metrics: `StepMetrics` of arrays [num_steps].
    change_points: steps at which the data drifted.
    title: above the figure.
  """
  figure = plotting.new_figure()
  ax = plotting.plot_control_chart(
    metrics.loss,
    metrics.mean,
    metrics.control_limit,
    metrics.is_undertrained,
    metrics.final_loss,
    change_points=change_points,
    ax=figure.add_subplot(),
  )
  # A drift multiplies the loss; what ISGD does about it is far smaller.
  ax.set_yscale('log')
  ax.yaxis.set_major_formatter('{x:g}')
  figure.suptitle(title, fontsize=11)
  save_figure(figure, path, dpi=150)


def draw_accuracy(
  path: pathlib.Path,
  accuracies: Mapping[str, Mapping[str, np.ndarray]],
  change_points: Sequence[int],
  title: str,
  num_averaged: int = 20,
) -> None:
  """Draws the rolling prequential accuracy of every method.

  Args:
    path: the file.
    accuracies: of each base optimizer, of each method, [num_steps] prequential
      accuracies in [0, 1].
    change_points: steps at which the data drifted.
    title: above the figure.
    num_averaged: batches a point is the mean of: its own and those before it.
  """
  figure = plotting.new_figure(8.0, 0.9 + 2.4 * len(accuracies))
  panels = figure.subplots(len(accuracies), sharex=True, squeeze=False)[:, 0]
  for ax, (base_optimizer, by_method) in zip(
    panels, accuracies.items(), strict=True
  ):
    for i, change_point in enumerate(change_points):
      ax.axvline(
        change_point,
        color=plotting.GREY,
        linestyle=':',
        linewidth=1,
        label='drift' if i == 0 else None,
      )
    for method, accuracy in by_method.items():
      color, line = _METHOD_STYLES[method]
      ax.plot(
        np.arange(num_averaged - 1, len(accuracy)),
        100 * rolling_mean(accuracy, num_averaged),
        color=color,
        linestyle=line,
        linewidth=1.5,
        label=METHOD_TITLES[method],
      )
    ax.set_title(f'base optimizer: {base_optimizer}', fontsize=10, loc='left')
    ax.set_ylabel('accuracy (%)')
    ax.set_ylim(0, 100)
    ax.margins(x=0.01)
    ax.set_xlim(left=0)
    ax.spines[['top', 'right']].set_visible(False)
  panels[-1].set_xlabel('step')
  handles, labels = panels[0].get_legend_handles_labels()
  figure.legend(
    handles, labels, loc='outside lower center', ncols=5, frameon=False
  )
  figure.suptitle(title, fontsize=11)
  save_figure(figure, path, dpi=150)
