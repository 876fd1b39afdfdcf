"""Text becomes windows that share no byte, and whose parts do not mix."""

import gzip

import numpy as np
import pytest

from isgd_jax.experiments import datasets
from isgd_jax.experiments.datasets import _text
from isgd_jax.experiments.errors import DataError


def load(folder, sequence_length=4):
  return datasets.load_dataset(
    'text', data_dir=folder, sequence_length=sequence_length
  )


def test_windows_tile_each_part_of_each_file(tmp_path):
  one = bytes(range(1, 201))
  two = bytes(range(56, 256))
  (tmp_path / 'sub').mkdir()
  (tmp_path / 'sub' / 'b.TXT').write_bytes(two)
  (tmp_path / 'a.gz').write_bytes(gzip.compress(one))
  (tmp_path / 'notes.md').write_bytes(b'not this')
  (tmp_path / '.hidden.txt').write_bytes(b'nor this')
  dataset = load(tmp_path, sequence_length=6)
  train = [record['tokens'].tobytes() for record in dataset.train]
  test = [record['tokens'].tobytes() for record in dataset.test]
  windows = lambda data: [data[i : i + 7] for i in range(0, len(data) - 6, 7)]
  assert train == windows(one[:180]) + windows(two[:180])
  assert test == windows(one[180:]) + windows(two[180:])
  assert dataset.train.tokens.dtype == np.uint8
  assert dataset.example_shape == (6,)
  np.testing.assert_array_equal(
    dataset.train.__getitems__([3, 0])['tokens'], dataset.train.tokens[[3, 0]]
  )


def test_one_file_of_any_ending_will_do(tmp_path):
  path = tmp_path / 'corpus.csv'
  path.write_bytes(b'abcde' * 20)
  assert [len(part) for part in load(path)[1:3]] == [18, 2]


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    ({}, 'found no text file; expected files that end in .txt or .gz'),
    ({'a.txt': b''}, '0 bytes of text in 1 file.* in the train part'),
    ({'a.txt': b'a' * 30}, '30 bytes of text .* in the test part.*50 bytes'),
    ({'a.txt': b'a\0' * 30}, 'a byte of 0; expected text in UTF-8'),
    ({'a.gz': gzip.compress(b'a' * 99)[:-5]}, 'a broken gzip stream'),
    ({'a.gz': b'\x1f\x8b' + b'a' * 99}, 'a broken gzip stream'),
  ],
)
def test_what_cannot_be_windows_is_refused(tmp_path, files, message):
  for name, content in files.items():
    (tmp_path / name).write_bytes(content)
  with pytest.raises(DataError, match=message):
    load(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
  with pytest.raises(DataError, match='no such file or folder'):
    load(tmp_path / 'missing')


def test_text_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(_text, '_MAX_BYTES', 10_000)
  (tmp_path / 'a.gz').write_bytes(gzip.compress(b'a' * 6000))
  load(tmp_path)
  (tmp_path / 'b.gz').write_bytes(gzip.compress(b'a' * 6000))
  with pytest.raises(DataError, match=r'b\.gz: .* above 10000 bytes'):
    load(tmp_path)
