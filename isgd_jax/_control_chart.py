"""Control charts over batch losses: is this loss out of control?

A chart is a pair of pure functions, like an Optax transformation. Its state is
a pytree of arrays of fixed shape, so a chart lives in an optimizer state, under
`jit`, `scan` and `vmap`, and in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax import _checks


class ChartReading(NamedTuple):
  """What a control chart says of one loss.

  Attributes:
    mean: centre line, floating scalar in units of the loss; 0 while the chart
      has seen no finite loss.
    sigma: standard deviation that the limits are built from, floating scalar in
      units of the loss.
    lower_limit: lower control limit, floating scalar; `-inf` in Phase I.
    upper_limit: upper control limit, floating scalar; `+inf` in Phase I.
    is_above: boolean scalar, true for a finite loss above the upper limit.
    is_below: boolean scalar, true for a finite loss below the lower limit.
  """

  mean: jax.Array
  sigma: jax.Array
  lower_limit: jax.Array
  upper_limit: jax.Array
  is_above: jax.Array
  is_below: jax.Array


class ControlChart(NamedTuple):
  """A statistical-process-control chart: a pair of pure functions.

  Attributes:
    init: `init() -> state`, a pytree of arrays whose structure, shapes and
      dtypes never change.
    update: `update(state, loss) -> (state, ChartReading)`: judges `loss`, a
      real scalar, and takes it in. A non-finite loss is neither flagged nor
      taken in.

  Examples:
    >>> import isgd_jax
    >>> chart = isgd_jax.shewhart(window_size=4, sigma_multiplier=2.0)
    >>> state = chart.init()
    >>> for loss in (1.0, 2.0, 1.0, 2.0, 9.0):
    ...   state, reading = chart.update(state, loss)
    >>> print(f'{reading.upper_limit:.1f} {reading.is_above}')
    2.5 True
  """

  init: Callable[[], Any]
  update: Callable[[Any, jax.typing.ArrayLike], tuple[Any, ChartReading]]


class ShewhartState(NamedTuple):
  """State of a Shewhart chart: a ring buffer of losses, summed up by block.

  The losses lie in `num_blocks` blocks of `block_size`. A new loss changes one
  block only, whose summary is then made anew from the block's own losses; the
  window's statistics come from the summaries. Nothing is ever subtracted from
  a running sum, so no rounding error accumulates, and one update costs
  O(sqrt(window_size)).

  The fields are few because each leaf of an optimizer state costs a microsecond
  or two whenever a step is dispatched.

  Attributes:
    window: losses, float[num_blocks, block_size].
    block_summaries: float[3, num_blocks], of each block its anchor, its mean
      minus the anchor, and its sum of squared deviations from its mean. The
      anchor is one of its losses: deviations from it keep the digits of small
      noise on a large loss.
    num_taken_in: int32 scalar, losses taken in so far; from 2 window_size on,
      less as many whole windows as bring it below that.
  """

  window: jax.Array
  block_summaries: jax.Array
  num_taken_in: jax.Array


def shewhart(
  window_size: int,
  sigma_multiplier: jax.typing.ArrayLike = 3.0,
  *,
  winsorize: bool = False,
) -> ControlChart:
  r"""Shewhart chart of the last `window_size` losses.

  A loss :math:`\psi_t` is judged against the :math:`n` losses before it,

  .. math::
    \bar\psi = \frac{1}{n} \sum_{i=1}^{n} \psi_{t-i}, \qquad
    \sigma^2 = \frac{1}{n} \sum_{i=1}^{n} (\psi_{t-i} - \bar\psi)^2, \qquad
    \bar\psi \pm k \sigma,

  and is out of control beyond a limit. Until the window is full (Phase I) the
  limits are infinite and nothing is flagged. Non-finite losses never enter the
  window. The statistics have JAX's default floating dtype (float32, or float64
  under `jax_enable_x64`), whatever the dtype of the losses.

  Judging a loss against the losses *before* it differs from the published
  algorithm, which has it in its own window: there the largest possible
  z-score is :math:`\sqrt{n - 1}`, and no loss is ever beyond 3 sigma for
  :math:`n \le 10`.

  Args:
    window_size: number of losses in the window, n >= 2. One epoch's batches on
      fixed-cycle data; on a stream, about as many batches as it takes the loss
      to settle.
    sigma_multiplier: width k > 0 of the limits, in standard deviations.
    winsorize: whether an out-of-control loss enters the window clipped to the
      limit it has passed, so that a shift cannot inflate the window that is to
      detect it. The window then follows a shift by its own width at a time: a
      level a thousand sigmas higher is flagged for hundreds of losses.

  Returns:
    A :class:`ControlChart`. Its state holds `window_size` floats and a few
    more; donate it to the jitted step, or the window is copied at each step.

  Raises:
    ValueError: if `window_size` is not an integer of at least 2, or
      `sigma_multiplier` is not a positive number.

  Examples:
    >>> import jax, isgd_jax
    >>> chart = isgd_jax.shewhart(window_size=8)
    >>> losses = jax.random.normal(jax.random.key(0), (50,)).at[40].set(9.0)
    >>> _, readings = jax.lax.scan(chart.update, chart.init(), losses)
    >>> bool(readings.is_above[40])
    True

  References:
    Montgomery, *Introduction to Statistical Quality Control*, Wiley, ch. 6.

    Chan, Golub, LeVeque, `Algorithms for Computing the Sample Variance
    <https://doi.org/10.1080/00031305.1983.10483115>`_, 1983 (how the
    summaries of two samples combine).
  """
  return _shewhart(
    window_size, sigma_multiplier, winsorize, judges_itself=False
  )


def paper_chart(batches_per_epoch: int) -> ControlChart:
  """The published chart: mean + 3 sigma of a queue that holds the loss judged.

  The queue is first filled (one epoch); then each loss replaces the oldest one
  *before* mean and sigma are taken.
  """
  # A sample of n has no z-score above sqrt(n - 1): 3 is out of reach at 10.
  _checks.check_integer('batches_per_epoch', batches_per_epoch, minimum=11)
  return _shewhart(batches_per_epoch, 3.0, winsorize=False, judges_itself=True)


def _shewhart(
  window_size: int,
  sigma_multiplier: jax.typing.ArrayLike,
  winsorize: bool,
  judges_itself: bool,
) -> ControlChart:
  """A Shewhart chart, with or without the judged loss in the window."""
  _checks.check_integer('window_size', window_size, minimum=2)
  _checks.check_number('sigma_multiplier', sigma_multiplier, above=0.0)
  block_size = _block_size(window_size)
  num_blocks = math.ceil(window_size / block_size)

  def init_fn() -> ShewhartState:
    return ShewhartState(
      window=jnp.zeros((num_blocks, block_size)),
      block_summaries=jnp.zeros((3, num_blocks)),
      num_taken_in=jnp.zeros((), jnp.int32),
    )

  def read(state: ShewhartState, loss: jax.Array, is_full) -> ChartReading:
    """Judges `loss` against the window, in Phase II if `is_full`."""
    mean, sigma = _mean_and_sigma(state, window_size)
    width = jnp.where(is_full, sigma_multiplier * sigma, jnp.inf)
    lower_limit, upper_limit = mean - width, mean + width
    is_finite = jnp.isfinite(loss)
    return ChartReading(
      mean=mean,
      sigma=sigma,
      lower_limit=lower_limit,
      upper_limit=upper_limit,
      is_above=is_finite & (loss > upper_limit),
      is_below=is_finite & (loss < lower_limit),
    )

  def update_fn(
    state: ShewhartState, loss: jax.typing.ArrayLike
  ) -> tuple[ShewhartState, ChartReading]:
    loss = jnp.asarray(loss).astype(state.window.dtype)
    is_full = state.num_taken_in >= window_size
    if judges_itself:
      state = _take_in(state, loss, window_size)
      return state, read(state, loss, is_full)
    reading = read(state, loss, is_full)
    if winsorize:
      # A window of equal losses has no width: clipped to it, none would enter.
      is_out = (reading.is_above | reading.is_below) & (reading.sigma > 0)
      clipped = jnp.clip(loss, reading.lower_limit, reading.upper_limit)
      loss = jnp.where(is_out, clipped, loss)
    return _take_in(state, loss, window_size), reading

  return ControlChart(init_fn, update_fn)


def _block_size(window_size: int) -> int:
  """Losses a block: all of a short window, a square root of a long one."""
  # Up to here one block costs less than keeping the summaries of several.
  return window_size if window_size <= 512 else math.isqrt(window_size - 1) + 1


def _block_counts(state: ShewhartState, window_size: int) -> jax.Array:
  """Number of losses in each block so far, int32[num_blocks]."""
  num_blocks, block_size = state.window.shape
  num_in_window = jnp.minimum(state.num_taken_in, window_size)
  start = block_size * jnp.arange(num_blocks, dtype=jnp.int32)
  return jnp.clip(num_in_window - start, 0, block_size)


def _mean_and_sigma(
  state: ShewhartState, window_size: int
) -> tuple[jax.Array, jax.Array]:
  """Mean and population standard deviation of the window; 0 if it is empty."""
  counts = _block_counts(state, window_size).astype(state.window.dtype)
  # Not 0 / 0: jax_debug_nans is to find the user's NaNs, not ours.
  total = jnp.maximum(jnp.sum(counts), 1.0)
  anchors, offsets, squares = state.block_summaries
  deviations = jnp.where(counts > 0, (anchors - anchors[0]) + offsets, 0.0)
  offset = jnp.sum(counts * deviations) / total
  between = jnp.sum(counts * jnp.square(deviations - offset))
  sigma = jnp.sqrt((jnp.sum(squares) + between) / total)
  return anchors[0] + offset, sigma


def _take_in(
  state: ShewhartState, loss: jax.Array, window_size: int
) -> ShewhartState:
  """Puts a finite `loss` in the place of the oldest; leaves out any other."""
  block_size = state.window.shape[1]
  is_finite = jnp.isfinite(loss)
  position = jax.lax.rem(state.num_taken_in, jnp.int32(window_size))
  block = jax.lax.div(position, jnp.int32(block_size))
  place = (block, position - block * block_size)
  window = state.window.at[place].set(
    jnp.where(is_finite, loss, state.window[place]), mode='promise_in_bounds'
  )
  num_taken_in = state.num_taken_in + is_finite.astype(jnp.int32)
  state = state._replace(
    window=window,
    num_taken_in=jnp.where(
      num_taken_in < 2 * window_size, num_taken_in, window_size
    ),
  )
  losses = jax.lax.dynamic_index_in_dim(window, block, keepdims=False)
  count = _block_counts(state, window_size)[block]
  is_in = jnp.arange(block_size, dtype=jnp.int32) < count
  anchor = losses[0]
  deviations = jnp.where(is_in, losses - anchor, 0.0)
  offset = jnp.sum(deviations) / jnp.maximum(count, 1).astype(losses.dtype)
  squares = jnp.sum(jnp.where(is_in, jnp.square(deviations - offset), 0.0))
  summary = jnp.stack([anchor, offset, squares])
  return state._replace(
    block_summaries=state.block_summaries.at[:, block].set(
      summary, mode='promise_in_bounds'
    )
  )
