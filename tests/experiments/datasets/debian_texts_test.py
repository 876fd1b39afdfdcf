"""Texts by name, from a folder or from Debian's packages, or a reason."""

import gzip
import os
import struct

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from isgd_jax.experiments import datasets
from isgd_jax.experiments.datasets import _bible_data
from isgd_jax.experiments.datasets import _debian_texts
from isgd_jax.experiments.errors import DataError

FEW = hypothesis.settings(max_examples=60, deadline=None)


def compress_lzw(data, *, clear_every=None):
  """What Unix `compress` writes, after its three bytes of header."""
  output, group = bytearray(), []
  symbols = {bytes([i]): i for i in range(256)}
  table, width, num_codes = dict(symbols), 9, 0

  def flush(num_bytes):
    number = sum(code << width * i for i, code in enumerate(group))
    output.extend(number.to_bytes(num_bytes, 'little'))
    group.clear()

  def emit(code):
    nonlocal table, width, num_codes
    group.append(code)
    num_codes += 1
    # The decoder's table: 256 bytes, the clear code, a string for each code
    # but the first.
    grows = 256 + num_codes == 1 << width and width < 16
    if len(group) == 8 or grows or code == 256:
      flush(width)
    width += grows
    if code == 256:
      table, width, num_codes = dict(symbols), 9, 0

  string = b''
  for symbol in (data[i : i + 1] for i in range(len(data))):
    if string + symbol in table:
      string += symbol
      continue
    emit(table[string])
    if len(table) + 1 < 1 << 16:
      table[string + symbol] = len(table) + 1
    if num_codes == clear_every:
      emit(256)
    string = symbol
  if string:
    emit(table[string])
  flush(-(-len(group) * width // 8))
  return bytes(output)


def write_bible(path, text, block_bytes=4096):
  blocks = [
    compress_lzw(text[i : i + block_bytes])
    for i in range(0, len(text), block_bytes)
  ]
  start = 92 + 4 * (len(blocks) + 1) + 3
  offsets = start + np.cumsum([0, *map(len, blocks)])
  header = b'EC02Compressed Data File'.ljust(84, b'\0')
  header += struct.pack('>2I', block_bytes, len(blocks))
  header += struct.pack(f'>{len(offsets)}I', *offsets)
  path.write_bytes(header + b'\x1f\x9d\x90' + b''.join(blocks))
  return path


@FEW
@hypothesis.given(
  st.binary(max_size=300)
  | st.text('ab', max_size=2000).map(str.encode)
  | st.integers(0, 5000).map(lambda n: b'a' * n),
  st.none() | st.integers(1, 40),
)
def test_lzw_is_undone(data, clear_every):
  compressed = compress_lzw(data, clear_every=clear_every)
  assert _bible_data.expand_lzw(compressed) == data


def test_lzw_is_undone_beyond_the_widest_code():
  data = np.random.default_rng(0).integers(256, size=200_000, dtype=np.uint8)
  compressed = compress_lzw(data.tobytes())
  assert _bible_data.expand_lzw(compressed) == data.tobytes()


def test_blocks_are_joined(tmp_path):
  text = np.random.default_rng(0).integers(97, 100, 9000, np.uint8).tobytes()
  path = write_bible(tmp_path / 'bible.data', text)
  assert _bible_data.read_bible_data(path) == text


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda data: b'', "the first bytes b''"),
    (lambda data: data[:60], 'cut short in the header'),
    (lambda data: data[:95], 'cut short in the header'),
    (lambda data: data[:-1], 'bytes where the header says'),
    (
      # A first code that no string has.
      lambda data: data[:111] + b'\xff\xff' + data[113:],
      'block 1 of 3 with the code 511, which stands for nothing',
    ),
    (
      lambda data: data[:84] + struct.pack('>I', 4095) + data[88:],
      'block 1 of 3 with 4096 bytes of text, not 4095',
    ),
  ],
)
def test_a_malformed_bible_is_refused(tmp_path, change, message):
  path = write_bible(tmp_path / 'bible.data', b'abcdefgh' * 1200)
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(DataError, match=message) as caught:
    _bible_data.read_bible_data(path)
  assert 'apt reinstall bible-kjv-text' in str(caught.value)


def test_files_and_folders_are_texts(tmp_path):
  (tmp_path / 'b.TXT').write_bytes(b'second')
  (tmp_path / 'a.gz').write_bytes(gzip.compress(b'first'))
  (tmp_path / 'notes.csv').write_bytes(b'not this')
  (tmp_path / '.hidden.txt').write_bytes(b'nor this')
  book = tmp_path / 'c'
  (book / 'part').mkdir(parents=True)
  (book / 'part' / '1.md').write_bytes(b'second half')
  (book / '1.md').write_bytes(b'first half, ')
  (book / 'cover.png').write_bytes(b'\0')
  texts = datasets.load_texts(tmp_path)
  assert {name: text.tobytes() for name, text in texts.items()} == {
    'a.gz': b'first',
    'b.TXT': b'second',
    'c': b'first half, second half',
  }
  assert list(texts) == sorted(texts)
  assert all(text.dtype == np.uint8 for text in texts.values())


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    ({}, r'found 0 text\(s\); expected at least 2'),
    ({'a.txt': b'a', 'b.csv': b'b'}, r'found 1 text\(s\)'),
    ({'a.txt': b'a', 'b.txt': b''}, r'b\.txt: found 0 bytes of text'),
    ({'a.txt': b'a', 'b.txt': b'\0'}, r'b\.txt: found a byte of 0'),
    ({'a.txt': b'a', 'b.gz': b'\x1f\x8bx'}, r'b\.gz: found a broken gzip'),
    ({'a.txt': b'a', 'b/c.csv': b'c'}, r'b: found no text file'),
  ],
)
def test_what_cannot_be_texts_is_refused(tmp_path, files, message):
  for name, content in files.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
  with pytest.raises(DataError, match=message):
    datasets.load_texts(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
  with pytest.raises(DataError, match=r'No such file.*name another data_dir'):
    datasets.load_texts(tmp_path / 'missing')


def test_missing_packages_say_how_to_get_them(tmp_path, monkeypatch):
  folder = tmp_path / 'markdown'
  monkeypatch.setattr(_debian_texts, '_ANARCHISM_FOLDER', str(folder))
  monkeypatch.setattr(_debian_texts, '_BIBLE_FILE', str(tmp_path / 'bible'))
  with pytest.raises(DataError, match=r'apt install anarchism.*data_dir'):
    datasets.load_texts()
  folder.mkdir()
  (folder / 'b.md.gz').write_bytes(gzip.compress(b'two'))
  (folder / 'a.md.gz').write_bytes(gzip.compress(b'one, '))
  (folder / 'index.md').write_bytes(b'not this')
  with pytest.raises(DataError, match='apt install bible-kjv-text'):
    datasets.load_texts()
  write_bible(tmp_path / 'bible', b'In the beginning')
  texts = datasets.load_texts()
  assert {name: text.tobytes() for name, text in texts.items()} == {
    'anarchism': b'one, two',
    'bible-kjv': b'In the beginning',
  }


@pytest.mark.skipif(
  not (
    os.path.isdir(_debian_texts._ANARCHISM_FOLDER)
    and os.path.isfile(_debian_texts._BIBLE_FILE)
  ),
  reason="Debian's packages anarchism and bible-kjv-text are not installed",
)
def test_debian_s_texts_are_what_they_say():
  texts = datasets.load_texts()
  assert texts['anarchism'].tobytes().count(b'anarchis') > 10_000
  bible = texts['bible-kjv'].tobytes().decode('ascii')
  _, *verses = bible.splitlines()
  # The verses of the authorised version's 66 books.
  assert len(verses) == 31_102
  assert verses[0] == (
    'Ge1:1 In the beginning God created the heaven and the earth.'
  )
  assert verses[-1].startswith('Rev22:21 The grace of our Lord')
  assert 'John11:35 Jesus wept.' in verses
