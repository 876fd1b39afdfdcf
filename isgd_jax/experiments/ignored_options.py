"""Options that what was chosen ignores: refused, so that nobody relies on them.

`train`, `compare` and `plan-batch-size` say by their own modules which these
are, and say it with the words of this one.
"""

import dataclasses
from typing import Any

from isgd_jax.experiments.errors import InputError


def refuse(
  options: Any, name: str, chosen: str, instead: str, *, option: str = ''
) -> None:
  """Raises if an option is not what it is by default.

  Args:
    options: a dataclass.
    name: of the field.
    chosen: what has no use for it, for the message.
    instead: what would have, likewise.
    option: on the command line, without dashes; by default as the field.

  Raises:
    InputError: naming the option, its value and the remedy.

  Example:
    >>> @dataclasses.dataclass
    ... class Options:
    ...   batch_size: int = 1
    >>> try:
    ...   refuse(Options(8), 'batch_size', '--whole', '--cut')
    ... except ValueError as error:
    ...   print(error)
    --batch-size 8 has no effect with --whole; leave it out, or use --cut
  """
  value = getattr(options, name)
  default: Any = next(
    field.default for field in dataclasses.fields(options) if field.name == name
  )
  if value != default:
    option = option or name.replace('_', '-')
    raise no_effect(spell(option, value), chosen, instead)


def no_effect(given: str, chosen: str, instead: str) -> InputError:
  """The error for an option that does nothing.

  Args:
    given: the option with its value.
    chosen: what has no use for it.
    instead: what would have.

  Returns:
    An `InputError` with all three in its message.

  Example:
    >>> print(no_effect('--rate 1', '--free', '--paid'))
    --rate 1 has no effect with --free; leave it out, or use --paid
  """
  return InputError(
    f'{given} has no effect with {chosen}; leave it out, or use {instead}'
  )


def spell(option: str, value: Any) -> str:
  """An option as one would give it.

  Args:
    option: without its dashes.
    value: of the option; of a flag, whether it is set.

  Returns:
    The words of the command line.

  Example:
    >>> spell('bases', ('sgd', 'adam')), spell('large', False)
    ('--bases sgd adam', '--no-large')
  """
  if isinstance(value, bool):
    return f'--{option}' if value else f'--no-{option}'
  if isinstance(value, tuple):
    value = ' '.join(map(str, value))
  return f'--{option} {value}'
