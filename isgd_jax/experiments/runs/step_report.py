"""What a training step reports, packed into one vector: one transfer a step.

A report is a NamedTuple of scalars. Its fields that are counts or flags come
back from the device as such.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

import isgd_jax
from isgd_jax.experiments.optimizers.rival_reactions import RivalState

Report = TypeVar('Report', bound=tuple)

_COUNTS = frozenset(
  {
    *('num_extra_steps', 'num_chase_steps', 'num_gradient_evaluations'),
    *('num_examples', 'num_undecodable', 'violated_rules'),
    'num_chases_paid',
  }
)
_FLAGS = frozenset(
  {
    *('is_undertrained', 'is_chase_reverted', 'is_well_trained'),
    *('is_skipped', 'is_on_probation', 'is_chase_undone'),
  }
)


def of_chart(
  loss: float | jax.Array, opt_state: Any, fields: Sequence[str]
) -> dict[str, Any]:
  """The fields that the control chart and the chase have to report.

  Args:
    loss: of the batch before training on it.
    opt_state: after the step.
    fields: of `isgd_jax.ISGDInfo`.

  Returns:
    Each field by name. Without a chart nothing is flagged, a limit is NaN, and
    the final loss is `loss`.

  Example:
    >>> of_chart(0.5, None, ['mean', 'final_loss', 'is_skipped'])
    {'mean': nan, 'final_loss': 0.5, 'is_skipped': False}
  """
  if isinstance(
    opt_state,
    isgd_jax.ISGDState | isgd_jax.SkipState | isgd_jax.ReactState | RivalState,
  ):
    info = isgd_jax.get_info(opt_state)
    return {name: getattr(info, name) for name in fields}

  def without_chart(name: str) -> Any:
    if name == 'final_loss':
      return loss
    if name in _COUNTS:
      return 0
    return False if name in _FLAGS else float('nan')

  return {name: without_chart(name) for name in fields}


def pack(report: tuple[Any, ...]) -> jax.Array:
  """[number of fields] float32."""
  return jnp.stack([jnp.asarray(x).astype(jnp.float32) for x in report])


def unpack(kind: type[Report], packed: np.ndarray) -> Report:
  """Takes apart what steps reported.

  Args:
    kind: of the report.
    packed: [num_steps, number of fields] float32.

  Returns:
    The report, of arrays [num_steps]: float32, counts int64, flags bool.
  """
  columns = zip(kind._fields, np.asarray(packed).T, strict=True)  # pyright: ignore[reportAttributeAccessIssue]

  def as_its_kind(name: str, column: np.ndarray) -> np.ndarray:
    if name in _COUNTS:
      return column.astype(np.int64)
    return column.astype(bool) if name in _FLAGS else column

  return kind(*(as_its_kind(name, column) for name, column in columns))
