"""RESULTS.md is what the committed records say, and they are small."""

import pathlib
import shutil

import pytest

from isgd_jax.experiments.report.command import report

pytestmark = pytest.mark.whole_runs

ROOT = pathlib.Path(__file__).resolve().parents[3]
RECORDS = sorted(
  path for path in (ROOT / 'results').iterdir() if path.suffix != '.png'
)


def test_results_md_is_generated_from_the_committed_records(tmp_path):
  folder = tmp_path / 'results'
  folder.mkdir()
  for path in RECORDS:
    shutil.copy(path, folder)
  text = report(folder, tmp_path / 'RESULTS.md')
  assert text == (ROOT / 'RESULTS.md').read_text()
  figures = {path.name for path in folder.glob('*.png')}
  assert figures == {path.name for path in (ROOT / 'results').glob('*.png')}


def test_the_records_stay_small_enough_for_a_repository():
  # A row of a rival is 1.5 kB, packed, and there are some fifteen hundred.
  assert sum(path.stat().st_size for path in RECORDS) < 8_000_000
