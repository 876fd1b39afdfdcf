"""Published settings of optimizers for permuted MNIST, and where they are from.

The protocol is that of Elsayed and Mahmood, `Addressing Loss of Plasticity and
Catastrophic Forgetting in Continual Learning
<https://arxiv.org/abs/2404.00781>`_, ICLR 2024 (UPGD).
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import optax

from isgd_jax.experiments.optimizers import always_on

Problem = Literal['inputs', 'labels']

TABLE = 'arXiv:2404.00781, appendix I, Table 3'
# The settings of the runs that its authors drew their figures from.
CODE = 'github.com/mohmdelsayed/upgd, final_figures/weight_lists.txt'
# Of `always_on`: 16 MB, 15 times as many as the network has parameters.
_NUM_DRAWN = 1 << 22


class Published(NamedTuple):
  """An optimizer with all its numbers.

  Attributes:
    problem: what is permuted; of labels the settings are those for EMNIST.
    method: as its authors call it.
    learning_rate: the step size.
    settings: the other numbers, by the names of `build_published`.
    source: where they stand.
  """

  problem: Problem
  method: str
  learning_rate: float
  settings: Mapping[str, float]
  source: str

  def describe(self) -> str:
    """All numbers, for a table.

    Returns:
      The text.

    Example:
      >>> PUBLISHED['inputs-sgdw'].describe()
      'rate 0.001, weight_decay 0.001'
    """
    numbers = {'rate': self.learning_rate} | dict(self.settings)
    return ', '.join(f'{name} {value:g}' for name, value in numbers.items())


_BOTH = f'{TABLE}; {CODE}'

PUBLISHED: Mapping[str, Published] = {
  'inputs-sgdw': Published(
    'inputs', 'SGDW', 0.001, {'weight_decay': 0.001}, _BOTH
  ),
  'inputs-adamw': Published(
    'inputs',
    'AdamW',
    0.0001,
    {'b1': 0.0, 'b2': 0.99, 'eps': 1e-8, 'weight_decay': 0.0},
    _BOTH,
  ),
  # The paper's table has twice the noise of its authors' runs.
  'inputs-s-and-p': Published(
    'inputs', 'S&P', 0.001, {'weight_decay': 0.01, 'noise': 0.05}, CODE
  ),
  'inputs-s-and-p-table': Published(
    'inputs', 'S&P', 0.001, {'weight_decay': 0.01, 'noise': 0.1}, TABLE
  ),
  'inputs-upgd-w': Published(
    'inputs',
    'UPGD-W',
    0.01,
    {'weight_decay': 0.01, 'utility_decay': 0.9999, 'noise': 0.1},
    _BOTH,
  ),
  'labels-sgdw': Published(
    'labels', 'SGDW', 0.01, {'weight_decay': 0.0001}, _BOTH
  ),
  'labels-adamw': Published(
    'labels',
    'AdamW',
    0.0001,
    {'b1': 0.0, 'b2': 0.9999, 'eps': 1e-8, 'weight_decay': 0.1},
    _BOTH,
  ),
  'labels-s-and-p': Published(
    'labels', 'S&P', 0.01, {'weight_decay': 0.001, 'noise': 0.005}, CODE
  ),
  'labels-s-and-p-table': Published(
    'labels', 'S&P', 0.01, {'weight_decay': 0.001, 'noise': 0.01}, TABLE
  ),
  'labels-upgd-w': Published(
    'labels',
    'UPGD-W',
    0.01,
    {'weight_decay': 0.0, 'utility_decay': 0.9, 'noise': 0.001},
    _BOTH,
  ),
}


def build_published(
  name: str, learning_rate: float | jax.Array
) -> optax.GradientTransformation:
  """An optimizer with its published settings.

  Args:
    name: one of `PUBLISHED`.
    learning_rate: may be traced; the published one is in `PUBLISHED`.

  Returns:
    The optimizer. Noise is a random stretch of numbers drawn once, not drawn
    anew as its authors have it.

  Example:
    >>> optimizer = build_published('inputs-adamw', 0.0001)
  """
  found = PUBLISHED[name]
  settings: dict[str, Any] = dict(found.settings)
  match found.method:
    case 'SGDW':
      return optax.chain(
        optax.add_decayed_weights(**settings), optax.sgd(learning_rate)
      )
    case 'AdamW':
      return optax.adamw(learning_rate, **settings)
    case 'S&P':
      build = always_on.shrink_and_perturb
    case _:
      build = always_on.upgd
  return build(learning_rate, num_drawn=_NUM_DRAWN, **settings)


class Reference(NamedTuple):
  """A number of somebody else's, of the same protocol and settings.

  Attributes:
    name: of `PUBLISHED`.
    num_tasks: that it is the mean over, from the first on.
    accuracy: online, a share.
    num_seeds: that it is the mean over; 0 where it is read off a figure.
    source: whose it is.
  """

  name: str
  num_tasks: int
  accuracy: float
  num_seeds: int
  source: str


# What is published is curves alone: Figures 3 and 6, no table of accuracies.
FIGURES = {'inputs': 'Figure 3', 'labels': 'Figure 6(b)'}
NUM_TASKS = {'inputs': 200, 'labels': 400}
# A third party's replication in JAX, and what it read off Figure 3.
_REPLICATION = 'Alberta Framework, CONTINUAL_LEARNING_EVIDENCE.md, August 2026'
REFERENCES = (
  Reference('inputs-upgd-w', 20, 0.774279, 10, _REPLICATION),
  Reference('inputs-upgd-w', 50, 0.777419, 10, _REPLICATION),
  Reference('inputs-upgd-w', 200, 0.779147, 10, _REPLICATION),
  Reference('inputs-upgd-w', 200, 0.78, 0, _REPLICATION),
  Reference('inputs-adamw', 20, 0.773526, 10, _REPLICATION),
  Reference('inputs-adamw', 50, 0.759785, 10, _REPLICATION),
  Reference('inputs-adamw', 200, 0.719000, 10, _REPLICATION),
  Reference('inputs-adamw', 200, 0.68, 0, _REPLICATION),
)
