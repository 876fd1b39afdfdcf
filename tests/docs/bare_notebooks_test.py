"""The notebooks where nothing is installed, with the wheel beside them.

As on Colab, and as `make wheel` says: the set-up cell itself runs pip.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytestmark = [
  pytest.mark.docs,
  pytest.mark.one_version,
  pytest.mark.processes,
  pytest.mark.slow,
  pytest.mark.timeout(3600),
]

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What runs a notebook, and is no part of the library.
RUNNER = ('ipykernel', 'nbclient', 'nbformat')
# The first ones, which need no data that are not in a package.
NAMES = ('01_quickstart', '02_what_the_chart_sees')


def run(*command, cwd, **options):
  # Nothing of this environment reaches the other.
  kept = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
  return subprocess.run(
    [str(word) for word in command],
    cwd=cwd,
    env={**kept, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=1800,
    **options,
  )


@pytest.fixture(scope='module')
def bare(tmp_path_factory):
  """A Python with what runs notebooks; a folder with these and the wheel."""
  folder = tmp_path_factory.mktemp('bare')
  environment, here = folder / 'environment', folder / 'here'
  here.mkdir()
  made = run(sys.executable, '-m', 'venv', environment, cwd=folder)
  assert made.returncode == 0, made.stderr
  python = environment / 'bin' / 'python'
  pip = (python, '-m', 'pip')
  if run(*pip, 'install', '-q', *RUNNER, cwd=folder).returncode:
    pytest.skip('pip reaches no package index')
  # As `make wheel` does; from a copy, for a build leaves files behind.
  source = folder / 'source'
  shutil.copytree(
    ROOT,
    source,
    ignore=lambda path, names: {
      *(n for n in names if n.startswith('.') or n in ('build', 'dist')),
      *(n for n in names if n in ('results', 'benchmarks', '__pycache__')),
    },
  )
  wheel = (*pip, 'wheel', '-q', '--no-deps', '--wheel-dir', here, source)
  made = run(*wheel, cwd=folder)
  assert made.returncode == 0, made.stderr
  for name in NAMES:
    shutil.copy(ROOT / f'notebooks/{name}.ipynb', here)
  return python, here


def test_they_run_with_the_wheel_alone(bare):
  python, here = bare
  absent = run(python, '-c', 'import isgd_jax', cwd=here)
  assert 'ModuleNotFoundError' in absent.stderr
  execute = (ROOT / 'notebooks/execute.py', '--smoke', '--folder', here)
  # The first one installs the library, the next one finds it.
  for name in NAMES:
    found = run(python, *execute, '--seconds-per-cell', 900, name, cwd=here)
    assert found.returncode == 0, found.stdout + found.stderr[-4000:]
  place = run(
    python, '-c', 'import isgd_jax; print(isgd_jax.__file__)', cwd=here
  )
  assert place.stdout.startswith(str(python.parent.parent)), place.stderr
