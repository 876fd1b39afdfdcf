"""A Griffe extension: the roles of our docstrings, as Markdown.

Docstrings have reStructuredText's roles for formulas, names and titles of
papers, as those of JAX and Optax do; the site is made from Markdown.
"""

import ast
import pathlib
import re
import textwrap

import griffe

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_FORMULAS = re.compile(
  r'^(?P<indent> *)\.\. math::\n\n?(?P<body>(?:(?P=indent) +\S.*\n?)+)',
  re.MULTILINE,
)
_CODE = re.compile(
  r'^(?P<indent> *)(?P<last>\S.*:):\n\n'
  r'(?P<body>(?:(?P=indent) +\S.*(?:\n|\Z)|\n)+)',
  re.MULTILINE,
)
_NAME = re.compile(r':(?:func|class|meth|attr):`([^`]+)`')
_TITLE = re.compile(r'`([^`<]+?)\s+<(https?://[^>]+)>`_', re.DOTALL)


def _public_names() -> dict[str, str]:
  """Where each public name is documented: `shewhart` in `isgd_jax.shewhart`."""
  names = {}
  for module in ('batch_size', 'plotting', 'sampling', 'training', '__init__'):
    path = _ROOT / 'isgd_jax' / module
    is_folder = path.is_dir()
    source = path / '__init__.py' if is_folder else path.with_suffix('.py')
    tree = ast.parse(source.read_text())
    found = [
      node.name
      for node in tree.body
      if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    for node in tree.body:
      if isinstance(node, ast.Assign) and node.targets[0].id == '__all__':
        found = ast.literal_eval(node.value)
    package = 'isgd_jax' if module == '__init__' else f'isgd_jax.{module}'
    names |= {name: f'{package}.{name}' for name in found if name[0] != '_'}
  return names


_PUBLIC = _public_names()


def to_markdown(text: str) -> str:
  """The text of a docstring with Markdown in place of roles.

  Args:
    text: of the docstring, dedented.

  Returns:
    The text.
  """

  def formulas(match):
    indent = match['indent']
    body = textwrap.indent(textwrap.dedent(match['body']).rstrip(), indent)
    return f'{indent}$$\n{body}\n{indent}$$\n'

  def code(match):
    indent = match['indent']
    body = textwrap.indent(textwrap.dedent(match['body']).strip(), indent)
    return (
      f'{indent}{match["last"]}\n\n{indent}```python\n{body}\n{indent}```\n'
    )

  def name(match):
    path = match[1]
    target = _PUBLIC.get(path.removeprefix('isgd_jax.'))
    return f'[`{path}`][{target}]' if target else f'`{path}`'

  # Of the two words for the section, Griffe knows one.
  text = re.sub(r'^Example:$', 'Examples:', text, flags=re.MULTILINE)
  text = _FORMULAS.sub(formulas, text)
  text = _CODE.sub(code, text)
  text = re.sub(
    r':math:`([^`]+)`', lambda m: f'${" ".join(m[1].split())}$', text
  )
  text = _NAME.sub(name, text)
  return _TITLE.sub(lambda m: f'[{" ".join(m[1].split())}]({m[2]})', text)


class MarkdownDocstrings(griffe.Extension):
  """Rewrites every docstring as it is loaded."""

  def on_object(self, *, obj, **kwargs) -> None:
    """Rewrites the docstring of one object."""
    if not obj.is_alias and obj.docstring:
      obj.docstring.value = to_markdown(obj.docstring.value)
