"""The data sets are what they say, and split without leaks."""

import sys

import numpy as np
import pytest

from isgd_jax.experiments import datasets


def as_rows(images):
  return {image.tobytes() for image in images}


def test_digits_are_complete_scaled_and_stratified():
  digits = datasets.load_dataset('digits')
  images = np.concatenate([digits.train_images, digits.test_images])
  assert images.shape == (1797, 8, 8, 1)
  assert images.dtype == np.float32
  assert digits.train_labels.dtype == np.int32
  assert (images.min(), images.max()) == (0.0, 1.0)
  train, test = (
    np.bincount(labels, minlength=10) / len(labels)
    for labels in (digits.train_labels, digits.test_labels)
  )
  np.testing.assert_allclose(train, test, atol=0.005)


def test_split_depends_on_the_seed_alone():
  one, again, other = (datasets.load_dataset('digits', s) for s in (1, 1, 2))
  np.testing.assert_array_equal(one.test_images, again.test_images)
  assert not np.array_equal(one.test_images, other.test_images)


def test_held_out_part_comes_from_the_train_part():
  digits = datasets.load_dataset('digits')
  tuning = datasets.hold_out(digits, seed=0)
  train, validation = as_rows(tuning.train_images), as_rows(tuning.test_images)
  assert train | validation == as_rows(digits.train_images)
  assert not train & validation
  assert not (train | validation) & as_rows(digits.test_images)


def test_unknown_name_gives_the_nearest():
  with pytest.raises(ValueError, match=r"'digit'; did you mean 'digits'\?"):
    datasets.load_dataset('digit')


def test_missing_scikit_learn_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  with pytest.raises(ImportError, match=r'isgd_jax\[experiments\]'):
    datasets.load_dataset('digits')
