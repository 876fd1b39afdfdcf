"""The first cell of every notebook, kept here alone.

python notebooks/setup_cell.py   # writes it into them, and changes nothing else

`make notebooks` does so before it executes them; a test compares.
"""

import pathlib

import nbformat

FOLDER = pathlib.Path(__file__).resolve().parent
MARKDOWN = """\
## Set-up

Where `isgd_jax` is installed already, this cell does nothing. Else it installs
it from the checkout that the notebook lies in, or from a wheel beside it: on
Colab, upload the one that `make wheel` makes. If Colab then asks to restart the
session, do so and go on from here."""
CODE = """\
# Where the library is missing, pip installs this: the path of a checkout or a
# wheel, an address (git+https://...), or, with nothing here, what lies around.
SOURCE = ''  # @param {type: "string"}

try:
  import isgd_jax
except ImportError:
  import pathlib
  import shutil
  import subprocess
  import sys

  here = pathlib.Path.cwd()
  found = [
    *(f for f in (here, *here.parents) if (f / 'isgd_jax/_isgd.py').exists()),
    *sorted(here.glob('isgd_jax-*.whl'), reverse=True),
  ]
  source = SOURCE or next(map(str, found), '')
  if not source:
    raise SystemExit(
      'isgd_jax is not here: put the wheel that `make wheel` makes beside this '
      'notebook (on Colab, upload it), or name a checkout in SOURCE, and run '
      'this cell again.'
    ) from None
  extra = '[experiments]'
  is_address = '://' in source
  packages = [f'isgd_jax{extra} @ {source}' if is_address else source + extra]
  # On a GPU or a TPU, the JAX that goes with it.
  tpus = pathlib.Path('/dev/accel0'), pathlib.Path('/dev/vfio/0')
  if shutil.which('nvidia-smi'):
    packages.append('jax[cuda12]')
  elif any(tpu.exists() for tpu in tpus):
    packages.append('jax[tpu]')
  pip = [sys.executable, '-m', 'pip', 'install', '-q', *packages]
  if subprocess.run(pip).returncode:
    raise SystemExit(f'pip could not install {source}: see above.') from None
  import isgd_jax

print('isgd_jax', isgd_jax.__version__)"""


def with_setup(notebook):
  """A notebook whose set-up, cells 1 and 2, is this one."""
  markdown, code = notebook.cells[1:3]
  assert markdown.source.startswith('## Set-up')
  assert 'SOURCE = ' in code.source
  markdown.source, code.source = MARKDOWN, CODE
  return notebook


def main() -> None:
  """Writes it into all notebooks."""
  for path in sorted(FOLDER.glob('[0-9]*.ipynb')):
    notebook = nbformat.read(path, as_version=4)
    before = nbformat.writes(notebook)
    if nbformat.writes(with_setup(notebook)) != before:
      nbformat.write(notebook, path)
      print(path.name)


if __name__ == '__main__':
  main()
