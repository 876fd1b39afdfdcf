"""Seconds of a step as a function of batch size: a line, flat below a knee."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
import warnings

import numpy as np
import scipy.optimize

# Relative deviations beyond this count by their size, not its square: what a
# quiet machine does to the median of many steps is below it.
_ORDINARY_DEVIATION = 0.05
# A knee has to explain so much more than a line does (an F ratio) to be there.
_KNEE_F_RATIO = 10.0
# A number whose standard error is above this share of it is in doubt.
_DOUBTFUL_SHARE = 0.25


class StepTimeModel(NamedTuple):
  r"""Seconds of a step: :math:`t(b) = \max(b, b_0) / C_1 + C_2`.

  Attributes:
    examples_per_second: float, C1, of the machine once it is busy.
    overhead_seconds: float, C2 >= 0, synchronisation and what else a step costs
      whatever its batch.
    knee: float, b0 in examples: below it adding examples is free, for the
      machine is not busy. 0 where the times show none.
    examples_per_second_error: float, standard error.
    overhead_seconds_error: float, standard error, seconds.
    knee_error: float, standard error, examples; 0 where there is none.
    r_squared: float, share of the variance of the seconds that is explained.
    relative_deviation: float, root mean square of (t - fit) / t.
    doubts: tuple of str, what the times cannot tell; empty if they can.
  """

  examples_per_second: float
  overhead_seconds: float
  knee: float
  examples_per_second_error: float
  overhead_seconds_error: float
  knee_error: float
  r_squared: float
  relative_deviation: float
  doubts: tuple[str, ...]

  def step_seconds(self, batch_size: Any) -> Any:
    """Seconds of a step at a batch size, or at an array of them."""
    busy = np.maximum(batch_size, self.knee)
    return busy / self.examples_per_second + self.overhead_seconds


def fit_step_time(
  batch_sizes: Sequence[int] | np.ndarray,
  step_seconds: Sequence[float] | np.ndarray,
) -> StepTimeModel:
  r"""Fits seconds of a step to batch sizes.

  .. math::
    t(b) = \frac{\max(b, b_0)}{C_1} + C_2,

  the paper's :math:`b / C_1 + C_2`, flat below a saturation knee :math:`b_0`.
  Deviations are relative (a millisecond matters more to a short step), and
  large ones count less than by their square, so that one size that was
  disturbed does not carry the fit away. A knee is fitted where there are at
  least five sizes and it explains the times much better than a line.

  Args:
    batch_sizes: [n] examples, at least three different sizes.
    step_seconds: [n] seconds > 0, such as medians of many steps.

  Returns:
    A :class:`StepTimeModel`. Standard errors come from the scatter around the
    fit; with few sizes they are rough themselves. What the times cannot tell is
    in `doubts`, and is warned of.

  Raises:
    ValueError: on fewer than three sizes, numbers that are not positive, or
      times that do not grow with the batch.

  Examples:
    >>> import numpy as np
    >>> from isgd_jax import batch_size
    >>> sizes = np.array([16, 32, 64, 128, 256, 512])
    >>> seconds = 0.002 + np.maximum(sizes, 48) / 20_000
    >>> model = batch_size.fit_step_time(sizes, seconds)
    >>> print(f'{model.examples_per_second:.0f} {model.overhead_seconds:.4f} '
    ...       f'{model.knee:.0f}')
    20000 0.0020 48

  References:
    Wang et al., `Accelerating Deep Neural Network Training with Inconsistent
    Stochastic Gradient Descent <https://arxiv.org/abs/1603.05544>`_, Neural
    Networks 93, 2017, section 5.
  """
  sizes, seconds = _checked(batch_sizes, step_seconds)
  line = _fit(sizes, seconds, knee=None)
  best, has_knee = line, False
  if len(sizes) >= 5:
    # Between its neighbours the error has one minimum: start in each gap.
    bent = min(
      (_fit(sizes, seconds, knee=k) for k in (sizes[:-1] + sizes[1:]) / 2),
      key=lambda fit: fit.cost,
    )
    freedom = len(sizes) - 3
    floor = 1e-12 * len(sizes)  # Where both are exact.
    gain = (line.cost - bent.cost) / max(bent.cost / freedom, floor)
    has_knee = bool(gain > _KNEE_F_RATIO and bent.x[2] > sizes[0])
    best = bent if has_knee else line
  return _model(best, sizes, seconds, has_knee)


def _checked(
  batch_sizes: Sequence[int] | np.ndarray,
  step_seconds: Sequence[float] | np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Both as float64, in ascending order of size."""
  sizes = np.asarray(batch_sizes, np.float64)
  seconds = np.asarray(step_seconds, np.float64)
  if sizes.ndim != 1 or sizes.shape != seconds.shape:
    raise ValueError(
      'batch_sizes and step_seconds must be lists of one length, got shapes '
      f'{sizes.shape} and {seconds.shape}.'
    )
  for name, values in (('batch_sizes', sizes), ('step_seconds', seconds)):
    bad = values[~(np.isfinite(values) & (values > 0))]
    if bad.size:
      raise ValueError(f'{name} must be positive and finite, got {bad[0]:g}.')
  if len(np.unique(sizes)) < 3:
    raise ValueError(
      'batch_sizes must be at least three different sizes, got '
      f'{sorted(map(float, np.unique(sizes)))}. Measure more of them.'
    )
  order = np.argsort(sizes, kind='stable')
  return sizes[order], seconds[order]


def _fit(sizes: np.ndarray, seconds: np.ndarray, knee: float | None) -> Any:
  """The robust fit of slope, overhead and, from where it starts, the knee."""
  # In units of the largest, so that all parameters are of order one.
  b, t = sizes / sizes[-1], seconds / seconds.max()

  def deviations(x):
    busy = b if knee is None else np.maximum(b, x[2])
    return (x[0] * busy + x[1]) / t - 1.0

  slope = max((t[-1] - t[0]) / (b[-1] - b[0]), 1e-6)
  start = [slope, max(t[-1] - slope, 1e-6)]
  lower, upper = [0.0, 0.0], [np.inf, np.inf]
  if knee is not None:
    start.append(knee / sizes[-1])
    lower.append(0.0)
    upper.append(1.0)
  fit = scipy.optimize.least_squares(
    deviations,
    np.clip(start, lower, upper),
    bounds=(lower, upper),
    loss='soft_l1',
    f_scale=_ORDINARY_DEVIATION,
    xtol=1e-12,
    ftol=1e-12,
    gtol=1e-12,
  )
  scales = np.array([seconds.max() / sizes[-1], seconds.max(), sizes[-1]])
  fit.scales = scales[: len(start)]
  fit.x = fit.x * fit.scales
  return fit


def _model(
  fit: Any, sizes: np.ndarray, seconds: np.ndarray, has_knee: bool
) -> StepTimeModel:
  """The model of a fit, with its errors and what is in doubt."""
  slope, overhead, *rest = map(float, fit.x)
  knee = rest[0] if has_knee else 0.0
  errors = _standard_errors(fit, len(sizes))
  fitted = slope * np.maximum(sizes, knee) + overhead
  deviation = float(np.sqrt(np.mean((fitted / seconds - 1.0) ** 2)))
  # Growth that cannot be told from the scatter is none.
  if not fitted[-1] / fitted[0] > 1.0 + 2.0 * deviation:
    raise ValueError(
      'step_seconds must grow with batch_sizes, got '
      f'{seconds[0]:.3g} s at {sizes[0]:g} and {seconds[-1]:.3g} s at '
      f'{sizes[-1]:g}. Measure larger batches, on a machine with nothing else '
      'to do.'
    )
  variance = float(np.sum((seconds - seconds.mean()) ** 2))
  model = StepTimeModel(
    examples_per_second=1.0 / slope,
    overhead_seconds=overhead,
    knee=knee,
    examples_per_second_error=errors[0] / slope**2,
    overhead_seconds_error=errors[1],
    knee_error=errors[2] if has_knee else 0.0,
    r_squared=1.0 - float(np.sum((seconds - fitted) ** 2)) / variance,
    relative_deviation=deviation,
    doubts=(),
  )
  doubts = _doubts(model)
  for doubt in doubts:
    warnings.warn(f'fit_step_time: {doubt}', stacklevel=3)
  return model._replace(doubts=doubts)


def _standard_errors(fit: Any, num_sizes: int) -> list[float]:
  """Of slope, overhead and knee, from the scatter around the fit."""
  freedom = max(num_sizes - len(fit.x), 1)
  # The Jacobian is that of the weighted deviations, in units of order one.
  covariance = np.linalg.pinv(fit.jac.T @ fit.jac) * 2.0 * fit.cost / freedom
  return list(np.sqrt(np.maximum(np.diag(covariance), 0.0)) * fit.scales)


def _doubts(model: StepTimeModel) -> tuple[str, ...]:
  """What the times cannot tell, in words."""
  doubts = []
  if model.examples_per_second_error > (
    _DOUBTFUL_SHARE * model.examples_per_second
  ):
    doubts.append(
      f'examples_per_second {model.examples_per_second:.3g} is uncertain by '
      f'{model.examples_per_second_error:.2g}: measure larger batches'
    )
  if model.overhead_seconds_error > max(0.5 * model.overhead_seconds, 1e-9):
    doubts.append(
      f'overhead_seconds {model.overhead_seconds:.2g} is uncertain by '
      f'{model.overhead_seconds_error:.2g} and may be 0: measure smaller '
      'batches'
    )
  if model.knee_error > _DOUBTFUL_SHARE * model.knee > 0.0:
    doubts.append(
      f'knee {model.knee:.3g} is uncertain by {model.knee_error:.2g}: measure '
      'more sizes around it'
    )
  if model.relative_deviation > 2.0 * _ORDINARY_DEVIATION:
    doubts.append(
      f'times differ from the fit by {model.relative_deviation:.0%} on '
      'average: it is not the shape of this machine, or something else ran'
    )
  return tuple(doubts)
