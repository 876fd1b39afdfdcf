"""What `isgd-jax train` and `isgd-jax chart` print and draw."""

import os
import pathlib
from typing import Any

import numpy as np

from isgd_jax import plotting
from isgd_jax.experiments._errors import InputError
from isgd_jax.experiments._errors import missing_extra
from isgd_jax.experiments.results import read_records
from isgd_jax.experiments.results import replace_file
from isgd_jax.experiments.trainer import folder
from isgd_jax.experiments.trainer import logs
from isgd_jax.experiments.trainer import loop
from isgd_jax.experiments.trainer.config import TrainConfig

try:
  import tqdm
except ImportError as error:
  raise missing_extra('tqdm') from error

PICTURE = 'control_chart.png'
# More steps than a picture has pixels hide one another.
_DEFAULT_NUM_STEPS = 2000
_DRAWN = {
  *('step', 'loss', 'mean', 'control_limit', 'is_undertrained'),
  'final_loss',
}
_ENDINGS = ('.png', '.pdf', '.svg')


def run(config: TrainConfig, out: str, *, resume: bool) -> None:
  """Trains, and prints the options and what came of it.

  Args:
    config: the run.
    out: its folder.
    resume: carry on the run in `out`.

  Raises:
    Exception: as `loop.train`.
  """
  # Above the progress bar, where there is one.
  result = loop.train(config, out, resume=resume, say=tqdm.tqdm.write)
  print(summary(config, result))
  if config.isgd.method != 'base':
    print(f'Control chart: {draw_chart(out)}')
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
    flagged = totals['num_undertrained']
    lines.append(
      f'Under-trained batches: {flagged:,} ({flagged / result.num_steps:.2%}); '
      f'chase steps: {totals["num_chase_steps"]:,} '
      f'({totals["num_chase_steps"] / evaluations:.2%} of the gradient '
      f'evaluations); chases that fell back to the base update: '
      f'{totals["num_chases_reverted"]:,}.'
    )
  if totals['num_undecodable']:
    lines.append(
      f'Images that could not be decoded and did not count: '
      f'{totals["num_undecodable"]:,}, each as often as it came.'
    )
  return '\n'.join(lines)


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
  from matplotlib import ticker

  config = folder.load_config(run_folder)
  path = (
    pathlib.Path(run_folder) / PICTURE if out is None else pathlib.Path(out)
  )
  if path.suffix not in _ENDINGS:
    raise InputError(f"--out '{path}' must end in one of {', '.join(_ENDINGS)}")
  if config.isgd.method == 'base':
    raise InputError(
      f"the run in '{run_folder}' has no control chart, since it was made with "
      '--method base; --max-chase-steps 0 gives a chart that only watches'
    )
  records = _records(pathlib.Path(run_folder), first_step, last_step)
  columns = {name: [r[name] for r in records] for name in records[0]}
  limits = np.array(columns['control_limit'], np.float64)  # None becomes NaN.
  figure = plotting.new_figure()
  ax = figure.add_subplot()
  plotting.plot_control_chart(
    np.array(columns['loss'], np.float64),
    np.array(columns['mean'], np.float64),
    limits,
    np.array(columns['is_undertrained']),
    np.array(columns['final_loss'], np.float64),
    first_step=columns['step'][0],
    ax=ax,
  )
  ax.set_yscale('log')
  # 0.05, not 5 x 10^-2.
  ax.yaxis.set_minor_locator(ticker.LogLocator(subs=(2.0, 3.0, 5.0)))
  ax.yaxis.set_major_formatter('{x:g}')
  ax.yaxis.set_minor_formatter('{x:g}')
  base = config.optimizer.base
  ax.set_xlabel(
    f'step ({config.model} on {config.data.dataset}, {config.isgd.method} over '
    f'{base}, learning rate {config.optimizer.learning_rate:g})'
  )
  replace_file(path, lambda new: figure.savefig(new))
  return path


def _records(
  run_folder: pathlib.Path, first_step: int | None, last_step: int | None
) -> list[dict[str, Any]]:
  """The steps to draw."""
  path = run_folder / logs.METRICS
  records = list(read_records(path)) if path.is_file() else []
  if not all(isinstance(r, dict) and r.keys() >= _DRAWN for r in records):
    raise InputError(f"'{path}' is damaged: a line in it is no step of a run")
  if not records:
    raise InputError(f"the run in '{run_folder}' has not made a step yet")
  last = records[-1]['step'] if last_step is None else last_step
  first = (
    max(1, last - _DEFAULT_NUM_STEPS + 1) if first_step is None else first_step
  )
  chosen = [record for record in records if first <= record['step'] <= last]
  if not chosen:
    raise InputError(
      f"no step from {first} to {last} in the run in '{run_folder}', which "
      f'has steps 1 to {records[-1]["step"]}'
    )
  return chosen
