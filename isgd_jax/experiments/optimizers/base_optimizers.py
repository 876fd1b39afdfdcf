"""The base optimizers by name, and how their learning rates are tuned."""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
import statistics

import jax
import optax
import optax.contrib

from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.optimizers import always_on
from isgd_jax.experiments.optimizers.published import PUBLISHED
from isgd_jax.experiments.optimizers.published import build_published
from isgd_jax.experiments.optimizers.strengths import STRENGTHS
from isgd_jax.experiments.optimizers.strengths import build_with_strength

_MOMENTUM = 0.9
_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  'sgd': optax.sgd,
  'momentum': functools.partial(optax.sgd, momentum=_MOMENTUM),
  'nesterov': functools.partial(optax.sgd, momentum=_MOMENTUM, nesterov=True),
  'adam': optax.adam,
  # The loss sets these two's step; the rate is its upper bound.
  'polyak': optax.polyak_sgd,
  'momo': optax.contrib.momo,
  # Rivals that are always on.
  'adam-b1-0': functools.partial(optax.adam, b1=0.0),
  'adam-b1-b2': functools.partial(optax.adam, b1=0.99, b2=0.99),
  'l2-to-start': lambda rate: optax.chain(
    always_on.add_decay_to_start(), optax.adam(rate)
  ),
  'shrink-and-perturb': always_on.shrink_and_perturb,
  'upgd': always_on.upgd,
  # Their rate is a factor to what they find by themselves.
  'prodigy': optax.contrib.prodigy,
  'dog': optax.contrib.dog,
  'dowg': optax.contrib.dowg,
  'cocob': optax.contrib.cocob,
  **{name: functools.partial(build_with_strength, name) for name in STRENGTHS},
}
# Always on, without the two that `polyak` and `momo` stand for in all records.
ALWAYS_ON = (
  *('adam-b1-0', 'adam-b1-b2', 'l2-to-start', 'shrink-and-perturb', 'upgd'),
  *('prodigy', 'dog', 'dowg', 'cocob'),
)

# One grid for all methods of a base optimizer, half a decade between rates.
_GRIDS = {
  'sgd': (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
  'momentum': (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
  'nesterov': (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
  'adam': (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
  'polyak': (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
  'momo': (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
  **dict.fromkeys(
    ('adam-b1-0', 'adam-b1-b2', 'l2-to-start'),
    (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
  ),
  **dict.fromkeys(
    ('shrink-and-perturb', 'upgd'), (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
  ),
  # Nothing to tune.
  **dict.fromkeys(('prodigy', 'dog', 'dowg', 'cocob'), (1.0,)),
}
_GRIDS |= {name: _GRIDS[strength.of] for name, strength in STRENGTHS.items()}
_MOST_RATES = 6


def base_optimizer_names() -> tuple[str, ...]:
  """The names that `build_base_optimizer` knows.

  Returns:
    The names, sorted; without those of `PUBLISHED`, which are for one workload.

  Example:
    >>> base_optimizer_names()[:4]
    ('adam', 'adam-b1-0', 'adam-b1-b2', 'cocob')
  """
  return tuple(sorted(_OPTIMIZERS))


def build_base_optimizer(
  name: str, learning_rate: float | jax.Array
) -> optax.GradientTransformation:
  """Optax's optimizer of that name; momentum is 0.9, Adam as Optax has it.

  Args:
    name: `'sgd'`, `'momentum'`, `'nesterov'`, `'adam'`, one whose steps depend
      on the loss: `'polyak'` (`optax.polyak_sgd`) or `'momo'`
      (`optax.contrib.momo`), or one of `ALWAYS_ON`: `'adam-b1-0'`,
      `'adam-b1-b2'` (both 0.99), `'l2-to-start'` (Adam), those of `always_on`
      and of `optax.contrib`; one of `STRENGTHS`; or one of `PUBLISHED`.
    learning_rate: a number, which may be traced; of the two that depend on the
      loss, the most that a step may have.

  Returns:
    The optimizer.

  Raises:
    ValueError: the name is unknown; the message gives the nearest valid names.

  Example:
    >>> optimizer = build_base_optimizer('momentum', 0.1)
  """
  if name in PUBLISHED:
    return build_published(name, learning_rate)
  check_name('base optimizer', name, _OPTIMIZERS)
  return _OPTIMIZERS[name](learning_rate)


def learning_rate_grid(
  base_optimizer: str, num_rates: int = 6, factor: float = 1.0
) -> tuple[float, ...]:
  """The learning rates that every method of a base optimizer is tuned over.

  Args:
    base_optimizer: its name.
    num_rates: how many, 1 to 6, from the middle of the grid.
    factor: of all rates, for inputs of another size, to three digits.

  Returns:
    The rates, ascending; of an optimizer that finds its own, 1 alone; of one of
    `PUBLISHED` its own.

  Raises:
    ValueError: the name is unknown (the message gives the nearest valid names),
      or there are not so many rates.

  Example:
    >>> learning_rate_grid('adam', 3)
    (0.003, 0.01, 0.03)
  """
  if base_optimizer in PUBLISHED:
    return (PUBLISHED[base_optimizer].learning_rate,)
  grid = _GRIDS[check_name('base optimizer', base_optimizer, _GRIDS)]
  if not 1 <= num_rates <= _MOST_RATES:
    raise ValueError(
      f'num_rates must lie within 1 and {_MOST_RATES}, got {num_rates}'
    )
  num_rates = min(num_rates, len(grid))
  start = (len(grid) - num_rates + 1) // 2
  chosen = grid[start : start + num_rates]
  return tuple(float(f'{factor * rate:.3g}') for rate in chosen)


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
