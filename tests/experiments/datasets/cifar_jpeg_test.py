"""An archive of JPEG images is read whole and in order, or refused."""

import io
import lzma
import os
import pathlib
import tarfile
import tempfile

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from isgd_jax.experiments import datasets
from isgd_jax.experiments.datasets import _cifar
from isgd_jax.experiments.datasets import _cifar_jpeg
from isgd_jax.experiments.errors import DataError

Image = pytest.importorskip('PIL.Image', reason='Pillow is not installed')

# Where the real archive lies, if anywhere.
REAL = os.environ.get('CIFAR10_JPEG', '')
FEW = hypothesis.settings(max_examples=60, deadline=None)


def jpeg(grey, size=(32, 32)):
  file = io.BytesIO()
  Image.new('L', size, grey).save(file, 'jpeg')
  return file.getvalue()


def members():
  """Two images a class to train on and one to test; the grey tells which."""
  for label, name in enumerate(_cifar_jpeg.CLASSES):
    yield f'test/{name}/0000.jpg', jpeg(200 + label)
    # Not in the order of the names.
    yield f'train/{name}/0001.jpg', jpeg(100 + label)
    yield f'train/{name}/0000.jpg', jpeg(10 * label)


def archive(files, mode='w:xz'):
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode=mode) as out:
    for name, content in files:
      info = tarfile.TarInfo(name)
      info.size = len(content)
      out.addfile(info, io.BytesIO(content))
  return file.getvalue()


@pytest.fixture
def path(tmp_path):
  path = tmp_path / 'cifar-10-jpeg.tar.xz'
  path.write_bytes(archive(members()))
  return path


def load(path, **kwargs):
  return datasets.load_dataset('cifar10-jpeg', data_dir=path, **kwargs)


def refused(path, content):
  path.write_bytes(content)
  with pytest.raises(DataError) as caught:
    load(path)
  assert str(caught.value).startswith(str(path))
  return str(caught.value)


@pytest.mark.parametrize('mode', ['w', 'w:gz', 'w:xz'])
@pytest.mark.parametrize('prefix', ['', './', 'cifar/'])
def test_what_is_packed_is_read_by_class_and_name(tmp_path, mode, prefix):
  path = tmp_path / 'any-name'
  files = [('README.md', b'x' * 10**5), *members()]
  path.write_bytes(archive([(prefix + n, x) for n, x in files], mode))
  dataset = load(path)
  assert dataset.train.images.dtype == np.uint8
  assert dataset.train.images.shape == (20, 32, 32, 3)
  np.testing.assert_array_equal(
    dataset.train.labels, np.repeat(np.arange(10), 2)
  )
  # A JPEG of one grey has it to a level.
  greys = np.array([x for i in range(10) for x in (10 * i, 100 + i)])
  found = dataset.train.images.astype(int)
  assert abs(found - greys[:, None, None, None]).max() <= 1
  assert abs(dataset.test.images[:, 0, 0, 0] - np.arange(200.0, 210)).max() <= 1
  assert dataset.name == 'cifar10-jpeg'


def test_a_folder_with_the_archive_will_do(path):
  assert load(path.parent).train.fingerprint() == load(path).train.fingerprint()


def test_the_label_s_order_is_the_published_one():
  assert list(_cifar_jpeg.CLASSES) == sorted(_cifar_jpeg.CLASSES)


def test_pixels_are_scaled_as_those_of_the_binary_version(path):
  dataset = load(path, augment=True)
  assert dataset.pixel_mean == _cifar.MEAN
  assert dataset.pixel_std == _cifar.STD
  record = dataset.train_transform(dataset.train[0], np.random.default_rng(0))
  assert record['image'].shape == (32, 32, 3)


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    ([], 'no image of airplane, automobile'),
    ([('train/lynx/1.jpg', jpeg(1))], "the image 'train/lynx/1.jpg'"),
    ([('val/cat/1.jpg', jpeg(1))], "the image 'val/cat/1.jpg'"),
    ([('1.jpg', jpeg(1))], "the image '1.jpg'"),
    ([('train/cat/1.jpg', jpeg(1, (32, 31)))], '32 x 31 pixels'),
    ([('train/cat/1.jpg', jpeg(1)[:-200])], 'cannot be decoded'),
    ([('train/cat/1.jpg', b'x' * 70_000)], 'of 70000 bytes'),
    ([*members()][:-3], 'no image of truck in train'),
  ],
)
def test_an_archive_of_something_else_is_refused(path, files, message):
  assert message in refused(path, archive(files))


@pytest.mark.parametrize('size', [0, 5, 100, -1000, -40])
def test_a_broken_archive_is_refused(path, size):
  refused(path, archive(members())[:size])


def test_more_bytes_than_there_can_be_are_not_read_on(path, monkeypatch):
  monkeypatch.setattr(_cifar_jpeg, '_MAX_BYTES', 10**6)
  bomb = archive([('README.md', bytes(10**7))])
  assert len(bomb) < 10**4
  assert 'more than 1000000 bytes' in refused(path, bomb)


def test_more_images_than_there_can_be_are_refused(path, monkeypatch):
  monkeypatch.setattr(_cifar_jpeg, '_MAX_IMAGES', 29)
  assert 'more than 29 images' in refused(path, path.read_bytes())


def test_links_are_no_images(path):
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w') as out:
    info = tarfile.TarInfo('train/cat/1.jpg')
    info.type, info.linkname = tarfile.SYMTYPE, '/etc/passwd'
    out.addfile(info)
  assert 'no image of airplane' in refused(path, file.getvalue())


def test_missing_archives_are_named(tmp_path):
  with pytest.raises(DataError, match='needs data_dir: the archive'):
    load(None)
  with pytest.raises(DataError, match=r'found no cifar-10-jpeg\.tar\.xz'):
    load(tmp_path)


def test_the_binary_version_comes_first(path):
  assert _cifar_jpeg.is_cifar10_archive(path)
  assert _cifar_jpeg.is_cifar10_archive(path.parent)
  (path.parent / 'test_batch.bin').touch()
  assert not _cifar_jpeg.is_cifar10_archive(path.parent)
  assert not _cifar_jpeg.is_cifar10_archive(None)


@FEW
@hypothesis.given(
  place=st.integers(0, 10**5),
  byte=st.integers(0, 255),
  cut=st.integers(0, 2000),
  is_packed=st.booleans(),
)
def test_changed_bytes_are_read_or_refused(place, byte, cut, is_packed):
  content = bytearray(archive(members(), 'w'))
  content[place % len(content)] = byte
  content = content[: len(content) - cut]
  packed = lzma.compress(content, preset=0) if is_packed else bytes(content)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'a')
    path.write_bytes(packed)
    try:
      dataset = load(path)
    except DataError:
      return
  assert len(dataset.train) + len(dataset.test) <= 30


@pytest.mark.skipif(not REAL, reason='CIFAR10_JPEG names no archive')
def test_the_real_archive_is_cifar_10():
  dataset = load(REAL)
  np.testing.assert_array_equal(np.bincount(dataset.train.labels), 5000)
  np.testing.assert_array_equal(np.bincount(dataset.test.labels), 1000)
  pixels = dataset.train.images.reshape(-1, 3) / 255
  np.testing.assert_allclose(pixels.mean(0), dataset.pixel_mean, atol=2e-3)
  np.testing.assert_allclose(pixels.std(0), dataset.pixel_std, atol=2e-3)
