"""Tables in time order: what scales a row came before it."""

import itertools

import numpy as np
import pytest

from isgd_jax.experiments import datasets
from isgd_jax.experiments import streams

NUM_ROWS = 300
BATCH_SIZES = (1, 4, 16, 64)


def make_table(kind='regression', num_rows=NUM_ROWS, seed=0):
  rng = np.random.default_rng(seed)
  inputs = rng.normal(size=(num_rows, 3)) * [1.0, 1e-3, 1e5] + [0.0, 7.0, 1e6]
  targets = 100.0 + np.cumsum(rng.normal(size=num_rows))
  num_classes = 1
  if kind == 'classification':
    targets, num_classes = (targets > 100).astype(np.int32), 2
  return datasets.Table(
    't', inputs, targets, kind, num_classes, ('a', 'b', 'c')
  )


def test_running_moments_are_those_of_each_prefix():
  values = make_table().inputs
  mean, std = streams.running_moments(values, 5)
  for row in (0, 1, 100, NUM_ROWS - 6):
    before = values[: row + 5]
    np.testing.assert_allclose(mean[row], before.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std[row], before.std(0), rtol=1e-7)
  assert len(mean) == len(std) == NUM_ROWS - 5


@pytest.mark.parametrize('constant', [0.0, 0.1, 1e9])
def test_a_feature_that_was_constant_has_no_deviation(constant):
  values = np.full((50, 1), constant)
  values[30:] += 1.0
  mean, std = streams.running_moments(values, 2)
  np.testing.assert_array_equal(std[:29], 1.0)
  np.testing.assert_allclose(mean[:29], constant)
  assert std[-1] < 1.0


@pytest.mark.parametrize('batch_size', BATCH_SIZES)
@pytest.mark.parametrize('kind', ['regression', 'classification'])
def test_shuffling_the_future_changes_nothing_before(batch_size, kind):
  table = make_table(kind)
  now = 64 + 2 * batch_size if batch_size > 16 else 200
  order = np.arange(NUM_ROWS)
  order[now:] = np.random.default_rng(1).permutation(order[now:])
  other = table._replace(
    inputs=table.inputs[order], targets=table.targets[order]
  )
  before = (now - 64) // batch_size
  assert before >= 2
  one, two = (
    streams.table_batches(each, batch_size=batch_size)
    for each in (table, other)
  )
  for a, b in zip(one, two, strict=True):
    np.testing.assert_array_equal(a[:before], b[:before])
  assert not np.array_equal(one.inputs, two.inputs)


@pytest.mark.parametrize('batch_size', BATCH_SIZES)
def test_targets_are_scaled_by_what_came_before_their_batch(batch_size):
  """The others of the batch are not known when it is predicted."""
  table = make_table()
  batches = streams.table_batches(table, batch_size=batch_size)
  for i in range(len(batches.targets)):
    start = 64 + i * batch_size
    before = table.targets[:start]
    np.testing.assert_allclose(batches.target_mean[i], before.mean())
    np.testing.assert_allclose(batches.target_std[i], before.std(), rtol=1e-6)
    np.testing.assert_allclose(
      batches.target_mean[i] + batches.target_std[i] * batches.targets[i],
      table.targets[start : start + batch_size],
      rtol=1e-6,
    )


def test_inputs_are_scaled_by_what_came_before_them_and_clipped():
  table = make_table('classification')
  table.inputs[150, 0] = 1e9
  batches = streams.table_batches(table, batch_size=4)
  rows = batches.inputs.reshape(-1, 3)
  for row in (0, 50, 85):
    before = table.inputs[: 64 + row]
    expected = (table.inputs[64 + row] - before.mean(0)) / before.std(0)
    np.testing.assert_allclose(rows[row], expected, rtol=1e-4, atol=1e-5)
  assert rows[150 - 64, 0] == 10.0
  assert batches.inputs.dtype == np.float32
  assert batches.targets.dtype == np.int32
  np.testing.assert_array_equal(
    batches.targets.ravel(), table.targets[64 : 64 + rows.shape[0]]
  )


def test_the_shuffled_control_has_the_same_rows_in_an_order_of_its_seed():
  table = make_table()
  ids = np.arange(NUM_ROWS, dtype=np.float64)
  table = table._replace(targets=ids)

  def identities(seed, warm_up=NUM_ROWS - 20):
    rng = None if seed is None else np.random.default_rng(seed)
    batches = streams.table_batches(
      table, batch_size=4, rng=rng, warm_up=warm_up
    )
    raw = batches.targets * batches.target_std[:, None]
    return np.rint(raw + batches.target_mean[:, None]).ravel().tolist()

  assert identities(None) == list(range(NUM_ROWS - 20, NUM_ROWS))
  assert identities(0) == identities(0) != identities(1)
  seen = identities(0, warm_up=4)
  assert len(set(seen)) == len(seen) == NUM_ROWS - 4


def test_a_stream_of_a_table_has_its_batches_as_images():
  table = make_table('classification')
  batches = streams.table_batches(table, batch_size=16)
  stream = streams.table_stream(table, batch_size=16)
  pairs = list(stream.batches)
  assert stream.num_batches == len(pairs) == (NUM_ROWS - 64) // 16
  assert stream.change_points == ()
  for i, (inputs, targets) in enumerate(pairs):
    assert inputs.shape == (16, *table.example_shape)
    np.testing.assert_array_equal(inputs.reshape(16, -1), batches.inputs[i])
    np.testing.assert_array_equal(targets, batches.targets[i])


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'batch_size': 0}, 'batch_size must be at least 1 .* got 0 and 64'),
    ({'batch_size': 1, 'warm_up': 1}, 'warm_up at least 2, got 1 and 1'),
    ({'batch_size': 237}, "table 't' has 300 rows, too few"),
  ],
)
def test_what_cannot_be_cut_is_said(options, message):
  with pytest.raises(ValueError, match=message):
    streams.table_batches(make_table(), **options)


def test_texts_come_in_order_or_shuffled_and_no_window_spans_two():
  texts = [np.full(10 + year, year, np.uint8) for year in range(1, 9)]

  def windows(rng=None):
    stream = streams.texts_in_order(
      texts, sequence_length=4, batch_size=2, rng=rng
    )
    batches = list(stream.batches)
    assert len(batches) == stream.num_batches
    for tokens, following in batches:
      assert tokens.dtype == np.int32
      np.testing.assert_array_equal(tokens, following)
    return [int(row[0]) for tokens, _ in batches for row in tokens]

  in_order = windows()
  assert all(a <= b for a, b in itertools.pairwise(in_order))
  assert len(in_order) == sum(len(text) // 5 for text in texts) // 2 * 2
  shuffled = windows(np.random.default_rng(0))
  assert shuffled != in_order
  assert sorted(shuffled) == in_order
  with pytest.raises(ValueError, match='fewer than batch_size=99'):
    streams.texts_in_order(texts, sequence_length=4, batch_size=99)
  with pytest.raises(ValueError, match='must be positive, got 0 and 1'):
    streams.texts_in_order(texts, sequence_length=0, batch_size=1)


def test_labels_are_permuted_anew_in_each_segment():
  labels = np.arange(400) % 10
  stream = streams.drifting_stream(
    np.arange(400, dtype=np.float32).reshape(400, 1, 1, 1),
    labels,
    batch_size=5,
    num_segments=4,
    batches_per_segment=40,
    num_classes=10,
    drift='permuted-labels',
    rng=np.random.default_rng(0),
  )
  batches = list(stream.batches)
  mappings = []
  for segment in range(4):
    part = batches[40 * segment : 40 * (segment + 1)]
    pairs = {
      (int(labels[int(image)]), int(label))
      for images, targets in part
      for image, label in zip(images.ravel(), targets, strict=True)
    }
    # One name for each class, and one class for each name.
    assert len(pairs) == 10
    assert len({new for _, new in pairs}) == 10
    mappings.append(sorted(pairs))
  assert mappings[0] == [(i, i) for i in range(10)]
  assert len(set(map(tuple, mappings))) == 4
