"""CIFAR-10's binary files are read right, or refused with a reason."""

import pathlib
import tempfile

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from isgd_jax.experiments import datasets
from isgd_jax.experiments.datasets import _cifar
from isgd_jax.experiments.errors import DataError

NAMES = (*_cifar._TRAIN_FILES, _cifar.TEST_FILE)
FEW = hypothesis.settings(max_examples=100)


def batch(num_records, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(256, size=(num_records, 32, 32, 3), dtype=np.uint8)
  labels = (np.arange(num_records) % 10).astype(np.uint8)
  planes = images.transpose(0, 3, 1, 2).reshape(num_records, -1)
  content = np.concatenate([labels[:, np.newaxis], planes], axis=1).tobytes()
  return images, labels, content


def write_cifar(folder):
  pathlib.Path(folder).mkdir(exist_ok=True)
  for i, name in enumerate(NAMES):
    pathlib.Path(folder, name).write_bytes(batch(i + 1, seed=i)[2])


@pytest.mark.parametrize('folder', ['', 'cifar-10-batches-bin'])
def test_what_is_written_is_read_in_order(tmp_path, folder):
  write_cifar(tmp_path / folder)
  dataset = datasets.load_dataset('cifar10', data_dir=tmp_path)
  assert len(dataset.train) == 1 + 2 + 3 + 4 + 5
  np.testing.assert_array_equal(dataset.test.images, batch(6, seed=5)[0])
  np.testing.assert_array_equal(dataset.train.images[1:3], batch(2, seed=1)[0])
  np.testing.assert_array_equal(dataset.train.labels[-5:], np.arange(5))
  assert dataset.train.images.dtype == np.uint8
  assert dataset.train_transform is None


def test_augmentation_is_drawn_from_the_generator_given(tmp_path):
  write_cifar(tmp_path)
  dataset = datasets.load_dataset('cifar10', data_dir=tmp_path, augment=True)
  record = dataset.train[0]
  one, again, other = (
    dataset.train_transform(record, np.random.default_rng(seed))['image']
    for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(one, again)
  assert not np.array_equal(one, other)
  assert one.shape == (32, 32, 3)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', '0 bytes; expected 1 to 10000 records of 3073'),
    (batch(1)[2][:-1], '3072 bytes; expected'),
    (batch(1)[2] + b'x', '3074 bytes; expected'),
    (b'\x0a' + batch(1)[2][1:], 'the label 10 in record 0'),
  ],
)
@pytest.mark.parametrize('name', [NAMES[2], NAMES[-1]])
def test_a_malformed_file_is_refused_by_name(tmp_path, name, content, message):
  write_cifar(tmp_path)
  (tmp_path / name).write_bytes(content)
  with pytest.raises(DataError, match=message) as caught:
    datasets.load_dataset('cifar10', data_dir=tmp_path)
  assert str(caught.value).startswith(str(tmp_path / name))
  assert 'cifar-10-binary.tar.gz' in str(caught.value)


def test_a_huge_file_is_refused_unread(tmp_path):
  write_cifar(tmp_path)
  with open(tmp_path / NAMES[0], 'wb') as file:
    file.truncate(3073 * 10**9)  # Sparse: takes no disk.
  with pytest.raises(DataError, match='3073000000000 bytes'):
    datasets.load_dataset('cifar10', data_dir=tmp_path)


def test_missing_files_are_named(tmp_path):
  write_cifar(tmp_path)
  (tmp_path / NAMES[1]).unlink()
  with pytest.raises(DataError, match=r'found no data_batch_2.bin; expected'):
    datasets.load_dataset('cifar10', data_dir=tmp_path)


@pytest.mark.parametrize(
  'name', ['data_batch_1', 'cifar-10-batches-py/test_batch']
)
def test_pickles_are_not_read(tmp_path, name):
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(b'cos\nsystem\n(S"exit 1"\ntR.')
  with pytest.raises(DataError, match=r'the Python version.*fetch and unpack'):
    datasets.load_dataset('cifar10', data_dir=tmp_path)


def read_or_refuse(content):
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'data_batch_1.bin')
    path.write_bytes(content)
    try:
      images, labels = _cifar._read_batch(str(path))
    except DataError:
      return
  assert images.shape == (len(content) // 3073, 32, 32, 3)
  assert labels.max() < 10


@FEW
@hypothesis.given(st.binary(max_size=100))
def test_arbitrary_bytes_are_read_or_refused(content):
  read_or_refuse(content)


@FEW
@hypothesis.given(
  edits=st.lists(
    st.tuples(st.sampled_from([0, 1, 3073, 6145]), st.integers(0, 255))
  ),
  cut=st.sampled_from([0, 1, 3072, 3073, 3074]),
  tail=st.sampled_from([b'', b'\0', b'\xff' * 3073]),
)
def test_mutated_files_are_read_or_refused(edits, cut, tail):
  content = bytearray(batch(2)[2])
  for position, value in edits:
    content[position] = value
  read_or_refuse(bytes(content[: len(content) - cut]) + tail)
