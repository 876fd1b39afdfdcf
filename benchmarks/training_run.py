"""What a whole run spends beside its steps: waiting for data, and logging.

Prints two figures and appends them as a JSON line to `--out`. Run by hand, on a
machine with nothing else to do:

    make bench

* Waiting: `isgd-jax train`, LeNet on Fashion-MNIST, batch 128. The share of the
  time that the loop stands in `next(batches)`, without the first point of the
  log (which has the compilation in it). The device can wait for data only while
  the loop does, so this bounds the device's waiting from above.
* Logging: blocks of steps of some 10 ms, with their reports fetched, and then
  written to metrics.jsonl and TensorBoard or not, in turn (A B A B ...). The
  median over the pairs of the time of a block with logging, over that without.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import tempfile
import time

import jax
import numpy as np
import tqdm

from isgd_jax.experiments.trainer import inputs
from isgd_jax.experiments.trainer import logs
from isgd_jax.experiments.trainer import loop
from isgd_jax.experiments.trainer import optimizers
from isgd_jax.experiments.trainer import steps
from isgd_jax.experiments.trainer.config import DataConfig
from isgd_jax.experiments.trainer.config import TrainConfig

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
  dataset = inputs.load_dataset(config)
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
    report = steps.unpack(np.stack(jax.device_get(reports)))
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


def main() -> None:
  """Measures, prints, and appends to a file."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--steps', type=int, default=320)
  parser.add_argument('--pairs', type=int, default=60)
  args = parser.parse_args()
  record = {
    'date': datetime.date.today().isoformat(),
    'device': jax.devices()[0].device_kind,
    'num_cpus': os.cpu_count(),
    'python': platform.python_version(),
    **{
      name: importlib.metadata.version(name)
      for name in ('jax', 'flax', 'grain', 'tensorboardX')
    },
    'waiting': waiting(args.steps),
    'logging': logging(args.pairs),
  }
  print(json.dumps(record, indent=2))
  with args.out.open('a') as file:
    file.write(json.dumps(record) + '\n')


if __name__ == '__main__':
  main()
