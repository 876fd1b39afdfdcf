"""What a user can get wrong, and errors that say how to put it right."""

from collections.abc import Iterable
import difflib

INSTALL_EXTRA = "pip install 'isgd_jax[experiments]'"


class InputError(ValueError):
  """A user asked for something that is not valid."""


class UnknownNameError(InputError):
  """A data set, model, method or optimizer that does not exist."""


class OutputError(OSError):
  """A result cannot be written."""


def check_name(kind: str, name: str, valid_names: Iterable[str]) -> str:
  """Returns `name` if it is valid, and otherwise says which names are near.

  Args:
    kind: what is named, for the message, e.g. `'data set'`.
    name: the name to check.
    valid_names: all names that exist.

  Returns:
    `name`, unchanged.

  Raises:
    UnknownNameError: (a `ValueError`) quoting `name`, with the nearest valid
      names, or with all of them where none is near.

  Example:
    >>> check_name('model', 'mlp', ['cnn', 'mlp'])
    'mlp'
    >>> try:
    ...   check_name('model', 'mpl', ['cnn', 'mlp'])
    ... except ValueError as error:
    ...   print(error)
    unknown model 'mpl'; did you mean 'mlp'? (valid: 'cnn', 'mlp')
  """
  valid = sorted(valid_names)
  if name in valid:
    return name
  near = difflib.get_close_matches(str(name).lower(), valid, n=3, cutoff=0.5)
  hint = ' or '.join(repr(n) for n in near)
  hint = f'did you mean {hint}? ' if near else ''
  listing = ', '.join(repr(n) for n in valid)
  raise UnknownNameError(f'unknown {kind} {name!r}; {hint}(valid: {listing})')


def missing_extra(package: str) -> ImportError:
  """The error for an optional dependency that is not installed.

  Args:
    package: the package that could not be imported.

  Returns:
    An `ImportError` that names the package and the extra that installs it.

  Example:
    >>> print(missing_extra('flax'))
    isgd_jax.experiments needs flax: pip install 'isgd_jax[experiments]'
  """
  return ImportError(
    f'isgd_jax.experiments needs {package}: {INSTALL_EXTRA}', name=package
  )
