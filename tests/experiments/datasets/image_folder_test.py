"""Folders of images: found, labelled, decoded late, and checked early."""

import pickle

import numpy as np
import pytest

from isgd_jax.experiments import datasets
from isgd_jax.experiments.errors import DataError

Image = pytest.importorskip('PIL.Image', reason='Pillow is not installed')


def write(folder, name, grey=100, size=(40, 30)):
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('L', size, grey).save(path, path.suffix[1:].replace('JPEG', 'jpeg'))


@pytest.fixture
def folder(tmp_path):
  """Two classes; the grey level says which image it is."""
  for i in range(10):
    write(tmp_path, f'train/dog/{i}.png', grey=100 + i)
  for i in range(20):
    write(tmp_path, f'train/cat/{i:02}.PNG', grey=i)
  write(tmp_path, 'val/cat/0.bmp', grey=50)
  write(tmp_path, 'val/dog/sub/0.JPEG', grey=150)
  return tmp_path


def load(folder, **kwargs):
  return datasets.load_dataset('imagefolder', data_dir=folder, **kwargs)


def greys(source):
  return [int(record['image'][0, 0, 0]) for record in source]


def test_classes_and_images_are_sorted_and_labelled(folder):
  (folder / 'train' / '.cache').mkdir()
  (folder / 'train' / 'list.txt').write_text('not a class')
  (folder / 'train' / 'cat' / 'notes.txt').write_text('not an image')
  (folder / 'train' / 'cat' / '._00.png').write_text('not an image')
  dataset = load(folder)
  assert greys(dataset.train) == [*range(20), *range(100, 110)]
  np.testing.assert_array_equal(dataset.train.labels, [0] * 20 + [1] * 10)
  assert greys(dataset.test) == [50, 150]
  assert [int(r['label']) for r in dataset.test] == [0, 1]
  assert dataset.train[0]['image'].shape == (30, 40, 3)
  assert dataset.train[0]['label'].dtype == np.int32
  assert dataset.num_classes == 2
  assert dataset.example_shape == (224, 224, 3)


@pytest.mark.parametrize('augment', [None, True, False])
def test_transforms_give_the_size_and_are_random_on_demand(folder, augment):
  dataset = load(folder, image_size=16, augment=augment)
  y, x = np.mgrid[:50, :50]
  image = np.stack([x, y, x + y], axis=-1).astype(np.uint8)
  record = {'image': image, 'label': np.int32(1)}
  one, other = (
    dataset.train_transform(record, np.random.default_rng(seed))['image']
    for seed in (0, 1)
  )
  assert one.shape == dataset.example_shape == (16, 16, 3)
  assert np.array_equal(one, other) == (augment is False)
  assert dataset.test_transform(record)['image'].shape == (16, 16, 3)


def test_without_val_a_tenth_of_each_class_is_held_out(folder):
  (folder / 'val').rename(folder / 'other')
  one, again, other = (load(folder, seed=seed) for seed in (1, 1, 2))
  assert (len(one.train), len(one.test)) == (27, 3)
  np.testing.assert_array_equal(one.test.labels, [0, 0, 1])
  assert sorted(greys(one.train) + greys(one.test)) == (
    [*range(20), *range(100, 110)]
  )
  assert one.test.paths == again.test.paths != other.test.paths


@pytest.mark.parametrize('name', ['validation', 'test'])
def test_val_has_other_names(folder, name):
  (folder / 'val').rename(folder / name)
  assert greys(load(folder).test) == [50, 150]


def test_nothing_is_decoded_before_it_is_asked_for(folder, monkeypatch):
  monkeypatch.setattr(Image, 'open', None)
  dataset = load(folder)
  with pytest.raises(DataError, match='cannot be decoded'):
    dataset.train[0]


def make(folder, paths):
  for path in paths:
    target = folder / path
    if path.endswith('/'):
      target.mkdir(parents=True)
    else:
      write(folder, path)


@pytest.mark.parametrize(
  ('paths', 'where', 'message'),
  [
    ([], '', "no folder 'train'; .* move the folders of the classes"),
    (['train/'], 'train', 'no folder inside'),
    (['train/1.png'], 'train', 'no folder inside.* move each image'),
    (['train/a/1.png', 'train/b/'], 'train/b', 'no image; .* remove the'),
    (['train/a/1.png', 'val/1.png'], 'val', 'no folder inside'),
    (['train/a/1.png', 'val/a/'], 'val/a', 'no image'),
    (['train/a/1.png', 'val/b/1.png'], 'val', "no class 'a' and the unknown"),
    (['train/a/1.png', 'train/b/1.png'], '', 'no class .* two images'),
  ],
)
def test_a_wrong_layout_is_refused(tmp_path, paths, where, message):
  make(tmp_path, paths)
  with pytest.raises(DataError, match=message) as caught:
    load(tmp_path)
  path = str(tmp_path / where) if where else str(tmp_path)
  assert str(caught.value).startswith(f'{path}: found ')


def test_many_wrong_classes_are_not_all_listed(tmp_path):
  make(tmp_path, ['train/a/1.png', *(f'val/{i}/1.png' for i in range(9))])
  with pytest.raises(
    DataError, match="'0', '1', '2' and 6 more; expected the 1"
  ):
    load(tmp_path)


@pytest.mark.parametrize('kind', ['truncated', 'text'])
def test_an_undecodable_image_is_named_or_counts_for_nothing(folder, kind):
  path = folder / 'train' / 'cat' / '00.PNG'
  path.write_bytes(path.read_bytes()[:-20] if kind == 'truncated' else b'text')
  with pytest.raises(DataError, match=r'decoded.*skip_und') as caught:
    load(folder).train[0]
  assert str(caught.value).startswith(str(path))
  dataset = load(folder, skip_undecodable=True, image_size=24)
  record = dataset.train[0]
  assert record['label'] == -1
  assert record['label'].dtype == np.int32
  record = dataset.train_transform(record, np.random.default_rng(0))
  np.testing.assert_array_equal(record['image'], np.zeros((24, 24, 3)))
  assert dataset.train[1]['label'] == 0


def test_a_file_that_went_away_is_never_skipped(folder):
  dataset = load(folder, skip_undecodable=True)
  (folder / 'train' / 'cat' / '00.PNG').unlink()
  with pytest.raises(DataError, match='No such file'):
    dataset.train[0]


def test_the_way_to_a_worker_process(folder):
  dataset = load(folder)
  copy = pickle.loads(pickle.dumps(dataset))
  np.testing.assert_array_equal(
    copy.train[3]['image'], dataset.train[3]['image']
  )
