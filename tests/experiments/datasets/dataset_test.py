"""The data sets are what they say, and split without leaks."""

import importlib.util
import pickle
import subprocess
import sys

import numpy as np
import pytest

from isgd_jax.experiments import datasets
from isgd_jax.experiments.datasets import _split


def as_rows(images):
  return {image.tobytes() for image in images}


def test_digits_are_complete_scaled_and_stratified():
  digits = datasets.load_dataset('digits')
  images = np.concatenate([digits.train.images, digits.test.images])
  assert images.shape == (1797, 8, 8, 1)
  assert images.dtype == np.float32
  assert digits.train.labels.dtype == np.int32
  assert (images.min(), images.max()) == (0.0, 1.0)
  train, test = (
    np.bincount(source.labels, minlength=10) / len(source)
    for source in (digits.train, digits.test)
  )
  np.testing.assert_allclose(train, test, atol=0.005)


def test_split_depends_on_the_seed_alone():
  one, again, other = (
    datasets.load_dataset('digits', seed=seed) for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(one.test.images, again.test.images)
  assert not np.array_equal(one.test.images, other.test.images)


def test_held_out_part_comes_from_the_train_part():
  digits = datasets.load_dataset('digits')
  tuning = datasets.hold_out(digits, seed=0)
  train, validation = as_rows(tuning.train.images), as_rows(tuning.test.images)
  assert train | validation == as_rows(digits.train.images)
  assert not train & validation
  assert not (train | validation) & as_rows(digits.test.images)
  assert tuning.example_shape == digits.example_shape


def test_text_cannot_be_held_out_by_class(tmp_path):
  (tmp_path / 'a.txt').write_text('a' * 100)
  text = datasets.load_dataset('text', data_dir=tmp_path, sequence_length=4)
  with pytest.raises(ValueError, match=r"'text' is read by TokenSource"):
    datasets.hold_out(text, seed=0)


@pytest.mark.parametrize('sizes', [[1, 2, 9], [30, 4, 100], [10, 10, 10]])
def test_a_tenth_of_each_class_is_held_out(sizes):
  labels = np.random.default_rng(0).permutation(np.repeat([5, 7, 2], sizes))
  train, test = _split.held_out_tenth(labels, seed=3)
  np.testing.assert_array_equal(
    np.sort(np.concatenate([train, test])), np.arange(len(labels))
  )
  for label, size in zip([5, 7, 2], sizes, strict=True):
    expected = 0 if size == 1 else max(1, round(size / 10))
    assert (labels[test] == label).sum() == expected
  np.testing.assert_array_equal(test, _split.held_out_tenth(labels, seed=3)[1])


def test_one_gather_is_the_records_stacked():
  source = datasets.load_dataset('digits').train
  indices = [5, 0, 5, 1436]
  batch = source.__getitems__(indices)
  records = [source[i] for i in indices]
  for key in ('image', 'label'):
    np.testing.assert_array_equal(batch[key], [r[key] for r in records])
    assert batch[key].dtype == records[0][key].dtype
  with pytest.raises(IndexError):
    source[len(source)]


def test_images_without_labels_are_refused():
  with pytest.raises(ValueError, match='3 images and 2 labels'):
    datasets.ArraySource(np.zeros((3, 8, 8, 1)), np.zeros(2))


def test_a_source_survives_the_way_to_a_worker_process():
  source = datasets.load_dataset('digits').test
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy.images, source.images)


@pytest.mark.skipif(
  importlib.util.find_spec('grain') is None, reason='Grain is not installed'
)
def test_grain_takes_the_sources():
  import grain

  source = datasets.load_dataset('digits').test
  records = grain.MapDataset.source(source).shuffle(seed=0).batch(4)
  assert records[0]['image'].shape == (4, 8, 8, 1)


@pytest.mark.parametrize(
  ('name', 'hint'),
  [
    ('digit', "did you mean 'digits'"),
    ('fashion_mnist', "did you mean 'fashion-mnist'"),
    ('hf:', "'hf:NAME'"),
  ],
)
def test_unknown_name_gives_the_nearest(name, hint):
  with pytest.raises(ValueError, match=hint):
    datasets.load_dataset(name)


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('digits', {'data_dir': 'x'}, "'digits' takes no data_dir .got 'x'"),
    ('mnist', {'image_size': 32}, 'choose one of imagefolder, hf:NAME'),
    ('text', {'augment': True}, 'choose one of cifar10, cifar10-jpeg, '),
    ('cifar10', {'skip_undecodable': True}, 'takes no skip_undecodable'),
    ('hf:a/b', {'data_dir': 'x'}, 'takes no data_dir'),
    ('imagefolder', {'image_size': 0}, 'must be positive, got 0'),
    ('text', {'sequence_length': 0, 'data_dir': '.'}, 'positive, got 0'),
    ('mnist', {}, 'needs data_dir'),
    ('cifar10', {}, 'needs data_dir'),
    ('imagefolder', {}, 'needs data_dir'),
    ('text', {}, 'needs data_dir'),
  ],
)
def test_options_that_cannot_be_are_refused(name, options, message):
  with pytest.raises(ValueError, match=message):
    datasets.load_dataset(name, **options)


@pytest.mark.parametrize(
  ('name', 'package', 'extra'),
  [('digits', 'sklearn', 'experiments'), ('hf:a/b', 'datasets', 'hf')],
)
def test_a_missing_package_names_its_extra(monkeypatch, name, package, extra):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ImportError, match=rf'pip install .*\[{extra}\]'):
    datasets.load_dataset(name)


@pytest.mark.processes
def test_optional_packages_are_imported_when_they_are_needed():
  code = (
    'import sys; import isgd_jax.experiments.datasets; '
    "print({'datasets', 'PIL', 'sklearn', 'grain', 'rdata'} & set(sys.modules))"
  )
  command = [sys.executable, '-c', code]
  output = subprocess.check_output(command, text=True, timeout=120)
  assert output == 'set()\n'
