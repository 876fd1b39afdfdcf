"""Hooks of MkDocs: what the site has beyond the pages of docs/.

README.md, RESULTS.md of the comparisons and of the benchmarks, CHANGELOG.md,
CONTRIBUTING.md and the notebooks lie where a reader of the repository looks for
them. They become pages too, as far as they exist, with links that work in both
places; a link to a file that is no page of the site (the source, a folder of
measurements) is shown as its text alone.
Formulas become MathML at build time, so that no page needs a script for them.
"""

import html
import os
import pathlib
import re
import urllib.parse

import latex2mathml.converter
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
import nbconvert
import nbformat

ROOT = pathlib.Path(__file__).resolve().parent.parent
_PAGES = (
  *('README.md', 'RESULTS.md', 'benchmarks/RESULTS.md'),
  *('CHANGELOG.md', 'CONTRIBUTING.md'),
)
# Pages that hold about every word, and so would come first in any search.
_LISTS = (
  *('docs/demo.md', 'RESULTS.md', 'benchmarks/RESULTS.md', 'CHANGELOG.md'),
)
# A picture that is larger is shown as its PNG.
_MOST_SVG_BYTES = 300_000
_FENCE = re.compile(r'^( *)(```+).*?^\1\2 *$', re.DOTALL | re.MULTILINE)
_LINK = re.compile(r'(!?)\[((?:[^][]|\[[^][]*\])*)\]\(([^()\s]+)\)')
_FORMULA = re.compile(
  r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)


def notebooks() -> list[pathlib.Path]:
  """The notebooks."""
  return sorted((ROOT / 'notebooks').glob('*.ipynb'))


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
      # Their titles are inside.
      target = [f'notebooks/{path.stem}.md' for path in notebooks()]
    elif isinstance(target, list):
      target = _existing(target)
    elif target in _PAGES and not (ROOT / target).exists():
      continue
    if target:
      kept.append({title: target})
  return kept


def on_files(files, config):
  """Adds what lies outside docs/."""
  figures = sorted((ROOT / 'results').glob('*.[ps][nv]g'))
  for path in (*(ROOT / page for page in _PAGES), *figures):
    if path.exists():
      name = path.relative_to(ROOT).as_posix()
      files.append(File.generated(config, name, abs_src_path=str(path)))
  for notebook in notebooks():
    for name, content in _as_markdown(notebook).items():
      files.append(File.generated(config, name, content=content))
  return files


def _as_markdown(notebook):
  """A notebook with the outputs that it has as a page, and its pictures."""
  cells = nbformat.read(notebook, as_version=4)
  cells.metadata.setdefault('language_info', {'name': 'python'})
  text, resources = nbconvert.MarkdownExporter().from_notebook_node(
    cells, {'unique_key': notebook.stem, 'output_files_dir': notebook.stem}
  )
  pictures = resources['outputs']
  return {f'notebooks/{notebook.stem}.md': text} | {
    f'notebooks/{name}': content for name, content in pictures.items()
  }


def on_page_markdown(markdown, page, config, files):
  """Turns links between files of the repository into links between pages."""
  here = _repository_path(page.file)
  if here in _LISTS:
    page.meta['search'] = {'boost': 0.3}

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
    # Pictures of notebooks are no files.
    source = file.abs_src_path if mark else None
    drawn = as_svg(pathlib.Path(source)) if source else None
    if drawn is not None:
      # Sharp at any size, and by itself where it is clicked on.
      link = urllib.parse.quote(os.path.splitext(link)[0] + drawn.suffix)
      return f'[![{text}]({link})]({link})'
    return f'{mark}[{text}]({urllib.parse.quote(link)}{anchor})'

  return _outside_fences(markdown, lambda text: _LINK.sub(relink, text))


def as_svg(picture: pathlib.Path) -> pathlib.Path | None:
  """The same picture as an SVG, if there is one and it is not too large."""
  drawn = picture.with_suffix('.svg')
  if drawn.exists() and drawn.stat().st_size <= _MOST_SVG_BYTES:
    return drawn
  return None


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
  if file.generated_by and file.abs_src_path is None:
    return re.sub(r'^(notebooks/.*)\.md$', r'\1.ipynb', file.src_uri)
  return os.path.relpath(file.abs_src_path, ROOT)


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
