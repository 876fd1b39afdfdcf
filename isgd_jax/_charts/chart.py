"""What a control chart is: it judges a batch loss, and takes it in.

A chart is a pair of pure functions, like an Optax transformation. Its state is
a pytree of arrays of fixed shape, so a chart lives in an optimizer state, under
`jit`, `scan` and `vmap`, and in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class ChartReading(NamedTuple):
  """What a control chart says of one loss.

  Attributes:
    mean: centre line, floating scalar in units of the loss; 0 while the chart
      has seen no finite loss.
    sigma: standard deviation that the limits are built from, floating scalar in
      units of the loss.
    lower_limit: lower control limit of the statistic, floating scalar; `-inf`
      in Phase I.
    upper_limit: upper control limit of the statistic, floating scalar; `+inf`
      in Phase I.
    is_above: boolean scalar, true where the chart finds a finite loss out of
      control upwards: its batch is under-trained.
    is_below: boolean scalar, true where it does so downwards: its batch is
      well-trained.
    statistic: what lies within the limits or beyond, floating scalar in units
      of the loss: the loss itself, or a sum or average that it enters. None in
      a chart of one's own means the loss.
    violated_rules: int32 scalar; bit i is set where the i-th run rule is
      violated (:func:`with_run_rules`). None means none.
  """

  mean: jax.Array
  sigma: jax.Array
  lower_limit: jax.Array
  upper_limit: jax.Array
  is_above: jax.Array
  is_below: jax.Array
  statistic: jax.Array | None = None
  violated_rules: jax.Array | None = None


class ControlChart(NamedTuple):
  """A statistical-process-control chart: pure functions.

  Attributes:
    init: `init() -> state`, a pytree of arrays whose structure, shapes and
      dtypes never change.
    update: `update(state, loss) -> (state, ChartReading)`: judges `loss`, a
      real scalar, and takes it in. A non-finite loss is neither flagged nor
      taken in.
    kind: what the chart is, for the charts that are built upon others:
      `'shewhart'` where the statistic is the loss itself and the limits are a
      multiple of sigma from the mean.
    restart: `restart(state, is_due) -> state`: back in Phase I where `is_due`,
      a boolean scalar. None has the whole state of `init` put in.

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
  kind: str = 'custom'
  restart: Callable[[Any, jax.Array], Any] | None = None


def read_limits(
  loss: jax.Array,
  statistic: jax.Array,
  mean: jax.Array,
  sigma: jax.Array,
  width: jax.Array,
) -> ChartReading:
  """Judges a statistic by the limits `mean` plus and minus `width`."""
  lower_limit, upper_limit = mean - width, mean + width
  is_finite = jnp.isfinite(loss)
  return ChartReading(
    mean=mean,
    sigma=sigma,
    lower_limit=lower_limit,
    upper_limit=upper_limit,
    is_above=is_finite & (statistic > upper_limit),
    is_below=is_finite & (statistic < lower_limit),
    statistic=statistic,
    violated_rules=jnp.zeros((), jnp.int32),
  )


def restart_if(chart: ControlChart, state: Any, is_due: jax.Array) -> Any:
  """`state`, or where `is_due` a state in Phase I."""
  if chart.restart is not None:
    return chart.restart(state, is_due)
  return jax.tree.map(
    lambda new, old: jnp.where(is_due, new, old), chart.init(), state
  )


def z_score(reading: ChartReading, loss: jax.Array) -> jax.Array:
  """How many sigmas `loss` lies above the mean; infinite if sigma is 0."""
  deviation = loss - reading.mean
  has_sigma = reading.sigma > 0
  ratio = deviation / jnp.where(has_sigma, reading.sigma, 1.0)
  beyond = jnp.where(deviation > 0, jnp.inf, -jnp.inf)
  beyond = jnp.where(deviation == 0, 0.0, beyond)
  return jnp.where(has_sigma, ratio, beyond)
