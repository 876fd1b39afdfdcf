"""Whether the batch-size planner's laws predict what training needs.

An MLP with 128 hidden units is trained to a fixed smoothed training loss at six
batch sizes, with momentum, on digits, on Fashion-MNIST (Debian's package
dataset-fashion-mnist) and, where `--mnist` names the folder of its files, on
MNIST. The learning rate is tuned at each size, on a grid a factor of 2 apart
that grows where its best rate is at an edge; tuning seeds are apart from
reporting seeds. Then come the seconds of a step at each size, and what the
planner would measure: a pilot run at batch 128 with the gradient noise scale at
five points of it.

Writes JSON lines to `--out`, and no predictions: `docs/batch_size_results.py`
makes these, the tables and the figure from the lines.

    make bench

With `--workloads` these alone are measured, and with `--only-seconds` the
seconds of a step alone; the rest of `--out` stays as it is. MNIST alone:

    batch_size_validation.py --workloads mnist --mnist DIR --out FILE
"""

import argparse
from collections.abc import Iterator, Sequence
import datetime
import functools
import itertools
import json
import math
import pathlib
import statistics
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from isgd_jax import batch_size as planner
from isgd_jax.experiments import datasets
from isgd_jax.experiments import files
from isgd_jax.experiments import models
from isgd_jax.experiments.environment import environment
from isgd_jax.experiments.plan_batch_size import losses

BATCH_SIZES = (16, 32, 64, 128, 256, 512)
PILOT_BATCH_SIZE = 128
# From the middle outwards: what is worse than twice the best is cut short.
RATES = tuple(0.02 * 2.0**k for k in (0, 1, -1, 2, -2, 3, -3))
TUNING_SEEDS = (100, 101, 102)
REPORTING_SEEDS = (0, 1, 2, 3, 4)
NUM_NOISE_BATCHES = 48
NUM_REPEATS = 300
_CHUNK_EXAMPLES = 16384

Record = dict[str, Any]


class Workload(NamedTuple):
  """A data set, and the loss to train to.

  Attributes:
    name: of the data set.
    target_loss: smoothed training loss, nats.
    smoothing_examples: so many are averaged.
    max_epochs: a run that takes more misses the target.
    same_step_as: a workload of the same shapes, whose seconds of a step are
      its seconds too; None where they are measured.
  """

  name: str
  target_loss: float
  smoothing_examples: int
  max_epochs: int
  same_step_as: str | None = None


WORKLOADS = (
  Workload('digits', 0.1, smoothing_examples=1024, max_epochs=150),
  Workload('fashion-mnist', 0.35, smoothing_examples=4096, max_epochs=12),
  Workload(
    *('mnist', 0.1),
    smoothing_examples=4096,
    max_epochs=12,
    same_step_as='fashion-mnist',
  ),
)


class Problem:
  """A network on a data set in memory, and its compiled steps."""

  def __init__(self, workload: Workload, data_dir: str | None = None):
    """Loads the data onto the device."""
    dataset = datasets.load_dataset(workload.name, data_dir=data_dir)
    images = dataset.train.images.astype(np.float32)
    if dataset.train.images.dtype == np.uint8:
      images /= 255
    images = (images - np.float32(dataset.pixel_mean)) / np.float32(
      dataset.pixel_std
    )
    self.workload = workload
    self.data = jnp.asarray(images), jnp.asarray(dataset.train.labels)
    self.num_examples = len(images)
    self.model = models.build_model(
      'mlp', dataset.example_shape, dataset.num_classes
    )

  def loss_fn(self, params: Any, batch: Any) -> jax.Array:
    """Mean loss of a batch."""
    return self.model.loss_fn(params, batch)[0]

  @functools.cached_property
  def step(self):
    """One training step."""

    def step(carry, batch, learning_rate):
      params, opt_state = carry
      loss, grads = jax.value_and_grad(self.loss_fn)(params, batch)
      updates, opt_state = optimizer(learning_rate).update(
        grads, opt_state, params
      )
      return (optax.apply_updates(params, updates), opt_state), loss

    return step

  @functools.cached_property
  def chunk(self):
    """Many steps: `chunk(carry, indices, rate, data) -> (carry, losses)`."""

    @functools.partial(jax.jit, donate_argnums=0)
    def chunk(carry, indices, learning_rate, data):
      return jax.lax.scan(
        lambda carry, i: self.step(
          carry, jax.tree.map(lambda x: x[i], data), learning_rate
        ),
        carry,
        indices,
      )

    return chunk

  def init(self, seed: int, learning_rate: float) -> Any:
    """What a step carries, from a seed."""
    params = self.model.init(seed)
    return params, optimizer(learning_rate).init(params)

  def run(self, size: int, rate: float, seed: int) -> Iterator[tuple]:
    """Trains without end: yields the carry and the losses of each chunk."""
    stream = example_stream(self.num_examples, seed)
    carry = self.init(seed, rate)
    while True:
      steps = max(_CHUNK_EXAMPLES // size, 1)
      indices = np.array(list(itertools.islice(stream, steps * size)))
      carry, chunk_losses = self.chunk(
        carry, indices.reshape(steps, size), rate, self.data
      )
      yield carry, np.asarray(chunk_losses)

  def steps_to_target(
    self, size: int, rate: float, seed: int, max_steps: float
  ) -> int | None:
    """Steps to the target; None where a run takes more, or diverges."""
    work = self.workload
    max_steps = min(max_steps, work.max_epochs * self.num_examples // size)
    seen = np.empty(0)
    for _, new in self.run(size, rate, seed):
      seen = np.append(seen, new)
      smoothed = losses.smoothed_losses(seen, size, work.smoothing_examples)
      steps = losses.steps_to_target(smoothed, work.target_loss)
      if steps is not None:
        return steps
      if len(seen) >= max_steps or not np.isfinite(new).all():
        return None
    raise AssertionError('a run has no end')


def optimizer(learning_rate: Any) -> optax.GradientTransformation:
  return optax.sgd(learning_rate, momentum=0.9)


def example_stream(num_examples: int, seed: int) -> Iterator[int]:
  """One random order of all examples after the other, as epochs are."""
  rng = np.random.default_rng(seed)
  while True:
    yield from rng.permutation(num_examples)


def tuned(problem: Problem, size: int, seeds, bar) -> Iterator[dict[str, Any]]:
  """Tuning runs of one size, a record each; the last one has the best rate."""
  medians: dict[float, float] = {}
  waiting = list(RATES)
  while waiting:
    rate = waiting.pop(0)
    counts = []
    best = min(medians.values(), default=math.inf)
    for seed in seeds:
      bar.set_postfix_str(f'batch {size}, rate {rate:g}')
      steps = problem.steps_to_target(size, rate, seed, 2.0 * best)
      counts.append(math.inf if steps is None else steps)
      yield run_record(problem, 'tuning', size, rate, seed, steps)
      bar.update()
    medians[rate] = statistics.median(counts)
    if not waiting:
      best_rate = min(sorted(medians), key=medians.__getitem__)
      if math.isinf(medians[best_rate]):
        raise SystemExit(f'no rate reaches the target at batch {size}')
      for edge, factor in ((min(medians), 0.5), (max(medians), 2.0)):
        if best_rate == edge:
          waiting.append(edge * factor)
          bar.total += len(seeds)


def run_record(problem, part, size, rate, seed, steps) -> dict[str, Any]:
  """One run; `steps` is null where it missed the target."""
  return {
    'kind': 'run',
    'workload': problem.workload.name,
    'part': part,
    'batch_size': size,
    'learning_rate': rate,
    'seed': seed,
    'steps': steps,
  }


def best_rate_of(records: list[dict[str, Any]]) -> float:
  """The tuned rate: the least median steps."""
  counts: dict[float, list[float]] = {}
  for r in records:
    steps = math.inf if r['steps'] is None else r['steps']
    counts.setdefault(r['learning_rate'], []).append(steps)
  return min(sorted(counts), key=lambda rate: statistics.median(counts[rate]))


def pilot_records(problem: Problem, rate: float, seed: int) -> Iterator[dict]:
  """The planner's own pilot: its steps, and the noise scale on the way."""
  work, size = problem.workload, PILOT_BATCH_SIZE
  num_steps = problem.steps_to_target(size, rate, seed, math.inf)
  if num_steps is None:
    raise SystemExit(f'the pilot misses the target at rate {rate:g}')
  stream = example_stream(problem.num_examples, seed)
  carry, done, seen = problem.init(seed, rate), 0, np.empty(0)
  for point in losses.measurement_steps(num_steps):
    count = (point - done) * size
    indices = np.array(list(itertools.islice(stream, count)))
    carry, new = problem.chunk(
      carry, indices.reshape(-1, size), rate, problem.data
    )
    seen, done = np.append(seen, np.asarray(new)), point
    # With replacement: the batches of an epoch are not independent.
    rng = np.random.default_rng([seed, point])
    batches = [
      jax.tree.map(lambda x, i=i: x[i], problem.data)
      for i in rng.integers(
        problem.num_examples, size=(NUM_NOISE_BATCHES, size)
      )
    ]
    noise = planner.gradient_noise_scale(
      jax.value_and_grad(problem.loss_fn), carry[0], batches
    )
    smoothed = losses.smoothed_losses(seen, size, work.smoothing_examples)
    yield {
      'kind': 'noise',
      'workload': work.name,
      'step': point,
      'loss': float(smoothed[-1]),
      **noise._asdict(),
    }
  yield {
    'kind': 'pilot',
    'workload': work.name,
    'batch_size': size,
    'learning_rate': rate,
    'seed': seed,
    'steps': num_steps,
  }


def seconds_record(problem: Problem, num_repeats: int) -> dict[str, Any]:
  """Seconds of a step at each size, in turn, compilation apart."""
  # Donated state, as in training; a small rate, since the batch is the same.
  step = jax.jit(problem.step, donate_argnums=0)

  def make_step(size):
    batch = jax.block_until_ready(
      jax.tree.map(lambda x: x[:size].copy(), problem.data)
    )
    state = {'carry': problem.init(0, 1e-3)}

    def run():
      state['carry'], loss = step(state['carry'], batch, 1e-3)
      return state['carry'], loss

    return run

  name = problem.workload.name
  total = len(BATCH_SIZES) + num_repeats
  with tqdm.tqdm(total=total, desc=f'{name}, seconds') as bar:
    ticks = itertools.count(1)

    def tick():
      count = next(ticks) - len(BATCH_SIZES)
      bar.update(count <= 0 or count % len(BATCH_SIZES) == 0)

    times = planner.measure_step_seconds(
      make_step, BATCH_SIZES, num_repeats=num_repeats, on_progress=tick
    )
  return {
    'kind': 'step_seconds',
    'workload': name,
    'num_repeats': num_repeats,
    **times._asdict(),
    **stamp(),
  }


def stamp() -> dict[str, Any]:
  """When, and on what."""
  today = datetime.date.today().isoformat()
  return {'date': today, **environment()}


def measure(problem: Problem, is_quick: bool) -> Iterator[dict[str, Any]]:
  """Every record of one workload."""
  workload = problem.workload
  tuning = TUNING_SEEDS[:1] if is_quick else TUNING_SEEDS
  reporting = REPORTING_SEEDS[:1] if is_quick else REPORTING_SEEDS
  yield {
    'kind': 'workload',
    **workload._asdict(),
    'workload': workload.name,
    'num_examples': problem.num_examples,
    'base': 'momentum',
    'rates': sorted(RATES),
    'tuning_seeds': tuning,
    'reporting_seeds': reporting,
    **stamp(),
  }
  total = len(BATCH_SIZES) * (len(RATES) * len(tuning) + len(reporting))
  rates = {}
  with tqdm.tqdm(total=total, desc=workload.name, unit='run') as bar:
    for size in BATCH_SIZES:
      records = []
      for record in tuned(problem, size, tuning, bar):
        records.append(record)
        yield record
      rate = rates[size] = best_rate_of(records)
      for seed in reporting:
        steps = problem.steps_to_target(size, rate, seed, math.inf)
        yield run_record(problem, 'reporting', size, rate, seed, steps)
        bar.update()
  # A tuning seed: the reporting runs are not to be known beforehand.
  yield from pilot_records(problem, rates[PILOT_BATCH_SIZE], tuning[0])
  if workload.same_step_as is None:
    num_repeats = NUM_REPEATS // 10 if is_quick else NUM_REPEATS
    yield seconds_record(problem, num_repeats)


def merged(
  old: Sequence[Record], new: Sequence[Record], *, only_seconds: bool = False
) -> list[Record]:
  """Old lines with the new ones in the place of those that were made anew.

  Args:
    old: what was on record.
    new: what was measured.
    only_seconds: whether that is the seconds of a step alone.

  Returns:
    The lines of each workload together, in the order of `WORKLOADS`.
  """
  names = {record['workload'] for record in new}
  kept = [
    record
    for record in old
    if record['workload'] not in names
    or (only_seconds and record['kind'] != 'step_seconds')
  ]
  order = [workload.name for workload in WORKLOADS]
  return sorted([*kept, *new], key=lambda r: order.index(r['workload']))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
  """The options; `workloads` are those to be measured."""
  names = [workload.name for workload in WORKLOADS]
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--workloads', nargs='+', choices=names)
  parser.add_argument('--mnist', help="folder of MNIST's four IDX files")
  parser.add_argument('--quick', action='store_true', help='digits, one seed')
  parser.add_argument('--only-seconds', action='store_true')
  options = parser.parse_args(arguments)
  if options.workloads is None:
    options.workloads = names[:1] if options.quick else names
    if options.mnist is None and 'mnist' in options.workloads:
      options.workloads.remove('mnist')
  if 'mnist' in options.workloads and options.mnist is None:
    parser.error('mnist needs --mnist DIR, the folder of its files')
  return options


def main() -> None:
  """Measures, and replaces the file when all is measured."""
  options = parse()
  old = list(files.read_records(options.out)) if options.out.exists() else []
  on_record = {record['workload'] for record in old}
  new = []
  for workload in WORKLOADS:
    if workload.name not in options.workloads:
      continue
    data_dir = options.mnist if workload.name == 'mnist' else None
    problem = Problem(workload, data_dir)
    if not options.only_seconds:
      new += measure(problem, options.quick)
    elif workload.name in on_record and workload.same_step_as is None:
      new.append(seconds_record(problem, NUM_REPEATS))
  records = merged(old, new, only_seconds=options.only_seconds)
  files.write_records(options.out, records)
  for record in new:
    if record['kind'] in ('pilot', 'noise'):
      print(json.dumps(json.loads(files.to_json(record))), file=sys.stdout)


if __name__ == '__main__':
  main()
