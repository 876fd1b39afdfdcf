"""The Shuttle table is standardised by its train part, or refused by name."""

import os
import pathlib
import sys

import numpy as np
import pandas as pd
import pytest
import rdata

from isgd_jax.experiments import datasets
from isgd_jax.experiments.datasets import _shuttle
from isgd_jax.experiments.errors import DataError

REAL = pathlib.Path(_shuttle._MLBENCH_FOLDER, _shuttle._FILE)
LEVELS = [
  'Rad.Flow',
  'Fpv.Close',
  'Fpv.Open',
  'High',
  'Bypass',
  'Bpv.Close',
  'Bpv.Open',
]

# A factor, for rdata does not write pandas' strings.
TEXT = pd.Categorical(['x'] * 140)


def make_table(num_rows=140, num_features=9, levels=LEVELS):
  rng = np.random.default_rng(0)
  table = pd.DataFrame(
    {
      f'V{i + 1}': 100.0 * i + rng.integers(-50, 50, num_rows)
      for i in range(num_features)
    }
  )
  table['Class'] = pd.Categorical.from_codes(
    np.arange(num_rows) % len(levels), levels
  )
  return table


def write(folder, table, name='Shuttle'):
  path = os.path.join(folder, 'Shuttle.rda')
  rdata.write_rda(path, {name: table})
  return path


def load(folder, seed=0):
  return datasets.load_dataset('shuttle', data_dir=folder, seed=seed)


def test_a_table_becomes_standardised_features_and_labels(tmp_path):
  table = make_table()
  write(tmp_path, table)
  dataset = load(tmp_path)
  assert (dataset.name, dataset.num_classes) == ('shuttle', 7)
  assert dataset.example_shape == (1, 9, 1)
  train, test = dataset.train, dataset.test
  assert train.images.shape == (112, 1, 9, 1)
  assert train.images.dtype == test.images.dtype == np.float32
  assert train.labels.dtype == np.int32
  np.testing.assert_array_equal(np.bincount(train.labels), [16] * 7)
  np.testing.assert_array_equal(np.bincount(test.labels), [4] * 7)
  flat = train.images.reshape(112, 9).astype(float)
  np.testing.assert_allclose(flat.mean(0), 0, atol=1e-6)
  np.testing.assert_allclose(flat.std(0), 1, rtol=1e-6)
  # One affine map a column takes the table's rows to both parts' rows.
  raw = table.drop(columns='Class').to_numpy()
  rows = np.concatenate([flat, test.images.reshape(28, 9)])
  for column in range(9):
    slope, offset = np.polyfit(
      np.sort(raw[:, column]), np.sort(rows[:, column]), 1
    )
    np.testing.assert_allclose(
      np.sort(raw[:, column] * slope + offset),
      np.sort(rows[:, column]),
      atol=1e-5,
    )
    assert slope > 0


def test_labels_are_the_factor_s_levels_in_order(tmp_path):
  table = make_table()
  table['V1'] = table['Class'].cat.codes.astype(float)
  write(tmp_path, table)
  train = load(tmp_path).train
  by_label = [
    set(train.images[train.labels == label, 0, 0, 0].tolist())
    for label in range(7)
  ]
  assert all(len(values) == 1 for values in by_label)
  firsts = [values.pop() for values in by_label]
  assert firsts == sorted(firsts)


def test_outliers_are_clipped_and_a_constant_column_is_zero(tmp_path):
  table = make_table(7000)
  table.loc[:3, 'V2'] = 1e6
  table['V3'] = 5.0
  write(tmp_path, table)
  dataset = load(tmp_path)
  features = np.concatenate([dataset.train.images, dataset.test.images])
  assert (features[:, 0, 1] == 10).sum() == 4
  assert np.abs(features).max() == 10
  np.testing.assert_array_equal(features[:, 0, 2], 0)


def test_the_split_depends_on_the_seed_alone(tmp_path):
  write(tmp_path, make_table())
  one, again, other = (load(tmp_path, seed) for seed in (1, 1, 2))
  np.testing.assert_array_equal(one.test.images, again.test.images)
  assert not np.array_equal(one.test.images, other.test.images)


@pytest.mark.parametrize(
  ('table', 'name', 'message'),
  [
    (make_table(), 'Shuttles', 'no table Shuttle; expected a table Shuttle'),
    (np.arange(3.0), 'Shuttle', 'no table Shuttle'),
    (make_table(num_features=8), 'Shuttle', 'the columns V1, V2, .*V8, Class'),
    (make_table(levels=LEVELS[:6]), 'Shuttle', '6 levels of Class'),
    (make_table().assign(Class=1.0), 'Shuttle', '0 levels of Class'),
    (make_table().assign(V4=TEXT), 'Shuttle', 'a feature that is no number'),
    (make_table().assign(V4=np.nan), 'Shuttle', 'missing values'),
  ],
)
def test_another_table_is_refused(tmp_path, table, name, message):
  path = write(tmp_path, table, name)
  with pytest.raises(DataError, match=message) as caught:
    load(tmp_path)
  assert str(caught.value).startswith(path)


@pytest.mark.parametrize('keep', [0, 10, 200, -100])
def test_a_broken_file_is_refused(tmp_path, keep):
  path = write(tmp_path, make_table())
  content = pathlib.Path(path).read_bytes()[:keep]
  pathlib.Path(path).write_bytes(content)
  with pytest.raises(DataError, match=r'cannot be read as R data.*fetch'):
    load(tmp_path)


def test_a_missing_file_says_how_to_get_it(tmp_path, monkeypatch):
  with pytest.raises(DataError, match=r'no Shuttle\.rda; .*r-cran-mlbench'):
    load(tmp_path)
  monkeypatch.setattr(_shuttle, '_MLBENCH_FOLDER', str(tmp_path))
  write(tmp_path, make_table())
  assert len(datasets.load_dataset('shuttle').train) == 112


def test_a_missing_package_names_its_extra(tmp_path, monkeypatch):
  write(tmp_path, make_table())
  monkeypatch.setitem(sys.modules, 'rdata', None)
  with pytest.raises(ImportError, match=r'pip install .*\[experiments\]'):
    load(tmp_path)


@pytest.mark.skipif(not REAL.is_file(), reason=f'no {REAL}')
def test_shuttle_is_the_published_one():
  dataset = datasets.load_dataset('shuttle')
  counts = [
    np.bincount(part.labels, minlength=7)
    for part in (dataset.train, dataset.test)
  ]
  # Of the StatLog project's train and test files together.
  np.testing.assert_array_equal(
    sum(counts), [45586, 50, 171, 8903, 3267, 10, 13]
  )
  np.testing.assert_allclose(counts[1], np.array(counts[0]) / 4, atol=1)
  assert dataset.train.images.shape == (46400, 1, 9, 1)
  assert np.abs(dataset.train.images).max() == 10
  held_out = datasets.hold_out(dataset, seed=0)
  assert np.bincount(held_out.test.labels, minlength=7).min() > 0
