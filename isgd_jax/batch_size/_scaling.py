"""What several devices bring: parallel efficiency, synchronisation apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from isgd_jax import _checks
from isgd_jax.batch_size import _step_timing


class ScalingRow(NamedTuple):
  """A step on a number of devices.

  Attributes:
    kind: `'global'`, where the global batch is the same on any number of
      devices (strong scaling), or `'local'`, where each device's share is (weak
      scaling).
    num_devices: int, N.
    batch_size: int, examples in the global batch.
    step_seconds: float, median.
    synchronisation_seconds: float >= 0, what of it is the reduction: the median
      difference to the same step without one.
    efficiency: float, throughput over N times that of one device.
  """

  kind: str
  num_devices: int
  batch_size: int
  step_seconds: float
  synchronisation_seconds: float
  efficiency: float


def measure_scaling(
  make_step: Callable[[int, int, bool], Callable[[], Any]],
  batch_size: int,
  device_counts: Sequence[int],
  *,
  num_repeats: int = 20,
  on_progress: Callable[[], None] | None = None,
) -> list[ScalingRow]:
  r"""Times a step on 1 to N devices, at fixed global and at fixed local batch.

  With :math:`t_N(b)` the seconds of a global batch of b on N devices, the
  efficiency is :math:`t_1(b) / (N t_N(b))` at fixed global batch, and
  :math:`t_1(b) / t_N(N b)` at fixed local batch. All steps are timed in turn.

  Args:
    make_step: `make_step(num_devices, batch_size, is_synchronised)` returns a
      function without arguments that runs one step of that global batch and
      returns its arrays; with False, without the reduction over devices (what
      the gradients come to does not matter then).
    batch_size: examples in the global batch, which every count divides.
    device_counts: numbers of devices >= 1; 1 is measured in any case.
    num_repeats: times >= 3 that each step is timed.
    on_progress: called after each preparation and each timed step.

  Returns:
    A :class:`ScalingRow` for each kind and count, the global ones first.

  Raises:
    ValueError: on an argument out of range, or a batch that a count does not
      divide.

  Examples:
    >>> import jax.numpy as jnp
    >>> from isgd_jax import batch_size
    >>> def make_step(num_devices, size, is_synchronised):
    ...   x = jnp.ones((size, 8))
    ...   return lambda: x @ x.T
    >>> rows = batch_size.measure_scaling(make_step, 16, [1], num_repeats=3)
    >>> print([(row.kind, row.efficiency) for row in rows])
    [('global', 1.0), ('local', 1.0)]
  """
  batch_size = _checks.check_integer('batch_size', batch_size, minimum=1)
  num_repeats = _checks.check_integer('num_repeats', num_repeats, minimum=3)
  counts = sorted(
    {1, *_step_timing.checked_sizes('device_counts', device_counts)}
  )
  for count in counts:
    if batch_size % count:
      raise ValueError(
        f'batch_size {batch_size} must be a multiple of each of device_counts '
        f'{counts}; for {count} devices use '
        f'{_checks.nearest_multiples(batch_size, count)}.'
      )
  keys = {(n, b) for n in counts for b in (batch_size, n * batch_size)}
  tick = on_progress or (lambda: None)
  steps = {}
  for count, size in sorted(keys):
    # On one device there is nothing to reduce.
    for is_synchronised in (True, False) if count > 1 else (True,):
      step = make_step(count, size, is_synchronised)
      for _ in range(2):
        jax.block_until_ready(step())
      steps[count, size, is_synchronised] = step
      tick()
  seconds = {key: [] for key in steps}
  for _ in range(num_repeats):
    for key, step in steps.items():
      seconds[key].append(_step_timing.seconds_of(step))
      tick()
  alone = float(np.median(seconds[1, batch_size, True]))
  rows = []
  for kind in ('global', 'local'):
    for count in counts:
      size = batch_size if kind == 'global' else count * batch_size
      whole = np.array(seconds[count, size, True])
      median = float(np.median(whole))
      apart = 0.0
      if count > 1:
        without = np.array(seconds[count, size, False])
        apart = max(float(np.median(whole - without)), 0.0)
      speedup = alone / median * (1 if kind == 'global' else count)
      rows.append(ScalingRow(kind, count, size, median, apart, speedup / count))
  return rows
