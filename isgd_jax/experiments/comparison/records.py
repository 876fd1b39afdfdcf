"""Records of runs in a results folder: one file of JSON lines a workload.

What many runs share stands once, in lines of their own: `environment`
(hardware, versions, commit), `task` and `algorithm` (all their numbers). A run
names these by the short hashes that they are kept under.
"""

from collections.abc import Iterator, Mapping
import hashlib
import pathlib
from typing import Any

from isgd_jax.experiments import results

_SHARED = ('environment', 'task_config', 'algorithm')


class Store:
  """The records of one file; every new one is on disk before it returns."""

  def __init__(self, path: pathlib.Path):
    """Reads what is there.

    Args:
      path: of the file; made when the first record is appended.
    """
    self._path = path
    self._runs: dict[str, dict[str, Any]] = {}
    self._known: set[str] = set()
    if path.exists():
      for record in results.read_records(path):
        if 'kind' in record:
          self._known.add(record['hash'])
        else:
          self._runs[record['id']] = record
    self._environment = results.environment()

  @property
  def num_runs(self) -> int:
    """Runs on record."""
    return len(self._runs)

  def find(self, identity: str) -> dict[str, Any] | None:
    """The record of a run, or None.

    Args:
      identity: its `id`.

    Returns:
      The record.
    """
    return self._runs.get(identity)

  def append(
    self,
    record: Mapping[str, Any],
    *,
    task: Mapping[str, Any],
    algorithm: Mapping[str, Any],
  ) -> dict[str, Any]:
    """Adds a run, and before it what it shares with others, if new.

    Args:
      record: the run, with its `id`.
      task: all numbers of its task.
      algorithm: all numbers of how it was trained.

    Returns:
      The record as it was written, and as `find` will return it.
    """
    shared = dict(
      zip(_SHARED, (self._environment, task, algorithm), strict=True)
    )
    hashes = {}
    for kind, content in shared.items():
      text = results.to_json(content)
      digest = hashlib.sha256(text.encode()).hexdigest()[:8]
      hashes[kind] = digest
      if digest not in self._known:
        results.append_record(
          self._path, {'kind': kind, 'hash': digest, 'content': content}
        )
        self._known.add(digest)
    whole = results.plain({**record, **hashes})
    results.append_record(self._path, whole)
    self._runs[whole['id']] = whole
    return whole


def read_runs(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The runs of one file, each with what it shares in place of the hashes.

  Of runs that were made again under other settings, the last settings count:
  of each task, base optimizer and method those runs are left out whose task or
  algorithm is not that of the last one.

  Args:
    path: of the file.

  Yields:
    Records as `Store.append` took them, with `environment`, `task_config` and
    `algorithm` added.
  """
  shared: dict[str, Any] = {}
  runs: dict[str, dict[str, Any]] = {}
  latest: dict[tuple[str, str, str], tuple[str, str]] = {}
  for record in results.read_records(path):
    if 'kind' in record:
      shared[record['hash']] = record['content']
    else:
      runs[record['id']] = record
      latest[_row(record)] = _settings(record)
  for record in runs.values():
    if _settings(record) == latest[_row(record)]:
      yield {**record, **{kind: shared[record[kind]] for kind in _SHARED}}


def _row(record: Mapping[str, Any]) -> tuple[str, str, str]:
  return record['task'], record['base'], record['method']


def _settings(record: Mapping[str, Any]) -> tuple[str, str]:
  return record['task_config'], record['algorithm']
