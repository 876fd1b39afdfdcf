"""The benchmarks' page is that of the measured files."""

import pytest

from benchmarks import measuring
from benchmarks import report

pytestmark = pytest.mark.one_version

COMMITTED = measuring.FOLDER / 'RESULTS.md'


def test_the_page_is_that_of_the_measured_files(tmp_path, monkeypatch):
  for path in measuring.FOLDER.glob('*.jsonl'):
    (tmp_path / path.name).symlink_to(path)
  monkeypatch.setattr(measuring, 'FOLDER', tmp_path)
  assert report.write() == COMMITTED.read_text()


@pytest.mark.parametrize(
  ('value', 'text'), [(1.0204, '1.020'), (1.0206, '**1.021**'), (0.9, '0.900')]
)
def test_what_misses_its_bar_as_printed_is_bold(value, text):
  assert report._barred(value, 1.02, 3) == text
