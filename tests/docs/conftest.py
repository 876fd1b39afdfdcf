"""Settings of the tests of pages and notebooks."""

from tests import helpers


def pytest_collection_modifyitems(items):
  helpers.mark_folder(items, __file__, 'docs')
