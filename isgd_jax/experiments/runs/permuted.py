"""Permuted MNIST, batch 1: a published protocol at its published settings.

Elsayed and Mahmood, `Addressing Loss of Plasticity and Catastrophic Forgetting
in Continual Learning <https://arxiv.org/abs/2404.00781>`_, ICLR 2024: one
example a step, a new permutation every 5,000 steps of the pixels (200 tasks of
MNIST) or every 2,500 of the labels (400 tasks, theirs of EMNIST, CIFAR-10 and
mini-ImageNet), a 300 x 150 network, online accuracy. The small forms have the
first 10 tasks, or without ISGD 20; the large ones all.
"""

import dataclasses

from isgd_jax.experiments.optimizers.published import NUM_TASKS
from isgd_jax.experiments.optimizers.published import PUBLISHED
from isgd_jax.experiments.runs.tasks import PERMUTED_TASKS
from isgd_jax.experiments.runs.tasks import Task

BESIDE_ISGD = ('base', 'isgd-probation')


def _task(problem: str, drift: str, task_length: int) -> Task:
  return Task(
    f'permuted-{problem}/mnist',
    f'MNIST, permuted {problem}, batch 1',
    dataset='mnist',
    model='mlp-300-150',
    order=PERMUTED_TASKS,
    batch_size=1,
    window_size=50,
    num_segments=10,
    batches_per_segment=task_length,
    drift=drift,
  )


TASKS = {
  'inputs': _task('inputs', 'pixels', 5000),
  'labels': _task('labels', 'labels', 2500),
}
# Under ISGD a step of this network takes three to six times as long, even where
# nothing is flagged; as many tasks as others' numbers are of are run without.
TASKS['inputs-alone'] = dataclasses.replace(
  TASKS['inputs'],
  name='permuted-inputs-alone/mnist',
  title='MNIST, permuted inputs, batch 1, baselines alone',
  num_segments=20,
)
LARGE_TASKS = {
  name: dataclasses.replace(
    task, num_segments=NUM_TASKS[name.partition('-')[0]]
  )
  for name, task in TASKS.items()
}


def bases_of(name: str) -> tuple[str, ...]:
  """The optimizers with settings for a task.

  Args:
    name: a key of `TASKS`.

  Returns:
    Names.

  Example:
    >>> bases_of('inputs')[:2]
    ('inputs-sgdw', 'inputs-adamw')
  """
  problem = name.partition('-')[0]
  return tuple(n for n, p in PUBLISHED.items() if p.problem == problem)
