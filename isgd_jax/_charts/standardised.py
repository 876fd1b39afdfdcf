"""What the EWMA and the CUSUM chart share: losses in terms of a reference."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from isgd_jax._charts import chart as chart_lib
from isgd_jax._charts.chart import ChartReading


def check_reference(name: str, reference: Any) -> None:
  """Raises unless a chart's mean and sigma are those of the losses."""
  kind = getattr(reference, 'kind', type(reference).__name__)
  if kind != 'shewhart':
    raise ValueError(
      f'reference of {name} must be a Shewhart chart, whose mean and sigma '
      f'are those of single losses, got one of kind {kind!r}. Take '
      'shewhart(...) or fixed_limits(...).'
    )


def standardise(
  given: ChartReading, loss: jax.typing.ArrayLike, clip: float | jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Whether the reference is past Phase I, the loss counts, and the loss.

  The loss is in sigmas from the reference's mean, clipped; 0 if it does not
  count.
  """
  loss = jnp.asarray(loss).astype(given.mean.dtype)
  is_ready = jnp.isfinite(given.upper_limit)
  is_new = is_ready & jnp.isfinite(loss)
  z = chart_lib.z_score(given, jnp.where(is_new, loss, given.mean))
  return is_ready, is_new, jnp.where(is_new, jnp.clip(z, -clip, clip), 0.0)


def read_standardised(
  given: ChartReading,
  is_new: jax.Array,
  statistic: jax.Array,
  upper: jax.Array,
  lower: jax.Array,
  limit_of_z: jax.Array,
) -> ChartReading:
  """A reading of a statistic in sigmas, in terms of the reference's reading.

  `upper` and `lower` are the distances of the limits from the mean, in sigmas;
  `limit_of_z` is the standardised loss at which the statistic would have been
  at its upper limit. It is judged in sigmas, and so also where sigma is 0.
  """
  is_ready = jnp.isfinite(given.upper_limit)
  return ChartReading(
    mean=given.mean,
    sigma=given.sigma,
    lower_limit=jnp.where(is_ready, given.mean - given.sigma * lower, -jnp.inf),
    upper_limit=jnp.where(is_ready, given.mean + given.sigma * upper, jnp.inf),
    is_above=is_new & (statistic > upper),
    is_below=is_new & (statistic < -lower),
    statistic=given.mean + given.sigma * statistic,
    violated_rules=jnp.zeros((), jnp.int32),
    # Not below the mean: after a row of high losses the statistic may be beyond
    # its limit whatever this loss is.
    loss_limit=jnp.where(
      is_ready,
      given.mean + given.sigma * jnp.maximum(limit_of_z, 0.0),
      jnp.inf,
    ),
    deviation=given.deviation,
    baseline=given.baseline,
  )
