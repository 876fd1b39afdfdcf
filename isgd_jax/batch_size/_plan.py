"""Seconds to a loss by batch size, and where they are least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from isgd_jax import _checks
from isgd_jax.batch_size import _step_time
from isgd_jax.batch_size import _step_timing
from isgd_jax.batch_size import _steps_law


class BatchSizePlan(NamedTuple):
  """The batch size of the least predicted time, and what is as good.

  Attributes:
    batch_size: int, examples.
    seconds: float, predicted, to the loss.
    steps: float, predicted.
    plateau: (int, int), the smallest and the largest candidate around it within
      `tolerance` of its time, with all between them.
    candidates: int64[n], the feasible sizes, ascending.
    candidate_seconds: float64[n], predicted for each.
  """

  batch_size: int
  seconds: float
  steps: float
  plateau: tuple[int, int]
  candidates: np.ndarray
  candidate_seconds: np.ndarray


def time_to_loss(
  batch_size: Any,
  step_time_model: _step_time.StepTimeModel,
  law: _steps_law.StepsLaw,
) -> Any:
  """Predicted seconds to a loss: steps times seconds a step.

  Args:
    batch_size: examples > 0, a number or an array.
    step_time_model: from :func:`fit_step_time`.
    law: steps to the loss, from :func:`critical_batch_law` or
      :func:`paper_law`.

  Returns:
    Seconds, float64 of the shape of `batch_size`.

  Raises:
    ValueError: on a size that is not positive.

  Examples:
    >>> from isgd_jax import batch_size
    >>> model = batch_size.fit_step_time([10, 20, 40], [0.02, 0.03, 0.05])
    >>> law = batch_size.critical_batch_law(90.0, batch_size=10, steps=1000)
    >>> print(f'{batch_size.time_to_loss(30, model, law):.2f}')  # 400 x 0.04
    16.00
  """
  return law.steps(batch_size) * step_time_model.step_seconds(batch_size)


def optimal_batch_size(
  step_time_model: _step_time.StepTimeModel,
  law: _steps_law.StepsLaw,
  candidates: Sequence[int],
  *,
  num_devices: int = 1,
  max_batch_size: int | None = None,
  tolerance: float = 0.05,
) -> BatchSizePlan:
  r"""The candidate of the least predicted time to a loss.

  With the critical-batch-size law the minimum lies at

  .. math::
    b^* = \max\left(b_0, \sqrt{B_{crit} \, C_1 C_2}\right):

  the more a step costs whatever its batch, and the faster the machine, the
  bigger the batch. The valley is flat; `plateau` says how far.

  Args:
    step_time_model: from :func:`fit_step_time`.
    law: steps to the loss.
    candidates: sizes to choose from, examples >= 1. Those that `num_devices` do
      not divide, or above `max_batch_size`, are left out.
    num_devices: devices that share a batch, >= 1.
    max_batch_size: the largest that fits in memory; None for no limit.
    tolerance: share >= 0 of the least time by which the plateau's may be above
      it.

  Returns:
    A :class:`BatchSizePlan`.

  Raises:
    ValueError: on an argument out of range, or if no candidate is left.

  Examples:
    >>> from isgd_jax import batch_size
    >>> model = batch_size.fit_step_time([10, 20, 40], [0.02, 0.03, 0.05])
    >>> law = batch_size.critical_batch_law(90.0, batch_size=10, steps=1000)
    >>> plan = batch_size.optimal_batch_size(model, law, range(8, 129, 8))
    >>> print(plan.batch_size, plan.plateau)  # sqrt(90 x 1000 x 0.01) = 30
    32 (24, 48)
  """
  sizes = _step_timing.checked_sizes('candidates', candidates)
  num_devices = _checks.check_integer('num_devices', num_devices, minimum=1)
  _checks.check_number('tolerance', tolerance, minimum=0.0)
  if max_batch_size is not None:
    max_batch_size = _checks.check_integer(
      'max_batch_size', max_batch_size, minimum=1
    )
  feasible = np.array(
    [
      size
      for size in sizes
      if size % num_devices == 0
      and (max_batch_size is None or size <= max_batch_size)
    ]
  )
  if not feasible.size:
    limit = '' if max_batch_size is None else f' up to {max_batch_size}'
    raise ValueError(
      f'candidates must hold a multiple of num_devices {num_devices}{limit}, '
      f'got {sizes}.'
    )
  seconds = time_to_loss(feasible, step_time_model, law)
  best = int(np.argmin(seconds))
  is_as_good = seconds <= (1.0 + tolerance) * seconds[best]
  low = high = best
  while low > 0 and is_as_good[low - 1]:
    low -= 1
  while high + 1 < len(feasible) and is_as_good[high + 1]:
    high += 1
  return BatchSizePlan(
    batch_size=int(feasible[best]),
    seconds=float(seconds[best]),
    steps=float(law.steps(feasible[best])),
    plateau=(int(feasible[low]), int(feasible[high])),
    candidates=feasible,
    candidate_seconds=seconds,
  )


def scale_learning_rate(
  learning_rate: float,
  old_batch_size: int,
  new_batch_size: int,
  *,
  rule: str = 'linear',
) -> float:
  r"""The learning rate that goes with another batch size, by a rule of thumb.

  Linear for SGD, :math:`\eta' = \eta \, b' / b`; square root for Adam and its
  kin, :math:`\eta' = \eta \sqrt{b' / b}`. Both are rules of thumb: they hold
  well below the critical batch size, and fail above it. Tune from there.

  Args:
    learning_rate: > 0, tuned at `old_batch_size`.
    old_batch_size: examples >= 1.
    new_batch_size: examples >= 1.
    rule: ``'linear'`` or ``'sqrt'``.

  Returns:
    The learning rate at `new_batch_size`.

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> from isgd_jax import batch_size
    >>> batch_size.scale_learning_rate(0.1, 128, 512)
    0.4
    >>> batch_size.scale_learning_rate(0.001, 128, 512, rule='sqrt')
    0.002

  References:
    Goyal et al., `Accurate, Large Minibatch SGD
    <https://arxiv.org/abs/1706.02677>`_, 2017 (linear); Malladi et al., `On the
    SDEs and Scaling Rules for Adaptive Gradient Algorithms
    <https://arxiv.org/abs/2205.10287>`_, 2022 (square root).
  """
  _checks.check_number('learning_rate', learning_rate, above=0.0)
  old_batch_size = _checks.check_integer(
    'old_batch_size', old_batch_size, minimum=1
  )
  new_batch_size = _checks.check_integer(
    'new_batch_size', new_batch_size, minimum=1
  )
  _checks.check_choice('rule', rule, ('linear', 'sqrt'))
  ratio = new_batch_size / old_batch_size
  return learning_rate * (ratio if rule == 'linear' else ratio**0.5)
