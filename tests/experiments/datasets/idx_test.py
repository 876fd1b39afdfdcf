"""IDX files are read right, or refused with a reason; nothing else happens."""

import gzip
import math
import os
import pathlib
import struct
import tempfile
import tracemalloc

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from isgd_jax.experiments import datasets
from isgd_jax.experiments.datasets import _mnist
from isgd_jax.experiments.datasets._idx import read_idx
from isgd_jax.experiments.errors import DataError

FASHION_MNIST = pathlib.Path(_mnist._FASHION_MNIST_FOLDER)
FEW = hypothesis.settings(max_examples=150)


def encode(array, *, shape=None, element_type=8):
  shape = array.shape if shape is None else shape
  header = struct.pack(
    f'>HBB{len(shape)}I', 0, element_type, len(shape), *shape
  )
  return header + array.tobytes()


VALID = encode(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


def write(folder, content, name='file'):
  path = pathlib.Path(folder, name)
  path.write_bytes(content)
  return path


def write_mnist(folder, num_train=20, num_test=10, ending='', separator='-'):
  rng = np.random.default_rng(0)
  arrays = {}
  for part, n in (('train', num_train), ('t10k', num_test)):
    arrays[f'{part}-images', 'idx3-ubyte'] = rng.integers(
      256, size=(n, 28, 28), dtype=np.uint8
    )
    arrays[f'{part}-labels', 'idx1-ubyte'] = (np.arange(n) % 10).astype(
      np.uint8
    )
  for (stem, kind), array in arrays.items():
    content = encode(array)
    write(
      folder,
      gzip.compress(content) if ending else content,
      f'{stem}{separator}{kind}{ending}',
    )
  return arrays


@FEW
@hypothesis.given(
  shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
  is_gzip=st.booleans(),
)
def test_what_is_written_is_read(shape, is_gzip):
  array = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
  content = encode(array)
  with tempfile.TemporaryDirectory() as folder:
    # The name says the opposite: the content decides.
    path = write(
      folder,
      gzip.compress(content) if is_gzip else content,
      'a' if is_gzip else 'a.gz',
    )
    result = read_idx(path)
  np.testing.assert_array_equal(result, array)
  assert result.dtype == np.uint8
  assert result.flags.writeable


def header(ndim, *sizes, element_type=8):
  return struct.pack(f'>HBB{len(sizes)}I', 0, element_type, ndim, *sizes)


@pytest.mark.parametrize('is_gzip', [False, True])
@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', '0 bytes; expected an IDX header'),
    (b'\0\0\x08', '3 bytes; expected an IDX header'),
    (b'PNG1' + VALID, 'the first bytes 50 4e 47 31'),
    (b'\0\0\x07\x01' + VALID, 'the first bytes 00 00 07 01'),
    (header(1, 3, element_type=0x0B) + b'abcdef', 'elements of int16'),
    (header(1, 3, element_type=0x0D) + b'abc' * 4, 'elements of float32'),
    (header(0) + b'a', '0 dimensions; expected 1 to 8'),
    (header(255, *[1] * 255) + b'a', '255 dimensions'),
    (header(3, 2, 3), 'a header of 12 bytes; expected 16 bytes for 3'),
    (header(2, 0, 28), r'the shape \[0, 28\]; expected no size of zero'),
    (VALID[:-1], '23 bytes after the header; expected the 2 x 3 x 4 = 24'),
    (VALID + b'x', 'more bytes; expected the 2 x 3 x 4 = 24'),
    (header(3, *[2**32 - 1] * 3) + b'x', 'promises 4294967295 x 4294967295'),
    (header(1, 2**31 + 1) + b'x', 'promises 2147483649 = 2147483649 bytes'),
  ],
)
def test_a_malformed_file_is_refused_by_name(
  tmp_path, content, message, is_gzip
):
  path = write(tmp_path, gzip.compress(content) if is_gzip else content)
  with pytest.raises(DataError, match=message) as caught:
    read_idx(path)
  assert str(caught.value).startswith(f'{path}: found ')
  assert 'fetch' in str(caught.value) or 'convert' in str(caught.value)


@pytest.mark.parametrize('keep', [2, 5, 12, 20, -9, -4, -1])
def test_a_gzip_stream_that_is_cut_short_is_refused(tmp_path, keep):
  path = write(tmp_path, gzip.compress(VALID, mtime=0)[:keep])
  with pytest.raises(DataError, match='a broken gzip stream'):
    read_idx(path)


@pytest.mark.parametrize('position', [3, 10, 15, 25, -8, -1])
def test_a_changed_bit_in_a_gzip_stream_is_seen(tmp_path, position):
  content = bytearray(gzip.compress(VALID, mtime=0))
  content[position] ^= 0x10
  path = write(tmp_path, content)
  try:
    result = read_idx(path)
  except DataError:
    return
  # A bit of the header, such as its flags, may change nothing.
  assert position == 3
  np.testing.assert_array_equal(result.ravel(), np.arange(24))


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
  """64 MiB of zeros behind a header that promises 24 bytes."""
  path = write(tmp_path, gzip.compress(VALID + bytes(2**26), 9))
  tracemalloc.start()
  with pytest.raises(DataError, match='more bytes'):
    read_idx(path)
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()


@pytest.mark.parametrize('is_gzip', [False, True])
def test_a_header_that_lies_takes_no_memory(tmp_path, is_gzip):
  """2 GiB promised, just below the limit, and nothing there."""
  content = header(1, 2**31) + bytes(3000)
  path = write(tmp_path, gzip.compress(content) if is_gzip else content)
  tracemalloc.start()
  with pytest.raises(DataError):
    read_idx(path)
  assert tracemalloc.get_traced_memory()[1] < 2**22
  tracemalloc.stop()


def read_or_refuse(content):
  """An array that fits the bytes, or DataError."""
  with tempfile.TemporaryDirectory() as folder:
    path = write(folder, content)
    try:
      array = read_idx(path)
    except DataError:
      return
  assert array.dtype == np.uint8
  assert array.size > 0
  if not content.startswith(b'\x1f\x8b'):
    assert array.size == len(content) - 4 - 4 * array.ndim


@FEW
@hypothesis.given(
  st.binary(max_size=64)
  | st.binary(max_size=64).map(lambda b: b'\0\0\x08' + b)
  | st.binary(max_size=64).map(lambda b: b'\x1f\x8b\x08\0' + b)
  | st.binary(max_size=64).map(lambda b: gzip.compress(b'\0\0\x08' + b))
)
def test_arbitrary_bytes_are_read_or_refused(content):
  read_or_refuse(content)


@FEW
@hypothesis.given(
  is_gzip=st.booleans(),
  edits=st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3
  ),
  cut=st.integers(0, 60),
  tail=st.binary(max_size=4),
)
def test_mutated_files_are_read_or_refused(is_gzip, edits, cut, tail):
  content = bytearray(gzip.compress(VALID, mtime=0) if is_gzip else VALID)
  for position, value in edits:
    content[position % len(content)] = value
  read_or_refuse(bytes(content[: len(content) - cut]) + tail)


@pytest.mark.parametrize('ending', ['', '.gz'])
@pytest.mark.parametrize('separator', ['-', '.'])
@pytest.mark.parametrize('name', ['mnist', 'fashion-mnist'])
def test_four_files_make_a_data_set(tmp_path, name, ending, separator):
  arrays = write_mnist(tmp_path, ending=ending, separator=separator)
  dataset = datasets.load_dataset(name, data_dir=tmp_path)
  np.testing.assert_array_equal(
    dataset.test.images[..., 0], arrays['t10k-images', 'idx3-ubyte']
  )
  np.testing.assert_array_equal(dataset.train.labels, np.arange(20) % 10)
  assert dataset.train.images.dtype == np.uint8
  assert dataset.train[3]['label'].dtype == np.int32
  assert (dataset.name, dataset.example_shape) == (name, (28, 28, 1))


@pytest.mark.parametrize(
  ('stem', 'kind', 'array', 'message'),
  [
    ('train-labels', 'idx1', np.zeros(19), r'\[19\]; expected \[20\], a label'),
    ('t10k-labels', 'idx1', np.full(10, 10), 'the label 10; expected labels'),
    ('train-labels', 'idx1', np.zeros((20, 1)), r'\[20, 1\]; expected \[20\]'),
    ('t10k-images', 'idx3', np.zeros((10, 28, 29)), r'28, 29\]; expected im'),
    ('t10k-images', 'idx3', np.zeros(10), r'shape \[10\]; expected images'),
  ],
)
def test_files_that_do_not_fit_are_refused(
  tmp_path, stem, kind, array, message
):
  write_mnist(tmp_path)
  path = write(tmp_path, encode(array.astype(np.uint8)), f'{stem}-{kind}-ubyte')
  with pytest.raises(DataError, match=message) as caught:
    datasets.load_dataset('mnist', data_dir=tmp_path)
  assert str(caught.value).startswith(str(path))


def test_missing_files_say_how_to_get_them(tmp_path, monkeypatch):
  with pytest.raises(DataError, match=r'found no train-images-idx3.*put'):
    datasets.load_dataset('mnist', data_dir=tmp_path)
  monkeypatch.setattr(_mnist, '_FASHION_MNIST_FOLDER', str(tmp_path))
  with pytest.raises(DataError, match='apt install dataset-fashion-mnist'):
    datasets.load_dataset('fashion-mnist')
  write_mnist(tmp_path)
  assert len(datasets.load_dataset('fashion-mnist').train) == 20


def test_a_folder_or_an_unreadable_file_is_refused(tmp_path):
  with pytest.raises(DataError, match='Is a directory'):
    read_idx(tmp_path)
  with pytest.raises(DataError, match='No such file'):
    read_idx(os.path.join(tmp_path, 'missing'))


@pytest.mark.skipif(
  not FASHION_MNIST.is_dir(), reason=f'no Fashion-MNIST in {FASHION_MNIST}'
)
def test_fashion_mnist_is_the_published_one():
  dataset = datasets.load_dataset('fashion-mnist')
  train, test = dataset.train, dataset.test
  assert train.images.shape == (60000, 28, 28, 1)
  assert test.images.shape == (10000, 28, 28, 1)
  np.testing.assert_array_equal(np.bincount(train.labels), [6000] * 10)
  np.testing.assert_array_equal(np.bincount(test.labels), [1000] * 10)
  # The constants that the literature standardises it by, of the train part.
  counts = np.bincount(train.images.ravel(), minlength=256)
  levels = np.arange(256) / 255
  mean = counts @ levels / counts.sum()
  std = math.sqrt(counts @ (levels - mean) ** 2 / counts.sum())
  assert (round(mean, 4), round(std, 4)) == (0.2860, 0.3530)
  # Zalando's label 9 of the first image: an ankle boot.
  assert train[0]['label'] == 9
