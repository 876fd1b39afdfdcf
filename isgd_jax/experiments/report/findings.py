"""What a results folder holds, workload by workload, and where it was made."""

from collections.abc import Iterable, Mapping
import math
import pathlib
from typing import Any, NamedTuple

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.files import read_records
from isgd_jax.experiments.optimizers.published import PUBLISHED
from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report.rows import Record
from isgd_jax.experiments.report.rows import Rows
from isgd_jax.experiments.report.rows import collect
from isgd_jax.experiments.runs.records import read_runs
from isgd_jax.experiments.runs.workloads import WORKLOADS

_LARGE = '-large'


class Finding(NamedTuple):
  """The runs of one workload.

  Attributes:
    workload: its name.
    is_large: whether they are of its form for an accelerator.
    rows: what is reported; the names of large tasks end in `-large`.
    left_out: of each task and base optimizer, the methods that have runs and
      no row.
    environments: hardware and versions of all runs, a line each.
    run_seconds: of the runs that are reported.
    compile_seconds: of all runs.
    no_change: of each real stream, what a no-change forecaster has.
  """

  workload: str
  is_large: bool
  rows: Rows
  left_out: dict[tuple[str, str], list[str]]
  environments: list[str]
  run_seconds: float
  compile_seconds: float
  no_change: dict[str, dict[str, Any]]


def read_findings(folder: pathlib.Path) -> list[Finding]:
  """Reads the records of all workloads.

  Args:
    folder: with the files that `compare` wrote.

  Returns:
    Of each workload that has runs, in the workloads' order, the small forms
    first, what was found; without maps.

  Raises:
    InputError: (a `ValueError`) there are no runs.

  Example:
    >>> try:
    ...   read_findings(pathlib.Path('nowhere'))
    ... except ValueError as error:
    ...   print(error)
    no results in 'nowhere': make some with isgd-jax compare WORKLOAD --out \
'nowhere'
  """
  found, has_map = [], False
  for suffix in ('', _LARGE):
    for name in WORKLOADS:
      if WORKLOADS[name].is_map:
        # No rate of it is tuned, so it has no rows.
        has_map |= (folder / f'{name}.jsonl').exists()
        continue
      path = folder / f'{name}{suffix}.jsonl'
      if path.exists() and (records := list(_read(path, suffix))):
        found.append(
          _finding(name, bool(suffix), records)._replace(
            no_change=_no_change(path)
          )
        )
  if not found and not has_map:
    raise InputError(
      f"no results in '{folder}': make some with isgd-jax compare WORKLOAD "
      f"--out '{folder}'"
    )
  return found


def _no_change(path: pathlib.Path) -> dict[str, dict[str, Any]]:
  """What is noted of each real stream."""
  return {
    record['content']['task']: record['content']
    for record in read_records(path)
    if record.get('kind') == 'no_change'
  }


def _read(path: pathlib.Path, suffix: str) -> Iterable[Record]:
  """The runs; those of large tasks under names of their own."""
  for record in read_runs(path):
    yield {**record, 'task': record['task'] + suffix}


def _finding(name: str, is_large: bool, records: list[Record]) -> Finding:
  rows = collect(records)
  left_out: dict[tuple[str, str], list[str]] = {}
  for task, base, method in dict.fromkeys(
    (r['task'], r['base'], r['method']) for r in records
  ):
    if (task, base, method) not in rows:
      left_out.setdefault((task, base), []).append(method)
  return Finding(
    name,
    is_large,
    rows,
    left_out,
    sorted({describe_environment(record) for record in records}),
    math.fsum(
      run['summary']['run_seconds']
      for row in rows.values()
      for run in row.runs.values()
    ),
    math.fsum(r['summary']['compile_seconds'] for r in records),
    {},
  )


def describe_environment(run: Mapping[str, Any]) -> str:
  """Hardware and versions in a line.

  Args:
    run: with `environment`.

  Returns:
    The line.
  """
  hardware = run['environment']['hardware']
  versions = run['environment']['versions']
  cores = 'core' if hardware['num_cpus'] == 1 else 'cores'
  return (
    f'{hardware["num_devices"]} x {hardware["device"]}, '
    f'{hardware["num_cpus"]} CPU {cores}, jax {versions["jax"]}, '
    f'Python {versions["python"]}, commit {versions["commit"] or "unknown"}'
  )


def describe_left_out(finding: Finding) -> str:
  """What of a workload is in no table, as Markdown; empty where nothing is.

  Args:
    finding: of the workload.

  Returns:
    A paragraph.
  """
  if not finding.left_out:
    return ''
  names = '; '.join(
    f'{task}, {base}: '
    + (', '.join(methods) if len(methods) < 7 else f'{len(methods)} methods')
    for (task, base), methods in finding.left_out.items()
  )
  return (
    'In no table, for it is not finished or was made with other numbers of the '
    f'task: {names}.'
  )


def describe_provenance(found: Iterable[Finding]) -> str:
  """Hardware, versions, seeds and grids of all that is reported, as Markdown.

  Args:
    found: from `read_findings`.

  Returns:
    A table and the grids.
  """
  lines, grids = [], {}
  for finding in found:
    rows = finding.rows.values()
    seeds = sorted({len(row.runs) for row in rows})
    lines.append(
      [
        finding.workload + (_LARGE if finding.is_large else ''),
        '; '.join(finding.environments),
        '/'.join(map(str, seeds)) or '0',
        f'{finding.run_seconds:.0f}',
        f'{finding.compile_seconds:.0f}',
      ]
    )
    for row in rows:
      # Published settings stand in the table of their protocol.
      if row.base in PUBLISHED:
        continue
      grid = row.first['algorithm']['grid']
      grids[row.base] = max(grid, grids.get(row.base, []), key=len)
  text = markdown.markdown_table(
    [
      *('workload', 'where', 'seeds', 'seconds of the reported runs'),
      'seconds of compilation, tuning included',
    ],
    lines,
  )
  if not grids:
    return text
  listing = '; '.join(
    f'{base} {", ".join(f"{x:g}" for x in grid)}'
    for base, grid in grids.items()
  )
  return (
    f'{text}\n\nLearning rates, the longest grid of each; a shorter one has '
    f'those in its middle: {listing}.'
  )
