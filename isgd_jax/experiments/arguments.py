"""The words of a command line, checked before a parser makes sense of them.

What is wrong is said in one line, by option, with what it takes and the nearest
name. The help is wrapped to the terminal once.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import difflib
import inspect
import shutil
import sys
import textwrap
import types
import typing
from typing import Any, TextIO

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import check_name

_SPELT = {int: 'an integer', float: 'a number', str: 'a text'}


class Option(typing.NamedTuple):
  """An option of a command.

  Attributes:
    kind: type of its value, or of each value; `bool` of a flag, which has none.
    choices: the values that there are, where they are few.
    has_many: whether it takes several values.
  """

  kind: type
  choices: tuple[str, ...]
  has_many: bool


def options_of(command: type) -> dict[str, Option]:
  """The options of a command, by their names without dashes.

  Args:
    command: a dataclass, perhaps of dataclasses.

  Returns:
    The options.

  Example:
    >>> @dataclasses.dataclass
    ... class Train:
    ...   batch_size: int | None = None
    >>> options_of(Train)['batch-size'].kind
    <class 'int'>
  """
  options = {}
  hints = typing.get_type_hints(command)
  for field in dataclasses.fields(command):
    hint = hints[field.name]
    if dataclasses.is_dataclass(hint):
      options |= options_of(typing.cast(type, hint))
    else:
      options[field.name.replace('_', '-')] = _option(hint)
  return options


def check(
  args: Sequence[str],
  commands: Mapping[str, type],
  needed: Mapping[str, str],
) -> None:
  """Raises on words that no command takes; help is let through.

  Args:
    args: the command line without the program's name.
    commands: dataclasses by name.
    needed: of a command, what its first word must be, for the message.

  Raises:
    InputError: in one line, naming word, values and the nearest name.

  Example:
    >>> @dataclasses.dataclass
    ... class Train:
    ...   epochs: int = 1
    >>> for line in ('trian', 'train --epoch 3', 'train --epochs x'):
    ...   try:
    ...     check(line.split(), {'train': Train}, {})
    ...   except ValueError as error:
    ...     print(str(error).partition(' (')[0])
    unknown command 'trian'; did you mean 'train'?
    unknown option --epoch; did you mean --epochs?
    --epochs takes an integer, got 'x'
  """
  if not args:
    raise InputError(
      f'name a command: {", ".join(commands)} (isgd-jax --help says what they '
      'do)'
    )
  name, *words = args
  if name in ('-h', '--help') or {'-h', '--help'} & set(words):
    return
  if name.startswith('-'):
    raise InputError(
      f'unknown option {name} before the command; options come after it, as in '
      f'isgd-jax train {name}'
    )
  check_name('command', name, commands)
  options = options_of(commands[name])
  num_free = 0
  while words:
    word = words.pop(0)
    if not word.startswith('--'):
      num_free += 1
      continue
    option, _, given = word.partition('=')
    _check_option(option, options, name)
    kind = options.get(_plain(option))
    if kind is None or kind.kind is bool:
      continue
    values = [given] if given else _values_of(words, kind)
    if not values and not kind.has_many:
      raise InputError(f'{option} needs a value: {_spell(kind)}')
    for value in values:
      _check_value(option, value, kind)
  if name in needed and not num_free:
    raise InputError(f'isgd-jax {name} needs {needed[name]}')


def set_help(command: type) -> None:
  """Gives each option the string below it as help, on one line.

  Args:
    command: a dataclass, perhaps of dataclasses; its fields get the metadata
      `help`.

  Example:
    >>> from isgd_jax.experiments.train.config import DataConfig
    >>> set_help(DataConfig)
    >>> fields = {field.name: field for field in dataclasses.fields(DataConfig)}
    >>> fields['batch_size'].metadata['help']
    'Examples a batch.'
  """
  (tree,) = ast.parse(textwrap.dedent(inspect.getsource(command))).body
  assert isinstance(tree, ast.ClassDef)
  texts = {}
  for node, after in zip(tree.body, tree.body[1:], strict=False):
    if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr):
      assert isinstance(node.target, ast.Name)
      texts[node.target.id] = ast.literal_eval(after.value)
  hints = typing.get_type_hints(command)
  for field in dataclasses.fields(command):
    if dataclasses.is_dataclass(hints[field.name]):
      set_help(typing.cast(type, hints[field.name]))
    text = ' '.join(texts.get(field.name, '').split())
    field.metadata = types.MappingProxyType({**field.metadata, 'help': text})


def description(command: type) -> str:
  """The docstring of a command, a paragraph a line.

  Args:
    command: a class.

  Returns:
    Its paragraphs, with an empty line between.

  Example:
    >>> description(Option).partition(chr(10))[0]
    'An option of a command.'
  """
  paragraphs = inspect.cleandoc(command.__doc__ or '').split('\n\n')
  return '\n\n'.join(' '.join(p.split()) for p in paragraphs)


@contextlib.contextmanager
def wrapped_stdout() -> Iterator[None]:
  """Wraps what is printed to the width of the terminal, once.

  Yields:
    Nothing.

  Example:
    >>> with wrapped_stdout():
    ...   print('short')
    short
  """
  stdout = sys.stdout
  with contextlib.redirect_stdout(typing.cast(TextIO, _Wrapped(stdout))):
    yield


class _Wrapped:
  """A stream whose long lines are wrapped; boxes fit already."""

  def __init__(self, stream: TextIO):
    self._stream = stream

  def write(self, text: str) -> int:
    """Writes lines that fit."""
    width = shutil.get_terminal_size().columns
    lines = [
      # Options and names have hyphens, and are not to be broken at them.
      line
      if len(line) <= width or '│' in line
      else textwrap.fill(line, width, break_on_hyphens=False)
      for line in text.split('\n')
    ]
    return self._stream.write('\n'.join(lines))

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


def _option(hint: Any) -> Option:
  """The option of a field with this type."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is typing.Annotated:
    return _option(args[0])
  if origin in (types.UnionType, typing.Union):
    (hint,) = (arg for arg in args if arg is not types.NoneType)
    return _option(hint)
  if origin is tuple:
    return _option(args[0])._replace(has_many=True)
  if origin is typing.Literal:
    return Option(str, args, False)
  return Option(hint, (), False)


def _plain(option: str) -> str:
  """'--batch_size' as 'batch-size'."""
  return option[2:].replace('_', '-')


def _check_option(
  option: str, options: Mapping[str, Option], command: str
) -> None:
  """Raises unless the command has this option."""
  flags = [f'no-{name}' for name, o in options.items() if o.kind is bool]
  known = [*options, *flags]
  if _plain(option) in known:
    return
  near = difflib.get_close_matches(_plain(option), known, n=1, cutoff=0.5)
  hint = f'; did you mean --{near[0]}?' if near else ''
  raise InputError(
    f'unknown option {option}{hint} (isgd-jax {command} --help lists all)'
  )


def _values_of(words: list[str], option: Option) -> list[str]:
  """Takes the values of an option from the words that follow it."""
  values = []
  while words and not words[0].startswith('--'):
    values.append(words.pop(0))
    if not option.has_many:
      break
  return values


def _check_value(name: str, value: str, option: Option) -> None:
  """Raises unless an option takes this value."""
  if option.choices:
    check_name(name, value, option.choices)
    return
  try:
    option.kind(value)
  except ValueError as error:
    raise InputError(f'{name} takes {_spell(option)}, got {value!r}') from error


def _spell(option: Option) -> str:
  """What an option takes, in words."""
  if option.choices:
    return f'one of {", ".join(option.choices)}'
  return _SPELT[option.kind]
