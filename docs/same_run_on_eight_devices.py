"""Trains one run on 1 and on 8 devices, and draws both: docs/devices.

python docs/same_run_on_eight_devices.py: about half a minute on two CPU cores,
of which the eight devices are virtual ones.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from matplotlib.axes import Axes
import numpy as np

from isgd_jax import plotting
from isgd_jax.experiments.environment import environment
from isgd_jax.experiments.figures import save_figure
from isgd_jax.experiments.files import read_records
from isgd_jax.experiments.files import replace_file

_OUT = pathlib.Path(__file__).parent / 'devices'
_OPTIONS = (
  *('--dataset', 'digits', '--model', 'mlp', '--batch-size', '64'),
  *('--learning-rate', '0.1', '--window-size', '20'),
  *('--sigma-multiplier', '1.5', '--flagged-losses', 'keep'),
  *('--steps', '240'),
)
_NUM_DEVICES = (1, 8)
_TIME_LIMIT_SECONDS = 600


def main() -> None:
  """Runs both, and writes `curves.png`, `curves.svg` and `summary.json`."""
  runs = {}
  with tempfile.TemporaryDirectory() as folder:
    for count in _NUM_DEVICES:
      out = pathlib.Path(folder, str(count))
      subprocess.run(
        [
          *(sys.executable, '-m', 'isgd_jax.experiments', 'train'),
          *(*_OPTIONS, '--num-devices', str(count), '--out', str(out)),
        ],
        check=True,
        timeout=_TIME_LIMIT_SECONDS,
        stdout=subprocess.DEVNULL,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
      )
      steps = list(read_records(out / 'metrics.jsonl'))
      runs[count] = {
        name: np.array([step[name] for step in steps], float)
        for name in ('step', 'loss', 'mean', 'control_limit', 'is_undertrained')
      } | {'tests': list(read_records(out / 'evaluations.jsonl'))}
  _OUT.mkdir(exist_ok=True)
  summary = _summary(runs)
  text = json.dumps(summary, indent=2) + '\n'
  replace_file(_OUT / 'summary.json', lambda new: new.write_text(text))
  _draw(runs)
  print(text)


def _summary(runs: dict) -> dict:
  """What the two runs have in common, in numbers."""
  one, eight = (runs[count] for count in _NUM_DEVICES)
  difference = np.abs(one['loss'] - eight['loss'])
  return {
    'command': ' '.join(['isgd-jax train', *_OPTIONS, '--num-devices 1 | 8']),
    'steps': len(difference),
    'largest_difference_of_a_loss': float(difference.max()),
    'at_a_loss_of': float(one['loss'][difference.argmax()]),
    'largest_difference_in_the_first_30_steps': float(difference[:30].max()),
    'flagged': [int(run['is_undertrained'].sum()) for run in (one, eight)],
    'steps_flagged_in_one_alone': int(
      (one['is_undertrained'] != eight['is_undertrained']).sum()
    ),
    'test_accuracy': [run['tests'][-1]['accuracy'] for run in (one, eight)],
    'test_loss': [run['tests'][-1]['loss'] for run in (one, eight)],
    **environment(),
  }


def _draw(runs: dict) -> None:
  """Both runs over each other, and their difference below."""
  figure = plotting.new_figure(8.0, 5.0)
  top, bottom = figure.subplots(2, sharex=True, height_ratios=[3, 1])
  one, eight = (runs[count] for count in _NUM_DEVICES)
  # One wide and pale, the other thin and dark: both are seen where they meet.
  top.plot(
    one['step'],
    one['loss'],
    color=plotting.SKY_BLUE,
    linewidth=4,
    label='1 device',
  )
  top.plot(
    eight['step'],
    eight['loss'],
    color=plotting.BLACK,
    linewidth=0.8,
    label='8 devices',
  )
  limit = np.where(
    np.isfinite(eight['control_limit']), eight['control_limit'], np.nan
  )
  top.plot(
    eight['step'],
    limit,
    color=plotting.VERMILION,
    linewidth=1,
    linestyle='--',
    label='upper control limit, 8 devices',
  )
  for run, marker, size in ((one, 'o', 60), (eight, 'x', 30)):
    flagged = run['is_undertrained'].astype(bool)
    top.scatter(
      run['step'][flagged],
      run['loss'][flagged],
      s=size,
      marker=marker,
      color=plotting.VERMILION if marker == 'x' else plotting.ORANGE,
      label=f'flagged on {1 if marker == "o" else 8}',
      zorder=3,
    )
  top.set_yscale('log')
  top.yaxis.set_major_formatter('{x:g}')
  top.set_ylabel('batch loss (nats)')
  top.legend(frameon=False, fontsize=8, ncols=2)
  difference = np.abs(one['loss'] - eight['loss'])
  # What is no difference at all has no place on a logarithmic axis.
  bottom.plot(
    one['step'],
    np.where(difference > 0, difference, np.nan),
    '.',
    markersize=3,
    color=plotting.BLACK,
  )
  bottom.set_yscale('log')
  bottom.set_ylabel('difference')
  bottom.set_xlabel('step (mlp on digits, isgd over momentum, batches of 64)')
  _plain(top)
  _plain(bottom)
  figure.suptitle('One run on 1 and on 8 CPU devices', fontsize=11)
  for name in ('curves.png', 'curves.svg'):
    save_figure(figure, _OUT / name)


def _plain(ax: Axes) -> None:
  """No frame but the axes."""
  ax.spines[['top', 'right']].set_visible(False)
  ax.margins(x=0.01)


if __name__ == '__main__':
  main()
