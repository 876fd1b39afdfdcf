"""What `isgd-jax train` and `isgd-jax chart` print and draw."""

import os
import pathlib
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import isgd_jax
from isgd_jax import plotting
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.figures import FigureFormat
from isgd_jax.experiments.figures import save_figure
from isgd_jax.experiments.files import read_records
from isgd_jax.experiments.progress import say
from isgd_jax.experiments.train import folder
from isgd_jax.experiments.train import logs
from isgd_jax.experiments.train import loop
from isgd_jax.experiments.train.config import TrainConfig
from isgd_jax.experiments.train.devices import DevicesConfig
from isgd_jax.plotting import _chart_figure

if TYPE_CHECKING:
  from matplotlib.axes import Axes

PICTURE = 'control_chart.png'
CYCLE_PICTURE = 'cycle.png'
# More steps than a picture has pixels hide one another.
_DEFAULT_NUM_STEPS = 2000
_ENDINGS = ('.png', '.pdf', '.svg')


def run(
  config: TrainConfig,
  out: str,
  *,
  resume: bool,
  devices: DevicesConfig,
  skip_batches: str | None = None,
  figure_format: FigureFormat = 'png',
) -> None:
  """Trains, and prints the options and what came of it.

  Of several processes the first one alone prints and draws.

  Args:
    config: the run.
    out: its folder.
    resume: carry on the run in `out`.
    devices: where it computes.
    skip_batches: file of batches that get no update, or None.
    figure_format: of the control chart.

  Raises:
    Exception: as `loop.train`.
  """
  # Above the progress bar, where there is one.
  result = loop.train(
    config,
    out,
    resume=resume,
    devices=devices,
    skip_batches=skip_batches,
    say=say,
  )
  if jax.process_index() != 0:
    return
  print(summary(config, result))
  if config.isgd.method != 'base':
    picture = (pathlib.Path(out) / PICTURE).with_suffix(f'.{figure_format}')
    print(f'Control chart: {draw_chart(out, picture)}')
  print(f'TensorBoard:   tensorboard --logdir {out}/{logs.TENSORBOARD}')


def summary(config: TrainConfig, result: loop.TrainResult) -> str:
  """A run's results in words.

  Args:
    config: the run.
    result: what came of it.

  Returns:
    A few lines.
  """
  totals = result.totals
  evaluations = totals['num_gradient_evaluations']
  lines = [
    f'Test accuracy {result.test_accuracy:.2%}, test loss '
    f'{result.test_loss:.4f} nats after {result.num_steps:,} steps and '
    f'{evaluations:,} gradient evaluations.'
  ]
  if config.isgd.method != 'base':
    lines.append(_judged(result.num_steps, totals))
  if config.isgd.method != 'base' and totals['num_judged']:
    flagged = totals['num_undertrained']
    lines.append(
      f'Under-trained batches: {flagged:,} '
      f'({flagged / totals["num_judged"]:.2%} of the judged ones); '
      f'chase steps: {totals["num_chase_steps"]:,} '
      f'({totals["num_chase_steps"] / evaluations:.2%} of the gradient '
      f'evaluations); chases that fell back to the base update: '
      f'{totals["num_chases_reverted"]:,}.'
    )
  if config.isgd.method == 'isgd' and totals['num_judged']:
    # What is kept of the chart is small, and alike in all processes.
    kept = jax.device_get(result.state.opt_state.packed_info)
    lines.append(isgd_jax.describe_chases(isgd_jax.get_info(kept)))
  if config.isgd.method == 'skip':
    dropped = totals['num_skipped'] - totals['num_left_out']
    lines.append(f'Batches dropped: {dropped:,}.')
  if totals['num_left_out']:
    lines.append(
      f'Batches left out (--skip-batches): {totals["num_left_out"]:,}.'
    )
  if totals['num_undecodable']:
    lines.append(
      f'Images that could not be decoded and did not count: '
      f'{totals["num_undecodable"]:,}, each as often as it came.'
    )
  return '\n'.join(lines)


def _judged(num_steps: int, totals: dict[str, int]) -> str:
  """How many batches the chart could judge."""
  num_judged = totals['num_judged']
  num_unjudged = num_steps - num_judged - totals['num_left_out']
  if not num_judged:
    return (
      'No batch was judged: the window of the control chart did not fill, and '
      'without limits nothing can be found out of control.'
    )
  text = f'Judged by the control chart: {num_judged:,} batches'
  if num_unjudged:
    text += f'; not judged, in Phase I: {num_unjudged:,}'
  return f'{text}.'


def draw_chart(
  run_folder: str | os.PathLike[str],
  out: str | os.PathLike[str] | None = None,
  first_step: int | None = None,
  last_step: int | None = None,
) -> pathlib.Path:
  """Draws the control chart of a run from its metrics.

  Args:
    run_folder: the run, finished or under way.
    out: the picture, by default `control_chart.png` in the run's folder.
    first_step: first step to draw, by default the last 2000 are drawn.
    last_step: last step to draw, by default the newest.

  Returns:
    The picture.

  Raises:
    InputError: there is no run, no step to draw, or no chart.
    OutputError: the picture cannot be written.
  """
  config = folder.load_config(run_folder)
  path = _picture(run_folder, out, PICTURE)
  if config.isgd.method == 'base':
    raise InputError(
      f"the run in '{run_folder}' has no control chart, since it was made with "
      '--method base; --method watch gives a chart that only watches'
    )
  source = _metrics(run_folder)
  if first_step is None:
    last = _last_step(source) if last_step is None else last_step
    first_step = max(1, last - _DEFAULT_NUM_STEPS + 1)
  try:
    ax = plotting.plot_run(source, first_step=first_step, last_step=last_step)
  except ValueError as error:
    raise InputError(str(error)) from error
  isgd = config.isgd
  _finish_axes(ax)
  _chart_figure.draw_legend(ax)
  # Under the panel of trust, where there is one.
  ax.figure.axes[-1].set_xlabel(
    f'step ({config.model} on {config.data.dataset}, {isgd.method} over '
    f'{config.optimizer.base}, {isgd.chart} chart)',
  )
  figure: Any = ax.figure
  save_figure(figure, path)
  return path


def draw_cycle(
  run_folder: str | os.PathLike[str],
  out: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
  """Draws the batch losses of a run by their position in the cycle.

  Args:
    run_folder: the run, finished or under way.
    out: the picture, by default `cycle.png` in the run's folder.

  Returns:
    The picture.

  Raises:
    InputError: there is no run, no step to draw, or no cycle.
    OutputError: the picture cannot be written.
  """
  config = folder.load_config(run_folder)
  path = _picture(run_folder, out, CYCLE_PICTURE)
  if config.data.sampling != 'fixed-cycle':
    raise InputError(
      f"the run in '{run_folder}' has no cycle, since it was made with "
      f'--sampling {config.data.sampling}'
    )
  source = _metrics(run_folder)
  records = list(read_records(source))
  if not all(
    isinstance(r, dict) and {'batch', 'loss'} <= r.keys() for r in records
  ):
    raise InputError(f"'{source}' is damaged: a line in it is no step of a run")
  if not records:
    raise InputError(f"the run in '{run_folder}' has not made a step yet")
  figure = plotting.new_figure()
  ax = plotting.plot_cycle(
    np.array([record['loss'] for record in records], np.float64),
    1 + max(record['batch'] for record in records),
    ax=figure.add_subplot(),
  )
  _finish_axes(ax)
  ax.set_xlabel(
    f'position in the cycle ({config.model} on {config.data.dataset}, '
    f'{config.isgd.method} over {config.optimizer.base})',
  )
  save_figure(figure, path)
  return path


def _picture(
  run_folder: str | os.PathLike[str],
  out: str | os.PathLike[str] | None,
  name: str,
) -> pathlib.Path:
  """Where to draw to."""
  path = pathlib.Path(run_folder) / name if out is None else pathlib.Path(out)
  if path.suffix not in _ENDINGS:
    raise InputError(f"--out '{path}' must end in one of {', '.join(_ENDINGS)}")
  return path


def _metrics(run_folder: str | os.PathLike[str]) -> pathlib.Path:
  """The steps of a run, which has made some."""
  path = pathlib.Path(run_folder) / logs.METRICS
  if not path.is_file() or not path.stat().st_size:
    raise InputError(f"the run in '{run_folder}' has not made a step yet")
  return path


def _last_step(path: pathlib.Path) -> int:
  """The number of the newest step."""
  last = 0
  for record in read_records(path):
    if isinstance(record, dict):
      last = record.get('step', last)
  return last


def _finish_axes(ax: 'Axes') -> None:
  """A logarithmic loss, in plain numbers."""
  from matplotlib import ticker

  ax.set_yscale('log')
  # 0.05, not 5 x 10^-2.
  ax.yaxis.set_minor_locator(ticker.LogLocator(subs=(2.0, 3.0, 5.0)))
  ax.yaxis.set_major_formatter('{x:g}')
  ax.yaxis.set_minor_formatter('{x:g}')
