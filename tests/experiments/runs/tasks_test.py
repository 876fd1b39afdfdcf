"""Tasks: which examples train, which judge, and what the judgement says."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from isgd_jax.experiments.datasets import ArraySource
from isgd_jax.experiments.datasets import load_dataset
from isgd_jax.experiments.models import Model
from isgd_jax.experiments.runs import tasks
from isgd_jax.experiments.runs.tasks import Task

NUM_DIGITS = 1797
CYCLE = Task(
  'test/cycle',
  'digits in a cycle',
  dataset='digits',
  model='mlp',
  order='cycle',
  batch_size=32,
  window_size=35,
  num_train=1120,
  num_test=317,
  num_epochs=2,
)
DRIFT = Task(
  'test/drift',
  'digits that drift',
  dataset='digits',
  model='mlp',
  order='drift',
  batch_size=NUM_DIGITS // 3,
  window_size=50,
  num_segments=2,
  batches_per_segment=3,
)
changed = dataclasses.replace


@functools.cache
def digits():
  """All digits: images, labels, and whether they are of the test part."""
  train, test = load_dataset('digits')[1:3]
  return (
    np.concatenate([train.images, test.images]),
    np.concatenate([train.labels, test.labels]),
    np.arange(NUM_DIGITS) >= len(train),
  )


@functools.cache
def index_of():
  """Of the bytes of an image the index in `digits()`; no two are alike."""
  index = {image.tobytes(): i for i, image in enumerate(digits()[0])}
  assert len(index) == NUM_DIGITS
  return index


def indices(images):
  index = index_of()
  return np.array([index[np.ascontiguousarray(x).tobytes()] for x in images])


def trained_on(task, seed=0):
  """[n] indices of the images of a run, batch after batch."""
  batches = tasks.build_stream(task, seed).batches
  return np.concatenate([indices(images) for images, _ in batches])


def parts(task):
  """Indices of the train, the validation and the test part, as defined."""
  is_test = digits()[2]
  train = np.unique(trained_on(task))
  rest = np.setdiff1d(np.flatnonzero(~is_test), train)
  return train, rest, np.flatnonzero(is_test)


def is_among(inputs, images):
  """[n, m]: whether input n is image m."""
  flat = inputs.reshape(len(inputs), 1, -1)
  return (flat == images.reshape(1, len(images), -1)).all(-1)


def alarmed_logits(params, inputs):
  """Not a number for an image in `params`, and otherwise no preference."""
  is_known = is_among(inputs, params).any(1)
  return jnp.where(is_known[:, None], jnp.nan, jnp.zeros((1, 10)))


def looked_up_logits(params, inputs):
  """Sure of the label that `params`, images and labels, has for an image."""
  images, labels = params
  label = labels[is_among(inputs, images).argmax(1)]
  return 50.0 * jax.nn.one_hot(label, 10)


def network(logits_fn):
  return Model(init=None, loss_fn=None, logits_fn=logits_fn)


def meets(task, purpose, chosen):
  """Whether a run is judged on any of the images with indices `chosen`."""
  evaluate = tasks.build_evaluation(task, network(alarmed_logits), purpose)
  loss = evaluate(jnp.asarray(digits()[0][chosen])).test_loss
  assert np.isnan(loss) or loss == pytest.approx(np.log(10))
  return bool(np.isnan(loss))


@pytest.mark.parametrize('order', ['cycle', 'reshuffled'])
def test_a_run_trains_on_its_train_part_alone(order):
  task = changed(CYCLE, order=order)
  visits = trained_on(task).reshape(task.num_epochs, -1)
  assert not digits()[2][visits].any()
  for epoch in visits:
    assert len(set(epoch)) == task.num_train
  # Whatever the seed and the order: reported runs train on what tuned ones did.
  np.testing.assert_array_equal(
    np.unique(visits), np.unique(trained_on(CYCLE, seed=1))
  )


@pytest.mark.parametrize('purpose', ['tuning', 'reporting'])
def test_no_run_is_judged_on_what_it_trained_on(purpose):
  train, _, _ = parts(CYCLE)
  assert not meets(CYCLE, purpose, train)


def test_tuning_is_judged_on_the_validation_part_alone():
  _, validation, test = parts(CYCLE)
  assert len(validation) == CYCLE.num_test
  assert meets(CYCLE, 'tuning', validation)
  assert not meets(CYCLE, 'tuning', test)


def test_reporting_is_judged_on_the_test_part_alone():
  _, validation, test = parts(CYCLE)
  assert meets(CYCLE, 'reporting', test)
  assert not meets(CYCLE, 'reporting', validation)


def test_parts_do_not_meet_however_large_the_validation_part_may_be():
  task = changed(CYCLE, num_train=37, num_test=360, batch_size=37)
  train, _, test = parts(task)
  for purpose in ('tuning', 'reporting'):
    assert not meets(task, purpose, train)
  assert not meets(task, 'tuning', test)


@pytest.mark.parametrize('share', [0.1, 0.3])
def test_label_noise_changes_its_share_of_labels_to_any_other(share):
  task = changed(CYCLE, label_noise=share, num_epochs=1)
  true_labels = digits()[1]
  batches = tasks.build_stream(task, 0).batches
  wrong_by = np.concatenate(
    [(labels - true_labels[indices(x)]) % 10 for x, labels in batches]
  )
  # Five standard deviations of a binomial share.
  tolerance = 5 * np.sqrt(share * (1 - share) / task.num_train)
  assert abs((wrong_by != 0).mean() - share) < tolerance
  assert set(wrong_by) == set(range(10))


def test_a_wrong_label_stays_wrong_in_every_epoch():
  task = changed(CYCLE, label_noise=0.3, num_epochs=2, order='reshuffled')
  label_of = {}
  for images, labels in tasks.build_stream(task, 0).batches:
    for i, label in zip(indices(images), labels, strict=True):
      assert label_of.setdefault(i, label) == label


@pytest.mark.parametrize('purpose', ['tuning', 'reporting'])
def test_label_noise_never_touches_what_runs_are_judged_on(purpose):
  task = changed(CYCLE, label_noise=0.3)
  evaluate = tasks.build_evaluation(task, network(looked_up_logits), purpose)
  images, labels, _ = digits()
  measures = evaluate((jnp.asarray(images), jnp.asarray(labels)))
  assert measures.test_accuracy == 1.0
  assert measures.test_loss == pytest.approx(0.0, abs=1e-6)
  assert measures.train_loss == pytest.approx(0.0, abs=1e-6)


def predictions(task, purpose):
  """A network, its parameters, and the examples it is judged on."""
  model = tasks.build_task_model(task)
  params = model.init(3)
  _, validation, test = parts(task)
  chosen = validation if purpose == 'tuning' else test
  images, labels, _ = digits()
  return model, params, images[chosen], labels[chosen]


@pytest.mark.parametrize(
  ('purpose', 'num_train', 'num_test'),
  [
    ('tuning', 1120, 317),
    ('reporting', 1077, 360),
    # The first thousand and 400 more, and exactly one thousand.
    ('tuning', 37, 1400),
    ('tuning', 437, 1000),
  ],
)
def test_loss_and_accuracy_are_means_over_all_examples(
  purpose, num_train, num_test
):
  task = changed(CYCLE, num_train=num_train, num_test=num_test, batch_size=1)
  model, params, images, labels = predictions(task, purpose)
  assert len(labels) == num_test
  measures = tasks.build_evaluation(task, model, purpose)(params)
  loss, accuracy = model.loss_fn(params, (images, labels))
  assert measures.test_loss == pytest.approx(float(loss), rel=1e-5)
  assert measures.test_accuracy == pytest.approx(float(accuracy), rel=1e-6)


def test_train_loss_is_the_mean_over_train_examples():
  task = changed(CYCLE, num_train=300, num_test=317, batch_size=1)
  model = tasks.build_task_model(task)
  params = model.init(3)
  images, labels, _ = digits()
  train = parts(task)[0]
  assert len(train) == 300
  loss, _ = model.loss_fn(params, (images[train], labels[train]))
  measures = tasks.build_evaluation(task, model, 'reporting')(params)
  assert measures.train_loss == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize(
  ('num_train', 'num_test'),
  # Of 1400 the last 400 are a batch of their own; 13 are not of all classes.
  [(1120, 317), (37, 1400), (1424, 13)],
)
def test_balanced_accuracy_is_that_of_scikit_learn(num_train, num_test):
  task = changed(
    CYCLE,
    num_train=num_train,
    num_test=num_test,
    batch_size=1,
    is_balanced=True,
  )
  images, labels, _ = digits()
  is_spoilt = np.random.default_rng(0).random(NUM_DIGITS) < labels / 10
  predicted = np.where(is_spoilt, (labels + 1) % 10, labels)
  validation = parts(task)[1]
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'y_pred contains classes not in y_true')
    expected = metrics.balanced_accuracy_score(
      labels[validation], predicted[validation]
    )
  assert expected != (predicted == labels)[validation].mean()
  evaluate = tasks.build_evaluation(task, network(looked_up_logits), 'tuning')
  measures = evaluate((jnp.asarray(images), jnp.asarray(predicted)))
  assert measures.test_accuracy == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
  ('kwargs', 'purpose', 'message'),
  [
    ({'num_train': 1121}, 'tuning', 'within the 316 examples that a tuning'),
    ({'num_test': 361}, 'reporting', 'within the 360 examples'),
    ({'num_test': 0}, 'reporting', 'num_test=0 of test/cycle must be positive'),
  ],
)
def test_a_part_that_is_too_small_is_refused(kwargs, purpose, message):
  with pytest.raises(ValueError, match=message):
    tasks.build_evaluation(
      changed(CYCLE, **kwargs), network(alarmed_logits), purpose
    )


EVERY_ORDER = {
  'cycle': CYCLE,
  'reshuffled': changed(CYCLE, order='reshuffled'),
  'dirichlet': changed(CYCLE, dirichlet_alpha=0.1),
  'single class': changed(CYCLE, single_class=True),
  'noise': changed(CYCLE, label_noise=0.3),
  'throttled': changed(CYCLE, seconds_per_batch=1e-4),
  'drift-labels': DRIFT,
  'drift-pixels': changed(DRIFT, drift='pixels'),
  'drift-gradual': changed(DRIFT, transition_batches=2),
}
every_order = pytest.mark.parametrize(
  'task', EVERY_ORDER.values(), ids=EVERY_ORDER.keys()
)


@every_order
def test_same_seed_same_stream_and_other_seed_another(task):
  first, again, other = (
    [
      np.concatenate(arrays)
      for arrays in zip(*tasks.build_stream(task, seed).batches, strict=True)
    ]
    for seed in (3, 3, 4)
  )
  for array, array_again, other_array in zip(first, again, other, strict=True):
    np.testing.assert_array_equal(array, array_again)
    assert not np.array_equal(array, other_array)


@every_order
def test_batches_are_what_a_step_takes(task):
  for inputs, labels in tasks.build_stream(task, 0).batches:
    assert inputs.shape == (task.batch_size, 8, 8, 1)
    assert (inputs.dtype, labels.dtype) == (np.float32, np.int32)


def test_a_cycle_can_be_reshuffled():
  reshuffled = tasks.build_stream(CYCLE, 0, is_reshuffled=True)
  epochs = np.concatenate([indices(x) for x, _ in reshuffled.batches])
  first, second = epochs.reshape(2, -1)
  assert not np.array_equal(first, second)
  assert set(first) == set(second) == set(trained_on(CYCLE))


def test_a_segment_of_a_stream_can_use_every_image():
  visits = trained_on(DRIFT).reshape(DRIFT.num_segments, -1)
  for segment in visits:
    np.testing.assert_array_equal(np.sort(segment), np.arange(NUM_DIGITS))


@pytest.mark.parametrize('task', [CYCLE, DRIFT])
def test_num_batches_is_that_of_the_stream(task):
  assert tasks.build_stream(task, 0).num_batches == task.num_batches


def test_only_a_stationary_task_with_a_fast_source_has_a_budget():
  assert CYCLE.budget == CYCLE.num_batches == 70
  assert changed(CYCLE, seconds_per_batch=0.1).budget is None
  assert DRIFT.budget is None
  assert (CYCLE.is_stream, DRIFT.is_stream) == (False, True)


@pytest.mark.parametrize('dataset', ['fashion-mnist', 'shuttle'])
def test_other_data_sets_are_judged_too(dataset):
  task = changed(
    CYCLE, dataset=dataset, num_train=64, num_test=1500, is_balanced=True
  )
  try:
    model = tasks.build_task_model(task)
  except ValueError as error:
    pytest.skip(str(error))
  inputs, labels = next(tasks.build_stream(task, 0).batches)
  assert (inputs.dtype, labels.dtype) == (np.float32, np.int32)
  assert abs(inputs).max() <= 10
  measures = tasks.build_evaluation(task, model, 'tuning')(model.init(0))
  assert np.isfinite(measures).all()


def test_texts_come_as_bytes_with_the_next_bytes():
  task = Task(
    'test/texts',
    'texts in turn',
    dataset='texts',
    model='transformer-small',
    order='texts',
    batch_size=2,
    window_size=50,
    num_segments=2,
    batches_per_segment=2,
    sequence_length=16,
  )
  try:
    stream = tasks.build_stream(task, 0)
  except ValueError as error:
    pytest.skip(str(error))
  assert (stream.num_batches, stream.change_points) == (4, (2,))
  tokens, labels = next(stream.batches)
  assert tokens.shape == labels.shape == (2, 16)
  np.testing.assert_array_equal(tokens[:, 1:], labels[:, :-1])


@pytest.fixture
def by_class(monkeypatch):
  """A data set whose parts are sorted by class, 40 images in each part."""
  labels = np.repeat(np.arange(10, dtype=np.int32), 4)
  images = (np.arange(40, dtype=np.uint8) + 10 * labels.astype(np.uint8))[
    :, None, None, None
  ] * np.ones((1, 4, 4, 3), np.uint8)
  part = ArraySource(images, labels)
  dataset = load_dataset('digits')._replace(
    name='by-class', train=part, test=part
  )
  monkeypatch.setattr(tasks, '_load', lambda name, data_dir: dataset)
  caches = (tasks._ordered, tasks._test, tasks._mean_image)
  for cached in caches:
    cached.cache_clear()
  yield images, labels
  for cached in caches:
    cached.cache_clear()


def sorted_task(**kwargs):
  return Task(
    'sorted', '', 'by-class', 'mlp', 'cycle', 5, 8, num_train=20, **kwargs
  )


def test_a_test_part_sorted_by_class_is_mixed(by_class):
  images, labels = by_class
  few = tasks.test_part(sorted_task(num_test=20))
  assert len(set(few.labels.tolist())) > 5
  whole = tasks.test_part(sorted_task(num_test=40))
  np.testing.assert_array_equal(few.inputs, whole.inputs[:20])
  # Each image keeps its label.
  found = zip(whole.inputs[:, 0, 0, 0] * 255, whole.labels, strict=True)
  assert {(round(float(x)), int(y)) for x, y in found} == {
    (int(x), int(y)) for x, y in zip(images[:, 0, 0, 0], labels, strict=True)
  }


def test_bytes_less_the_mean_image_of_the_train_part(by_class):
  images, _ = by_class
  plain = sorted_task(num_test=20)
  task = dataclasses.replace(plain, has_centered_bytes=True)
  mean = images.mean(0, dtype=np.float64)
  for part in (tasks.test_part, tasks._train_part, tasks._validation_part):
    np.testing.assert_allclose(
      part(task).inputs, 255 * part(plain).inputs - mean, atol=1e-4
    )
  assert task.as_record() == plain.as_record() | {'has_centered_bytes': True}
  assert 'has_centered_bytes' not in plain.as_record()
