"""The README and the tables of the pages are those of the measured files."""

import importlib.util
import pathlib

import pytest

from tests.experiments.report import synthetic

pytestmark = pytest.mark.one_version

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / 'README.md').read_text()


@pytest.fixture(scope='module')
def update_readme():
  spec = importlib.util.spec_from_file_location(
    'update_readme', ROOT / 'docs/update_readme.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_tables_are_those_of_the_measured_files(update_readme):
  for page in update_readme.PAGES:
    text = (ROOT / page).read_text()
    assert ' table: begin -->' in text
    assert update_readme.render(text) == text, page


def test_no_page_with_a_table_is_left_out(update_readme):
  pages = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'README.md', *(ROOT / 'docs').glob('*.md'))
    if ' table: begin -->' in path.read_text()
  }
  assert pages == set(update_readme.PAGES)


def test_the_numbers_on_streams_are_those_of_the_runs(update_readme, tmp_path):
  folder = synthetic.Folder(tmp_path)
  for base, losses, spent in (
    ('momentum', (0.5, 0.8), 440),
    ('adam', (1.5, 0.7), 480),
  ):
    ours, twice = losses
    stream = synthetic.STREAM
    folder.row(stream, base, 'base', [1.0] * 5)
    folder.row(stream, base, 'twice', [twice] * 5)
    folder.row(stream, base, 'random', [1.0] * 5)
    folder.row(stream, base, 'isgd', [ours] * 5, num_gradient_evaluations=spent)
  text = update_readme.stream_numbers(folder.rows())
  assert '(2 pairs of a stream and a base optimizer, 5 seeds' in text
  assert "lower than the base's in 1 and higher in 1" in text
  assert "1.00 times the base's (median; 0.50 to 1.50)" in text
  assert 'for 1.10 to 1.20 times the gradient evaluations' in text
  assert 'in 1 of 2, and lower than with' in text
  assert text.endswith('random batches in 1 of 2.')


def test_the_numbers_on_data_that_stay_the_same(update_readme, tmp_path):
  folder = synthetic.Folder(tmp_path)
  cycle = synthetic.CYCLE
  for base, loss in (('sgd', 0.9), ('momentum', 1.1), ('adam', 1.0)):
    folder.row(cycle, base, 'base', [1.0] * 5)
    folder.row(cycle, base, 'isgd', [loss] * 5)
  text = update_readme.stationary_numbers(folder.rows())
  assert 'in 2 of 3 comparisons' in text
  assert text.endswith('agree on a gain in 1, and on a loss in 1.')


def test_without_records_there_are_no_numbers(update_readme, monkeypatch):
  monkeypatch.setattr(update_readme, 'measured_rows', dict)
  assert 'No comparison is on record' in update_readme.numbers_section()
  assert 'No comparison is on record' in update_readme.results_section()
  assert 'No comparison is on record' in update_readme.streams_section()


def test_it_is_short():
  assert len(README.splitlines()) < 150


def test_the_patent_is_named():
  assert '10,572,800' in README
