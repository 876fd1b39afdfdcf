"""Prints pip constraints: every floor of pyproject.toml as an exact version."""

import itertools
import pathlib
import re
import tomllib

project = tomllib.loads(pathlib.Path('pyproject.toml').read_text())['project']
extras = project['optional-dependencies']
for requirement in itertools.chain(project['dependencies'], *extras.values()):
  floor = re.fullmatch(r'([A-Za-z0-9_.-]+)>=([0-9.]+)', requirement)
  if floor:
    print(f'{floor[1]}=={floor[2]}')
    if floor[1] == 'jax':
      print(f'jaxlib=={floor[2]}')
