"""Where a run begins, or goes on: at one step, in all of its processes."""

import pathlib

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.files import read_records
from isgd_jax.experiments.train import folder
from isgd_jax.experiments.train import logs
from isgd_jax.experiments.train.checkpoints import Checkpoints
from isgd_jax.experiments.train.config import TrainConfig
from isgd_jax.experiments.train.plan import Plan
from isgd_jax.experiments.train.processes import Processes
from isgd_jax.experiments.train.processes import comes_true
from isgd_jax.experiments.train.steps import RunState

# A checkpoint takes some 0.1 s, which is many steps of a small network.
_SHORTEST_DEFAULT_CHECKPOINT_INTERVAL = 500


def begin(
  config: TrainConfig,
  out: pathlib.Path,
  plan: Plan,
  processes: Processes,
  checkpoints: Checkpoints,
) -> tuple[int, RunState]:
  """The step at which a run begins, and its state there; all must call it.

  Args:
    config: the run.
    out: its folder.
    plan: what it is made of.
    processes: of the run.
    checkpoints: its own.

  Returns:
    The number of steps done, which is the same in all processes, and the state.

  Raises:
    InputError: in all processes, where one of them does not see the checkpoint,
      or cannot read it; or where checkpoints are missing.
  """
  step = _newest_of_all(processes, checkpoints)
  restored = None
  with processes.agreeing():
    if step is None:
      _check_nothing_is_lost(config, out, plan.batches_per_cycle)
    else:
      restored = checkpoints.restore(
        plan.template, config, plan.facts, plan.placement.replicated, step
      )
  # All processes compute the first state together, so none may have failed.
  return restored or (0, plan.steps.init())


def checkpoint_every(config: TrainConfig, batches_per_cycle: int) -> int:
  """Steps between checkpoints.

  Args:
    config: the run.
    batches_per_cycle: batches in a cycle through the data.

  Returns:
    As the option says, or else a cycle, but no fewer than 500.

  Example:
    >>> checkpoint_every(TrainConfig(), batches_per_cycle=12)
    500
  """
  return config.checkpoint_every or max(
    batches_per_cycle, _SHORTEST_DEFAULT_CHECKPOINT_INTERVAL
  )


def _newest_of_all(
  processes: Processes, checkpoints: Checkpoints
) -> int | None:
  """The newest step that a process sees, once all see it.

  Each lists the folder for itself, and a network file system may show it late:
  on different steps they would train with rows of different batches.
  """
  seen = processes.gather(checkpoints.latest_step)
  step = max((each for each in seen if each is not None), default=None)

  def sees_it() -> bool:
    if checkpoints.latest_step != step:
      checkpoints.reload()
    return checkpoints.latest_step == step

  with processes.agreeing():
    if not comes_true(sees_it):
      raise InputError(
        f"'{checkpoints.folder}' shows {_spelt(checkpoints.latest_step)} as "
        f'its newest checkpoint here, and {_spelt(step)} in process '
        f'{seen.index(step)}; see that every process has the same folder, on a '
        'file system that they share, and start all of them again'
      )
  return step


def _spelt(step: int | None) -> str:
  return 'none' if step is None else f'step {step}'


def _check_nothing_is_lost(
  config: TrainConfig, out: pathlib.Path, batches_per_cycle: int
) -> None:
  """Raises if a run has come too far to have no checkpoint."""
  path = out / logs.METRICS
  if not path.is_file():
    return
  num_steps = sum(1 for _ in read_records(path))
  # The first is complete, at the latest, before the second one begins.
  if num_steps > 2 * checkpoint_every(config, batches_per_cycle):
    raise InputError(
      f"'{path}' has {num_steps:,} steps, but '{out / folder.CHECKPOINTS}' has "
      'no checkpoint: put them back, or begin another run'
    )
