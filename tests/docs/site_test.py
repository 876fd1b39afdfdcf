"""The built site, opened as files in a browser: search, and narrow screens.

Needs `make docs` and Chromium; skipped where either is missing.
"""

import importlib.util
import pathlib
import re
import shutil
import subprocess

import pytest

pytestmark = [
  pytest.mark.one_version,
  pytest.mark.processes,
  pytest.mark.docs,
]

SITE = pathlib.Path(__file__).resolve().parents[2] / 'build' / 'site'
BROWSER = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'chrome'))),
  None,
)
needs_site = pytest.mark.skipif(
  BROWSER is None or not (SITE / 'index.html').exists(),
  reason='needs Chromium, and the site that make docs builds',
)


def page_in_browser(address, *options):
  """The page as the browser has it when its scripts have run."""
  command = [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', *options]
  finished = subprocess.run(
    [*command, '--virtual-time-budget=15000', '--dump-dom', address],
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  return finished.stdout


@needs_site
@pytest.mark.parametrize('page', ['index.html', 'api/isgd_jax.html'])
def test_search_works_in_a_page_that_is_opened_as_a_file(page):
  address = (SITE / page).as_uri()
  found = page_in_browser(f'{address}?q=probation')
  assert re.search(r'md-search-result__meta">\d+ matching documents', found)
  assert found.count('class="md-search-result__item"') >= 5
  nothing = page_in_browser(f'{address}?q=qqqxyz')
  assert 'No matching documents' in nothing


@needs_site
def test_a_page_that_asks_for_a_script_elsewhere_would_be_seen():
  # A server alone shows 404.html.
  for path in set(SITE.rglob('*.html')) - {SITE / '404.html'}:
    scripts = re.findall(r'<script[^>]*\ssrc="([^"]+)"', path.read_text())
    for script in scripts:
      assert not re.match(r'(https?:)?//', script), (path, script)
      assert (path.parent / script).is_file(), (path, script)


def test_figures_keep_their_width_on_narrow_screens():
  style = (SITE.parents[1] / 'docs/stylesheets/site.css').read_text()
  assert re.search(r'@media screen and \(max-width: 44\.9375em\)', style)
  for image in ('p > img', 'p > a > img'):
    assert re.search(rf'\.md-typeset {image}[^}}]*\{{\s+width: 720px;', style)


def test_a_picture_has_its_svg_where_that_is_small(tmp_path):
  pytest.importorskip('mkdocs')
  pytest.importorskip('latex2mathml')
  spec = importlib.util.spec_from_file_location(
    'site_hooks', SITE.parents[1] / 'docs/site_hooks.py'
  )
  hooks = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(hooks)
  picture = tmp_path / 'chart.png'
  picture.touch()
  assert hooks.as_svg(picture) is None
  drawn = picture.with_suffix('.svg')
  drawn.write_text('<svg/>')
  assert hooks.as_svg(picture) == drawn
  drawn.write_bytes(bytes(300_001))
  assert hooks.as_svg(picture) is None


def test_the_svgs_of_the_pages_are_small_and_have_a_png_beside_them():
  """Which is what is shown where the repository is read."""
  found = sorted((SITE.parents[1] / 'docs').rglob('*.svg'))
  assert found
  for path in found:
    assert path.stat().st_size <= 300_000, path
    assert path.with_suffix('.png').exists(), path
    text = path.read_text()
    assert 'dc:date' not in text, path
    assert '<script' not in text, path
