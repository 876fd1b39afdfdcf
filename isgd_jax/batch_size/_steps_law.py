"""Training steps to a loss as a function of batch size: two laws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.optimize

from isgd_jax import _checks


class StepsLaw(Protocol):
  """Steps to a fixed loss, by batch size."""

  def steps(self, batch_size: Any) -> Any:
    """Steps at a batch size, or at an array of them; not rounded."""
    ...


def steps_to_loss(
  batch_size: Any,
  target_loss: float,
  *,
  loss_scale: float = 1.0,
  loss_floor: float = 0.0,
) -> Any:
  r"""Steps to a loss by the paper's bound.

  With :math:`\psi` the loss above its floor in units of a scale, the bound is

  .. math::
    \psi = \frac{1}{\sqrt{b T}} + \frac{1}{T},

  solved here for T steps of batch size b.

  Args:
    batch_size: b > 0, examples, a number or an array.
    target_loss: above `loss_floor`, nats.
    loss_scale: > 0, nats; :func:`fit_paper_law` finds it for a problem.
    loss_floor: nats; what no training gets below.

  Returns:
    Steps, float64 of the shape of `batch_size`; not rounded.

  Raises:
    ValueError: on a number out of range, or a target at or below the floor.

  Examples:
    >>> from isgd_jax import batch_size
    >>> steps = batch_size.steps_to_loss(64, 0.1)
    >>> print(f'{steps:.1f} {(64 * steps) ** -0.5 + 1 / steps:.3f}')
    14.8 0.100

  References:
    Wang et al., `Accelerating Deep Neural Network Training with Inconsistent
    Stochastic Gradient Descent <https://arxiv.org/abs/1603.05544>`_, Neural
    Networks 93, 2017, section 5; the rate is that of mini-batch SGD on convex
    losses (Dekel et al., 2012).
  """
  return paper_law(
    target_loss, loss_scale=loss_scale, loss_floor=loss_floor
  ).steps(batch_size)


class PaperLaw(NamedTuple):
  r"""Steps to a loss by the paper's bound, as :func:`steps_to_loss`.

  Attributes:
    target_loss: float, nats.
    loss_scale: float, nats.
    loss_floor: float, nats.
  """

  target_loss: float
  loss_scale: float = 1.0
  loss_floor: float = 0.0

  def steps(self, batch_size: Any) -> Any:
    """Steps at a batch size, or at an array of them; not rounded."""
    size = _checked_size(batch_size)
    psi = (self.target_loss - self.loss_floor) / self.loss_scale
    # A quadratic in 1 / sqrt(T), by the root that loses no digits.
    root = np.sqrt(1.0 / size)
    inverse_root = 2.0 * psi / (root + np.sqrt(1.0 / size + 4.0 * psi))
    return inverse_root**-2.0


def paper_law(
  target_loss: float, *, loss_scale: float = 1.0, loss_floor: float = 0.0
) -> PaperLaw:
  """The paper's law to one loss, checked.

  Args:
    target_loss: above `loss_floor`, nats.
    loss_scale: > 0, nats.
    loss_floor: nats.

  Returns:
    A :class:`PaperLaw`.

  Raises:
    ValueError: as :func:`steps_to_loss`.

  Examples:
    >>> from isgd_jax import batch_size
    >>> law = batch_size.paper_law(0.1)
    >>> bool(law.steps(64) < law.steps(32))
    True
  """
  _checks.check_number('target_loss', target_loss)
  _checks.check_number('loss_scale', loss_scale, above=0.0)
  _checks.check_number('loss_floor', loss_floor)
  if target_loss <= loss_floor:
    raise ValueError(
      f'target_loss must be above loss_floor {loss_floor:g}, which no training '
      f'gets below, got {target_loss:g}. Aim higher, or lower the floor.'
    )
  return PaperLaw(float(target_loss), float(loss_scale), float(loss_floor))


def fit_paper_law(
  batch_sizes: Sequence[int] | np.ndarray,
  steps: Sequence[float] | np.ndarray,
  target_loss: float,
  *,
  loss_floor: float = 0.0,
) -> PaperLaw:
  """The scale of the paper's law, from steps that were needed.

  Args:
    batch_sizes: [n] examples, n >= 1.
    steps: [n] steps > 0 to `target_loss` at each.
    target_loss: above `loss_floor`, nats.
    loss_floor: nats.

  Returns:
    The :class:`PaperLaw` of the least squared deviation of log steps.

  Raises:
    ValueError: on numbers that are not positive, or a target at or below the
      floor.

  Examples:
    >>> from isgd_jax import batch_size
    >>> law = batch_size.paper_law(0.5, loss_scale=3.0)
    >>> sizes = [16, 64, 256]
    >>> fit = batch_size.fit_paper_law(sizes, law.steps(sizes), 0.5)
    >>> print(f'{fit.loss_scale:.3f}')
    3.000
  """
  start = paper_law(target_loss, loss_floor=loss_floor)
  sizes, counts = _checked_counts(batch_sizes, steps)

  def deviation(log_scale):
    law = start._replace(loss_scale=float(np.exp(log_scale)))
    return float(np.mean(np.log(law.steps(sizes) / counts) ** 2))

  # Steps grow with the scale at every size: between the scales that are right
  # for one of them each, the deviation has one minimum.
  alone = _log_scales(start, sizes, counts)
  low, high = alone.min(), alone.max()
  if high - low < 1e-9:
    return start._replace(loss_scale=float(np.exp(low)))
  fit = scipy.optimize.minimize_scalar(
    deviation, bounds=(low, high), method='bounded', options={'xatol': 1e-9}
  )
  return start._replace(loss_scale=float(np.exp(fit.x)))


def _log_scales(
  law: PaperLaw, sizes: np.ndarray, counts: np.ndarray
) -> np.ndarray:
  """Log of the scale with which the law is right, for each size."""
  bound = 1.0 / np.sqrt(sizes * counts) + 1.0 / counts
  return np.log((law.target_loss - law.loss_floor) / bound)


class CriticalBatchLaw(NamedTuple):
  r"""Steps to a loss: :math:`S(b) = S_{min} (1 + B_{crit} / b)`.

  Attributes:
    min_steps: float, S_min > 0, steps with batches of any size.
    critical_batch_size: float, B_crit >= 0, examples, from where on bigger
      batches save ever fewer steps.
    min_steps_error: float, standard error; NaN where it was not fitted.
    critical_batch_size_error: float, standard error; NaN likewise.
  """

  min_steps: float
  critical_batch_size: float
  min_steps_error: float = float('nan')
  critical_batch_size_error: float = float('nan')

  def steps(self, batch_size: Any) -> Any:
    """Steps at a batch size, or at an array of them; not rounded."""
    size = _checked_size(batch_size)
    return self.min_steps * (1.0 + self.critical_batch_size / size)


def critical_batch_law(
  critical_batch_size: float,
  *,
  batch_size: int | None = None,
  steps: float = 1.0,
) -> CriticalBatchLaw:
  r"""The critical-batch-size law, from one run and the gradient noise scale.

  .. math::
    S(b) = S_{min} \left(1 + \frac{B_{crit}}{b}\right).

  Args:
    critical_batch_size: B_crit >= 0, examples; :func:`gradient_noise_scale`
      estimates it.
    batch_size: examples of the run that needed `steps`; None makes `steps` the
      S_min. (The best batch size does not depend on S_min.)
    steps: > 0.

  Returns:
    A :class:`CriticalBatchLaw`.

  Raises:
    ValueError: on a number out of range.

  Examples:
    >>> from isgd_jax import batch_size
    >>> law = batch_size.critical_batch_law(300.0, batch_size=100, steps=2000)
    >>> print(law.min_steps, law.steps(300))
    500.0 1000.0

  References:
    McCandlish et al., `An Empirical Model of Large-Batch Training
    <https://arxiv.org/abs/1812.06162>`_, 2018, equation 2.11.
  """
  _checks.check_number('critical_batch_size', critical_batch_size, minimum=0.0)
  _checks.check_number('steps', steps, above=0.0)
  if batch_size is not None:
    _checks.check_number('batch_size', batch_size, above=0.0)
    steps = steps / (1.0 + critical_batch_size / batch_size)
  return CriticalBatchLaw(float(steps), float(critical_batch_size))


def fit_critical_batch_law(
  batch_sizes: Sequence[int] | np.ndarray,
  steps: Sequence[float] | np.ndarray,
) -> CriticalBatchLaw:
  """S_min and B_crit, from steps that were needed at several batch sizes.

  Args:
    batch_sizes: [n] examples, at least three different sizes.
    steps: [n] steps > 0 to one loss, each at a learning rate tuned for its
      size.

  Returns:
    The :class:`CriticalBatchLaw` of the least squared deviation of log steps,
    with standard errors from the scatter around it.

  Raises:
    ValueError: on fewer than three sizes, or numbers that are not positive.

  Examples:
    >>> import numpy as np
    >>> from isgd_jax import batch_size
    >>> sizes = np.array([16, 64, 256, 1024])
    >>> law = batch_size.fit_critical_batch_law(sizes, 500 * (1 + 300 / sizes))
    >>> print(f'{law.min_steps:.1f} {law.critical_batch_size:.1f}')
    500.0 300.0

  References:
    McCandlish et al., `An Empirical Model of Large-Batch Training
    <https://arxiv.org/abs/1812.06162>`_, 2018.
  """
  sizes, counts = _checked_counts(batch_sizes, steps)
  if len(np.unique(sizes)) < 3:
    raise ValueError(
      'batch_sizes must be at least three different sizes, got '
      f'{sorted(map(float, np.unique(sizes)))}. Train at more of them.'
    )

  def deviations(log_parameters):
    min_steps, critical = np.exp(log_parameters)
    return np.log(min_steps * (1.0 + critical / sizes) / counts)

  fits = [
    scipy.optimize.least_squares(
      deviations,
      np.log([counts.min() / 2.0, size]),
      # A wide range that is still one of numbers.
      bounds=(
        np.log([counts.min() * 1e-9, sizes.min() * 1e-6]),
        np.log([counts.max() * 1e3, sizes.max() * 1e6]),
      ),
      xtol=1e-12,
      ftol=1e-12,
      gtol=1e-12,
    )
    for size in (sizes.min(), sizes.max())
  ]
  fit = min(fits, key=lambda fit: fit.cost)
  freedom = max(len(sizes) - 2, 1)
  covariance = np.linalg.pinv(fit.jac.T @ fit.jac) * 2.0 * fit.cost / freedom
  values = np.exp(fit.x)
  errors = values * np.sqrt(np.maximum(np.diag(covariance), 0.0))
  return CriticalBatchLaw(*map(float, values), *map(float, errors))


def _checked_size(batch_size: Any) -> np.ndarray:
  """Batch sizes as float64; raises unless all are positive."""
  size = np.asarray(batch_size, np.float64)
  bad = size[~(np.isfinite(size) & (size > 0))]
  if bad.size:
    raise ValueError(f'batch_size must be positive, got {bad[0]:g}.')
  return size


def _checked_counts(
  batch_sizes: Sequence[int] | np.ndarray, steps: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Both as float64 vectors of one length."""
  sizes = _checked_size(batch_sizes)
  counts = np.asarray(steps, np.float64)
  if sizes.ndim != 1 or not sizes.size or sizes.shape != counts.shape:
    raise ValueError(
      'batch_sizes and steps must be lists of one length, at least 1, got '
      f'shapes {sizes.shape} and {counts.shape}.'
    )
  bad = counts[~(np.isfinite(counts) & (counts > 0))]
  if bad.size:
    raise ValueError(
      f'steps must be positive and finite, got {bad[0]:g}. Leave out runs that '
      'did not reach the loss.'
    )
  return sizes, counts
