"""The planner's measurements: seconds a step, a pilot run, scaling."""

from collections.abc import Callable, Iterator
import contextlib
from typing import NamedTuple

import jax
import numpy as np

from isgd_jax import batch_size
from isgd_jax.batch_size._step_timing import is_out_of_memory
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.plan_batch_size import losses
from isgd_jax.experiments.plan_batch_size.bench import Bench
from isgd_jax.experiments.plan_batch_size.losses import NoisePoint
from isgd_jax.experiments.progress import progress
from isgd_jax.experiments.train import inputs
from isgd_jax.experiments.train.reports import unpack

# The pilot's loss is smoothed over so many of its batches.
_SMOOTHED_BATCHES = 10
# Reports are fetched so many at a time, for the device not to wait.
_BLOCK_SIZE = 32
_NUM_SCALING_REPEATS = 10


class Pilot(NamedTuple):
  """A pilot run.

  Attributes:
    losses: float64[num_steps], of each batch before training on it, nats.
    smoothed: float64[num_steps], nats.
    points: the gradient noise scale, ascending by step.
  """

  losses: np.ndarray
  smoothed: np.ndarray
  points: list[NoisePoint]


def time_steps(
  bench: Bench, show_progress: bool | None = None
) -> batch_size.StepSeconds:
  """Times the training step at every batch size, on real batches.

  Args:
    bench: the step.
    show_progress: whether to show a bar on stderr; None: on a terminal only.

  Returns:
    Seconds a step.

  Raises:
    InputError: fewer than three sizes fit in memory.
  """
  sizes = sorted(set(bench.config.batch_sizes))
  repeats = bench.config.num_repeats
  total = len(sizes) * (1 + repeats)
  with _bar('seconds a step', total, 'step', show_progress) as tick:
    try:
      times = batch_size.measure_step_seconds(
        bench.make_step, sizes, num_repeats=repeats, on_progress=tick
      )
    except MemoryError as error:
      raise InputError(
        f'--batch-sizes {sizes[0]}, the smallest, does not fit in memory; give '
        'smaller ones'
      ) from error
  if len(times.batch_sizes) < 3:
    raise InputError(
      f'--batch-sizes {times.out_of_memory_at} does not fit in memory, which '
      f'leaves {len(times.batch_sizes)} sizes to time; give at least three '
      'smaller ones'
    )
  return times


def run_pilot(bench: Bench, show_progress: bool | None = None) -> Pilot:
  """Trains for a while, and measures the gradient noise scale on the way.

  Args:
    bench: the step.
    show_progress: as for `time_steps`.

  Returns:
    The losses and the noise scales.

  Raises:
    InputError: the loss diverges, or batches do not fit in memory.
  """
  config = bench.config
  train_config = config.train_config()
  points = losses.measurement_steps(config.pilot_steps)
  # A measurement evaluates each of its batches twice.
  cost = 2 * config.num_noise_batches
  total = config.pilot_steps + cost * len(points)
  source = bench.dataset.train
  cycle = inputs.train_cycle(train_config, bench.dataset)
  measured = []
  with (
    _bar('pilot run', total, 'evaluation', show_progress) as tick,
    inputs.read_ahead(cycle, train_config, source, start=0) as batches,
    _memory_explained(config.pilot_batch_size),
  ):
    drawn = bench.draw(config.pilot_batch_size, config.num_noise_batches)
    state, seen, pending = bench.init(), np.empty(0), []
    for step in range(1, config.pilot_steps + 1):
      batch = next(batches)
      state, report = bench.train(state, bench.put(batch.data, batch.weight))
      pending.append(report)
      tick()
      if step not in points and len(pending) < _BLOCK_SIZE:
        continue
      reports = unpack(np.stack(jax.device_get(pending)))
      seen, pending = np.append(seen, reports.loss), []
      if not np.isfinite(seen).all():
        bad = int(np.flatnonzero(~np.isfinite(seen))[0]) + 1
        raise InputError(
          f'the loss of the pilot run is not finite at step {bad}; lower '
          f'--learning-rate {config.learning_rate:g}'
        )
      if step in points:
        noise = bench.noise_scale(state, drawn)
        loss = _smoothed(seen, config.pilot_batch_size)[-1]
        measured.append(NoisePoint(step, float(loss), noise))
        tick(cost)
  return Pilot(seen, _smoothed(seen, config.pilot_batch_size), measured)


def scaling(
  bench: Bench, size: int, show_progress: bool | None = None
) -> list[batch_size.ScalingRow]:
  """Times the step on 1 to all devices.

  Args:
    bench: the step.
    size: examples in the global batch, a multiple of the number of devices.
    show_progress: as for `time_steps`.

  Returns:
    The rows for all powers of two that divide the batch, and for all devices.

  Raises:
    InputError: the batches do not fit in memory.
  """
  counts = device_counts(bench.config.num_devices, size)
  steps = {(n, b) for n in counts for b in (size, n * size)}
  kinds = sum(2 if n > 1 else 1 for n, _ in steps)
  total = kinds + _NUM_SCALING_REPEATS * kinds
  with (
    _bar('scaling', total, 'step', show_progress) as tick,
    _memory_explained(size * max(counts), 'batch-sizes'),
  ):
    return batch_size.measure_scaling(
      bench.make_scaling_step,
      size,
      counts,
      num_repeats=_NUM_SCALING_REPEATS,
      on_progress=tick,
    )


def device_counts(num_devices: int, size: int) -> list[int]:
  """On how many devices to time a batch.

  Args:
    num_devices: that there are.
    size: examples in the batch, a multiple of `num_devices`.

  Returns:
    The powers of two below `num_devices` that divide the batch, and itself.

  Example:
    >>> device_counts(6, size=90)
    [1, 2, 6]
  """
  powers = (2**i for i in range((num_devices - 1).bit_length()))
  return [*(n for n in powers if size % n == 0), num_devices]


def _smoothed(values: np.ndarray, size: int) -> np.ndarray:
  return losses.smoothed_losses(values, size, _SMOOTHED_BATCHES * size)


@contextlib.contextmanager
def _memory_explained(
  size: int, option: str = 'pilot-batch-size'
) -> Iterator[None]:
  """Turns an error for want of memory into one that says what to lower."""
  try:
    yield
  except Exception as error:
    if is_out_of_memory(error):
      raise InputError(
        f'a batch of {size} examples does not fit in memory; lower --{option}'
      ) from error
    raise


@contextlib.contextmanager
def _bar(
  title: str, total: int, unit: str, show_progress: bool | None
) -> Iterator[Callable[..., None]]:
  """A bar on stderr, with the time left; yields what moves it on."""
  bar = progress(total, title=title, unit=unit, show=show_progress)

  def tick(count: int = 1) -> None:
    bar.update(count)

  with bar:
    yield tick
