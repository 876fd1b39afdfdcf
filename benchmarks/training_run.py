"""What a whole run costs: ISGD against its base, waiting for data, and logging.

* Whole runs: `isgd-jax train` as processes, with ISGD and with the base alone
  in turn (A B A B ...), from start to end: imports, compilation, evaluation,
  checkpoints and logs.
* Waiting: LeNet on Fashion-MNIST, batch 128. The share of the time that the
  loop stands in `next(batches)`, without the first point of the log (which has
  the compilation in it). The device can wait for data only while the loop does,
  so this bounds the device's waiting from above.
* Logging: blocks of steps of some 10 ms, with their reports fetched, and then
  written to metrics.jsonl and TensorBoard or not, in turn. The median over the
  pairs of the time of a block with logging, over that without.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import tqdm

from benchmarks import measuring
from isgd_jax.experiments.train import inputs
from isgd_jax.experiments.train import logs
from isgd_jax.experiments.train import loop
from isgd_jax.experiments.train import optimizers
from isgd_jax.experiments.train import steps
from isgd_jax.experiments.train.config import DataConfig
from isgd_jax.experiments.train.config import TrainConfig
from isgd_jax.experiments.train.reports import unpack

NUM_WAITING_STEPS = 320
NUM_LOGGING_PAIRS = 60
# Name -> options of `isgd-jax train`.
WHOLE_RUNS = {
  'mlp, digits, 20 epochs': (
    *('--dataset', 'digits', '--model', 'mlp', '--epochs', '20'),
  ),
  'mlp, Fashion-MNIST, 4 epochs': (
    *('--dataset', 'fashion-mnist', '--model', 'mlp', '--epochs', '4'),
  ),
  'lenet, Fashion-MNIST, 300 steps': (
    *('--dataset', 'fashion-mnist', '--model', 'lenet', '--steps', '300'),
  ),
}
NUM_RUN_PAIRS = 3
BLOCK_SIZE = 32


def waiting(num_steps: int) -> dict[str, float]:
  """The share of its time that a run waits for data."""
  config = TrainConfig(
    model='lenet',
    data=DataConfig(dataset='fashion-mnist'),
    steps=num_steps,
    evaluate_every=10 * num_steps,
    log_every=32,
  )
  with tempfile.TemporaryDirectory() as folder:
    loop.train(config, folder, show_progress=True)
    timing = (pathlib.Path(folder) / logs.TIMING).read_text().splitlines()
  points = [json.loads(line) for line in timing[1:]]
  seconds = sum(point['seconds'] for point in points)
  waited = sum(point['wait_seconds'] for point in points)
  measured = sum(point['num_steps'] for point in points)
  return {
    'step_ms': 1e3 * seconds / measured,
    'wait_ms': 1e3 * waited / measured,
    'share_waiting': waited / seconds,
  }


def logging(num_pairs: int) -> dict[str, float]:
  """The time of steps that are logged over that of steps that are not."""
  config = TrainConfig(
    model='lenet', data=DataConfig(dataset='fashion-mnist', batch_size=32)
  )
  dataset = inputs.load_run_dataset(config)
  programs = steps.build_steps(
    lambda rngs: inputs.create_network(config, dataset, rngs),
    dataset,
    optimizers.build_optimizer(config, 100),
    seed=0,
  )
  record = jax.device_put(dataset.train.__getitems__(range(32)))
  weight = jax.device_put(np.ones(32, np.float32))
  state = programs.init()

  def block(state, log, first_step):
    """Seconds of a block of steps; without a log, its reports are fetched."""
    begin, reports = time.perf_counter(), []
    for _ in range(BLOCK_SIZE):
      state, report = programs.train(state, record, weight)
      reports.append(report)
    report = unpack(np.stack(jax.device_get(reports)))
    if log is not None:
      positions = [(first_step + i, 0, i) for i in range(BLOCK_SIZE)]
      log.write_steps(positions, report, 0.0)
    return state, time.perf_counter() - begin

  with (
    tempfile.TemporaryDirectory() as folder,
    logs.RunLog(pathlib.Path(folder), 0, config.log_every) as log,
  ):
    state, _ = block(state, log, 1)
    pairs = []
    for pair in tqdm.trange(num_pairs, desc='logging'):
      state, with_log = block(state, log, 1 + BLOCK_SIZE * (pair + 1))
      state, without = block(state, None, 0)
      pairs.append((with_log, without))
  ratios = [with_log / without for with_log, without in pairs]
  low, high = np.quantile(ratios, [0.25, 0.75])
  return {
    'step_ms': 1e3 * float(np.median([b for _, b in pairs])) / BLOCK_SIZE,
    'ratio': float(np.median(ratios)),
    'ratio_quartiles': [float(low), float(high)],
  }


def whole_run(name: str, options: tuple[str, ...]) -> dict[str, object]:
  """Wall-clock of runs with ISGD over runs with the base alone."""
  pairs, shares = [], []
  for _ in tqdm.trange(NUM_RUN_PAIRS, desc=name):
    seconds = {}
    for method in ('base', 'isgd'):
      with tempfile.TemporaryDirectory() as folder:
        command = [
          *(sys.executable, '-m', 'isgd_jax.experiments', 'train', *options),
          *('--method', method, '--out', f'{folder}/run'),
        ]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, timeout=1800)
        seconds[method] = time.perf_counter() - start
        if method == 'isgd':
          shares.append(share_chasing(pathlib.Path(folder) / 'run'))
    pairs.append((seconds['isgd'], seconds['base']))
  isgd, base = np.array(pairs).T
  low, high = np.quantile(isgd / base, [0.25, 0.75])
  return {
    'run': name,
    'base_seconds': float(np.median(base)),
    'isgd_seconds': float(np.median(isgd)),
    'ratio': float(np.median(isgd) / np.median(base)),
    'ratio_quartiles': [float(low), float(high)],
    'share_chasing': float(np.median(shares)),
  }


def share_chasing(folder: pathlib.Path) -> float:
  """Chase evaluations over all gradient evaluations of a run."""
  metrics = (folder / logs.METRICS).read_text().splitlines()
  spent = [json.loads(line)['num_gradient_evaluations'] for line in metrics]
  return 1 - len(spent) / sum(spent)


def main(seconds: float) -> None:
  """Measures all three; the time it takes is its own."""
  del seconds
  rows = [whole_run(name, options) for name, options in WHOLE_RUNS.items()]
  print(rows, flush=True)
  measuring.append(
    'training_run',
    rows,
    waiting=waiting(NUM_WAITING_STEPS),
    logging=logging(NUM_LOGGING_PAIRS),
  )
