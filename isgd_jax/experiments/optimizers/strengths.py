"""Rivals that are always on, at a tenth and at ten times their strength."""

from typing import NamedTuple

import jax
import optax

from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.optimizers import always_on

_FACTORS = {'weak': 0.1, 'strong': 10.0}


class Strength(NamedTuple):
  """A rival at another strength.

  Attributes:
    of: name of the base optimizer.
    factor: of its strength: of L2, or of weight decay and noise alike.
  """

  of: str
  factor: float


STRENGTHS = {
  f'{name}-{title}': Strength(name, factor)
  for name in ('l2-to-start', 'shrink-and-perturb', 'upgd')
  for title, factor in _FACTORS.items()
}


def build_with_strength(
  name: str, learning_rate: float | jax.Array
) -> optax.GradientTransformation:
  """A rival at another strength than its own.

  Args:
    name: one of `STRENGTHS`.
    learning_rate: may be traced.

  Returns:
    The optimizer.

  Raises:
    ValueError: the name is unknown; the message gives the nearest valid names.

  Example:
    >>> optimizer = build_with_strength('upgd-weak', 0.1)
  """
  check_name('strength', name, STRENGTHS)
  of, factor = STRENGTHS[name]
  if of == 'l2-to-start':
    return optax.chain(
      always_on.add_decay_to_start(factor * always_on.DECAY_TO_START),
      optax.adam(learning_rate),
    )
  build = always_on.upgd if of == 'upgd' else always_on.shrink_and_perturb
  return build(
    learning_rate,
    weight_decay=factor * always_on.WEIGHT_DECAY,
    noise=factor * always_on.NOISE,
  )
