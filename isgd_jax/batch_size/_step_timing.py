"""Seconds of a training step, by batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from isgd_jax import _checks


class StepSeconds(NamedTuple):
  """Seconds of a step at several batch sizes.

  Attributes:
    batch_sizes: int64[n], examples, ascending.
    median: float64[n], seconds.
    lower_quartile: float64[n], seconds.
    upper_quartile: float64[n], seconds.
    out_of_memory_at: the first size that did not fit, or None.
  """

  batch_sizes: np.ndarray
  median: np.ndarray
  lower_quartile: np.ndarray
  upper_quartile: np.ndarray
  out_of_memory_at: int | None


def measure_step_seconds(
  make_step: Callable[[int], Callable[[], Any]],
  batch_sizes: Sequence[int],
  *,
  num_repeats: int = 20,
  on_progress: Callable[[], None] | None = None,
) -> StepSeconds:
  """Times a step at each batch size.

  Every size is compiled and run twice first. Then all sizes are timed in turn,
  `num_repeats` times over, so that a machine whose speed drifts slows all of
  them; each time is taken when the result is there, on every device.

  Args:
    make_step: `make_step(batch_size)` returns a function without arguments that
      runs one step and returns its result, a pytree of arrays. To time donated
      steps, let it keep the state and replace it.
    batch_sizes: examples, each >= 1.
    num_repeats: times >= 3 that each size is timed.
    on_progress: called after each size's preparation and each timed step.

  Returns:
    A :class:`StepSeconds` of the sizes that fit in memory, ascending.

  Raises:
    ValueError: on an argument out of range.
    MemoryError: if not even the smallest size fits.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from isgd_jax import batch_size
    >>> w = jnp.ones((64, 64))
    >>> product = jax.jit(lambda x: x @ w)
    >>> def make_step(size):
    ...   x = jnp.ones((size, 64))
    ...   return lambda: product(x)
    >>> times = batch_size.measure_step_seconds(make_step, [8, 16, 32])
    >>> bool((times.lower_quartile <= times.median).all())
    True
  """
  num_repeats = _checks.check_integer('num_repeats', num_repeats, minimum=3)
  sizes = checked_sizes('batch_sizes', batch_sizes)
  tick = on_progress or (lambda: None)
  steps: dict[int, Callable[[], Any]] = {}
  out_of_memory_at = None
  for size in sizes:
    try:
      step = make_step(size)
      for _ in range(2):
        jax.block_until_ready(step())
    except Exception as error:
      if not is_out_of_memory(error):
        raise
      if not steps:
        raise MemoryError(
          f'not even the smallest of batch_sizes, {size}, fits in memory. Use '
          'smaller ones.'
        ) from error
      out_of_memory_at = size
      break
    steps[size] = step
    tick()
  seconds = {size: [] for size in steps}
  for _ in range(num_repeats):
    for size, step in steps.items():
      seconds[size].append(seconds_of(step))
      tick()
  lower, median, upper = np.quantile(
    np.array(list(seconds.values())), (0.25, 0.5, 0.75), axis=1
  )
  return StepSeconds(
    np.array(list(steps)), median, lower, upper, out_of_memory_at
  )


def seconds_of(step: Callable[[], Any]) -> float:
  """Seconds until the result of a step is there, on every device."""
  start = time.perf_counter()
  jax.block_until_ready(step())
  return time.perf_counter() - start


def is_out_of_memory(error: BaseException) -> bool:
  """Whether `error` says that a device or the host has no memory left."""
  if isinstance(error, MemoryError):
    return True
  return isinstance(error, jax.errors.JaxRuntimeError) and (
    'RESOURCE_EXHAUSTED' in str(error)
  )


def checked_sizes(name: str, sizes: Sequence[int]) -> list[int]:
  """Batch sizes, ascending, each once; raises unless all are >= 1."""
  if not len(sizes):
    raise ValueError(f'{name} must hold at least one size, got none.')
  return sorted(
    {_checks.check_integer(f'each of {name}', n, minimum=1) for n in sizes}
  )
