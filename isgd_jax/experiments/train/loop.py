"""The training loop: batches in, checkpoints and metrics out."""

from collections.abc import Callable
import contextlib
import dataclasses
import os
import pathlib
from typing import NamedTuple

from isgd_jax.experiments.progress import progress
from isgd_jax.experiments.train import folder
from isgd_jax.experiments.train import left_out
from isgd_jax.experiments.train import logs
from isgd_jax.experiments.train import resumption
from isgd_jax.experiments.train.checkpoints import Checkpoints
from isgd_jax.experiments.train.config import TrainConfig
from isgd_jax.experiments.train.connection import connected
from isgd_jax.experiments.train.connection import losses_named
from isgd_jax.experiments.train.devices import DevicesConfig
from isgd_jax.experiments.train.events import Events
from isgd_jax.experiments.train.inputs import read_ahead
from isgd_jax.experiments.train.inputs import record_numbers
from isgd_jax.experiments.train.plan import Plan
from isgd_jax.experiments.train.plan import describe
from isgd_jax.experiments.train.plan import make_plan
from isgd_jax.experiments.train.plan import phase_one_warning
from isgd_jax.experiments.train.processes import Processes
from isgd_jax.experiments.train.running import Run
from isgd_jax.experiments.train.signals import SharedStopRequest
from isgd_jax.experiments.train.signals import StopRequest
from isgd_jax.experiments.train.signals import stop_requests
from isgd_jax.experiments.train.silent_log import SilentLog
from isgd_jax.experiments.train.steps import RunState


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
  skip_batches: str | os.PathLike[str] | None = None,
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
    skip_batches: file of batches that get no update, as in
      `left_out.read_left_out`; None takes what the run in `out` was told
      before, if it was.
    show_progress: whether to show a progress bar on stderr; None as in
      `progress.progress`.
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
      skip_batches,
      processes,
      show_progress if processes.is_first else False,
      (processes.is_first and say) or (lambda text: None),
    )


def _train(
  config: TrainConfig,
  out: pathlib.Path,
  resume: bool,
  devices: DevicesConfig,
  skip_batches: str | os.PathLike[str] | None,
  processes: Processes,
  show_progress: bool | None,
  say: Callable[[str], None],
) -> TrainResult:
  """As `train`, in processes that have found one another."""
  with contextlib.ExitStack() as stack:
    with processes.agreeing():
      plan = make_plan(config, out, resume, devices)
      skipped = _left_out(skip_batches, config, plan, out)
    hardware = plan.placement.facts()
    processes.check_alike(
      {
        'config': dataclasses.asdict(config)
        | {'resume': resume, 'num_devices': plan.placement.devices_per_process},
        'data': plan.facts,
        'skip-batches': skipped.lines(),
        'version of': folder.here_and_now()['versions'],
      }
    )
    with processes.agreeing():
      if processes.is_first:
        stack.enter_context(folder.locked(out))
    processes.check_folder_is_shared(out)
    say(describe(config, plan))
    say_warning = phase_one_warning(config, plan)
    if say_warning:
      say(say_warning)
    if resume:
      folder.say_what_changed(
        folder.made_with(out), folder.here_and_now(hardware), say
      )
    checkpoints = stack.enter_context(
      Checkpoints(out / folder.CHECKPOINTS, config.keep_checkpoints)
    )
    start, state = resumption.begin(config, out, plan, processes, checkpoints)
    if skip_batches is not None:
      left_out.check_ahead(skipped, start)
    if resume:
      say(f'carrying on after step {start:,}')
    log = None
    with processes.agreeing():
      if processes.is_first:
        events = Events(config.isgd, record_numbers(config, plan.dataset))
        log = stack.enter_context(
          logs.RunLog(out, start, config.log_every, events)
        )
        folder.save_config(config, out, hardware)
        if skip_batches is not None:
          left_out.save(skipped, out)
    counted = processes.gather(log and log.progress())[0]
    log = log or SilentLog(out, counted, config.log_every)
    stop = stack.enter_context(stop_requests())
    run = Run(
      config=config,
      plan=plan,
      skipped=skipped,
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
      bar=stack.enter_context(progress(title=config.model, show=show_progress)),
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


def _left_out(
  path: str | os.PathLike[str] | None,
  config: TrainConfig,
  plan: Plan,
  out: pathlib.Path,
) -> left_out.LeftOut:
  """The batches to leave out: of a file, or as the run was told before."""
  if path is None:
    return left_out.load(out)
  return left_out.fitting(
    left_out.read_left_out(path),
    plan.num_steps,
    plan.batches_per_cycle,
    is_cycle=config.data.sampling == 'fixed-cycle',
    record_numbers=record_numbers(config, plan.dataset),
  )


def _shared(stop: StopRequest, plan: Plan) -> StopRequest:
  """A request to this process, or to any where there are several."""
  placement = plan.placement
  if placement.num_processes == 1 or placement.batch is None:
    return stop
  return SharedStopRequest(stop, placement.batch, placement.replicated)


def _number(value: float | None) -> float:
  """A number as JSON keeps it: what was not finite has become None."""
  return float('nan') if value is None else value
