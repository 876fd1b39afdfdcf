"""Where a run computes: its options, and how batches and state lie on devices.

Data parallel: each device has its share of the rows of a batch and the whole
state, and one program computes on the global batch. So loss, chart and
BatchNorm are those of the batch, however many devices it lies on.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from isgd_jax._checks import nearest_multiples
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.train.config import DataConfig

AXIS = 'data'
_LARGEST_TIMEOUT = 24 * 60 * 60
_LARGEST_COUNT = 2**20


@dataclasses.dataclass(frozen=True)
class DevicesConfig:
  """Where a run computes; no part of what makes two runs the same run."""

  num_devices: int | None = None
  """Devices that each process uses; by default all of the accelerator. On a CPU
  so many virtual ones are made."""

  distributed: bool = False
  """Join the other processes that SLURM, Open MPI, Kubernetes or a TPU pod has
  started."""

  coordinator: str | None = None
  """HOST:PORT that process 0 listens on, where no cluster is there to say it.
  Needs --num-processes and --process-id too."""

  num_processes: int | None = None
  """Processes of the run, with --coordinator."""

  process_id: int | None = None
  """Which of them this one is, from 0, with --coordinator."""

  connect_timeout: int = 60
  """Seconds within which the processes must find one another."""

  peer_timeout: int = 60
  """Seconds of silence after which a process counts as dead. A process that
  ends is noticed at once on a CPU, and within this time on an accelerator."""

  @property
  def has_peers(self) -> bool:
    """Whether the run has other processes to join."""
    return self.distributed or self.coordinator is not None


class Placement(NamedTuple):
  """How a run lies on its devices.

  Attributes:
    batch: sharding of batches, by their leading axis; None for JAX's default
      device.
    replicated: sharding of the state, whole on each device; None likewise.
    num_devices: devices of all processes.
    num_processes: processes.
  """

  batch: jax.sharding.Sharding | None
  replicated: jax.sharding.Sharding | None
  num_devices: int
  num_processes: int

  @property
  def devices_per_process(self) -> int:
    """Devices in use in this process, as chosen with --num-devices."""
    return self.num_devices // self.num_processes

  def facts(self) -> dict[str, int]:
    """What a run's folder keeps of it.

    Returns:
      The numbers of devices and processes.

    Example:
      >>> Placement(None, None, 1, 1).facts()
      {'num_devices': 1, 'num_processes': 1}
    """
    return {
      'num_devices': self.num_devices,
      'num_processes': self.num_processes,
    }

  def describe(self) -> str:
    """The devices in a few words.

    Returns:
      Their number and kind.

    Example:
      >>> Placement(None, None, 1, 1).describe()
      'cpu'
    """
    kind = jax.devices()[0].device_kind
    if self.num_devices == 1:
      return kind
    text = f'{self.num_devices:,} devices ({kind})'
    if self.num_processes > 1:
      text += f' in {self.num_processes:,} processes'
    return text


def check_devices(devices: DevicesConfig) -> None:
  """Raises on options that cannot be, before any process is looked for.

  Args:
    devices: the options.

  Raises:
    InputError: naming the option, its value and the remedy.

  Example:
    >>> try:
    ...   check_devices(DevicesConfig(num_processes=2))
    ... except ValueError as error:
    ...   print(error)
    --num-processes 2 needs --coordinator HOST:PORT; give it, or leave it out
  """
  for option, value, largest in (
    ('num-devices', devices.num_devices, _LARGEST_COUNT),
    ('num-processes', devices.num_processes, _LARGEST_COUNT),
    ('connect-timeout', devices.connect_timeout, _LARGEST_TIMEOUT),
    ('peer-timeout', devices.peer_timeout, _LARGEST_TIMEOUT),
  ):
    if value is not None and not 1 <= value <= largest:
      raise InputError(
        f'--{option} must lie within 1 and {largest}, got {value}'
      )
  together = {
    'num-processes': devices.num_processes,
    'process-id': devices.process_id,
  }
  if devices.coordinator is None:
    for option, value in together.items():
      if value is not None:
        raise InputError(
          f'--{option} {value} needs --coordinator HOST:PORT; give it, or '
          'leave it out'
        )
    return
  if devices.distributed:
    raise InputError(
      f'--coordinator {devices.coordinator} and --distributed exclude each '
      'other: the cluster says where its coordinator is; give one of them'
    )
  address(devices.coordinator)
  for option, value in together.items():
    if value is None:
      raise InputError(
        f'--coordinator {devices.coordinator} needs --{option}; give it'
      )
  count, index = devices.num_processes, devices.process_id
  assert count is not None
  assert index is not None
  if not 0 <= index < count:
    raise InputError(
      f'--process-id must lie within 0 and {count - 1}, since --num-processes '
      f'is {count}, got {index}'
    )


def address(coordinator: str) -> tuple[str, int]:
  """The host and the port of a coordinator.

  Args:
    coordinator: HOST:PORT; an IPv6 address in brackets.

  Returns:
    The two.

  Raises:
    InputError: it is not of that form.

  Example:
    >>> address('[::1]:5000')
    ('::1', 5000)
  """
  host, _, port = coordinator.rpartition(':')
  is_number = port.isascii() and port.isdigit()
  if not host or not is_number or not 1 <= int(port) <= 65535:
    raise InputError(
      f"--coordinator must be HOST:PORT, such as 10.0.0.1:5000, got '"
      f"{coordinator}'"
    )
  return host.removeprefix('[').removesuffix(']'), int(port)


def ask_for_devices(devices: DevicesConfig) -> None:
  """Has JAX make as many CPU devices as asked for, before it makes any.

  Args:
    devices: the options.

  Example:
    >>> ask_for_devices(DevicesConfig())
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if devices.num_devices is None or 'host_platform_device_count' in flags:
    return
  try:
    jax.config.update('jax_num_cpu_devices', devices.num_devices)
  except RuntimeError:
    # JAX has its devices already; `place` says whether they are enough.
    return


def check_even(devices: Sequence[Any]) -> None:
  """Raises unless every process has as many devices as the others.

  Args:
    devices: of all processes.

  Raises:
    InputError: naming two that differ. It is the same in all processes.

  Example:
    >>> check_even(jax.devices())
  """
  by_process = _by_process(devices)
  count = len(by_process[0])
  for process, found in enumerate(by_process):
    if len(found) != count:
      raise InputError(
        f'process 0 has {count} devices and process {process} has '
        f'{len(found)}, but each needs as many as the others; give all of them '
        'the same --num-devices, on machines of one kind'
      )


def place(devices: DevicesConfig, batch_size: int) -> Placement:
  """Lays a run on the devices of its processes, which are connected.

  Args:
    devices: the options.
    batch_size: examples in a global batch.

  Returns:
    A `Placement`.

  Raises:
    InputError: there are fewer devices than asked for, or they do not divide
      the batch.

  Example:
    >>> place(DevicesConfig(num_devices=1), batch_size=32).num_devices
    1
  """
  by_process = _by_process(jax.devices())
  first = by_process[0]
  per_process = devices.num_devices or len(first)
  if per_process > len(first):
    remedy = (
      'leave it out to use all'
      if first[0].platform != 'cpu'
      else 'JAX was used before the run began: begin it in a process of its '
      'own, or set jax_num_cpu_devices earlier'
    )
    raise InputError(
      f'--num-devices {per_process} is more than there are: a process has '
      f'{len(first)} ({first[0].device_kind}); {remedy}'
    )
  total = per_process * len(by_process)
  if batch_size % total:
    raise InputError(
      f'--batch-size {batch_size} cannot be shared out evenly among {total} '
      f'devices; use --batch-size {nearest_multiples(batch_size, total)}'
    )
  if total == 1:
    return Placement(None, None, 1, 1)
  mesh = jax.sharding.Mesh(
    np.array([d for found in by_process for d in found[:per_process]]),
    (AXIS,),
    axis_types=(jax.sharding.AxisType.Auto,),
  )
  by_row = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return Placement(by_row, whole, total, len(by_process))


def check_last_batch(
  placement: Placement, data: DataConfig, num_examples: int
) -> None:
  """Raises where a short last batch cannot be shared out evenly.

  Args:
    placement: of the run.
    data: its batches.
    num_examples: examples to train on.

  Raises:
    InputError: naming the remedy.

  Example:
    >>> data = DataConfig(last_batch='short', batch_size=4)
    >>> check_last_batch(Placement(None, None, 1, 1), data, num_examples=10)
  """
  left = num_examples % data.batch_size
  if data.last_batch == 'short' and left % placement.num_devices:
    raise InputError(
      f'--last-batch short leaves a batch of {left} examples, which cannot be '
      f'shared out evenly among {placement.num_devices} devices; use '
      '--last-batch wrap or pad, or another --batch-size'
    )


def _by_process(devices: Sequence[Any]) -> list[list[Any]]:
  """Devices of process 0, 1, ..., whose rows make up a batch in that order."""
  process = lambda device: device.process_index
  ordered = sorted(devices, key=lambda device: (process(device), device.id))
  return [list(group) for _, group in itertools.groupby(ordered, process)]
