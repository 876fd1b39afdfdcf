"""Tasks: data in an order, a network, and how a run on them is judged.

A task is stationary (a fixed set of examples, gone through for several epochs,
judged on a test part) or a stream (one pass, judged on each batch before
training on it).
"""

from collections.abc import Callable
import dataclasses
import functools
import itertools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from isgd_jax.experiments import streams
from isgd_jax.experiments.datasets import Dataset
from isgd_jax.experiments.datasets import Table
from isgd_jax.experiments.datasets import load_dataset
from isgd_jax.experiments.datasets import load_table
from isgd_jax.experiments.datasets import load_texts
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.models import Model
from isgd_jax.experiments.models import build_model

# Examples that go through the network at once; the last batch may be smaller.
_EVALUATION_BATCH = 1000
# The order of the examples, before they are cut into parts: the same for all.
_SPLIT_SEED = 0

TABLE_ORDERS = ('table', 'shuffled-table')
# As 'drift', but the whole run is one program.
SCANNED_DRIFT = 'scanned-drift'
# One example a batch, a permutation a segment, as published.
PERMUTED_TASKS = 'permuted-tasks'
STREAM_ORDERS = (
  *('drift', SCANNED_DRIFT, PERMUTED_TASKS, 'texts'),
  *TABLE_ORDERS,
)
# Of a table, rows that give the first moments to scale by; in no batch.
WARM_UP_ROWS = 64

Purpose = Literal['tuning', 'reporting']
Batch = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Task:
  """One task, by its numbers.

  Attributes:
    name: `workload/variant`.
    title: for tables.
    dataset: name of the data set, or `'texts'`.
    model: name of the network.
    order: `'cycle'` (the paper's fixed cycle), `'reshuffled'`, or of a stream
      `'drift'`, `'scanned-drift'` (likewise, as one program), `'texts'`,
      `'permuted-tasks'`, `'table'` (in time order) or `'shuffled-table'`.
    batch_size: examples a batch.
    window_size: of every control chart: the batches of an epoch, or on a stream
      about as many as the loss takes to settle.
    schedule: of the learning rate, `'constant'` or `'decayed'` (to zero, by the
      end of the budget).
    num_train: examples trained on; those after them, up to `num_test`, are the
      validation part. Of a table, its first rows that are taken.
    num_test: of the test part, and of the validation part.
    num_epochs: of a stationary task.
    num_evaluations: of a stationary task, evenly over its budget.
    dirichlet_alpha: as in `streams.fixed_cycle`.
    single_class: as in `streams.fixed_cycle`.
    num_lone_batches: as in `streams.fixed_cycle`.
    label_noise: share of the train labels that is replaced by another class.
    num_segments: of a stream.
    batches_per_segment: of a stream.
    drift: one of `streams.DRIFTS`; of permuted tasks `'pixels'` or `'labels'`.
    transition_batches: as in `streams.drifting_stream`.
    sequence_length: of texts, bytes.
    seconds_per_batch: of a source that is slower than the step; 0 for none. The
      budget is then one of batches, not of gradient evaluations.
    is_balanced: whether accuracy is the mean over the classes.
    wrong_batches: of a scanned stream, the share of batches whose labels are
      random.
    is_real_time: of a scanned stream, whether a step that took k gradient
      evaluations leaves the next k - 1 batches untrained on, only predicted.
    has_centered_bytes: of a stationary task, whether images are bytes less the
      mean image of the train part, as Caffe's CIFAR-10 example has them; else
      shares of 255.
    data_dir: where the files of the data set (or the texts) lie; None where
      they are looked for by themselves.
  """

  name: str
  title: str
  dataset: str
  model: str
  order: str
  batch_size: int
  window_size: int
  schedule: str = 'constant'
  num_train: int = 0
  num_test: int = 0
  num_epochs: int = 0
  num_evaluations: int = 1
  dirichlet_alpha: float | None = None
  single_class: bool = False
  label_noise: float = 0.0
  num_segments: int = 0
  batches_per_segment: int = 0
  drift: str = 'labels'
  transition_batches: int = 0
  sequence_length: int = 64
  seconds_per_batch: float = 0.0
  is_balanced: bool = False
  wrong_batches: float = 0.0
  is_real_time: bool = False
  num_lone_batches: int = 0
  has_centered_bytes: bool = False
  data_dir: str | None = None

  def as_record(self) -> dict[str, Any]:
    """All that makes it this task, where its files lie left out.

    Records have these keys, and runs are named by them.
    """
    # What records from before these were made with: left out where equal.
    later = {
      'wrong_batches': self.wrong_batches,
      'is_real_time': self.is_real_time,
      'num_lone_batches': self.num_lone_batches,
      'has_centered_bytes': self.has_centered_bytes,
    }
    return {
      'name': self.name,
      'title': self.title,
      'dataset': self.dataset,
      'model': self.model,
      'order': self.order,
      'batch_size': self.batch_size,
      'window_size': self.window_size,
      'schedule': self.schedule,
      'num_train': self.num_train,
      'num_test': self.num_test,
      'num_epochs': self.num_epochs,
      'num_evaluations': self.num_evaluations,
      'dirichlet_alpha': self.dirichlet_alpha,
      'single_class': self.single_class,
      'label_noise': self.label_noise,
      'num_segments': self.num_segments,
      'batches_per_segment': self.batches_per_segment,
      'drift': self.drift,
      'transition_batches': self.transition_batches,
      'sequence_length': self.sequence_length,
      'seconds_per_batch': self.seconds_per_batch,
      'is_balanced': self.is_balanced,
      **{name: value for name, value in later.items() if value},
    }

  @property
  def is_stream(self) -> bool:
    """Whether it is one pass, judged on each batch before training on it."""
    return self.order in STREAM_ORDERS

  @property
  def is_table(self) -> bool:
    """Whether it is a real stream, a table."""
    return self.order in TABLE_ORDERS

  @property
  def is_scanned(self) -> bool:
    """Whether a whole run is one program."""
    return self.is_table or self.order in (SCANNED_DRIFT, PERMUTED_TASKS)

  @property
  def num_batches(self) -> int:
    """Batches of a run that takes each as it comes, once."""
    if self.is_table:
      return (self.num_train - WARM_UP_ROWS) // self.batch_size
    if self.is_stream:
      return self.num_segments * self.batches_per_segment
    return self.num_epochs * (self.num_train // self.batch_size)

  @property
  def change_points(self) -> tuple[int, ...]:
    """Of a stream, the first batches of its segments but the first."""
    size = self.batches_per_segment
    return tuple(i * size for i in range(1, self.num_segments))

  @property
  def budget(self) -> int | None:
    """Gradient evaluations to spend; None where the batches are what counts."""
    if self.is_stream or self.seconds_per_batch:
      return None
    return self.num_batches


class Parts(NamedTuple):
  """Examples as a step takes them.

  Attributes:
    inputs: [n, h, w, c] float32.
    labels: [n] int32.
  """

  inputs: np.ndarray
  labels: np.ndarray


def build_task_model(task: Task) -> Model:
  """The network of a task.

  Args:
    task: the task.

  Returns:
    A `Model`.

  Raises:
    ValueError: the data are missing, or the names are unknown.
  """
  if task.order == 'texts':
    return build_model(task.model, (task.sequence_length,), 256)
  if task.is_table:
    table = task_table(task)
    return build_model(
      task.model, table.example_shape, table.num_classes, table.kind
    )
  dataset = _load(task.dataset, _folder_of(task))
  return build_model(task.model, dataset.example_shape, dataset.num_classes)


def build_stream(
  task: Task, seed: int, *, is_reshuffled: bool = False
) -> streams.Stream:
  """The batches of one run.

  Args:
    task: the task.
    seed: of the order, and of the wrong labels.
    is_reshuffled: whether a task in a fixed cycle is reshuffled each epoch.

  Returns:
    A `Stream`.

  Raises:
    ValueError: the data are missing or too few.
  """
  rng = np.random.default_rng(seed)
  if task.order == 'texts':
    return streams.switching_texts(
      list(_texts(task.data_dir).values()),
      sequence_length=task.sequence_length,
      batch_size=task.batch_size,
      num_segments=task.num_segments,
      batches_per_segment=task.batches_per_segment,
      rng=rng,
    )
  if task.is_table:
    return streams.table_stream(
      task_table(task),
      batch_size=task.batch_size,
      rng=rng if task.order == 'shuffled-table' else None,
      warm_up=WARM_UP_ROWS,
    )
  if task.order == PERMUTED_TASKS:
    return streams.permuted_stream(*build_permuted_tasks(task, seed))
  if task.order in ('drift', SCANNED_DRIFT):
    data_dir = _folder_of(task)
    everything = _everything(task.dataset, data_dir)
    return streams.drifting_stream(
      *everything,
      batch_size=task.batch_size,
      num_segments=task.num_segments,
      batches_per_segment=task.batches_per_segment,
      num_classes=_num_classes(task.dataset, data_dir),
      drift=check_name('drift', task.drift, streams.DRIFTS),  # pyright: ignore[reportArgumentType]
      transition_batches=task.transition_batches,
      rng=rng,
    )
  if task.order == 'reshuffled' or is_reshuffled:
    stream = streams.shuffled_epochs(
      *_labelled(task, rng),
      batch_size=task.batch_size,
      num_epochs=task.num_epochs,
      rng=rng,
    )
  else:
    # Batches of one class leave more examples out, and their cycle is shorter:
    # it is begun once more, to end where the others end.
    is_shorter = task.single_class or task.num_lone_batches > 0
    stream = _fixed_cycle(task, task.num_epochs + is_shorter, rng)
    stream = streams.Stream(
      itertools.islice(stream.batches, task.num_batches),
      min(task.num_batches, stream.num_batches),
      (),
    )
  if task.seconds_per_batch:
    stream = streams.throttled(stream, task.seconds_per_batch)
  return stream


def build_permuted_tasks(
  task: Task, seed: int
) -> tuple[np.ndarray, np.ndarray, streams.PermutedTasks]:
  """The examples of permuted tasks, and which of them comes when.

  Args:
    task: of permuted tasks.
    seed: of the permutations and of the order.

  Returns:
    Images and labels of the train part, and the tasks.

  Raises:
    ValueError: the data are missing or too few.
  """
  train = _load(task.dataset, _folder_of(task)).train
  return (
    train.images,
    train.labels,
    streams.draw_permuted_tasks(
      num_examples=len(train),
      num_pixels=int(np.prod(train.images.shape[1:])),
      num_classes=_num_classes(task.dataset, _folder_of(task)),
      num_tasks=task.num_segments,
      task_length=task.batches_per_segment,
      permuted=check_name('drift', task.drift, ('pixels', 'labels')),  # pyright: ignore[reportArgumentType]
      rng=np.random.default_rng(seed),
    ),
  )


def _labelled(task: Task, rng: np.random.Generator) -> Parts:
  """The train part, wrong labels among them where the task has some."""
  inputs, labels = _train_part(task)
  if task.label_noise:
    num_classes = _num_classes(task.dataset, task.data_dir)
    labels = _with_noise(labels, num_classes, task, rng)
  return Parts(inputs, labels)


def _fixed_cycle(
  task: Task, num_epochs: int, rng: np.random.Generator
) -> streams.Stream:
  return streams.fixed_cycle(
    *_labelled(task, rng),
    batch_size=task.batch_size,
    num_epochs=num_epochs,
    dirichlet_alpha=task.dirichlet_alpha,
    single_class=task.single_class,
    num_lone_batches=task.num_lone_batches,
    rng=rng,
  )


def build_cycle(task: Task, seed: int) -> Parts:
  """The batches that `build_stream` goes through again and again, once.

  Args:
    task: in a fixed cycle.
    seed: of the order, and of the wrong labels.

  Returns:
    [num_batches, b, h, w, c] inputs and [num_batches, b] labels.

  Raises:
    ValueError: the data are missing or too few.
  """
  batches = _fixed_cycle(task, 1, np.random.default_rng(seed)).batches
  return Parts(*map(np.stack, zip(*batches, strict=True)))


def build_table_batches(task: Task, seed: int) -> streams.TableBatches:
  """All batches of `build_stream` of a table at once.

  Args:
    task: of a table.
    seed: of the order, where it is shuffled.

  Returns:
    `TableBatches`.

  Raises:
    ValueError: the data are missing or too few.
  """
  is_shuffled = task.order == 'shuffled-table'
  return streams.table_batches(
    task_table(task),
    batch_size=task.batch_size,
    rng=np.random.default_rng(seed) if is_shuffled else None,
    warm_up=WARM_UP_ROWS,
  )


def num_classes_of(task: Task) -> int:
  """Of a scanned stream.

  Args:
    task: of a classification.

  Returns:
    The number of classes.

  Raises:
    ValueError: it is of regression.
  """
  if not task.is_table:
    return _num_classes(task.dataset, _folder_of(task))
  table = task_table(task)
  if table.kind == 'regression':
    raise InputError(f'{task.name} is a regression, which has no classes')
  return table.num_classes


def reads_folder(task: Task) -> bool:
  """Whether `data_dir` is where the data of a task may lie.

  Args:
    task: the task.

  Returns:
    Whether it is; not where they come with a package, and beside tables, whose
    one file it names, of MNIST alone.
  """
  if task.is_table:
    return task.dataset == 'elec2'
  if task.order == SCANNED_DRIFT:
    return task.dataset == 'mnist'
  return task.dataset != 'digits'


def _folder_of(task: Task) -> str | None:
  """Where the data lie."""
  return task.data_dir if reads_folder(task) else None


def task_table(task: Task) -> Table:
  """The rows of a real stream.

  Args:
    task: of a table; of its `data_dir` only Elec2 takes notice, the others lie
      in installed packages.

  Returns:
    The table's first `num_train` rows.

  Raises:
    ValueError: the data are missing, malformed or too few.
    ImportError: the package is missing; the message names the extra.
  """
  table = _table(task.dataset, _folder_of(task))
  if task.num_train > len(table.targets):
    raise InputError(
      f'num_train={task.num_train} of {task.name} is more than the '
      f'{len(table.targets)} rows of {task.dataset}; lower it'
    )
  return table._replace(
    inputs=table.inputs[: task.num_train],
    targets=table.targets[: task.num_train],
  )


class Measures(NamedTuple):
  """A network on a task.

  Attributes:
    train_loss: mean over as many clean train examples as there are test ones,
      nats.
    test_loss: on the test part, or in a tuning run on the validation part,
      nats.
    test_accuracy: likewise, share in [0, 1]; the mean over the classes where
      the task is balanced.
  """

  train_loss: float
  test_loss: float
  test_accuracy: float


def build_evaluation(
  task: Task, model: Model, purpose: Purpose
) -> Callable[[Any], Measures]:
  """How the networks of a stationary task are judged.

  Args:
    task: the task.
    model: its network.
    purpose: a tuning run is judged on the validation part, which no reported
      number comes from.

  Returns:
    `evaluate(params) -> Measures`.

  Raises:
    ValueError: the data are missing, or the part has no `num_test` examples.
  """
  train = _train_part(task)
  train = Parts(*(x[: task.num_test] for x in train))
  held_out = _validation_part(task) if purpose == 'tuning' else test_part(task)
  if not 0 < task.num_test <= len(held_out.labels):
    raise InputError(
      f'num_test={task.num_test} of {task.name} must be positive and within '
      f'the {len(held_out.labels)} examples that a {purpose} run of num_train='
      f'{task.num_train} is judged on; lower num_test or num_train'
    )
  num_classes = _num_classes(task.dataset, task.data_dir)

  def evaluate(params: Any) -> Measures:
    train_loss, _ = _judge(model, params, train, num_classes, False)
    loss, accuracy = _judge(
      model, params, held_out, num_classes, task.is_balanced
    )
    return Measures(train_loss, loss, accuracy)

  return evaluate


def test_part(task: Task) -> Parts:
  """What the runs that are reported are judged on.

  Args:
    task: a stationary one.

  Returns:
    The first `num_test` examples of the test part.

  Raises:
    ValueError: the data are missing.
  """
  return _cut(task, _test(task.dataset, task.data_dir), 0, task.num_test)


def _judge(
  model: Model, params: Any, part: Parts, num_classes: int, is_balanced: bool
) -> tuple[float, float]:
  """Mean loss and accuracy, of all examples or of the classes' means."""
  size = _EVALUATION_BATCH
  sums = [
    _class_sums(
      model,
      num_classes,
      params,
      part.inputs[i : i + size],
      part.labels[i : i + size],
    )
    for i in range(0, len(part.labels), size)
  ]
  loss, right, counts = np.array(jax.device_get(sums), np.float64).sum(0)
  present = counts > 0
  accuracy = (
    np.mean(right[present] / counts[present])
    if is_balanced
    else right.sum() / counts.sum()
  )
  return float(loss.sum() / counts.sum()), float(accuracy)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _class_sums(
  model: Model,
  num_classes: int,
  params: Any,
  inputs: jax.Array,
  labels: jax.Array,
) -> jax.Array:
  """[3, num_classes]: summed losses, right answers and examples by class."""
  logits = model.logits_fn(params, inputs)
  log_probabilities = jax.nn.log_softmax(logits)
  losses = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)
  is_right = (logits.argmax(-1) == labels).astype(losses.dtype)
  of_class = jax.nn.one_hot(labels, num_classes, dtype=losses.dtype)
  columns = jnp.stack([losses[:, 0], is_right, jnp.ones_like(is_right)])
  # Counts must stay whole, on whatever the device rounds its products to.
  return jnp.matmul(columns, of_class, precision='highest')


@functools.cache
def _load(dataset: str, data_dir: str | None) -> Dataset[Any]:
  return load_dataset(dataset, data_dir=data_dir)


@functools.cache
def _table(dataset: str, data_dir: str | None) -> Table:
  return load_table(dataset, data_dir)


@functools.cache
def _ordered(dataset: str, data_dir: str | None) -> Parts:
  """The train part in one fixed random order, so that classes are mixed."""
  train = _load(dataset, data_dir).train
  order = np.random.default_rng(_SPLIT_SEED).permutation(len(train))
  return _as_parts(train.images[order], train.labels[order])


def _train_part(task: Task) -> Parts:
  return _cut(task, _ordered(task.dataset, task.data_dir), 0, task.num_train)


def _validation_part(task: Task) -> Parts:
  start = task.num_train
  return _cut(
    task,
    _ordered(task.dataset, task.data_dir),
    start,
    start + task.num_test,
  )


def _cut(task: Task, parts: Parts, start: int, stop: int) -> Parts:
  """These of the examples; as bytes less the mean, if the task wants them."""
  inputs, labels = (x[start:stop] for x in parts)
  if task.has_centered_bytes:
    inputs = 255 * inputs - _mean_image(task.dataset, task.data_dir)
  return Parts(inputs, labels)


@functools.cache
def _mean_image(dataset: str, data_dir: str | None) -> np.ndarray:
  """Of the bytes of the whole train part, [h, w, c] float32."""
  images = _load(dataset, data_dir).train.images
  return images.mean(axis=0, dtype=np.float64).astype(np.float32)


@functools.cache
def _test(dataset: str, data_dir: str | None) -> Parts:
  test = _load(dataset, data_dir).test
  images, labels = test.images, test.labels
  if (np.diff(labels) >= 0).all():
    # Class after class, as in an archive of folders: mixed, so that the first
    # are of all of them.
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    images, labels = images[order], labels[order]
  return _as_parts(images, labels)


@functools.cache
def _everything(dataset: str, data_dir: str | None) -> Parts:
  """Train and test parts in one: a stream is judged before training on it."""
  parts = zip(
    _ordered(dataset, data_dir), _test(dataset, data_dir), strict=True
  )
  return Parts(*map(np.concatenate, parts))


@functools.cache
def _texts(data_dir: str | None) -> dict[str, np.ndarray]:
  return load_texts(data_dir)


@functools.cache
def _num_classes(dataset: str, data_dir: str | None) -> int:
  return _load(dataset, data_dir).num_classes


def _as_parts(images: np.ndarray, labels: np.ndarray) -> Parts:
  """Images as float32; bytes become shares of 255."""
  if images.dtype == np.uint8:
    images = images.astype(np.float32) / 255
  return Parts(images, labels)


def _with_noise(
  labels: np.ndarray, num_classes: int, task: Task, rng: np.random.Generator
) -> np.ndarray:
  """The labels, a share of them moved to another class."""
  is_wrong = rng.random(len(labels)) < task.label_noise
  shift = rng.integers(1, num_classes, len(labels))
  noisy = np.where(is_wrong, (labels + shift) % num_classes, labels)
  return noisy.astype(labels.dtype)
