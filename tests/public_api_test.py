"""Every public symbol is documented, with an example that doctest runs."""

import doctest
import importlib.metadata
import inspect

import pytest

import isgd_jax


@pytest.mark.parametrize('name', isgd_jax.__all__)
def test_every_public_symbol_is_documented(name):
  symbol = getattr(isgd_jax, name)
  assert symbol.__module__.startswith('isgd_jax.')
  lines = inspect.getdoc(symbol).splitlines()
  assert lines[0].endswith('.')
  is_state = isinstance(symbol, type) and name not in (
    'ControlChart',
    'Reaction',
    'SubproblemSolver',
  )
  if is_state:  # A tuple of arrays: each field, its shape and dtype.
    assert 'Attributes:' in lines
    for field in symbol._fields:
      assert f'{field}:' in symbol.__doc__
  else:
    assert doctest.DocTestFinder().find(symbol, name)[0].examples


def test_the_version_is_that_of_the_package():
  assert isgd_jax.__version__ == importlib.metadata.version('isgd_jax')


def test_nothing_public_is_left_out_of_all():
  public = {
    name
    for name, value in vars(isgd_jax).items()
    if not name.startswith('_') and not inspect.ismodule(value)
  }
  assert public == set(isgd_jax.__all__)
