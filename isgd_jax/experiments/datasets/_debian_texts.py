"""Several texts, for a stream that switches between them."""

import os

import numpy as np

from isgd_jax.experiments.datasets._bible_data import read_bible_data
from isgd_jax.experiments.datasets._text import find_texts
from isgd_jax.experiments.datasets._text import read_text
from isgd_jax.experiments.errors import data_error

_ENDINGS = ('.txt', '.md', '.gz')
_FEWEST_TEXTS = 2
# Where Debian's packages anarchism and bible-kjv-text put their texts.
_ANARCHISM_FOLDER = '/usr/share/doc/anarchism/markdown'
_BIBLE_FILE = '/usr/lib/bible.data'


def load_texts(
  data_dir: str | os.PathLike[str] | None = None,
) -> dict[str, np.ndarray]:
  """Loads texts of different kinds as bytes.

  Without `data_dir` there are two, from Debian's packages: `anarchism`, An
  Anarchist FAQ in Markdown (11 MB, all `*.md.gz` in the order of their names),
  and `bible-kjv`, the King James Bible (4 MB, a verse a line, each with its
  reference before it: "Ge1:1 In the beginning ...").

  Args:
    data_dir: a folder. Each of its files that end in .txt, .md or .gz, in any
      case, is a text; each of its folders is one too, of all such files below
      it in the order of their paths. Names that begin with a dot do not count.
      None takes Debian's packages.

  Returns:
    Of each text the bytes, [n] uint8, by its name: that of the file or folder,
    endings included. Names are in sorted order.

  Raises:
    DataError: (a `ValueError`) a package is missing, there are fewer than two
      texts, or a file cannot be read, is empty or is not text; the message
      names the path and the remedy.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   _ = pathlib.Path(folder, 'a.txt').write_text('one text')
    ...   _ = pathlib.Path(folder, 'b.md').write_text('# another')
    ...   texts = load_texts(folder)
    >>> {name: text.tobytes() for name, text in texts.items()}
    {'a.txt': b'one text', 'b.md': b'# another'}
  """
  if data_dir is None:
    return {'anarchism': _read_anarchism(), 'bible-kjv': _read_bible()}
  texts = {}
  for name, paths in _find_texts_by_name(data_dir).items():
    texts[name] = np.concatenate([read_text(path) for path in paths])
    if not len(texts[name]):
      raise data_error(
        os.path.join(data_dir, name),
        '0 bytes of text',
        'some text',
        'add text, or remove it',
      )
  return texts


def _find_texts_by_name(
  data_dir: str | os.PathLike[str],
) -> dict[str, list[str]]:
  """The files of each text in a folder."""
  try:
    entries = sorted(os.scandir(data_dir), key=lambda entry: entry.name)
  except OSError as error:
    raise data_error(
      data_dir,
      error.strerror or str(error),
      'a folder of texts',
      'name another data_dir',
    ) from error
  paths = {}
  for entry in entries:
    if entry.name.startswith('.'):
      continue
    if entry.is_dir():
      paths[entry.name] = find_texts(entry.path, _ENDINGS)
    elif entry.name.lower().endswith(_ENDINGS):
      paths[entry.name] = [entry.path]
  if len(paths) < _FEWEST_TEXTS:
    raise data_error(
      data_dir,
      f'{len(paths)} text(s)',
      f'at least {_FEWEST_TEXTS}: files that end in {", ".join(_ENDINGS)}, or '
      'folders of such files',
      'add texts, or name another data_dir',
    )
  return paths


def _read_anarchism() -> np.ndarray:
  """An Anarchist FAQ."""
  folder = _ANARCHISM_FOLDER
  if not os.path.isdir(folder):
    # Debian's container images are told to leave /usr/share/doc out.
    raise _missing_package(
      folder, 'anarchism', ', where dpkg is not told to leave out documentation'
    )
  return np.concatenate(
    [read_text(path) for path in find_texts(folder, ('.md.gz',))]
  )


def _read_bible() -> np.ndarray:
  """The King James Bible."""
  if not os.path.isfile(_BIBLE_FILE):
    raise _missing_package(_BIBLE_FILE, 'bible-kjv-text')
  return np.frombuffer(bytearray(read_bible_data(_BIBLE_FILE)), np.uint8)


def _missing_package(path: str, package: str, note: str = '') -> ValueError:
  """The error for a package that is not installed."""
  return data_error(
    path,
    'no such file or folder',
    f"the text of Debian's package {package}",
    f'install it (apt install {package}{note}) or name a folder of texts by '
    'data_dir',
  )
