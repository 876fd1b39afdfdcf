"""Hooks of MkDocs: what the site has beyond the pages of docs/.

README.md, RESULTS.md, CHANGELOG.md, CONTRIBUTING.md and the notebooks lie where
a reader of the repository looks for them. They become pages too, as far as they
exist, with links that work in both places; a link to a file that is no page of
the site (the source, a folder of measurements) is shown as its text alone.
Formulas become MathML at build time, so that no page needs a script for them.
"""

import html
import os
import pathlib
import re
import urllib.parse

import latex2mathml.converter
from mkdocs import plugins
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parent.parent
_PAGES = ('README.md', 'RESULTS.md', 'CHANGELOG.md', 'CONTRIBUTING.md')
_FENCE = re.compile(r'^( *)(```+).*?^\1\2 *$', re.DOTALL | re.MULTILINE)
_LINK = re.compile(r'(!?)\[((?:[^][]|\[[^][]*\])*)\]\(([^()\s]+)\)')
_FORMULA = re.compile(
  r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)


def notebooks() -> list[str]:
  """The notebooks, by their paths in the repository."""
  found = sorted((ROOT / 'notebooks').glob('*.ipynb'))
  return [path.relative_to(ROOT).as_posix() for path in found]


def on_config(config):
  """Names the notebooks in the navigation, and leaves out what is missing."""
  config.nav = _existing(config.nav)
  return config


def _existing(entries):
  """The entries of a navigation that there is something behind."""
  kept = []
  for entry in entries:
    ((title, target),) = entry.items()
    if title == 'Notebooks':
      target = notebooks()  # Their titles are inside.
    elif isinstance(target, list):
      target = _existing(target)
    elif target in _PAGES and not (ROOT / target).exists():
      continue
    if target:
      kept.append({title: target})
  return kept


@plugins.event_priority(100)  # before the notebooks are looked for
def on_files(files, config):
  """Adds what lies outside docs/."""
  figures = sorted((ROOT / 'results').glob('*.png'))
  for name in (
    *(page for page in _PAGES if (ROOT / page).exists()),
    *(figure.relative_to(ROOT).as_posix() for figure in figures),
    *notebooks(),
  ):
    files.append(
      File(name, str(ROOT), config.site_dir, config.use_directory_urls)
    )
  return files


def on_page_markdown(markdown, page, config, files):
  """Turns links between files of the repository into links between pages."""
  here = _repository_path(page.file)

  def relink(match):
    mark, text, target = match.groups()
    if re.match(r'[a-z]+:|#', target):
      return match.group()
    path, _, anchor = target.partition('#')
    path = os.path.normpath(os.path.join(os.path.dirname(here), path))
    known = {_repository_path(file): file for file in files}
    file = known.get(urllib.parse.unquote(path))
    if file is None or not (
      file.is_documentation_page() or file.inclusion.is_included()
    ):
      return text
    link = os.path.relpath(
      file.src_uri, os.path.dirname(page.file.src_uri) or '.'
    )
    anchor = f'#{anchor}' if anchor else ''
    return f'{mark}[{text}]({urllib.parse.quote(link)}{anchor})'

  return _outside_fences(markdown, lambda text: _LINK.sub(relink, text))


def on_page_content(html, page, config, files):
  """Turns formulas into MathML."""
  return _FORMULA.sub(_mathml, html)


def on_post_page(output, page, config):
  """Sees that nothing is fetched from elsewhere, and no role is left over."""
  for pattern, what in (
    (r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//[^"]*', 'fetches'),
    (r'<link[^>]*\srel="stylesheet"[^>]*\shref="(?:https?:)?//', 'fetches'),
    (r':(?:func|class|meth|math|attr):<code>[^<]*', 'does not render'),
    (r'class="arithmatex">[^<]*', 'does not render'),
  ):
    found = re.search(pattern, output)
    if found:
      raise PluginError(f'{page.file.src_uri} {what} {found.group()}')
  return output


def _repository_path(file) -> str:
  """Where the source of a file of the site lies in the repository."""
  source = file.abs_src_path
  return os.path.relpath(source, ROOT) if source else file.src_uri


def _outside_fences(text, change) -> str:
  """Applies `change` to what is not in a fenced block."""
  parts, end = [], 0
  for fence in _FENCE.finditer(text):
    parts += [change(text[end : fence.start()]), fence.group()]
    end = fence.end()
  return ''.join([*parts, change(text[end:])])


def _mathml(match) -> str:
  kind, latex = match.groups()
  is_block = kind == 'div'
  mathml = latex2mathml.converter.convert(
    html.unescape(latex).strip(), display='block' if is_block else 'inline'
  )
  return f'<div class="formula">{mathml}</div>' if is_block else mathml
