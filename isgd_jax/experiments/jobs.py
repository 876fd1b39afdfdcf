"""The demo's two jobs: ordinary epochs, and a stream that drifts."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from isgd_jax.experiments.datasets import ArraySource
from isgd_jax.experiments.datasets import Dataset
from isgd_jax.experiments.datasets import hold_out
from isgd_jax.experiments.models import Model
from isgd_jax.experiments.stream_training import TrainResult
from isgd_jax.experiments.streams import Drift
from isgd_jax.experiments.streams import Stream
from isgd_jax.experiments.streams import drifting_stream
from isgd_jax.experiments.streams import shuffled_epochs

# The jobs index the images themselves, so these are in memory.
Images = Dataset[ArraySource]


class Measures(NamedTuple):
  """What a job says about one run; NaN where the run diverged.

  Attributes:
    accuracy: that the table reports, share in [0, 1].
    loss: that the table reports, nats.
    tuning_loss: that the learning rate is chosen by, nats; in a tuning run it
      comes from data that no reported number comes from.
  """

  accuracy: float
  loss: float
  tuning_loss: float


class Job(NamedTuple):
  """Data in an order, and a judgement of the runs on them.

  Attributes:
    name: a short name, for files.
    title: for tables and sentences.
    details: what the accuracy and the loss are of, and the sizes.
    sizes: the factory's arguments, for the records.
    stream: `stream(dataset, seed)`, the batches of one run.
    tuning_data: `tuning_data(dataset, seed)`, the data of a tuning run.
    measure: `measure(model, dataset, result)` judges a run on a data set.
  """

  name: str
  title: str
  details: str
  sizes: dict[str, int | str]
  stream: Callable[[Images, int], Stream]
  tuning_data: Callable[[Images, int], Images]
  measure: Callable[[Model, Images, TrainResult], Measures]


def shuffled_job(*, batch_size: int = 32, num_epochs: int = 15) -> Job:
  """Ordinary training; test accuracy and train loss at the end.

  The learning rate is chosen by the loss on a validation part of the train
  part, so that the test part stays unseen.

  Args:
    batch_size: images a batch.
    num_epochs: epochs.

  Returns:
    A `Job`.

  Example:
    >>> shuffled_job(num_epochs=6).details
    'test accuracy and final train loss; 6 epochs, batch size 32'
  """

  def stream(dataset: Images, seed: int) -> Stream:
    return shuffled_epochs(
      dataset.train.images,
      dataset.train.labels,
      batch_size=batch_size,
      num_epochs=num_epochs,
      rng=np.random.default_rng(seed),
    )

  def measure(model: Model, dataset: Images, result: TrainResult) -> Measures:
    evaluate = jax.jit(model.loss_fn)
    test_loss, test_accuracy = evaluate(
      result.params, (dataset.test.images, dataset.test.labels)
    )
    train_loss, _ = evaluate(
      result.params, (dataset.train.images, dataset.train.labels)
    )
    worst = np.nan if result.is_diverged else 1.0
    return Measures(
      accuracy=float(test_accuracy) * worst,
      loss=float(train_loss) * worst,
      tuning_loss=float(test_loss) * worst,
    )

  return Job(
    name='shuffled',
    title='Shuffled epochs',
    details=(
      f'test accuracy and final train loss; {num_epochs} epochs, '
      f'batch size {batch_size}'
    ),
    sizes={'batch_size': batch_size, 'num_epochs': num_epochs},
    stream=stream,
    tuning_data=hold_out,
    measure=measure,
  )


def drifting_job(
  *,
  batch_size: int = 16,
  num_segments: int = 10,
  batches_per_segment: int = 100,
  drift: Drift = 'labels',
) -> Job:
  """One pass over a drifting stream; prequential accuracy and loss.

  Each batch is judged before training on it, so all images are streamed and
  none is kept for testing. A tuning run has the same images in another order.

  Args:
    batch_size: images a batch.
    num_segments: segments between drifts.
    batches_per_segment: batches a segment.
    drift: what drifts, `'labels'` or `'pixels'`.

  Returns:
    A `Job`.

  Example:
    >>> drifting_job().name
    'drift-labels'
  """

  def stream(dataset: Images, seed: int) -> Stream:
    return drifting_stream(
      np.concatenate([dataset.train.images, dataset.test.images]),
      np.concatenate([dataset.train.labels, dataset.test.labels]),
      batch_size=batch_size,
      num_segments=num_segments,
      batches_per_segment=batches_per_segment,
      num_classes=dataset.num_classes,
      drift=drift,
      rng=np.random.default_rng(seed),
    )

  def tuning_data(dataset: Images, seed: int) -> Images:
    del seed
    return dataset

  def measure(model: Model, dataset: Images, result: TrainResult) -> Measures:
    del model, dataset
    summary = result.summary()
    return Measures(
      accuracy=summary['prequential_accuracy'],
      loss=summary['prequential_loss'],
      tuning_loss=summary['prequential_loss'],
    )

  return Job(
    name=f'drift-{drift}',
    title='Drifting stream',
    details=(
      f'prequential accuracy and loss; {num_segments} segments of '
      f'{batches_per_segment} batches, {drift} drift, batch size {batch_size}'
    ),
    sizes={
      'batch_size': batch_size,
      'num_segments': num_segments,
      'batches_per_segment': batches_per_segment,
      'drift': drift,
    },
    stream=stream,
    tuning_data=tuning_data,
    measure=measure,
  )
