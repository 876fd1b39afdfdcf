"""The methods of a comparison by name: how to train, with which schedule."""

from collections.abc import Iterator
import dataclasses

from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.optimizers.charts import TRIGGERS
from isgd_jax.experiments.optimizers.charts import ChartSettings
from isgd_jax.experiments.runs.ablation import VARIANTS
from isgd_jax.experiments.runs.ablation import WINDOW_FACTORS
from isgd_jax.experiments.runs.tasks import Task
from isgd_jax.experiments.runs.training import RunConfig

_ISGD = Algorithm('isgd')
# As `isgd_jax.isgd` is by default; the runs on record as `isgd` are older.
_ON_PROBATION = Algorithm('isgd', options=(('probation', True),))


@dataclasses.dataclass(frozen=True)
class Method:
  """One of the methods that are compared.

  Attributes:
    name: in tables and records.
    kind: one of `isgd_jax.experiments.runs.steps.STEP_KINDS`.
    schedule: of the learning rate; None takes the task's.
    is_reshuffled: whether a fixed cycle is reshuffled in each epoch.
    isgd: ISGD's settings, but for the chart's window, which is the task's.
    window_factor: what the task's window is multiplied by.
  """

  name: str
  kind: str
  schedule: str | None = None
  is_reshuffled: bool = False
  isgd: Algorithm = _ISGD
  window_factor: float = 1.0

  def run_config(
    self, task: Task, base_optimizer: str, learning_rate: float, seed: int
  ) -> RunConfig:
    """What a run of this method on a task does.

    Args:
      task: the task.
      base_optimizer: its name.
      learning_rate: at the start.
      seed: of the run.

    Returns:
      A `RunConfig`.

    Example:
      >>> from isgd_jax.experiments.runs.workloads import WORKLOADS
      >>> task = WORKLOADS['drift-labels'].tasks[0]
      >>> config = METHODS['base-decayed'].run_config(task, 'adam', 0.01, 0)
      >>> config.decay_evaluations == task.num_batches
      True
    """
    window_size = round(self.window_factor * task.window_size)
    chart = dataclasses.replace(self.isgd.chart, window_size=window_size)
    is_decayed = (self.schedule or task.schedule) == 'decayed'
    # Where batches are what counts, an echo has twice the evaluations.
    is_longer = task.budget is None and self.kind == 'twice'
    num_evaluations = task.num_batches * (2 if is_longer else 1)
    return RunConfig(
      method=self.kind,
      base_optimizer=base_optimizer,
      learning_rate=learning_rate,
      seed=seed,
      isgd=dataclasses.replace(self.isgd, chart=chart),
      decay_evaluations=num_evaluations if is_decayed else 0,
    )


def _triggered(trigger: str) -> Algorithm:
  return Algorithm('isgd', ChartSettings(trigger=trigger))


def _reaction(reaction: str, trigger: str = 'chart', **numbers) -> Algorithm:
  """Of `rival_reactions`, as a run on record has it."""
  options = (('reaction', reaction), *numbers.items())
  return Algorithm('react', ChartSettings(trigger=trigger), options=options)


def _rivals() -> Iterator[Method]:
  """What reacts in place of the chase, over the chart and over other flags."""
  yield Method('reset-moments', 'react', isgd=_reaction('moments'))
  yield Method('reset-count', 'react', isgd=_reaction('count'))
  for factor in (3, 10):
    yield Method(
      f'rewarm-{factor}', 'react', isgd=_reaction('rewarm', factor=factor)
    )
  yield Method('shrink', 'react', isgd=_reaction('shrink'))
  yield Method('echo', 'react', isgd=_reaction('echo'))
  for trigger in TRIGGERS[1:]:
    isgd = _triggered(trigger)
    yield Method(f'{trigger}-isgd', 'isgd', isgd=isgd)
    yield Method(f'{trigger}-reset', 'reset', isgd=isgd)
    yield Method(f'{trigger}-echo', 'react', isgd=_reaction('echo', trigger))
  for trigger in ('random', 'adwin', 'oracle'):
    yield Method(
      f'{trigger}-reset-count', 'react', isgd=_reaction('count', trigger)
    )
  yield Method('random-shrink', 'react', isgd=_reaction('shrink', 'random'))
  rewarm = _reaction('rewarm', 'random', factor=3)
  yield Method('random-rewarm-3', 'react', isgd=rewarm)
  rewarm = _reaction('rewarm', 'oracle', factor=10)
  yield Method('oracle-rewarm-10', 'react', isgd=rewarm)


def _doses() -> Iterator[Method]:
  """Probation, one number changed at a time."""
  changes: dict[str, tuple[str, int | float | bool]] = {
    **{f'judged-by-{m}': ('num_batches', m) for m in (1, 2, 8)},
    **{f'forgetting-{x}': ('forgetting', x / 100) for x in (95, 99)},
    'starts-trusting': ('starts_trusting', True),
  }
  for name, change in changes.items():
    options = (('probation', True), ('rules', (change,)))
    yield Method(name, 'isgd', isgd=Algorithm('isgd', options=options))


def _chased(factor: int) -> Algorithm:
  """The paper's, whose chase has so many times the base's rate."""
  return Algorithm('isgd', chase_factor=float(factor))


RIVALS = tuple(_rivals())
DOSES = tuple(_doses())

METHODS = {
  method.name: method
  for method in (
    Method('base', 'base'),
    Method('base-constant', 'base', 'constant'),
    Method('base-decayed', 'base', 'decayed'),
    Method('twice', 'twice'),
    Method('isgd', 'isgd'),
    Method('isgd-probation', 'isgd', isgd=_ON_PROBATION),
    Method('random', 'random'),
    Method('isgd-constant', 'isgd', 'constant'),
    Method('paper-isgd', 'paper-isgd'),
    # The paper leaves the rate of its chase open.
    Method('paper-isgd-10', 'paper-isgd', isgd=_chased(10)),
    Method('paper-isgd-100', 'paper-isgd', isgd=_chased(100)),
    Method('skip', 'skip'),
    Method('reset', 'reset'),
    Method('reshuffled', 'base', is_reshuffled=True),
    Method('isgd-reshuffled', 'isgd', is_reshuffled=True),
    Method('paper-isgd-reshuffled', 'paper-isgd', is_reshuffled=True),
    *RIVALS,
    *DOSES,
    *(
      Method(
        name, 'isgd', isgd=isgd, window_factor=WINDOW_FACTORS.get(name, 1.0)
      )
      for name, isgd in VARIANTS.items()
    ),
  )
}

# Base optimizers whose own steps depend on the loss: they are compared alone.
LOSS_ADAPTIVE = ('polyak', 'momo')


def resolve_methods(names: tuple[str, ...]) -> tuple[Method, ...]:
  """The methods, ISGD before the random trigger, which repeats its number.

  Args:
    names: of methods; the random trigger brings ISGD with it.

  Returns:
    The methods, each once.

  Raises:
    ValueError: a name is unknown; the message gives the nearest valid names.

  Example:
    >>> [method.name for method in resolve_methods(('random', 'base'))]
    ['base', 'isgd', 'random']
  """
  for name in names:
    check_name('method', name, METHODS)
  wanted = set(names) | ({'isgd'} if 'random' in names else set())
  return tuple(method for name, method in METHODS.items() if name in wanted)
