"""What a training run is made of: its data set, its network, its batches."""

from collections.abc import Callable
import functools
from typing import TYPE_CHECKING, Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from isgd_jax import sampling
from isgd_jax.experiments import datasets
from isgd_jax.experiments import models
from isgd_jax.experiments.train.config import TrainConfig

if TYPE_CHECKING:
  import grain

# Files are waited for; arrays in memory are not.
_FILE_READING_THREADS = 16


def load_run_dataset(config: TrainConfig) -> datasets.Dataset:
  """The data set of a run.

  Args:
    config: the run.

  Returns:
    The data set.

  Raises:
    DataError: it cannot be read.
    InputError: it does not exist, or an option does not go with it.

  Example:
    >>> load_run_dataset(TrainConfig()).name
    'digits'
  """
  data = config.data
  return datasets.load_dataset(
    data.dataset,
    seed=config.seed,
    data_dir=data.data_dir,
    image_size=data.image_size,
    augment=data.augment,
    skip_undecodable=data.skip_undecodable,
    sequence_length=data.sequence_length,
  )


def create_network(
  config: TrainConfig, dataset: datasets.Dataset, rngs: nnx.Rngs
) -> nnx.Module:
  """The network of a run.

  Args:
    config: the run.
    dataset: its data set.
    rngs: of the parameters and of dropout.

  Returns:
    The network.

  Raises:
    InputError: the network does not take such examples.

  Example:
    >>> config = TrainConfig()
    >>> network = create_network(config, load_run_dataset(config), nnx.Rngs(0))
  """
  return models.create_model(
    config.model,
    dataset.example_shape,
    dataset.num_classes,
    dtype=jnp.dtype(config.precision),
    rngs=rngs,
  )


def facts_of(dataset: datasets.Dataset) -> dict[str, Any]:
  """What tells a data set from another, or from itself when it was changed.

  Args:
    dataset: the data set.

  Returns:
    Its sizes, and a fingerprint of each part: of every byte of arrays in
    memory; of images on a disk, of every label, name and size.

  Raises:
    DataError: a file is not there any more.

  Example:
    >>> facts_of(load_run_dataset(TrainConfig()))['train_examples']
    1437
  """
  return {
    'train_examples': len(dataset.train),
    'test_examples': len(dataset.test),
    'classes': dataset.num_classes,
    'example_shape': list(dataset.example_shape),
    'train_fingerprint': dataset.train.fingerprint(),
    'test_fingerprint': dataset.test.fingerprint(),
  }


def train_cycle(
  config: TrainConfig, dataset: datasets.Dataset
) -> 'grain.MapDataset[sampling.CycleBatch]':
  """The batches of a run by step, without end; nothing is read yet.

  Args:
    config: the run.
    dataset: its data set.

  Returns:
    The batches, for `read_ahead`.

  Raises:
    ImportError: Grain is missing; the message names the extra.
    ValueError: the batches cannot be made so.

  Example:
    >>> config = TrainConfig()
    >>> print(train_cycle(config, load_run_dataset(config))[13].index)
    1
  """
  data = config.data
  return sampling.fixed_cycle(
    dataset.train,
    data.batch_size,
    seed=config.seed,
    reshuffle=data.sampling == 'reshuffle',
    last_batch=data.last_batch,
    transform=dataset.train_transform,
  )


def record_numbers(
  config: TrainConfig, dataset: datasets.Dataset
) -> Callable[[int], list[int]]:
  """The records that each training step trains on.

  Args:
    config: the run.
    dataset: its data set.

  Returns:
    A function of the step, counted from 1 as in `metrics.jsonl`, that returns
    the numbers of its records in the training part, from 0, in the batch's
    order.

  Example:
    >>> config = TrainConfig()
    >>> records = record_numbers(config, load_run_dataset(config))
    >>> len(records(1)), records(1) == records(13)
    (128, True)
  """
  data, num_records = config.data, len(dataset.train)

  def records(step: int) -> list[int]:
    return sampling.record_indices(
      num_records,
      data.batch_size,
      step - 1,
      seed=config.seed,
      reshuffle=data.sampling == 'reshuffle',
      last_batch=data.last_batch,
    ).tolist()

  return records


def test_batches(
  config: TrainConfig,
  dataset: datasets.Dataset,
  sharding: jax.sharding.Sharding | None = None,
) -> sampling.PrefetchIterator:
  """The test data, once, with weights that are 0 on padding.

  Args:
    config: the run.
    dataset: its data set.
    sharding: of the batches; None for JAX's default device.

  Returns:
    The batches.

  Example:
    >>> config = TrainConfig()
    >>> with test_batches(config, load_run_dataset(config)) as batches:
    ...   print(sum(int(batch.weight.sum()) for batch in batches))
    360
  """
  transform = dataset.test_transform
  num_examples = len(dataset.test)
  # All of a test set that is smaller than a batch: each process takes its rows
  # when it has been filled up for the devices.
  is_one_batch = num_examples < config.data.batch_size
  cycle = sampling.fixed_cycle(
    dataset.test,
    min(config.data.batch_size, num_examples),
    seed=config.seed,
    num_epochs=1,
    last_batch='pad',
    process_index=0 if is_one_batch else None,
    process_count=1 if is_one_batch else None,
    transform=(
      None if transform is None else functools.partial(_without_rng, transform)
    ),
  )
  if is_one_batch and sharding is not None:
    num_devices = len(sharding.device_set)
    num_rows = -(-num_examples // num_devices) * num_devices
    cycle = cycle.map(functools.partial(_own_rows, num_rows=num_rows))
  return read_ahead(cycle, config, dataset.test, start=0, sharding=sharding)


def read_ahead(
  cycle: 'grain.MapDataset[sampling.CycleBatch]',
  config: TrainConfig,
  source: datasets.Source,
  start: int,
  sharding: jax.sharding.Sharding | None = None,
) -> sampling.PrefetchIterator:
  """Reads batches ahead, with as many threads as their source is slow.

  Args:
    cycle: the batches.
    config: the run.
    source: what the batches are read from.
    start: step of the first batch.
    sharding: of the batches; None for JAX's default device.

  Returns:
    The batches, on the devices.

  Example:
    >>> config = TrainConfig()
    >>> dataset = load_run_dataset(config)
    >>> cycle = train_cycle(config, dataset)
    >>> with read_ahead(cycle, config, dataset.train, start=13) as batches:
    ...   print(next(batches).index)
    1
  """
  is_in_memory = hasattr(source, '__getitems__')
  return sampling.prefetch(
    cycle,
    start=start,
    sharding=sharding,
    num_threads=1 if is_in_memory else _FILE_READING_THREADS,
    num_workers=config.data.num_workers,
  )


def _own_rows(batch: sampling.CycleBatch, num_rows: int) -> sampling.CycleBatch:
  """This process's rows of a global batch filled up at weight 0."""
  size = num_rows // jax.process_count()
  first = jax.process_index() * size
  rows = np.arange(first, first + size)
  weight = np.where(
    rows < len(batch.weight), batch.weight.take(rows, mode='clip'), 0
  )
  data = jax.tree.map(lambda x: x.take(rows, axis=0, mode='clip'), batch.data)
  return batch._replace(data=data, weight=weight.astype(np.float32))


def _without_rng(transform: Callable[[Any], Any], record: Any, rng: Any) -> Any:
  """A transform of records as one that draws nothing."""
  del rng
  return transform(record)
