"""Permuted tasks are those of the published protocol."""

import numpy as np
import pytest

from isgd_jax.experiments import streams

NUM_EXAMPLES, LENGTH, NUM_TASKS = 30, 12, 4
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (NUM_EXAMPLES, 3, 2, 1)).astype(np.uint8)
# Each example is known by its first pixel, whatever else there is.
IMAGES[:, 0, 0, 0] = np.arange(NUM_EXAMPLES)
LABELS = RNG.integers(0, 5, NUM_EXAMPLES).astype(np.int32)


def drawn(permuted, num_tasks=NUM_TASKS, seed=3):
  return streams.draw_permuted_tasks(
    num_examples=NUM_EXAMPLES,
    num_pixels=6,
    num_classes=5,
    num_tasks=num_tasks,
    task_length=LENGTH,
    permuted=permuted,
    rng=np.random.default_rng(seed),
  )


def read(tasks):
  """All inputs as [n, 6] and all labels [n]."""
  batches = list(streams.permuted_stream(IMAGES, LABELS, tasks).batches)
  inputs, labels = zip(*batches, strict=True)
  return np.concatenate(inputs).reshape(-1, 6), np.concatenate(labels)


def scaled(images):
  return (images.reshape(-1, 6) / 255 - 0.5) / 0.5


@pytest.mark.parametrize('permuted', ['pixels', 'labels'])
def test_a_permutation_holds_for_its_task_and_changes_at_its_end(permuted):
  tasks = drawn(permuted)
  inputs, labels = read(tasks)
  found = []
  for task in range(NUM_TASKS):
    part = slice(task * LENGTH, (task + 1) * LENGTH)
    chosen = tasks.examples[task]
    if permuted == 'pixels':
      # The one permutation of six under which all of the task are as they are.
      (order,) = [
        np.array(p)
        for p in permutations(6)
        if np.allclose(scaled(IMAGES[chosen])[:, p], inputs[part], atol=1e-6)
      ]
      np.testing.assert_array_equal(labels[part], LABELS[chosen])
    else:
      order = np.full(5, -1)
      order[LABELS[chosen]] = labels[part]
      seen = order[LABELS[chosen]]
      np.testing.assert_array_equal(seen, labels[part])
      assert len(set(order[order >= 0])) == (order >= 0).sum()
      np.testing.assert_allclose(
        inputs[part], scaled(IMAGES[chosen]), atol=1e-6
      )
    found.append(tuple(order))
  # The first task is permuted too, and no two tasks alike.
  assert len(set(found)) == NUM_TASKS
  assert found[0] != tuple(range(len(found[0])))


def permutations(n):
  if not n:
    return [()]
  return [
    (*p[:i], n - 1, *p[i:]) for p in permutations(n - 1) for i in range(n)
  ]


def test_examples_are_shuffled_anew_and_none_comes_twice_within_a_task():
  examples = drawn('pixels').examples
  assert examples.shape == (NUM_TASKS, LENGTH)
  assert all(len(set(of_task)) == LENGTH for of_task in examples.tolist())
  # Over all tasks together some do.
  assert len(np.unique(examples)) < examples.size
  assert len({tuple(of_task) for of_task in examples.tolist()}) == NUM_TASKS


@pytest.mark.parametrize('permuted', ['pixels', 'labels'])
def test_fewer_tasks_are_the_first_of_more(permuted):
  few, many = drawn(permuted, 2), drawn(permuted, 5)
  for ours, theirs in zip(few, many, strict=True):
    np.testing.assert_array_equal(ours, theirs[:2])
  other = drawn(permuted, 2, seed=4)
  assert not np.array_equal(other.examples, few.examples)


def test_change_points_are_the_first_examples_of_tasks():
  stream = streams.permuted_stream(IMAGES, LABELS, drawn('pixels'))
  assert stream.change_points == (12, 24, 36)
  assert stream.num_batches == 48


def test_inputs_are_made_as_they_are_sliced():
  tasks = drawn('pixels')
  inputs = streams.PermutedInputs(IMAGES, tasks)
  whole = inputs[:]
  assert whole.shape == inputs.shape == (48, 1, 3, 2, 1)
  assert whole.dtype == inputs.dtype == np.float32
  # Across a permutation, and beyond the end as arrays have it.
  np.testing.assert_array_equal(inputs[10:15], whole[10:15])
  assert len(inputs[40:60]) == 8
  assert whole.min() >= -1
  assert whole.max() <= 1


def test_a_task_longer_than_the_data_is_refused():
  with pytest.raises(ValueError, match='at most the 5 examples; lower it'):
    streams.draw_permuted_tasks(
      num_examples=5,
      num_pixels=1,
      num_classes=2,
      num_tasks=1,
      task_length=6,
      permuted='pixels',
      rng=np.random.default_rng(0),
    )
