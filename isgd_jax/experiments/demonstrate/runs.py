"""The runs of the demonstrations: which there are, and what is kept of each."""

from collections.abc import Iterator, Mapping
import dataclasses
import hashlib
import itertools
from typing import Any

import jax
import numpy as np

from isgd_jax.experiments import files
from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.models import Model
from isgd_jax.experiments.optimizers.base_optimizers import base_optimizer_names
from isgd_jax.experiments.runs import tasks
from isgd_jax.experiments.runs.methods import METHODS
from isgd_jax.experiments.runs.outcomes import rounded
from isgd_jax.experiments.runs.tasks import Task
from isgd_jax.experiments.runs.training import train

# Under each base optimizer; of SGD, the control for the place in the cycle too.
COMMON_METHODS = ('base', 'isgd', 'paper-isgd')
_CONTROL = 'reshuffled'

_NUM_POINTS = 40
_NUM_IID_BATCHES = 10
_DIGITS = 4
# Of an epoch in the file, where its order is not needed: each 2.5th percentile,
# so that those which are drawn are still the epoch's own.
_MOST_SORTED_LOSSES = 41


def plan_runs(
  task: Task, learning_rates: Mapping[str, float], seed: int
) -> dict[str, dict[str, Any]]:
  """The configuration of each run.

  Args:
    task: the task.
    learning_rates: of base optimizers by name.
    seed: of all runs.

  Returns:
    Configurations (JSON objects), by a name made of all that decides the run;
    their `plan` is the same for all.

  Raises:
    UnknownNameError: (a `ValueError`) there is no such base optimizer.

  Example:
    >>> from isgd_jax.experiments.runs.workloads import WORKLOADS
    >>> task = WORKLOADS['stationary-fashion'].tasks[0]
    >>> runs = plan_runs(task, {'sgd': 0.1}, 0)
    >>> [run['method'] for run in runs.values()]
    ['base', 'isgd', 'paper-isgd', 'reshuffled']
  """
  for base in learning_rates:
    check_name('base optimizer', base, base_optimizer_names())
  whole = _digest([task.as_record(), dict(learning_rates), seed])
  plan = {}
  for base, rate in learning_rates.items():
    for method in COMMON_METHODS + (_CONTROL,) * (base == 'sgd'):
      config = METHODS[method].run_config(task, base, rate, seed)
      configuration = {
        'task': task.name,
        'base': base,
        'method': method,
        'learning_rate': rate,
        'seed': seed,
        'task_config': task.as_record(),
        'algorithm': {
          **config.algorithm.as_record(),
          'decay_evaluations': config.decay_evaluations,
        },
      }
      plan[_digest([whole, configuration])] = {'plan': whole, **configuration}
  return plan


def run_outcome(
  task: Task, model: Model, configuration: Mapping[str, Any]
) -> dict[str, Any]:
  """Trains, and keeps what the figures and the numbers need.

  Args:
    task: the task.
    model: its network.
    configuration: of `plan_runs`.

  Returns:
    `summary`, and `losses`, `sorted_losses` and `batch_kinds` as
    `demonstrations.read_demonstrations` describes them.

  Raises:
    ValueError: the data are missing or too few.

  Example:
    >>> task = Task('tiny', 'MLP', 'digits', 'mlp', 'cycle', batch_size=32,
    ...   window_size=20, num_train=640, num_epochs=2)
    >>> run = next(iter(plan_runs(task, {'sgd': 0.1}, 0).values()))
    >>> outcome = run_outcome(task, tasks.build_task_model(task), run)
    >>> np.shape(outcome['losses'])
    (2, 20)
  """
  base, name, seed = (configuration[k] for k in ('base', 'method', 'seed'))
  method = METHODS[name]
  kinds = None
  if (base, name) == ('momentum', 'base'):
    kinds = _BatchKinds(task, model, seed)
  result = train(
    method.run_config(task, base, configuration['learning_rate'], seed),
    model,
    tasks.build_stream(task, seed, is_reshuffled=method.is_reshuffled),
    evaluate=kinds and kinds.losses,
    num_evaluations=_NUM_POINTS,
    show_progress=False,
  )
  losses = result.metrics.loss.astype(np.float64).reshape(task.num_epochs, -1)
  outcome: dict[str, Any] = {'summary': rounded(result.summary())}
  if base == 'sgd':
    outcome['losses'] = _short(losses)
  else:
    outcome['sorted_losses'] = _short(_sorted(losses))
  if kinds:
    found = [(0, kinds.losses(model.init(seed)))]
    found += [(e.num_steps, e.measures) for e in result.evaluations]
    table = np.array([measures for _, measures in found], np.float64).T
    num_classes = len(kinds.classes)
    outcome['batch_kinds'] = {
      'steps': [step for step, _ in found],
      'classes': kinds.classes,
      'single_class': _short(table[:num_classes]),
      'iid': _short(table[num_classes:]),
    }
  return outcome


class _BatchKinds:
  """A batch of each class, and i.i.d. ones, all to be looked at only.

  They are of the examples that are trained on, but none is a batch of the
  cycle, which another seed has drawn.
  """

  def __init__(self, task: Task, model: Model, seed: int):
    task = dataclasses.replace(task, num_epochs=1, dirichlet_alpha=None)

    def read(single_class: bool) -> Iterator[tasks.Batch]:
      composed = dataclasses.replace(task, single_class=single_class)
      return tasks.build_stream(composed, seed + 1).batches

    by_class: dict[int, tasks.Batch] = {}
    for batch in read(single_class=True):
      by_class.setdefault(int(batch[1][0]), batch)
    self.classes = sorted(by_class)
    self._batches = [
      *(by_class[label] for label in self.classes),
      *itertools.islice(read(single_class=False), _NUM_IID_BATCHES),
    ]
    self._loss_fn = jax.jit(model.loss_fn)

  def losses(self, params: Any) -> list[float]:
    """Of the classes in order, then of the i.i.d. batches; nats."""
    return jax.device_get([self._loss_fn(params, b)[0] for b in self._batches])


def _sorted(losses: np.ndarray) -> np.ndarray:
  """[num_epochs, n] in rising order, thinned; what is not finite is last."""
  losses = np.sort(np.where(np.isnan(losses), np.inf, losses), axis=1)
  if losses.shape[1] <= _MOST_SORTED_LOSSES:
    return losses
  shares = np.linspace(0, 1, _MOST_SORTED_LOSSES)
  return np.quantile(losses, shares, axis=1, method='nearest').T


def _short(table: np.ndarray) -> list[list[float]]:
  return [[float(f'{x:.{_DIGITS}g}') for x in row] for row in table]


def _digest(value: Any) -> str:
  return hashlib.sha256(files.to_json(value).encode()).hexdigest()[:12]
