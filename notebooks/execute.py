"""Executes the notebooks in place, and keeps this machine out of the outputs.

python notebooks/execute.py                  # all of them, as `make notebooks`
python notebooks/execute.py 03_flax_lenet    # one
python notebooks/execute.py --smoke          # small sizes; writes nothing

Each runs in an empty folder, so that nothing but the installed library is at
hand. The smoke sizes are in the notebook's own metadata (`isgd_jax.smoke`);
they replace values of the cell with the tag `parameters`.
"""

import argparse
import ast
import copy
import json
import pathlib
import re
import sys
import tempfile
import time
from typing import Any

import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).resolve().parent
# Temporary folders, homes, site-packages: they are of one machine.
_MACHINE = re.compile(r'/(tmp|home|root|Users|work|var)/|site-packages')


def notebooks() -> list[pathlib.Path]:
  """The notebooks, in order."""
  return sorted(FOLDER.glob('[0-9]*.ipynb'))


def parameters_cell(notebook: Any) -> Any:
  """The one code cell with the tag `parameters`."""
  (cell,) = (
    cell
    for cell in notebook.cells
    if 'parameters' in cell.metadata.get('tags', [])
  )
  return cell


def parameter_names(notebook: Any) -> list[str]:
  """What the cell of the sizes assigns to."""
  return [
    target.id
    for statement in ast.parse(parameters_cell(notebook).source).body
    if isinstance(statement, ast.Assign)
    for target in statement.targets
    if isinstance(target, ast.Name)
  ]


def with_smoke_sizes(notebook: Any) -> Any:
  """A copy with the smoke sizes in place of the values of the sizes cell.

  Raises:
    ValueError: a size is of no parameter.
  """
  sizes = notebook.metadata['isgd_jax']['smoke']
  unknown = sizes.keys() - set(parameter_names(notebook))
  if unknown:
    raise ValueError(
      f'smoke sizes of no parameter: {", ".join(sorted(unknown))}; name one of '
      f'{", ".join(parameter_names(notebook))}'
    )
  notebook = copy.deepcopy(notebook)
  lines = [f'{name} = {value!r}' for name, value in sizes.items()]
  parameters_cell(notebook).source += '\n' + '\n'.join(lines)
  return notebook


def execute(
  notebook: Any, seconds_per_cell: int, folder: str | None = None
) -> float:
  """Executes a notebook in a folder, by default an empty one of its own.

  Returns:
    The seconds it took.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell failed.
    nbclient.exceptions.CellTimeoutError: a cell took longer.
  """
  start = time.perf_counter()
  with tempfile.TemporaryDirectory() as empty:
    nbclient.NotebookClient(
      notebook,
      timeout=seconds_per_cell,
      startup_timeout=180,
      kernel_name='python3',
      resources={'metadata': {'path': folder or empty}},
      record_timing=False,
    ).execute()
  return time.perf_counter() - start


def complaints(notebook: Any) -> list[str]:
  """What must not stay in the outputs: warnings, errors, machine's paths."""
  found = []
  for number, cell in enumerate(notebook.cells):
    for output in cell.get('outputs', []):
      text = json.dumps(
        {k: v for k, v in output.items() if k != 'data'}
        | {
          kind: value
          for kind, value in output.get('data', {}).items()
          if not kind.startswith('image/')
        }
      )
      if output.output_type == 'error' or output.get('name') == 'stderr':
        found.append(f'cell {number} writes to stderr: {text[:500]}')
      elif _MACHINE.search(text):
        found.append(f'cell {number} names this machine: {text[:500]}')
  return found


def clean(notebook: Any) -> Any:
  """A copy without what differs from one machine to the next."""
  notebook = copy.deepcopy(notebook)
  notebook.metadata = {
    'isgd_jax': notebook.metadata['isgd_jax'],
    'kernelspec': {
      'display_name': 'Python 3',
      'language': 'python',
      'name': 'python3',
    },
    'language_info': {'name': 'python'},
  }
  for cell in notebook.cells:
    tags = cell.metadata.get('tags')
    cell.metadata = {'tags': tags} if tags else {}
  return notebook


def main(arguments: list[str]) -> int:
  """Executes what is named, or all; 1 where outputs are not fit to keep."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('names', nargs='*', help='without .ipynb; all if none')
  parser.add_argument(
    '--smoke', action='store_true', help='small sizes; nothing is written'
  )
  parser.add_argument('--folder', help='to run in, in place of an empty one')
  parser.add_argument('--seconds-per-cell', type=int, default=600)
  options = parser.parse_args(arguments)
  paths = [FOLDER / f'{name}.ipynb' for name in options.names] or notebooks()
  num_bad = 0
  for path in paths:
    notebook = nbformat.read(path, as_version=4)
    if options.smoke:
      notebook = with_smoke_sizes(notebook)
    seconds = execute(notebook, options.seconds_per_cell, options.folder)
    found = complaints(notebook)
    num_bad += bool(found) and not options.smoke
    print(f'{path.stem}: {seconds:.0f} s', *found[:5], sep='\n  ', flush=True)
    if not options.smoke and not found:
      nbformat.write(clean(notebook), path)
  return int(num_bad > 0)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
