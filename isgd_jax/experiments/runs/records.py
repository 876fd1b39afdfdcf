"""Records of runs in a results folder: one file of JSON lines a workload.

What many runs share stands once, in lines of their own: `environment`
(hardware, versions, commit), `task` and `algorithm` (all their numbers). A run
names these by the short hashes that they are kept under.
"""

from collections.abc import Iterator, Mapping
import hashlib
import pathlib
from typing import Any

from isgd_jax.experiments import files
from isgd_jax.experiments.environment import environment
from isgd_jax.experiments.runs.packed import unpack_records

_SETTINGS = ('task_config', 'algorithm')
_SHARED = ('environment', *_SETTINGS)


class Store:
  """The records of one file; every new one is on disk before it returns."""

  def __init__(self, path: pathlib.Path):
    """Reads what is there.

    Args:
      path: of the file; made when the first record is appended.
    """
    self._path = path
    self._runs: dict[str, dict[str, Any]] = {}
    self._latest: dict[tuple[str, str, str], tuple[str, str]] = {}
    self._known: set[str] = set()
    if path.exists():
      for record in unpack_records(files.read_records(path)):
        if 'kind' in record:
          self._known.add(record['hash'])
        else:
          self._keep(record)
    self._environment = environment()

  @property
  def num_runs(self) -> int:
    """Runs on record."""
    return len(self._runs)

  def find(
    self,
    identity: str,
    *,
    task: Mapping[str, Any],
    algorithm: Mapping[str, Any],
  ) -> dict[str, Any] | None:
    """The record of a run, or None.

    A run that was made under other settings that do not change it (a smaller
    grid, say) is written again under these, so that `read_runs` keeps it.

    Args:
      identity: its `id`.
      task: all numbers of its task.
      algorithm: all numbers of how it was trained.

    Returns:
      The record.
    """
    record = self._runs.get(identity)
    if record is None:
      return None
    settings = _hash(task), _hash(algorithm)
    if settings != _settings(record) or settings != self._latest[_row(record)]:
      self._share(task=task, algorithm=algorithm)
      # The environment is still that of the run.
      hashes = dict(zip(_SETTINGS, settings, strict=True))
      record = self._write({**record, **hashes})
    return record

  def note(self, kind: str, content: Mapping[str, Any]) -> None:
    """Writes what is known apart from any run, if it is not there yet."""
    self._share(**{kind: content})

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
    hashes = self._share(
      environment=self._environment, task=task, algorithm=algorithm
    )
    return self._write({**record, **hashes})

  def _share(self, **contents: Mapping[str, Any]) -> dict[str, str]:
    """Writes what is not there yet; the hashes, by a run's names for them."""
    hashes = {}
    for name, content in contents.items():
      kind = 'task_config' if name == 'task' else name
      hashes[kind] = _hash(content)
      if hashes[kind] not in self._known:
        files.append_record(
          self._path,
          {'kind': kind, 'hash': hashes[kind], 'content': content},
          is_compact=True,
        )
        self._known.add(hashes[kind])
    return hashes

  def _write(self, record: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a run; as it is read back."""
    whole = files.plain(record)
    files.append_record(self._path, whole, is_compact=True)
    self._keep(whole)
    return whole

  def _keep(self, record: dict[str, Any]) -> None:
    self._runs[record['id']] = record
    self._latest[_row(record)] = _settings(record)


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
  for record in unpack_records(files.read_records(path)):
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


def _hash(content: Mapping[str, Any]) -> str:
  return hashlib.sha256(files.to_json(content).encode()).hexdigest()[:8]
