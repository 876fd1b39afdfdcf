"""A reaction: the batch is dropped."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax import _checks
from isgd_jax._reactions.reaction import Reaction
from isgd_jax._reactions.reaction import ReactionStep


class SkippingState(NamedTuple):
  """State of the reaction :func:`skip`.

  Attributes:
    num_above_in_a_row: int32 scalar, flagged batches since the last one that
      was judged and not flagged; counted up to `max_consecutive`.
  """

  num_above_in_a_row: jax.Array


def skip(
  max_consecutive: jax.typing.ArrayLike | None = 10,
  *,
  skip_non_finite: bool = False,
) -> Reaction:
  """Drops flagged batches: the update is zero, the base state stays as it was.

  Args:
    max_consecutive: most batches >= 1 dropped in a row; the next ones are let
      through until one is not flagged: what stays is no spike. None for no
      bound.
    skip_non_finite: whether a batch is dropped, too, where a statistic that the
      chart judges is not finite, in Phase I as well; these do not count towards
      `max_consecutive`.

  Returns:
    A :class:`Reaction` for :func:`react`.

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> optimizer = isgd_jax.react(
    ...     optax.sgd(0.1), isgd_jax.shewhart(2), isgd_jax.skip())
    >>> params = jnp.zeros(3)
    >>> opt_state = optimizer.init(params)
    >>> for loss in (1.0, 1.1, 5.0):
    ...   updates, opt_state = optimizer.update(
    ...       jnp.ones(3), opt_state, params, value=loss)
    >>> print(updates, isgd_jax.get_info(opt_state).num_skipped)
    [0. 0. 0.] 1
  """
  if max_consecutive is not None:
    _checks.check_number(
      'max_consecutive', max_consecutive, minimum=1, integer=True
    )

  def init_fn(params: Any) -> SkippingState:
    del params
    return SkippingState(jnp.zeros((), jnp.int32))

  def before_fn(
    state: SkippingState, step: ReactionStep
  ) -> tuple[SkippingState, ReactionStep]:
    is_above, row = step.reading.is_above, state.num_above_in_a_row
    if max_consecutive is None:
      is_skipped = is_above
    else:
      most = jnp.asarray(max_consecutive).astype(jnp.int32)
      is_skipped = is_above & (row < most)
      row = jnp.where(is_above, jnp.minimum(row + 1, most), 0)
      is_judged = is_above | step.is_finite
      row = jnp.where(is_judged, row, state.num_above_in_a_row)
    if skip_non_finite:
      is_skipped |= ~step.is_finite
    if step.is_skipped is not None:
      is_skipped |= step.is_skipped
    return SkippingState(row), step._replace(is_skipped=is_skipped)

  return Reaction('skip', init_fn, before_fn)
