"""Hugging Face's formats, from local folders: no test touches the network."""

import io
import pickle
import socket

import numpy as np
import pytest

from isgd_jax.experiments import datasets
from isgd_jax.experiments.errors import DataError

hf = pytest.importorskip('datasets', reason='datasets is not installed')
Image = pytest.importorskip('PIL.Image', reason='Pillow is not installed')


@pytest.fixture(autouse=True)
def offline(tmp_path_factory, monkeypatch):
  """A cache of its own; the library reads the environment when imported."""
  cache = tmp_path_factory.mktemp('hf')
  monkeypatch.setattr(hf.config, 'HF_DATASETS_CACHE', cache)
  monkeypatch.setattr(hf.config, 'HF_HUB_OFFLINE', True)
  monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
  monkeypatch.setattr(
    'huggingface_hub.constants.HF_HUB_CACHE', str(cache / 'hub')
  )
  attempts = []
  monkeypatch.setattr(
    socket.socket, 'connect', lambda _, address: attempts.append(address)
  )
  hf.disable_progress_bars()
  yield
  hf.enable_progress_bars()
  assert not attempts


def png(grey, size=(12, 10), mode='RGB'):
  file = io.BytesIO()
  Image.new('L', size, grey).convert(mode).save(file, 'png')
  return file.getvalue()


def write(folder, split, contents, labels=None, features=None):
  labels = [i % 2 for i in range(len(contents))] if labels is None else labels
  columns = {
    'picture': [{'bytes': c, 'path': None} for c in contents],
    'kind': labels,
  }
  features = features or {
    'picture': hf.Image(),
    'kind': hf.ClassLabel(names=['cat', 'dog']),
  }
  for name in features.keys() - columns.keys():
    columns[name] = labels
  table = hf.Dataset.from_dict(
    {name: columns[name] for name in features}, features=hf.Features(features)
  )
  table.to_parquet(folder / f'{split}-00000-of-00001.parquet')


def load(folder, **kwargs):
  return datasets.load_dataset(f'hf:{folder}', **kwargs)


def greys(source):
  return [int(source[i]['image'][0, 0, 0]) for i in range(len(source))]


@pytest.mark.parametrize('test_split', ['test', 'validation'])
def test_parquet_is_read_with_its_splits(tmp_path, test_split):
  write(tmp_path, 'train', [png(i) for i in range(6)])
  write(tmp_path, test_split, [png(100 + i) for i in range(4)])
  dataset = load(tmp_path)
  assert greys(dataset.train) == [*range(6)]
  assert greys(dataset.test) == [*range(100, 104)]
  np.testing.assert_array_equal(dataset.train.labels, [0, 1] * 3)
  record = dataset.train[np.int64(1)]
  assert record['image'].shape == dataset.example_shape == (10, 12, 3)
  assert record['image'].dtype == np.uint8
  assert record['label'].dtype == np.int32
  assert (dataset.num_classes, len(dataset.pixel_mean)) == (2, 3)
  assert dataset.train_transform is None


def test_a_test_part_without_labels_is_passed_over(tmp_path):
  write(tmp_path, 'train', [png(i) for i in range(6)])
  write(tmp_path, 'test', [png(9)] * 4, labels=[-1] * 4)
  write(tmp_path, 'validation', [png(50)] * 2)
  assert greys(load(tmp_path).test) == [50, 50]


def test_without_a_test_part_a_tenth_is_held_out(tmp_path):
  write(tmp_path, 'train', [png(i) for i in range(40)])
  one, again, other = (load(tmp_path, seed=seed) for seed in (1, 1, 2))
  assert len(one.test) == 4
  np.testing.assert_array_equal(np.bincount(one.test.labels), [2, 2])
  assert sorted(greys(one.train) + greys(one.test)) == [*range(40)]
  assert greys(one.test) == greys(again.test) != greys(other.test)


def test_a_folder_of_images_is_read(tmp_path):
  for split, count in (('train', 4), ('test', 2)):
    for name in ('cat', 'dog'):
      folder = tmp_path / split / name
      folder.mkdir(parents=True)
      for i in range(count):
        (folder / f'{i}.png').write_bytes(png(i + (name == 'dog') * 100))
  dataset = load(tmp_path)
  assert sorted(greys(dataset.train)) == [0, 1, 2, 3, 100, 101, 102, 103]
  for record in (dataset.train[i] for i in range(8)):
    assert record['label'] == (record['image'][0, 0, 0] >= 100)
  assert len(dataset.test) == 4


def test_grey_data_stay_grey(tmp_path):
  write(tmp_path, 'train', [png(i, mode='L') for i in range(40)])
  dataset = load(tmp_path)
  assert dataset.example_shape == (10, 12, 1)
  assert (dataset.pixel_mean, dataset.pixel_std) == ((0.0,), (1.0,))
  assert dataset.train[0]['image'].shape == (10, 12, 1)


def test_colour_among_grey_is_refused_when_it_is_met(tmp_path):
  contents = [png(i, mode='L') for i in range(100)]
  contents[1] = png(1)  # Not one of those that are looked at.
  write(tmp_path, 'train', contents)
  write(tmp_path, 'test', contents[:1])
  dataset = load(tmp_path)
  with pytest.raises(DataError, match=r'row 1.*in colour.*one mode'):
    dataset.train[1]


def test_sizes_that_differ_need_image_size(tmp_path):
  contents = [png(0), png(1, size=(30, 20))]
  write(tmp_path, 'train', contents)
  write(tmp_path, 'test', contents)
  dataset = load(tmp_path)
  assert dataset.train[0]['label'] == 0
  with pytest.raises(
    DataError, match=r'20 x 30 .*expected 10 x 12.*image_size'
  ):
    dataset.train[1]
  dataset = load(tmp_path, image_size=8)
  record = dataset.train_transform(dataset.train[1], np.random.default_rng(0))
  assert record['image'].shape == dataset.example_shape == (8, 8, 3)
  assert dataset.test_transform(dataset.test[0])['image'].shape == (8, 8, 3)


def test_augmentation_is_on_demand(tmp_path):
  write(tmp_path, 'train', [png(0)] * 4)
  dataset = load(tmp_path, augment=True)
  assert dataset.example_shape == (10, 10, 3)
  record = dataset.train_transform(dataset.train[0], np.random.default_rng(0))
  assert record['image'].shape == (10, 10, 3)
  assert dataset.test_transform(dataset.test[0])['image'].shape == (10, 10, 3)


@pytest.mark.parametrize('broken', [0, 3])
def test_an_undecodable_image_is_named_or_counts_for_nothing(tmp_path, broken):
  contents = [png(i) for i in range(100)]
  contents[broken] = contents[broken][:40]
  write(tmp_path, 'train', contents)
  write(tmp_path, 'test', contents[50:52])
  with pytest.raises(DataError, match=rf'row {broken}.*cannot be decoded'):
    load(tmp_path).train[broken]
  dataset = load(tmp_path, skip_undecodable=True)
  record = dataset.train[broken]
  assert record['label'] == -1
  np.testing.assert_array_equal(record['image'], np.zeros((10, 12, 3)))
  assert dataset.train[4]['label'] == 0


@pytest.mark.parametrize(
  ('features', 'message'),
  [
    (
      {'kind': lambda: hf.ClassLabel(names=['a', 'b'])},
      r"0 columns of the type Image among 'kind' \(ClassLabel\)",
    ),
    (
      {'picture': lambda: hf.Image(), 'kind': lambda: hf.Value('int64')},
      r"0 columns of the type ClassLabel among 'picture' \(Image\), 'kind'",
    ),
    (
      {
        'picture': lambda: hf.Image(),
        'kind': lambda: hf.ClassLabel(names=['a', 'b']),
        'coarse': lambda: hf.ClassLabel(names=['a', 'b']),
      },
      '2 columns of the type ClassLabel',
    ),
  ],
)
def test_columns_must_be_plain(tmp_path, features, message):
  features = {name: make() for name, make in features.items()}
  write(tmp_path, 'train', [png(0)] * 4, features=features)
  with pytest.raises(DataError, match=message):
    load(tmp_path)


def test_no_train_split_is_refused(tmp_path):
  write(tmp_path, 'test', [png(0)] * 4)
  with pytest.raises(
    DataError, match="the splits test; expected a split 'train'"
  ):
    load(tmp_path)


def test_other_formats_are_refused(tmp_path):
  (tmp_path / 'train.csv').write_text('kind,picture\n0,a\n')
  with pytest.raises(DataError, match="the format 'csv'; expected Parquet"):
    load(tmp_path)


@pytest.mark.parametrize('name', ['no_such/data_set', 'x y z//', '/no/folder'])
def test_what_cannot_be_loaded_says_why(name):
  with pytest.raises(DataError, match=rf'^hf:{name}: found .*; check'):
    datasets.load_dataset(f'hf:{name}')


def test_an_empty_folder_is_refused(tmp_path):
  with pytest.raises(DataError, match='cannot be loaded'):
    load(tmp_path)


def test_the_way_to_a_worker_process(tmp_path):
  write(tmp_path, 'train', [png(i) for i in range(20)])
  dataset = load(tmp_path)
  copy = pickle.loads(pickle.dumps(dataset))
  assert greys(copy.train) == greys(dataset.train)


def test_rows_are_told_apart_by_label_name_and_size_of_the_image(tmp_path):
  """Of parts that are whole splits, and of those that are held out."""

  def fingerprints(name, contents, labels=None, test=True):
    folder = tmp_path / name
    folder.mkdir()
    write(folder, 'train', contents, labels)
    if test:
      write(folder, 'test', contents[:2])
    dataset = load(folder)
    return dataset.train.fingerprint(), dataset.test.fingerprint()

  images = [png(i) for i in range(20)]
  first = fingerprints('first', images)
  assert fingerprints('again', images) == first
  labels = [i % 2 for i in range(19)] + [0]
  assert fingerprints('labels', images, labels)[0] != first[0]
  assert fingerprints('size', [*images[:-1], png(3, (90, 90))])[0] != first[0]
  held_out = fingerprints('held_out', images, test=False)
  assert len({*first, *held_out}) == 4


def test_images_in_files_have_their_files_sizes(tmp_path):
  for split in ('train', 'test'):
    for label in ('cat', 'dog'):
      (tmp_path / 'images' / split / label).mkdir(parents=True)
      for i in range(3):
        path = tmp_path / 'images' / split / label / f'{i}.png'
        path.write_bytes(png(i))
  source = load(tmp_path / 'images').train
  before = source.fingerprint()
  path = tmp_path / 'images' / 'train' / 'dog' / '1.png'
  path.write_bytes(path.read_bytes() + b' ')
  assert source.fingerprint() != before
