"""Which scalars of a step a chart judges, and how they come about."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from isgd_jax import _checks
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart

LOSS, GRADIENT_NORM, UPDATE_NORM = 'loss', 'gradient_norm', 'update_norm'
NORMS = (GRADIENT_NORM, UPDATE_NORM)
# Arguments of `update` that are no statistic of their own.
_TAKEN = (
  *('updates', 'state', 'params', 'value', 'value_fn', 'grad'),
  *('shard_weight', 'chart_reading'),
)


def check_name(statistic: Any) -> None:
  """Raises unless `statistic` names something that a step has or is given."""
  is_name = isinstance(statistic, str) and statistic.isidentifier()
  if not is_name or statistic in _TAKEN:
    raise ValueError(
      "statistic must be 'loss', 'gradient_norm', 'update_norm' or the name of "
      f'a further argument of update, got {statistic!r}.'
    )


def names_of(chart: ControlChart) -> list[str]:
  """The statistics of a chart, those of its parts in order."""
  return jax.tree.leaves(chart.statistic)


def leaf_readings(reading: ChartReading) -> list[ChartReading]:
  """The readings of single statistics that a reading is made of, in order."""
  if reading.parts is None:
    return [reading]
  return [leaf for part in reading.parts for leaf in leaf_readings(part)]


def primary_of(names: list[str]) -> int:
  """Which of them the joined reading is about: the first loss, or the first."""
  return names.index(LOSS) if LOSS in names else 0


def global_norm(tree: Any) -> jax.Array:
  """Euclidean norm of all elements, accumulated in float32 or wider.

  The squares of the leaves are summed up as a vector: XLA would fuse a chain of
  additions into all that uses the norm.
  """
  dtype = jnp.result_type(float)
  squares = [
    jnp.sum(jnp.square(jnp.abs(leaf).astype(dtype)))
    for leaf in jax.tree.leaves(tree)
  ]
  vector = jnp.stack([*squares, jnp.zeros((), dtype)])
  return jnp.sqrt(jnp.sum(jax.lax.optimization_barrier(vector)))


def gradient_of(updates: Any, grad: Any) -> Any:
  """`grad`, or `updates` where it is not given; masked as `updates` are."""
  if grad is None:
    return updates
  is_masked = lambda node: isinstance(node, optax.MaskedNode)
  return jax.tree.map(
    lambda u, g: u if is_masked(u) else g, updates, grad, is_leaf=is_masked
  )


def statistic_of(
  transformation: str,
  name: str,
  *,
  updates: Any,
  grad: Any,
  extra_args: dict[str, Any],
) -> Any:
  """The scalar of that name, of this device where it has its own.

  Raises:
    ValueError: if it is to be given, and is missing or no real scalar.
  """
  if name == UPDATE_NORM:
    return global_norm(updates)
  if name == GRADIENT_NORM:
    return global_norm(gradient_of(updates, grad))
  remedy = 'Its chart judges it, and it must be a real scalar.'
  given: Any = _checks.given(
    name,
    extra_args.get(name),
    remedy,
    transformation=transformation,
    call=f'optimizer.update(grads, opt_state, params, {name}=..., ...)',
  )
  _checks.check_real_scalar(name, given, remedy)
  return given


def check_chart(
  transformation: str,
  chart: ControlChart,
  *,
  axis_name: Any = None,
  any_device: bool = False,
) -> None:
  """Raises unless the chart, and how it is asked, make sense."""
  if not isinstance(any_device, bool):
    raise ValueError(f'any_device must be True or False, got {any_device!r}.')
  if any_device and axis_name is None:
    raise ValueError(
      f'any_device=True of {transformation} needs axis_name, the device axis '
      'whose losses are looked at one by one. Under plain jax.jit there is one '
      'loss, of the whole batch.'
    )
  if any_device and all(name in NORMS for name in names_of(chart)):
    raise ValueError(
      f'any_device=True of {transformation} needs a chart of the loss, or of a '
      f'scalar that each device passes, got one of {chart.statistic!r}: '
      'gradients are averaged over the devices already.'
    )


def placeholders(chart: ControlChart) -> Any:
  """Zeros in place of what the chart's `update` judges."""
  return jax.tree.map(lambda name: 0.0, chart.statistic)


def is_finite(values: Any) -> jax.Array:
  """Whether all statistics are finite, a boolean scalar."""
  first, *others = [jnp.isfinite(value) for value in jax.tree.leaves(values)]
  for other in others:
    first &= other
  return first


def readings_of(
  chart: ControlChart, reading: ChartReading, names: tuple[str, ...]
) -> list[ChartReading]:
  """The readings of the statistics that have one of these names."""
  pairs = zip(names_of(chart), leaf_readings(reading), strict=True)
  return [part for name, part in pairs if name in names]
