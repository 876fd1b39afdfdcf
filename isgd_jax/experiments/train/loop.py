"""The training loop: batches in, checkpoints and metrics out."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import os
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import numpy as np

from isgd_jax import sampling
from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.errors import RunStopped
from isgd_jax.experiments.errors import missing_extra
from isgd_jax.experiments.runs.late_blocks import BLOCK_SIZE
from isgd_jax.experiments.runs.late_blocks import Block
from isgd_jax.experiments.runs.late_blocks import LateBlocks
from isgd_jax.experiments.train import folder
from isgd_jax.experiments.train import logs
from isgd_jax.experiments.train import resumption
from isgd_jax.experiments.train.checkpoints import Checkpoints
from isgd_jax.experiments.train.config import TrainConfig
from isgd_jax.experiments.train.connection import connected
from isgd_jax.experiments.train.connection import losses_named
from isgd_jax.experiments.train.devices import DevicesConfig
from isgd_jax.experiments.train.inputs import read_ahead
from isgd_jax.experiments.train.inputs import test_batches
from isgd_jax.experiments.train.plan import Plan
from isgd_jax.experiments.train.plan import describe
from isgd_jax.experiments.train.plan import make_plan
from isgd_jax.experiments.train.processes import Processes
from isgd_jax.experiments.train.signals import SharedStopRequest
from isgd_jax.experiments.train.signals import StopRequest
from isgd_jax.experiments.train.signals import stop_requests
from isgd_jax.experiments.train.silent_log import SilentLog
from isgd_jax.experiments.train.steps import RunState
from isgd_jax.experiments.train.steps import unpack

try:
  import tqdm
except ImportError as error:
  raise missing_extra('tqdm') from error


class TrainResult(NamedTuple):
  """What a run came to.

  Attributes:
    state: the state it ended with.
    num_steps: training steps done, those before a resumption included.
    test_loss: of the last evaluation, nats.
    test_accuracy: of the last evaluation, share in [0, 1].
    totals: sums over the steps, as in `RunLog`.
  """

  state: RunState
  num_steps: int
  test_loss: float
  test_accuracy: float
  totals: dict[str, int]


def train(
  config: TrainConfig,
  out: str | os.PathLike[str],
  *,
  resume: bool = False,
  devices: DevicesConfig | None = None,
  show_progress: bool | None = None,
  say: Callable[[str], None] | None = None,
) -> TrainResult:
  """Trains a network, or carries a run on from its last checkpoint.

  A run that is stopped, in whatever way, and carried on ends with the same
  parameters, chart and metrics, bit for bit, as one that was never stopped (on
  the same machine, devices and versions). Losses that are not finite do not
  stop it. Several processes that train one run all call this; the first one
  writes, and all have the same result.

  Args:
    config: the run.
    out: its folder, for configuration, metrics and checkpoints; the same one,
      on a file system that they share, for all processes.
    resume: carry on the run in `out`.
    devices: where it computes, by default on all devices of this process.
    show_progress: whether to show a progress bar on stderr; None shows it on a
      terminal only.
    say: called with the options when all is found to fit together, before
      anything is written or computed, and with the results of each evaluation;
      in the first process only.

  Returns:
    A `TrainResult`.

  Raises:
    InputError: an option that cannot be; a folder that holds a run already, or
      with `resume` none, or another one; processes that do not belong together.
    DataError: a data set that cannot be read.
    OutputError: something cannot be written. Every checkpoint that was
      complete before is intact.
    RunStopped: SIGTERM or SIGINT came; the run has been saved.
    ProcessLost: another process of the run is gone; end this one without
      waiting for it (`os._exit`). JAX may end it first, with SIGABRT.

  Example:
    >>> import tempfile
    >>> out = tempfile.mkdtemp() + '/run'
    >>> train(TrainConfig(steps=20), out).num_steps
    20
    >>> train(TrainConfig(steps=30), out, resume=True).num_steps
    30
  """
  out = pathlib.Path(out)
  with connected(devices or DevicesConfig(), out) as processes:
    return _train(
      config,
      out,
      resume,
      devices or DevicesConfig(),
      processes,
      show_progress if processes.is_first else False,
      (processes.is_first and say) or (lambda text: None),
    )


def _train(
  config: TrainConfig,
  out: pathlib.Path,
  resume: bool,
  devices: DevicesConfig,
  processes: Processes,
  show_progress: bool | None,
  say: Callable[[str], None],
) -> TrainResult:
  """As `train`, in processes that have found one another."""
  with contextlib.ExitStack() as stack:
    with processes.agreeing():
      plan = make_plan(config, out, resume, devices)
    hardware = plan.placement.facts()
    processes.check_alike(
      {
        'config': dataclasses.asdict(config)
        | {'resume': resume, 'num_devices': plan.placement.devices_per_process},
        'data': plan.facts,
        'version of': folder.here_and_now()['versions'],
      }
    )
    with processes.agreeing():
      if processes.is_first:
        stack.enter_context(folder.locked(out))
    processes.check_folder_is_shared(out)
    say(describe(config, plan))
    if resume:
      folder.say_what_changed(
        folder.made_with(out), folder.here_and_now(hardware), say
      )
    checkpoints = stack.enter_context(
      Checkpoints(out / folder.CHECKPOINTS, config.keep_checkpoints)
    )
    start, state = resumption.begin(config, out, plan, processes, checkpoints)
    if resume:
      say(f'carrying on after step {start:,}')
    log = None
    with processes.agreeing():
      if processes.is_first:
        log = stack.enter_context(logs.RunLog(out, start, config.log_every))
        folder.save_config(config, out, hardware)
    progress = processes.gather(log and log.progress())[0]
    log = log or SilentLog(out, progress, config.log_every)
    stop = stack.enter_context(stop_requests())
    run = _Run(
      config=config,
      plan=plan,
      checkpoints=checkpoints,
      log=log,
      batches=stack.enter_context(
        read_ahead(
          plan.cycle,
          config,
          plan.dataset.train,
          start,
          plan.placement.batch,
        )
      ),
      bar=stack.enter_context(_progress_bar(config, show_progress)),
      stop=_shared(stop, plan),
      say=say,
    )
    # Before the checkpoints are closed, which would wait for the lost one.
    with losses_named(processes, out):
      state, step = run.train(state, start)
    evaluation = run.log.last_evaluation or {}
    return TrainResult(
      state,
      step,
      _number(evaluation.get('loss')),
      _number(evaluation.get('accuracy')),
      dict(run.log.totals),
    )


class _Run(NamedTuple):
  """A run under way, apart from the state that it trains."""

  config: TrainConfig
  plan: Plan
  checkpoints: Checkpoints
  log: logs.RunLog
  batches: Iterator[sampling.CycleBatch]
  bar: tqdm.tqdm
  stop: StopRequest
  say: Callable[[str], None]

  def train(self, state: RunState, step: int) -> tuple[RunState, int]:
    """Trains from `step` to the end; returns the state and where that is."""
    evaluate_every = self.config.evaluate_every or self.plan.batches_per_cycle
    checkpoint_every = resumption.checkpoint_every(
      self.config, self.plan.batches_per_cycle
    )
    self.bar.reset(self.plan.num_steps)
    self.bar.update(step)
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
        state, report = self.plan.steps.train(state, batch.data, batch.weight)
        step += 1
        position = step, int(batch.epoch), int(batch.index)
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
    if not report.num_examples.all():
      step, epoch, batch = positions[int(report.num_examples.argmin())]
      raise DataError(
        f'batch {batch} of epoch {epoch} (step {step}) has no example that '
        'counts: none of its images can be decoded. Mend the files, or raise '
        '--batch-size'
      )
    waited = sum(note.wait_seconds for note in block.notes)
    self.log.write_steps(positions, report, waited)
    self.bar.update(len(positions))
    totals = self.log.totals
    self.bar.set_postfix(
      loss=f'{report.loss.mean():.3f}',
      accuracy=f'{report.accuracy.mean():.1%}',
      flagged=f'{totals["num_undertrained"] / totals["num_steps"]:.1%}',
    )

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


def _progress_bar(config: TrainConfig, show_progress: bool | None) -> tqdm.tqdm:
  """A bar on stderr over the steps of a run."""
  return tqdm.tqdm(
    desc=f'{config.model}/{config.data.dataset}',
    unit='step',
    file=sys.stderr,
    disable=None if show_progress is None else not show_progress,
  )


def _shared(stop: StopRequest, plan: Plan) -> StopRequest:
  """A request to this process, or to any where there are several."""
  placement = plan.placement
  if placement.num_processes == 1 or placement.batch is None:
    return stop
  return SharedStopRequest(stop, placement.batch, placement.replicated)


def _next_multiple(step: int, interval: int) -> int:
  """The first multiple of `interval` after `step`."""
  return (step // interval + 1) * interval


def _number(value: float | None) -> float:
  """A number as JSON keeps it: what was not finite has become None."""
  return float('nan') if value is None else value
