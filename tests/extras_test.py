"""What to install, and from where, is said as it is here."""

import importlib.metadata
import json
from unittest import mock

import pytest

from isgd_jax import _extras


@pytest.fixture(name='installed')
def fixture_installed(monkeypatch, tmp_path):
  """Has the package installed from some place, away from its checkout."""

  def install(record):
    monkeypatch.setattr(_extras, '__file__', str(tmp_path / 'site/x/_e.py'))
    found = mock.Mock()
    text = None if record is None else json.dumps(record)
    found.read_text.return_value = text
    monkeypatch.setattr(importlib.metadata, 'distribution', lambda name: found)

  return install


def test_from_a_checkout_it_names_the_checkout(tmp_path, monkeypatch):
  (tmp_path / 'pyproject.toml').touch()
  file = tmp_path / 'isgd_jax' / '_extras.py'
  monkeypatch.setattr(_extras, '__file__', str(file))
  assert _extras.how_to_install('flax') == f"pip install '{tmp_path}[flax]'"


@pytest.mark.parametrize('name', ['a wheel.whl', 'checkout'])
def test_what_pip_was_given_is_named_while_it_is_there(
  installed, tmp_path, name
):
  path = tmp_path / name
  path.touch()
  installed({'url': path.as_uri()})
  assert _extras.how_to_install('plot') == f"pip install '{path}[plot]'"
  path.unlink()
  assert _extras.how_to_install('plot').startswith("pip install '.[plot]' in a")


def test_an_address_is_named(installed):
  installed({'url': 'https://host/isgd', 'vcs_info': {'vcs': 'git'}})
  assert _extras.how_to_install('data') == (
    "pip install 'isgd_jax[data] @ git+https://host/isgd'"
  )


def test_an_index_is_named_once_there_is_one(installed, monkeypatch):
  installed(None)
  assert 'the path of its wheel' in _extras.how_to_install('data')
  monkeypatch.setattr(_extras, 'ON_INDEX', True)
  assert _extras.how_to_install('data') == "pip install 'isgd_jax[data]'"


def test_a_package_without_metadata_is_no_error(installed, monkeypatch):
  def no_package(name):
    raise importlib.metadata.PackageNotFoundError(name)

  installed(None)
  monkeypatch.setattr(importlib.metadata, 'distribution', no_package)
  assert 'in a checkout' in _extras.how_to_install('data')


def test_the_error_says_who_needs_what():
  error = _extras.missing('isgd_jax.training', 'flax', 'flax', 'flax')
  assert str(error).startswith('isgd_jax.training needs flax: pip install ')
  assert error.name == 'flax'
