"""The base optimizers by name, and how their learning rates are tuned."""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
import statistics

import jax
import optax
import optax.contrib

from isgd_jax.experiments.errors import check_name

_MOMENTUM = 0.9
_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  'sgd': optax.sgd,
  'momentum': functools.partial(optax.sgd, momentum=_MOMENTUM),
  'nesterov': functools.partial(optax.sgd, momentum=_MOMENTUM, nesterov=True),
  'adam': optax.adam,
  # The loss sets these two's step; the rate is its upper bound.
  'polyak': optax.polyak_sgd,
  'momo': optax.contrib.momo,
}

# One grid for all methods of a base optimizer, half a decade between rates.
_GRIDS = {
  'sgd': (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
  'momentum': (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
  'nesterov': (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
  'adam': (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
  'polyak': (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
  'momo': (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
}


def base_optimizer_names() -> tuple[str, ...]:
  """The names that `build_base_optimizer` knows.

  Returns:
    The names, sorted.

  Example:
    >>> base_optimizer_names()
    ('adam', 'momentum', 'momo', 'nesterov', 'polyak', 'sgd')
  """
  return tuple(sorted(_OPTIMIZERS))


def build_base_optimizer(
  name: str, learning_rate: float | jax.Array
) -> optax.GradientTransformation:
  """Optax's optimizer of that name; momentum is 0.9, Adam as Optax has it.

  Args:
    name: `'sgd'`, `'momentum'`, `'nesterov'`, `'adam'`, or one whose steps
      depend on the loss: `'polyak'` (`optax.polyak_sgd`) or `'momo'`
      (`optax.contrib.momo`).
    learning_rate: a number, which may be traced; of the last two, the most that
      a step may have.

  Returns:
    The optimizer.

  Raises:
    ValueError: the name is unknown; the message gives the nearest valid names.

  Example:
    >>> optimizer = build_base_optimizer('momentum', 0.1)
  """
  check_name('base optimizer', name, _OPTIMIZERS)
  return _OPTIMIZERS[name](learning_rate)


def learning_rate_grid(
  base_optimizer: str, num_rates: int = 6
) -> tuple[float, ...]:
  """The learning rates that every method of a base optimizer is tuned over.

  Args:
    base_optimizer: its name.
    num_rates: how many, 1 to 6, from the middle of the grid.

  Returns:
    The rates, ascending.

  Raises:
    ValueError: the name is unknown (the message gives the nearest valid names),
      or there are not so many rates.

  Example:
    >>> learning_rate_grid('adam', 3)
    (0.003, 0.01, 0.03)
  """
  grid = _GRIDS[check_name('base optimizer', base_optimizer, _GRIDS)]
  if not 1 <= num_rates <= len(grid):
    raise ValueError(
      f'num_rates must lie within 1 and {len(grid)}, got {num_rates}'
    )
  start = (len(grid) - num_rates + 1) // 2
  return grid[start : start + num_rates]


def best_rate(losses: Mapping[float, Sequence[float]]) -> float:
  """The rate with the lowest median loss.

  Args:
    losses: of each rate, one loss a tuning seed. A loss that is not finite is
      a diverged run and counts as infinite.

  Returns:
    The best rate; the lowest of equals.

  Raises:
    ValueError: there is nothing to choose from.

  Example:
    >>> best_rate({0.1: [0.3, 0.4], 1.0: [0.2, float('nan')]})
    0.1
  """
  if not losses:
    raise ValueError('no learning rate to choose from')

  def median_loss(rate: float) -> float:
    return statistics.median(
      x if math.isfinite(x) else math.inf for x in losses[rate]
    )

  return min(sorted(losses), key=median_loss)
