"""Records of runs in few lines: what runs of a row share stands there once.

Runs are recorded a line each, so that an interruption loses none. A finished
file may be packed, to a quarter of its size; it is read and gone on with as
before.
"""

from collections.abc import Iterable, Iterator, Mapping
import pathlib
from typing import Any

from isgd_jax.experiments import files

_KIND = 'runs'
_GROUPED_BY = (
  *('task', 'base', 'method', 'purpose'),
  *('environment', 'task_config', 'algorithm'),
)


def pack_records(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Gathers runs into a line a row and purpose.

  Args:
    records: lines of a file, packed or not; of runs of one `id` the last
      counts.

  Returns:
    Lines that `unpack_records` makes the same runs of.

  Example:
    >>> run = dict.fromkeys(_GROUPED_BY, 'x') | {'summary': {'loss': 1.0}}
    >>> lines = pack_records([run | {'id': 'a'}, run | {'id': 'b'}])
    >>> lines[0]['same'], lines[0]['columns']
    ({'summary.loss': 1.0}, {'id': ['a', 'b']})
  """
  shared: list[dict[str, Any]] = []
  runs: dict[str, dict[str, Any]] = {}
  for record in unpack_records(records):
    if 'kind' in record:
      if record not in shared:
        shared.append(record)
    else:
      # The last place counts too: it says which settings are the latest.
      runs.pop(record['id'], None)
      runs[record['id']] = _flat(record)
  groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
  for run in runs.values():
    key = *(run[name] for name in _GROUPED_BY), *sorted(run)
    groups.setdefault(key, []).append(run)
  lines = shared
  for group in groups.values():
    first = group[0]
    line: dict[str, Any] = {'kind': _KIND}
    line |= {name: first[name] for name in _GROUPED_BY}
    line |= {'same': {}, 'columns': {}}
    for name in first:
      if name in _GROUPED_BY:
        continue
      column = [run[name] for run in group]
      if name != 'id' and all(x == column[0] for x in column):
        line['same'][name] = column[0]
      else:
        line['columns'][name] = column
    lines.append(line)
  return lines


def unpack_records(
  records: Iterable[Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
  """The lines of a file, a line a run.

  Args:
    records: lines, packed or not.

  Yields:
    Lines as `records.Store` writes them.
  """
  for record in records:
    if record.get('kind') != _KIND:
      yield dict(record)
      continue
    columns = record['columns']
    for values in zip(*columns.values(), strict=True):
      run = {name: record[name] for name in _GROUPED_BY}
      flat = dict(zip(columns, values, strict=True)) | record['same']
      for name, value in flat.items():
        outer, _, inner = name.partition('.')
        if inner:
          run.setdefault(outer, {})[inner] = value
        else:
          run[name] = value
      yield run


def pack_file(path: pathlib.Path) -> None:
  """Packs the records of a file, in its place.

  Args:
    path: of the file.

  Raises:
    OutputError: it cannot be written; it is then as it was.
  """
  lines = pack_records(files.read_records(path))
  text = ''.join(files.to_json(line, is_compact=True) + '\n' for line in lines)
  files.replace_file(path, lambda new: new.write_text(text))


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
  """The numbers of the summary among the rest, as `summary.loss`."""
  flat = {k: v for k, v in record.items() if k != 'summary'}
  return flat | {f'summary.{k}': v for k, v in record['summary'].items()}
