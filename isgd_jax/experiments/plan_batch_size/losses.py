"""What a pilot run tells: its smoothed loss, steps to a loss, when to look."""

from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np

from isgd_jax.batch_size import NoiseScale


class NoisePoint(NamedTuple):
  """The gradient noise scale at one point of a run.

  Attributes:
    step: training steps done by then.
    loss: smoothed training loss there, nats.
    noise: what was measured.
  """

  step: int
  loss: float
  noise: NoiseScale


def smoothed_losses(
  losses: Sequence[float] | np.ndarray, batch_size: int, num_examples: float
) -> np.ndarray:
  """The exponentially weighted mean of batch losses, over examples.

  Its weight falls by e every `num_examples`, whatever the batch size, so that
  runs with different batch sizes are smoothed alike. The start is not counted
  as zeros.

  Args:
    losses: [num_steps] batch losses, nats.
    batch_size: examples in each.
    num_examples: > 0.

  Returns:
    [num_steps] float64; not a number from where a loss is not one.

  Example:
    >>> smoothed_losses([2.0, 2.0, 2.0], batch_size=16, num_examples=64)
    array([2., 2., 2.])
  """
  decay = math.exp(-batch_size / num_examples)
  means = np.empty(len(losses))
  total = weight = 0.0
  for i, loss in enumerate(losses):
    total = decay * total + float(loss)
    weight = decay * weight + 1.0
    means[i] = total / weight
  return means


def steps_to_target(
  smoothed: Sequence[float] | np.ndarray, target_loss: float
) -> int | None:
  """Steps until a smoothed loss is first at or below a target.

  Args:
    smoothed: [num_steps], nats.
    target_loss: nats.

  Returns:
    The steps, from 1; None where it never is.

  Example:
    >>> steps_to_target([2.0, 1.0, 0.5, 0.6], 1.0)
    2
  """
  reached = np.flatnonzero(np.asarray(smoothed) <= target_loss)
  return int(reached[0]) + 1 if reached.size else None


def measurement_steps(num_steps: int, num_points: int = 5) -> list[int]:
  """When to measure the noise scale: each time after twice as many steps.

  Args:
    num_steps: of the run; the last point.
    num_points: at most; a short run has fewer.

  Returns:
    Steps, ascending.

  Example:
    >>> measurement_steps(300)
    [19, 38, 75, 150, 300]
  """
  points = {math.ceil(num_steps / 2**i) for i in range(num_points)}
  return sorted(points)


def critical_batch_size(points: Sequence[NoisePoint], num_steps: int) -> float:
  """The critical batch size on the way to a target.

  The noise scale grows as the loss falls, and most steps are made late: the
  median over the later half of the points up to the target.

  Args:
    points: ascending by step, at least one.
    num_steps: steps to the target. Points beyond it do not count, unless there
      are no others.

  Returns:
    Examples; infinite where the gradient could not be told from noise.

  Example:
    >>> noise = NoiseScale(0.0, 1.0, 1.0, 1.0, 16, 8)
    >>> points = [NoisePoint(step, 1.0, noise._replace(noise_scale=scale))
    ...           for step, scale in ((1, 5.0), (2, 40.0), (4, 60.0), (8, 1e3))]
    >>> critical_batch_size(points, num_steps=4)
    50.0
  """
  counted = [p for p in points if p.step <= num_steps] or [points[0]]
  later = counted[len(counted) // 2 :]
  return float(np.median([p.noise.noise_scale for p in later]))
