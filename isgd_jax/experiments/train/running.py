"""A run under way: its steps, evaluations and checkpoints, in their order."""

from collections.abc import Callable, Iterator
import time
from typing import NamedTuple

import jax
import numpy as np

from isgd_jax import sampling
from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.errors import RunStopped
from isgd_jax.experiments.progress import Progress
from isgd_jax.experiments.runs.late_blocks import BLOCK_SIZE
from isgd_jax.experiments.runs.late_blocks import Block
from isgd_jax.experiments.runs.late_blocks import LateBlocks
from isgd_jax.experiments.train import logs
from isgd_jax.experiments.train import resumption
from isgd_jax.experiments.train.checkpoints import Checkpoints
from isgd_jax.experiments.train.config import TrainConfig
from isgd_jax.experiments.train.inputs import test_batches
from isgd_jax.experiments.train.left_out import LeftOut
from isgd_jax.experiments.train.plan import Plan
from isgd_jax.experiments.train.reports import unpack
from isgd_jax.experiments.train.signals import StopRequest
from isgd_jax.experiments.train.steps import RunState


class Run(NamedTuple):
  """A run under way, apart from the state that it trains."""

  config: TrainConfig
  plan: Plan
  skipped: LeftOut
  checkpoints: Checkpoints
  log: logs.RunLog
  batches: Iterator[sampling.CycleBatch]
  bar: Progress
  stop: StopRequest
  say: Callable[[str], None]

  def train(self, state: RunState, step: int) -> tuple[RunState, int]:
    """Trains from `step` to the end; returns the state and where that is."""
    evaluate_every = self.config.evaluate_every or self.plan.batches_per_cycle
    checkpoint_every = resumption.checkpoint_every(
      self.config, self.plan.batches_per_cycle
    )
    self.bar.begin(self.plan.num_steps, step)
    while True:
      is_last = step >= self.plan.num_steps
      # One signal, seen once: another may come while this is under way.
      signum = None if is_last else self.stop.signum
      is_due = step > 0 and step % evaluate_every == 0
      # Where it is left out for haste, the run that carries on begins with it.
      if (is_last or is_due) and signum is None:
        self._evaluate(state, step)
      if is_last:
        self.log.finish()
      if is_last or signum or (step > 0 and step % checkpoint_every == 0):
        self.log.sync()
        self.checkpoints.save(step, state, self.config, self.plan.facts)
        self.log.skip_time()
      if signum:
        self.checkpoints.wait()
        raise RunStopped(signum, step, str(self.log.folder))
      if is_last:
        self.checkpoints.wait()
        return state, step
      pause = min(
        self.plan.num_steps,
        _next_multiple(step, evaluate_every),
        _next_multiple(step, checkpoint_every),
      )
      state, step = self._advance(state, step, pause)

  def _advance(
    self, state: RunState, step: int, end: int
  ) -> tuple[RunState, int]:
    """Trains up to `end`, or to where the run is asked to stop."""
    late = LateBlocks()
    while step < end and self.stop.signum is None:
      for _ in range(min(BLOCK_SIZE, end - step)):
        asked = time.perf_counter()
        batch = self._next_batch()
        waited = time.perf_counter() - asked
        step += 1
        position = step, int(batch.epoch), int(batch.index)
        arguments = state, batch.data, batch.weight
        if self.skipped.has(step, int(batch.index)):
          report = self.plan.steps.leave_out(*arguments)
        else:
          state, report = self.plan.steps.train(*arguments)
        late.add(report, _Note(position, waited))
        if self.stop.signum is not None:
          break
      self._take_in(late.turn())
      self.stop.agree()
    self._take_in(late.turn())
    return state, step

  def _next_batch(self) -> sampling.CycleBatch:
    """The next batch; a reading process that died is named."""
    try:
      return next(self.batches)
    except RuntimeError as error:
      raise DataError(
        f'the data cannot be read any further: {error}. If a worker process '
        'was killed for want of memory, carry on with --resume and a lower '
        '--num-workers'
      ) from error

  def _take_in(self, block: Block | None) -> None:
    """Writes and shows a block of reports."""
    if block is None:
      return
    report = unpack(block.packed)
    positions = [note.position for note in block.notes]
    is_empty = (report.num_examples == 0) & (
      report.num_gradient_evaluations > 0
    )
    if is_empty.any():
      step, epoch, batch = positions[int(is_empty.argmax())]
      raise DataError(
        f'batch {batch} of epoch {epoch} (step {step}) has no example that '
        'counts: none of its images can be decoded. Mend the files, raise '
        '--batch-size, or leave it out with --skip-batches'
      )
    waited = sum(note.wait_seconds for note in block.notes)
    self.log.write_steps(positions, report, waited)
    self.bar.update(len(positions))
    self.bar.set_postfix_str(
      f'loss {report.loss.mean():.3f}, acc {report.accuracy.mean():.0%}'
      + self._of_chart()
    )

  def _of_chart(self) -> str:
    """How far Phase I is; then the share of flagged batches."""
    totals, window = self.log.totals, self.plan.phase_one
    if window is None:
      return ''
    if self.log.num_unjudged:
      return f', window {min(self.log.num_unjudged, window):,}/{window:,}'
    return f', flagged {totals["num_undertrained"] / totals["num_judged"]:.1%}'

  def _evaluate(self, state: RunState, step: int) -> None:
    """Evaluates on the test data, each example once; once at any step."""
    last = self.log.last_evaluation
    if last is not None and last['step'] == step:
      return
    sums = []
    with test_batches(
      self.config, self.plan.dataset, self.plan.placement.batch
    ) as batches:
      for batch in batches:
        sums.append(self.plan.steps.evaluate(state, batch.data, batch.weight))
    # In float64: a test set has more examples than float32 has digits.
    loss, right, count, _ = np.asarray(jax.device_get(sums), np.float64).sum(0)
    if not count:
      raise DataError('none of the test images can be decoded')
    epoch = step // self.plan.batches_per_cycle
    self.log.write_evaluation(step, epoch, loss / count, right / count)
    self.log.skip_time()
    totals = self.log.totals
    self.say(
      f'step {step:,}, epoch {epoch}: test loss {loss / count:.4f}, accuracy '
      f'{right / count:.2%}; {totals["num_undertrained"]:,} batches flagged, '
      f'{totals["num_chase_steps"]:,} chase steps so far'
    )


class _Note(NamedTuple):
  """Of a step: its number, epoch and batch, and how long that was awaited."""

  position: tuple[int, int, int]
  wait_seconds: float


def _next_multiple(step: int, interval: int) -> int:
  """The first multiple of `interval` after `step`."""
  return (step // interval + 1) * interval
