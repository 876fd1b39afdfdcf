"""Settings of the tests of tables and verdicts."""

from tests import helpers


def pytest_collection_modifyitems(items):
  helpers.mark_folder(items, __file__, 'one_version')
