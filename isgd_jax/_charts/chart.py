"""What a control chart is: it judges a batch loss, and takes it in.

A chart is a pair of pure functions, like an Optax transformation. Its state is
a pytree of arrays of fixed shape, so a chart lives in an optimizer state, under
`jit`, `scan` and `vmap`, and in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
import weakref

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
    loss_limit: upper control limit of this one loss, floating scalar in units
      of the loss: the largest with which the batch would not have been flagged
      upwards, the losses before it being what they are, but never below the
      mean; `+inf` in Phase I. It is what ``chase_to='limit'`` of :func:`isgd`
      chases to. None means `upper_limit`, where the statistic is the loss.
    deviation: the loss minus the mean, floating scalar, with the digits that
      the rounded mean has lost. None means their difference.
    baseline: what is taken off the loss before it is compared with the losses
      of other batches, floating scalar (:func:`difference_chart`). None means
      0.
    parts: readings of the charts that this one is joined from, a tuple
      (:func:`any_of`). None where it is joined from none.
  """

  mean: jax.Array
  sigma: jax.Array
  lower_limit: jax.Array
  upper_limit: jax.Array
  is_above: jax.Array
  is_below: jax.Array
  statistic: jax.Array | None = None
  violated_rules: jax.Array | None = None
  loss_limit: jax.Array | None = None
  deviation: jax.Array | None = None
  baseline: jax.Array | None = None
  parts: tuple[ChartReading, ...] | None = None


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
    statistic: what the chart judges, the `'loss'` of the batch or what
      :func:`chart_of` says; of a joined chart the tuple of those of its parts,
      and `update` takes a tuple of scalars like it.

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
  update: Callable[[Any, Any], tuple[Any, ChartReading]]
  kind: str = 'custom'
  restart: Callable[[Any, jax.Array], Any] | None = None
  statistic: Any = 'loss'


def limits_around(
  anchor: jax.Array, offset: jax.Array, width: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """`anchor + offset` minus and plus `width`, rounded towards the centre.

  A loss, whose digits are those of the limits, then lies beyond a rounded limit
  just where it lies beyond the exact one.
  """
  below, above = offset - width, offset + width
  lower, upper = anchor + below, anchor + above
  lower = jnp.where(lower - anchor < below, jnp.nextafter(lower, upper), lower)
  upper = jnp.where(upper - anchor > above, jnp.nextafter(upper, lower), upper)
  return lower, upper


def read_limits(
  loss: jax.Array,
  anchor: jax.Array,
  offset: jax.Array,
  sigma: jax.Array,
  width: jax.Array,
) -> ChartReading:
  """Judges a loss by the limits `anchor + offset` plus and minus `width`."""
  lower_limit, upper_limit = limits_around(anchor, offset, width)
  is_finite = jnp.isfinite(loss)
  return ChartReading(
    mean=anchor + offset,
    sigma=sigma,
    lower_limit=lower_limit,
    upper_limit=upper_limit,
    is_above=is_finite & (loss > upper_limit),
    is_below=is_finite & (loss < lower_limit),
    statistic=loss,
    violated_rules=jnp.zeros((), jnp.int32),
    loss_limit=upper_limit,
    deviation=(jnp.where(is_finite, loss, anchor) - anchor) - offset,
    baseline=jnp.zeros_like(loss),
  )


def reciprocal(
  mean: jax.Array, limit: jax.Array, value: jax.Array
) -> jax.Array:
  """Above the mean by the limit's distance squared over that of `value`."""
  distance = value - mean
  is_above = distance > 0
  width = jnp.where(is_above, limit - mean, 0.0)
  return mean + width * (width / jnp.where(is_above, distance, 1.0))


def loss_limit_of(reading: ChartReading) -> jax.Array:
  """The upper control limit of the loss itself, in units of the loss.

  Raises:
    ValueError: if the chart holds something else than the loss against its
      limits, and does not say what that means for the loss.
  """
  if reading.loss_limit is not None:
    return reading.loss_limit
  if reading.statistic is not None:
    raise ValueError(
      "chase_to='limit' needs the limit of a loss, but the chart's limits are "
      'those of a statistic of its own, and loss_limit of its ChartReading is '
      "None. Have the chart's update set loss_limit, or take chase_to='mean'."
    )
  return reading.upper_limit


def as_arrays(
  reading: ChartReading,
  dtype: jax.typing.DTypeLike | None,
  loss: jax.typing.ArrayLike,
) -> ChartReading:
  """The reading of any chart, Python's numbers too, with arrays in all fields.

  Args:
    reading: what `update` of a chart returned for `loss`.
    dtype: that of the floating fields; None for that of the mean, but at least
      float32.
    loss: the loss that was judged.

  Returns:
    The reading, its floating fields in `dtype`, flags boolean, rules int32.
    Only `loss_limit` stays None where :func:`loss_limit_of` would raise. The
    parts, if any, are left as they are.

  Raises:
    ValueError: on a field that is no real scalar.
  """
  parts, reading = reading.parts, reading._replace(parts=None)
  for name, field in zip(reading._fields, reading, strict=True):
    if field is not None:
      _checks.check_real_scalar(
        f'{name} of a ChartReading',
        jnp.asarray(field).astype(jnp.int32)
        if name in ('is_above', 'is_below')
        else field,
        "It is what the control chart's update returns.",
      )
  if dtype is None:
    dtype = jnp.result_type(reading.mean)
    if not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits < 32:
      dtype = jnp.float32
  floating = lambda x: jnp.asarray(x).astype(dtype)
  loss, mean = floating(loss), floating(reading.mean)
  has_limit = reading.loss_limit is not None or reading.statistic is None
  filled = reading._replace(
    mean=mean,
    statistic=loss if reading.statistic is None else reading.statistic,
    violated_rules=(
      0 if reading.violated_rules is None else reading.violated_rules
    ),
    loss_limit=loss_limit_of(reading) if has_limit else 0.0,
    deviation=_deviation(reading, loss),
    baseline=0.0 if reading.baseline is None else reading.baseline,
  )
  integers = {
    'is_above': jnp.asarray(filled.is_above).astype(bool),
    'is_below': jnp.asarray(filled.is_below).astype(bool),
    'violated_rules': jnp.asarray(filled.violated_rules).astype(jnp.int32),
  }
  filled = jax.tree.map(floating, filled)._replace(**integers, parts=parts)
  return filled if has_limit else filled._replace(loss_limit=None)


# Of each chart's `init`, by the default dtype: shapes do not change.
_SHAPES: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = (
  weakref.WeakKeyDictionary()
)


def check_state(chart: ControlChart, state: Any) -> None:
  """Raises unless `state` has the structure, shapes and dtypes of `chart`'s.

  A checkpoint can be restored without any look at shapes, and a window of
  another size then be read as if it were this chart's.

  Raises:
    ValueError: on the state of another chart; it names the first difference.
  """
  remedy = (
    'Is it from a checkpoint of another chart, window_size or version? Take '
    'the chart that the state was made with, or init anew.'
  )
  expected = _expected_state(chart)
  want, got = jax.tree.structure(expected), jax.tree.structure(state)
  if want != got:
    raise ValueError(
      f"the control chart's state must be that of a chart of kind "
      f'{chart.kind!r}, {want}, got {got}. {remedy}'
    )
  for (path, leaf), other in zip(
    jax.tree_util.tree_leaves_with_path(expected),
    jax.tree.leaves(state),
    strict=True,
  ):
    shapes = leaf.shape, jnp.shape(other)
    dtypes = leaf.dtype, jnp.result_type(other)
    if shapes[0] != shapes[1] or dtypes[0] != dtypes[1]:
      want, got = (
        f'{dtype}{list(shape)}'
        for dtype, shape in zip(dtypes, shapes, strict=True)
      )
      raise ValueError(
        f"the control chart's state has {got} in "
        f'{jax.tree_util.keystr(path)}, where the chart of kind {chart.kind!r} '
        f'has {want}. {remedy}'
      )


def _expected_state(chart: ControlChart) -> Any:
  """Shapes and dtypes of the chart's state; traced once a chart."""
  x64 = jnp.result_type(float)
  try:
    known = _SHAPES.setdefault(chart.init, {})
  except TypeError:  # Of what cannot be hashed, or weakly referred to.
    known = {}
  if x64 not in known:
    known[x64] = jax.eval_shape(chart.init)
  return known[x64]


def restart_if(chart: ControlChart, state: Any, is_due: jax.Array) -> Any:
  """`state`, or where `is_due` a state in Phase I."""
  if chart.restart is not None:
    return chart.restart(state, is_due)
  return jax.tree.map(
    lambda new, old: jnp.where(is_due, new, old), chart.init(), state
  )


def check_single(name: str, chart: ControlChart) -> None:
  """Raises if a chart that `name` is to go around is joined from several."""
  if not isinstance(chart.statistic, str):
    raise ValueError(
      f'{name} needs a chart of one statistic, got one of kind {chart.kind!r} '
      f'of {chart.statistic}. Put {name} around its parts, then join them.'
    )


def z_score(reading: ChartReading, loss: jax.Array) -> jax.Array:
  """How many sigmas `loss` lies above the mean; infinite if sigma is 0."""
  deviation = _deviation(reading, loss)
  has_sigma = reading.sigma > 0
  ratio = deviation / jnp.where(has_sigma, reading.sigma, 1.0)
  beyond = jnp.where(deviation > 0, jnp.inf, -jnp.inf)
  beyond = jnp.where(deviation == 0, 0.0, beyond)
  return jnp.where(has_sigma, ratio, beyond)


def _deviation(reading: ChartReading, loss: jax.Array) -> jax.Array:
  """The loss minus the mean, as exactly as the chart gives it."""
  if reading.deviation is not None:
    return reading.deviation
  return loss - reading.mean
