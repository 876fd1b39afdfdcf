"""Data parallelism over devices of unequal speed.

Each device gets a share of the global batch in proportion to its speed. Here
the speeds are measured, the shares decided, and the batch laid out;
`_microbatched.py` has the loss of a share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from isgd_jax import _checks


def proportional_shards(
  batch_size: int,
  throughputs: Sequence[float] | np.ndarray,
  *,
  microbatch_size: int = 1,
) -> tuple[int, ...]:
  r"""Splits a global batch over devices in proportion to their speed.

  Device i of speed :math:`c_i` is to have :math:`b \, c_i / \sum_j c_j`
  examples, in whole microbatches: the numbers are rounded down, and what is
  left goes to the largest remainders (of equal ones, to the first). Every
  device has at least one microbatch, which a device too slow for one takes from
  those that would be busy longest.

  Args:
    batch_size: examples b in the global batch, a multiple of `microbatch_size`,
      at least one microbatch for each device.
    throughputs: float[num_devices] > 0, examples per second of each device, or
      any numbers in proportion to them; :func:`measure_throughputs` finds them.
    microbatch_size: examples that a device takes at once, >= 1.

  Returns:
    Examples of each device, multiples of `microbatch_size` that add up to b.

  Raises:
    ValueError: on throughputs that are not positive and finite numbers, and on
      a batch that cannot be divided so.

  Examples:
    >>> import isgd_jax
    >>> isgd_jax.proportional_shards(256, [100.0, 200.0, 500.0])
    (32, 64, 160)
    >>> isgd_jax.proportional_shards(
    ...     256, [100.0, 200.0, 500.0], microbatch_size=64)
    (64, 64, 128)

  References:
    The method of largest remainders (Hamilton's), of apportionment.
  """
  batch_size = _checks.check_integer('batch_size', batch_size, minimum=1)
  microbatch_size = _checks.check_integer(
    'microbatch_size', microbatch_size, minimum=1
  )
  speeds = _checked_throughputs(throughputs)
  smallest = microbatch_size * len(speeds)
  if batch_size < smallest or batch_size % microbatch_size:
    lower = batch_size // microbatch_size * microbatch_size
    sizes = sorted({max(s, smallest) for s in (lower, lower + microbatch_size)})
    raise ValueError(
      f'batch_size must be a multiple of microbatch_size {microbatch_size} and '
      f'at least one microbatch for each of {len(speeds)} devices, got '
      f'{batch_size}. Use {" or ".join(map(str, sizes))}.'
    )
  num_microbatches = batch_size // microbatch_size
  # Of the largest first: their sum must not overflow.
  shares = speeds / speeds.max()
  quotas = num_microbatches * (shares / shares.sum())
  counts = np.floor(quotas).astype(np.int64)
  remainders = quotas - counts
  order = np.argsort(-remainders, kind='stable')
  counts[order[: num_microbatches - counts.sum()]] += 1
  for device in np.flatnonzero(counts == 0):
    # Seconds that each would take; only those with one to spare can give.
    seconds = np.where(counts > 1, counts / speeds, -np.inf)
    counts[np.argmax(seconds)] -= 1
    counts[device] = 1
  return tuple(int(count) * microbatch_size for count in counts)


class PaddedShards(NamedTuple):
  """A global batch laid out for devices with shares of unequal size.

  Attributes:
    data: pytree of arrays [num_devices * most, ...], with `most` the size of
      the largest share: device i's examples are the first of its block.
    num_microbatches: int32[num_devices], how many of a block's microbatches
      count; what comes after them is padding, and is not computed with.
  """

  data: Any
  num_microbatches: Any


def pad_shards(
  batch: Any,
  shard_sizes: Sequence[int],
  *,
  microbatch_size: int,
  sharding: jax.sharding.Sharding | None = None,
) -> PaddedShards:
  """Lays a global batch out in blocks of one size, one for each device.

  JAX shards an array into equal parts. So each device gets a block of the size
  of the largest share, its own examples first, in order, and then padding
  (copies of its last example), which costs memory and no time.

  Args:
    batch: pytree of NumPy arrays [batch, ...], the whole global batch, in every
      process.
    shard_sizes: examples of each device, from :func:`proportional_shards`.
    microbatch_size: as there, and as in :func:`microbatched`.
    sharding: where the result goes: the leading axis is to be cut into one part
      for each share, in the order of its mesh. None leaves NumPy arrays.

  Returns:
    A :class:`PaddedShards`.

  Raises:
    ValueError: on sizes that do not add up to the batch, are no multiples of
      the microbatch, or are not as many as the sharding's parts.

  Examples:
    >>> import numpy as np, isgd_jax
    >>> shards = isgd_jax.pad_shards(np.arange(8), (2, 2, 4), microbatch_size=2)
    >>> print(shards.data.reshape(3, 4))
    [[0 1 1 1]
     [2 3 3 3]
     [4 5 6 7]]
    >>> print(shards.num_microbatches)
    [1 1 2]
  """
  microbatch_size = _checks.check_integer(
    'microbatch_size', microbatch_size, minimum=1
  )
  sizes = np.asarray(shard_sizes)
  if sizes.ndim != 1 or not sizes.size or not (sizes > 0).all():
    raise ValueError(
      f'shard_sizes must be positive, one for each device, got {shard_sizes}. '
      'Use proportional_shards.'
    )
  if (sizes % microbatch_size).any():
    raise ValueError(
      f'shard_sizes must be multiples of microbatch_size {microbatch_size}, '
      f'got {shard_sizes}. Give proportional_shards the same microbatch_size.'
    )
  for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
    if np.ndim(leaf) == 0 or np.shape(leaf)[0] != sizes.sum():
      raise ValueError(
        f'shard_sizes must add up to the examples of the batch, got '
        f'{tuple(map(int, sizes))} (together {sizes.sum()}) and '
        f'batch{jax.tree_util.keystr(path)} of shape {np.shape(leaf)}. Give '
        'proportional_shards this batch_size.'
      )
  most = int(sizes.max())
  rows = np.arange(most)
  starts = np.cumsum(sizes) - sizes
  positions = (starts[:, None] + np.minimum(rows, sizes[:, None] - 1)).reshape(
    -1
  )
  shards = PaddedShards(
    jax.tree.map(lambda x: np.asarray(x)[positions], batch),
    (sizes // microbatch_size).astype(np.int32),
  )
  if sharding is None:
    return shards
  num_parts = _checks.num_parts(sharding)
  if num_parts != len(sizes):
    raise ValueError(
      f'shard_sizes must be one for each of the {num_parts} parts that the '
      f'sharding cuts the batch into, got {len(sizes)} sizes. Give '
      'proportional_shards the throughputs of the devices of its mesh.'
    )
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__),
    shards,
  )


def measure_throughputs(
  fun: Callable[..., Any],
  params: Any,
  batch: Any,
  *,
  devices: Sequence[Any] | None = None,
  num_repeats: int = 10,
) -> np.ndarray:
  """Examples per second of each device, at value and gradient of a loss.

  Each device computes alone, `num_repeats` times after compilation and one warm
  run; the median counts. Devices of other processes are measured there at the
  same time, and all get all results (all wait for one that fails).

  Args:
    fun: `fun(params, batch)` returns the loss, a real scalar.
    params: pytree of floating-point arrays.
    batch: pytree of arrays [examples, ...]: a microbatch of the size to train
      with, since speed depends on it.
    devices: which ones, by default all, as :func:`jax.devices` lists them. For
      :func:`pad_shards` pass `mesh.devices.flat`: a mesh may have another
      order. With several processes, all name the same ones.
    num_repeats: >= 1.

  Returns:
    float64[len(devices)], examples per second.

  Raises:
    ValueError: on an argument out of range, or leaves that differ in their
      number of examples.

  Examples:
    >>> import jax.numpy as jnp, isgd_jax
    >>> def loss_fn(w, x): return jnp.mean((x @ w) ** 2)
    >>> throughputs = isgd_jax.measure_throughputs(
    ...     loss_fn, jnp.ones(3), jnp.ones((8, 3)), num_repeats=3)
    >>> bool((throughputs > 0).all())
    True
  """
  num_repeats = _checks.check_integer('num_repeats', num_repeats, minimum=1)
  devices = jax.devices() if devices is None else list(devices)
  num_examples = {np.shape(x)[:1] for x in jax.tree.leaves(batch)}
  if len(num_examples) != 1 or num_examples in ({()}, {(0,)}):
    raise ValueError(
      'batch must hold arrays of the same number of examples, at least 1, got '
      f'leading axes {sorted(num_examples)}. Pass one microbatch.'
    )
  ((size,),) = num_examples
  evaluate = jax.jit(jax.value_and_grad(fun))
  throughputs = np.zeros(len(devices))
  for i, device in enumerate(devices):
    if device.process_index != jax.process_index():
      continue
    args = jax.device_put((params, batch), device)
    seconds = []
    for _ in range(num_repeats + 2):
      start = time.perf_counter()
      jax.block_until_ready(evaluate(*args))
      seconds.append(time.perf_counter() - start)
    throughputs[i] = size / np.median(seconds[2:])
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    # Each process has the speeds of its own devices, and zeros. As bytes, for
    # without x64 JAX would round them.
    gathered = multihost_utils.process_allgather(throughputs.view(np.uint8))
    throughputs = np.asarray(gathered).view(np.float64).sum(axis=0)
  return throughputs


def _checked_throughputs(
  throughputs: Sequence[float] | np.ndarray,
) -> np.ndarray:
  """`throughputs` as float64, if they are speeds of devices."""
  speeds = np.asarray(throughputs, np.float64)
  if speeds.ndim != 1 or not speeds.size:
    raise ValueError(
      'throughputs must be a list of numbers, one for each device, got '
      f'{throughputs!r} of shape {speeds.shape}.'
    )
  bad = np.flatnonzero(~(np.isfinite(speeds) & (speeds > 0)))
  if bad.size:
    raise ValueError(
      f'throughputs must be positive and finite, got {speeds[bad[0]]:g} for '
      f'device {bad[0]}. Leave a device that does not work out of the mesh.'
    )
  return speeds
