"""How this package is installed with an extra: the one place that says it."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import shlex
import urllib.parse
import urllib.request

# Whether `pip install isgd_jax` finds it: not before it is on an index.
ON_INDEX = False
_NAME = 'isgd_jax'


def how_to_install(extra: str) -> str:
  """The command that adds an extra to this installation.

  It names where this very package came from: the checkout that it lies in, the
  folder, wheel or address that pip was given, or an index. Nothing is fetched.

  Args:
    extra: its name.

  Returns:
    A shell command, and what it needs where that is not known.

  Example:
    >>> how_to_install('flax').startswith("pip install ")
    True
  """
  source = _source()
  if source is not None:
    return f'pip install {shlex.quote(_with_extra(source, extra))}'
  if ON_INDEX:
    return f"pip install '{_NAME}[{extra}]'"
  return (
    f"pip install '.[{extra}]' in a checkout of {_NAME}, or with the path of "
    'its wheel in place of the dot'
  )


def missing(user: str, package: str, extra: str, name: str) -> ImportError:
  """The error for a dependency that is not installed.

  Args:
    user: the part of this package that needs it.
    package: what it needs, as people call it.
    extra: what installs it.
    name: the module that could not be imported.

  Returns:
    An `ImportError`.

  Example:
    >>> error = missing('isgd_jax.plotting', 'matplotlib', 'plot', 'matplotlib')
    >>> str(error).startswith('isgd_jax.plotting needs matplotlib: pip install')
    True
  """
  return ImportError(
    f'{user} needs {package}: {how_to_install(extra)}', name=name
  )


def _source() -> str | None:
  """A folder, a wheel or an address; None where it came from an index."""
  checkout = pathlib.Path(__file__).resolve().parents[1]
  if (checkout / 'pyproject.toml').is_file():
    return str(checkout)
  try:
    text = importlib.metadata.distribution(_NAME).read_text('direct_url.json')
    record = json.loads(text or '{}')
  except (importlib.metadata.PackageNotFoundError, ValueError):
    return None
  url = record.get('url', '')
  if url.startswith('file:'):
    path = urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
    # It may have been moved since.
    return path if pathlib.Path(path).exists() else None
  vcs = record.get('vcs_info', {}).get('vcs')
  return (f'{vcs}+{url}' if vcs else url) or None


def _with_extra(source: str, extra: str) -> str:
  """A requirement as pip takes it."""
  if '://' in source:
    return f'{_NAME}[{extra}] @ {source}'
  return f'{source}[{extra}]'
