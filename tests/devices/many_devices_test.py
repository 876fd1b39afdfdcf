"""Runs `tests/devices/many_devices/` on eight virtual CPU devices.

In processes of their own: the number of devices is set once, before JAX is
first used. On a machine with eight devices they can be run as they are.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.cheap_compile, pytest.mark.processes]

FOLDER = pathlib.Path(__file__).parent / 'many_devices'
FILES = sorted(FOLDER.glob('*_test.py'))


@pytest.mark.timeout(900)
@pytest.mark.every_case
@pytest.mark.parametrize(
  'path',
  [
    # A page, as all of them.
    pytest.param(path, marks=pytest.mark.one_version)
    if path.stem == 'docs_test'
    else path
    for path in FILES
  ],
  ids=lambda path: path.stem,
)
def test_on_eight_devices(path, pytestconfig):
  environment = os.environ | {
    'JAX_NUM_CPU_DEVICES': '8',
    'JAX_PLATFORMS': 'cpu',
  }
  # This process may be one of several that run tests in parallel.
  environment.pop('PYTEST_ADDOPTS', None)
  # Such as the warnings that are errors on some versions only.
  settings = [
    f'-o{setting}' for setting in pytestconfig.option.override_ini or ()
  ]
  if pytestconfig.getoption('--first-case'):
    settings.append('--first-case')
  result = subprocess.run(
    [
      *(sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider'),
      *(*settings, str(path)),
    ],
    capture_output=True,
    text=True,
    timeout=880,
    check=False,
    env=environment,
    cwd=FOLDER.parents[2],
  )
  assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
  summary = result.stdout.splitlines()[-1]
  assert re.fullmatch(r'\d+ passed(, \d+ deselected)? in .*', summary), summary


def test_there_are_some():
  assert len(FILES) >= 5
