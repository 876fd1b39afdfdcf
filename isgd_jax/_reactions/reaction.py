"""What a reaction is: pure functions around the update of a base optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from isgd_jax._charts.chart import ChartReading


class ReactionStep(NamedTuple):
  """A training step, as a reaction is shown it and hands it on.

  Attributes:
    updates: pytree: before the base update the gradients that come in, after it
      the updates that the base optimizer made of them.
    base_state: state of the base optimizer, pytree.
    params: the parameters, pytree, or None where `update` was given none.
    reading: what the chart says of the batch, a :class:`ChartReading`; one of a
      joined chart has `parts`.
    statistics: names of the statistics judged, a tuple of strings in the order
      of the parts.
    values: these statistics themselves, a tuple of scalars.
    is_finite: whether all statistics judged are finite, boolean scalar.
    base: the base optimizer.
    is_skipped: whether the update is to be zero and the base state left as it
      is, boolean scalar; None where no reaction has said so.
  """

  updates: optax.Updates
  base_state: optax.OptState
  params: optax.Params | None
  reading: ChartReading
  statistics: tuple[str, ...]
  values: tuple[jax.Array, ...]
  is_finite: jax.Array
  base: optax.GradientTransformationExtraArgs
  is_skipped: jax.Array | None = None


Hook = Callable[[Any, ReactionStep], tuple[Any, ReactionStep]]


class Reaction(NamedTuple):
  """What a flagged batch sets off: pure functions.

  A hook is handed the reaction's state and the step, and returns both, with
  what it changes of the step replaced: `updates`, `base_state` or `is_skipped`.
  It runs on every step, flagged or not, and must leave an unflagged step as it
  is, bit for bit: by `jnp.where`, not by a branch, which each costs a step on a
  GPU a round trip.

  Attributes:
    name: a name, unique among the reactions of an optimizer; its state stands
      under it.
    init: `init(params) -> state`, a pytree of arrays whose structure, shapes
      and dtypes never change.
    before: `before(state, step) -> (state, step)`, before the base update; None
      for nothing.
    after: the same after the base update; None for nothing.
    needs: the statistics of which the chart must judge at least one; empty for
      any chart.

  Examples:
    >>> import jax, jax.numpy as jnp, optax, isgd_jax
    >>> def halve(state, step):
    ...   factor = jnp.where(step.reading.is_above, 0.5, 1.0)
    ...   updates = jax.tree.map(lambda u: factor * u, step.updates)
    ...   state = jnp.where(step.reading.is_above, state + 1, state)
    ...   return state, step._replace(updates=updates)
    >>> half_step = isgd_jax.Reaction(
    ...     'half_step', init=lambda params: jnp.int32(0), after=halve)
    >>> optimizer = isgd_jax.react(
    ...     optax.sgd(0.1), isgd_jax.fixed_limits(1.0, 0.1), half_step)
    >>> params = jnp.zeros(2)
    >>> updates, state = optimizer.update(
    ...     jnp.ones(2), optimizer.init(params), params, value=3.0)
    >>> print(updates, state.reaction_states)
    [-0.05 -0.05] {'half_step': Array(1, dtype=int32)}
  """

  name: str
  init: Callable[[Any], Any]
  before: Hook | None = None
  after: Hook | None = None
  needs: tuple[str, ...] = ()
