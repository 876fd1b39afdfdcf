"""Links between the pages lead somewhere, and no page is left out."""

import pathlib
import re
import urllib.parse

import pytest

import isgd_jax
from isgd_jax import batch_size
from isgd_jax import plotting
from isgd_jax import sampling
from isgd_jax import testing
from isgd_jax import training

pytestmark = pytest.mark.one_version

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [
  *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')),
  *sorted((ROOT / 'docs').glob('*.md')),
  *sorted((ROOT / 'docs/api').glob('*.md')),
]
RESULTS = ROOT / 'RESULTS.md'
HAS_RESULTS = RESULTS.exists()
FENCE = re.compile(r'^```.*?^```$', re.DOTALL | re.MULTILINE)
LINK = re.compile(r'\]\(([^()\s]+)\)')


def links_of(path):
  return LINK.findall(FENCE.sub('', path.read_text()))


def anchors_of(path):
  """The anchors of a page's headings, as on the site and on code hosts."""
  text = FENCE.sub('', path.read_text())
  headings = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
  return {
    re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
    for heading in headings
  }


@pytest.mark.parametrize(
  'path', PAGES, ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_links_lead_somewhere(path):
  for link in links_of(path):
    parts = urllib.parse.urlsplit(link)
    if parts.scheme:
      assert parts.scheme == 'https', link
      assert re.fullmatch(r'[\w-]+(\.[\w-]+)+', parts.netloc), link
      continue
    target = path.parent / urllib.parse.unquote(parts.path)
    target = target.resolve() if parts.path else path
    if target == RESULTS and not HAS_RESULTS:
      continue
    assert target.exists(), link
    if parts.fragment:
      assert parts.fragment in anchors_of(target), link


def test_every_page_is_in_the_navigation():
  config = (ROOT / 'mkdocs.yml').read_text()
  named = set(re.findall(r': ([\w/]+\.md)$', config, re.MULTILINE))
  pages = {
    path.relative_to(ROOT).as_posix().removeprefix('docs/') for path in PAGES
  }
  assert named == pages | {'RESULTS.md', 'benchmarks/RESULTS.md'}


def test_every_public_name_is_in_the_reference():
  for page, names in {
    'isgd_jax': isgd_jax.__all__,
    'isgd_jax.batch_size': batch_size.__all__,
    'isgd_jax.testing': testing.__all__,
    'isgd_jax.sampling': sampling.__all__,
    # All but the colours.
    'isgd_jax.plotting': [n for n in plotting.__all__ if not n.isupper()],
    'isgd_jax.training': training.__all__,
  }.items():
    text = (ROOT / f'docs/api/{page.removeprefix("isgd_jax.")}.md').read_text()
    documented = re.findall(r'^::: ([\w.]+)$', text, re.MULTILINE)
    assert sorted(documented) == sorted(f'{page}.{name}' for name in names)
