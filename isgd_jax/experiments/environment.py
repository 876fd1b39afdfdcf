"""The hardware, versions and commit that a result was made with."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

from isgd_jax import __version__


def environment() -> dict[str, dict[str, Any]]:
  """The hardware and the versions that a result was made with.

  Returns:
    `{'hardware': {...}, 'versions': {...}}`.

  Example:
    >>> sorted(environment()['versions'])
    ['commit', 'flax', 'isgd_jax', 'jax', 'numpy', 'optax', 'python']
  """
  device = jax.devices()[0]
  packages = ('jax', 'optax', 'flax', 'numpy')
  versions = {name: importlib.metadata.version(name) for name in packages}
  return {
    'hardware': {
      'platform': device.platform,
      'device': device.device_kind,
      'num_devices': jax.device_count(),
      'machine': platform.machine(),
      'num_cpus': _num_cpus(),
    },
    'versions': {
      'python': platform.python_version(),
      'isgd_jax': __version__,
      'commit': _commit(),
      **versions,
    },
  }


def _num_cpus() -> int | None:
  """The cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count()


@functools.cache
def _commit() -> str | None:
  """The commit of a source checkout, marked where its code was edited since.

  Records and the pages made of them are not code: each run adds to them.
  """
  # Tags are of no use here, and may be missing in a shallow clone.
  commit = _git('describe', '--always', '--abbrev=12', '--exclude=*')
  if commit is None:
    return None
  edited = _git(
    *('status', '--porcelain', '--untracked-files=no', '--', ':/'),
    *(':(exclude,top)*.jsonl', ':(exclude,top)*.md', ':(exclude,top)*.png'),
  )
  return f'{commit}-dirty' if edited else commit


def _git(*arguments: str) -> str | None:
  """What git prints, or None without git or a checkout."""
  try:
    found = subprocess.run(
      ['git', *arguments],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return found.stdout.strip()
