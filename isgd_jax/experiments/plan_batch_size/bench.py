"""A network's training step on one device or several, ready to be timed."""

from collections.abc import Callable, Sequence
import functools
import itertools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import isgd_jax
from isgd_jax import batch_size
from isgd_jax import sampling
from isgd_jax.experiments import datasets
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.plan_batch_size.config import PlanConfig
from isgd_jax.experiments.train.devices import AXIS
from isgd_jax.experiments.train.devices import DevicesConfig
from isgd_jax.experiments.train.devices import ask_for_devices
from isgd_jax.experiments.train.inputs import create_network
from isgd_jax.experiments.train.optimizers import build_optimizer
from isgd_jax.experiments.train.steps import RunState
from isgd_jax.experiments.train.steps import build_loss
from isgd_jax.experiments.train.steps import build_steps

_P = jax.sharding.PartitionSpec


class Batch(NamedTuple):
  """A batch on the devices.

  Attributes:
    record: dictionary of arrays [batch, ...].
    weight: float32[batch], 0 where an example does not count.
  """

  record: Any
  weight: jax.Array


class Bench:
  """The training step of the base optimizer, and what it is fed.

  Attributes:
    config: what is planned for.
    dataset: its data set.
    num_parameters: of the network.
  """

  config: PlanConfig
  dataset: datasets.Dataset
  num_parameters: int

  def __init__(self, config: PlanConfig, dataset: datasets.Dataset):
    """Builds the programs; nothing is compiled yet.

    Args:
      config: what is planned for, checked.
      dataset: its data set.

    Raises:
      ValueError: the network does not take such examples.
    """
    self.config, self.dataset = config, dataset
    train_config = config.train_config()
    create = functools.partial(create_network, train_config, dataset)
    # The rate is constant, so the length of a cycle is of no account.
    self._optimizer = build_optimizer(train_config, batches_per_cycle=1)
    self._loss_fn = loss_fn = build_loss(create, dataset)
    self._steps = build_steps(
      create,
      dataset,
      self._optimizer,
      config.seed,
      self._sharding(config.num_devices, _P()),
    )
    # Fails here on what does not fit together.
    template = jax.eval_shape(self._steps.init)
    self.num_parameters = sum(
      leaf.size for leaf in jax.tree.leaves(template.params)
    )
    self._shared: RunState | None = None

    def value_and_grad(variables, batch):
      params, model_state = variables
      return jax.value_and_grad(loss_fn, has_aux=True)(
        params, model_state, *batch
      )

    # One function for all points, which is compiled once.
    self._value_and_grad = value_and_grad

  def init(self) -> RunState:
    """The initial state, on every device.

    Returns:
      The state, from the seed.
    """
    return self._init_on(self.config.num_devices)

  def train(self, state: RunState, batch: Batch) -> tuple[RunState, jax.Array]:
    """One step of the base optimizer, data-parallel over the devices.

    Args:
      state: donated.
      batch: cut over the devices.

    Returns:
      The new state, and the packed report of `train.steps`.
    """
    return self._steps.train(state, *batch)

  def put(self, record: Any, weight: Any) -> Batch:
    """A batch, cut over the devices.

    Args:
      record: dictionary of arrays [batch, ...].
      weight: [batch].

    Returns:
      The batch.
    """
    return self._put_on(self.config.num_devices, record, weight)

  def draw(self, size: int, count: int) -> list[Batch]:
    """Batches of the training data, every example drawn by itself.

    The batches of an epoch, in which no example comes twice, are not
    independent: together their noise is none.

    Args:
      size: examples a batch.
      count: batches.

    Returns:
      The batches, the same at each call.

    Raises:
      DataError: the data cannot be read.
    """
    return self._draw_on(self.config.num_devices, size, count)

  def make_step(self, size: int) -> Callable[[], Any]:
    """A training step to be timed, as `measure_step_seconds` wants it.

    Args:
      size: examples a batch.

    Returns:
      A function that takes the step. All of them carry one state on, so that
      as many sizes fit in memory as one by one.
    """
    (batch,) = self.draw(size, 1)

    def step():
      # A step that fails for want of memory has used its state up.
      state, self._shared = self._shared, None
      self._shared, report = self.train(
        self.init() if state is None else state, batch
      )
      return self._shared, report

    return step

  def make_scaling_step(
    self, num_devices: int, size: int, is_synchronised: bool
  ) -> Callable[[], Any]:
    """A step on some of the devices, as `measure_scaling` wants it.

    Args:
      num_devices: how many.
      size: examples in the global batch.
      is_synchronised: whether the gradients are averaged over the devices.

    Returns:
      A function that takes the step. Statistics of BatchNorm are left alone.
    """

    def train(state, record, weight):
      def loss_of(params):
        return self._loss_fn(params, state.model_state, record, weight)[0]

      value_and_grad = (
        isgd_jax.value_and_grad(loss_of, axis_name=AXIS)
        if is_synchronised
        else jax.value_and_grad(loss_of)
      )
      loss, grads = value_and_grad(state.params)
      updates, opt_state = self._optimizer.update(
        grads, state.opt_state, state.params
      )
      params = optax.apply_updates(state.params, updates)
      return RunState(params, state.model_state, opt_state), loss

    # Without the reduction the parameters part: what is returned for all
    # devices is that of one, which only check_vma=False lets pass.
    mapped = jax.shard_map(
      train,
      mesh=self._mesh(num_devices),
      in_specs=(_P(), _P(AXIS), _P(AXIS)),
      out_specs=_P(),
      check_vma=False,
    )
    jitted = jax.jit(mapped, donate_argnums=0)
    (batch,) = self._draw_on(num_devices, size, 1)
    carry = self._init_on(num_devices)

    def step():
      nonlocal carry
      carry, loss = jitted(carry, *batch)
      return carry, loss

    return step

  def noise_scale(
    self, state: RunState, batches: Sequence[Batch]
  ) -> batch_size.NoiseScale:
    """The gradient noise scale at a point of the pilot run.

    Args:
      state: the point.
      batches: from `draw`.

    Returns:
      The measurement. Model state (BatchNorm, dropout keys) is that of the
      state, for each batch.
    """
    return batch_size.gradient_noise_scale(
      self._value_and_grad, (state.params, state.model_state), batches
    )

  def _init_on(self, num_devices: int) -> RunState:
    return jax.device_put(self._steps.init(), self._sharding(num_devices, _P()))

  def _put_on(self, num_devices: int, record: Any, weight: Any) -> Batch:
    return jax.device_put(
      Batch(record, weight), self._sharding(num_devices, _P(AXIS))
    )

  def _draw_on(self, num_devices: int, size: int, count: int) -> list[Batch]:
    drawn = _Drawn(self.dataset.train, size * count, self.config.seed)
    cycle = sampling.fixed_cycle(
      drawn,
      size,
      seed=self.config.seed,
      num_epochs=1,
      transform=self.dataset.train_transform,
    )
    return [
      self._put_on(num_devices, batch.data, batch.weight)
      for batch in itertools.islice(cycle, count)
    ]

  def _mesh(self, num_devices: int) -> jax.sharding.Mesh:
    return jax.make_mesh(
      (num_devices,),
      (AXIS,),
      axis_types=(jax.sharding.AxisType.Auto,),
      devices=jax.devices()[:num_devices],
    )

  def _sharding(self, num_devices: int, spec: Any) -> jax.sharding.Sharding:
    return jax.sharding.NamedSharding(self._mesh(num_devices), spec)


class _Drawn:
  """Records of a source, drawn with replacement."""

  def __init__(self, source: datasets.Source, count: int, seed: int):
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    self._indices = rng.integers(len(source), size=count)
    self._source = source
    if hasattr(source, '__getitems__'):
      self.__getitems__ = self._gather

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> Any:
    return self._source[int(self._indices[index])]

  def _gather(self, indices: Any) -> Any:
    """Many records at a time, where the source has that."""
    gather: Any = self._source
    return gather.__getitems__(self._indices[np.asarray(indices)])


def use_devices(num_devices: int) -> None:
  """Sees to it that there are so many devices, on a CPU by virtual ones.

  Args:
    num_devices: >= 1. To be called before JAX's first use.

  Raises:
    InputError: there are fewer.

  Example:
    >>> use_devices(1)
  """
  if num_devices > 1:
    ask_for_devices(DevicesConfig(num_devices=num_devices))
  if jax.device_count() < num_devices:
    raise InputError(
      f'--num-devices {num_devices} is more than the {jax.device_count()} '
      f'{jax.devices()[0].platform} devices here; lower it'
    )
