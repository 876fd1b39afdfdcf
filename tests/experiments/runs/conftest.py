"""Settings of the tests of compared runs."""

from tests import helpers


def pytest_collection_modifyitems(items):
  helpers.mark_folder(items, __file__, 'one_version')
