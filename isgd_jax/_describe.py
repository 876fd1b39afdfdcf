"""The info for people and for loggers: in a sentence, and as plain numbers."""

from __future__ import annotations

import jax
import numpy as np
import optax

from isgd_jax import _checks
from isgd_jax import _info
from isgd_jax._info import ISGDInfo


def info_dict(opt_state: optax.OptState) -> dict[str, float | int | bool]:
  """The info as a plain dictionary, for any logger.

  Nothing leaves the device before this is called; then two small arrays do, in
  one transfer, and the step that made them is waited for. So call it every so
  many steps, not in each.

  In the state the info is packed into these two arrays, so
  `optax.tree.get(opt_state, 'num_steps')` does not find it. By that way there
  are the parts of the state: `'packed_info'`, `'chart_state'`, `'base_state'`,
  `'probation_state'`, whatever the base optimizer's state names, and the states
  by their classes, `'ISGDState'` say, which this function takes in turn.

  Args:
    opt_state: as for :func:`get_info`, and not traced.

  Returns:
    The fields of :class:`ISGDInfo` in their order, by name: Python floats, ints
    and bools. What is not finite stays a float: `control_limit` is infinite in
    Phase I. `json.dumps` writes that as `Infinity` and NaN as `NaN`, which
    strict JSON does not have; leave such values out, or write None.

  Raises:
    ValueError: as :func:`get_info`; under a transformation such as `jax.jit`,
      which has no numbers yet; or on the state of many runs or steps at once.

  Examples:
    >>> import json, math, jax.numpy as jnp, optax, isgd_jax
    >>> optimizer = isgd_jax.isgd(optax.adam(1e-3), isgd_jax.shewhart(50))
    >>> numbers = isgd_jax.info_dict(optimizer.init(jnp.zeros(3)))
    >>> print(numbers['num_steps'], numbers['is_undertrained'])
    0 False
    >>> finite = {k: v for k, v in numbers.items() if math.isfinite(v)}
    >>> print(json.dumps(finite, allow_nan=False)[:26])
    {"loss": 0.0, "mean": 0.0,
  """
  packed = _info.find_packed(opt_state)
  if any(map(_checks.is_traced, packed)):
    raise ValueError(
      'info_dict needs numbers, and opt_state is traced, under jax.jit, scan, '
      'vmap or grad. Call it on the state that the compiled step returns; '
      'inside, take get_info, whose arrays can be returned or go to '
      'jax.debug.callback.'
    )
  if np.ndim(packed.floats) != 1:
    raise ValueError(
      'opt_state must be of one run at one step, got an info with leading '
      f'dimensions {np.shape(packed.floats)[:-1]}. Pass one of them, '
      'jax.tree.map(lambda x: x[-1], opt_state), or use get_info.'
    )
  return _info.to_numbers(jax.device_get(packed))


def describe_chases(info: ISGDInfo) -> str:
  """Says whether chases pay on these data: one sentence, to end a run with.

  Only chases that were judged on the batches after them count; trusted ones
  go unjudged for a while, up to seven between two that are.

  Args:
    info: of the last step, scalars; :func:`get_info` has it.

  Returns:
    A sentence: how many of the judged chases lowered the losses of the batches
    after them, by how much on average, and how many were undone. Where none
    was judged, why.

  Raises:
    ValueError: `info` is not of one step.

  Examples:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> optimizer = isgd_jax.isgd(optax.adam(1e-3), isgd_jax.shewhart(50))
    >>> info = isgd_jax.get_info(optimizer.init(jnp.zeros(3)))
    >>> print(isgd_jax.describe_chases(info))
    No chase was judged: the chart has no limits yet, after 0 steps.
    >>> info = info._replace(
    ...     num_chases_judged=9, num_chases_paid=7, num_chases_undone=2,
    ...     mean_chase_gain=1.3)
    >>> first, second = isgd_jax.describe_chases(info).split(', ')
    >>> print(first); print(second)
    7 of 9 judged chases lowered the losses of the batches after them
    by 1.3 sigma a batch on average; 2 were undone.
  """
  if np.ndim(info.num_steps):
    raise ValueError(
      'info must be of one step, got arrays of shape '
      f'{np.shape(info.num_steps)}: pass that of the last step, '
      'jax.tree.map(lambda x: x[-1], info).'
    )
  info = jax.device_get(info)
  num_judged, num_undone = int(info.num_chases_judged), info.num_chases_undone
  if not num_judged:
    return f'No chase was judged: {_why_none(info)}.'
  chases = 'chase' if num_judged == 1 else 'chases'
  them = 'it' if num_judged == 1 else 'them'
  gain = float(info.mean_chase_gain)
  average = (
    f'by {gain:.1f} sigma a batch on average'
    if gain >= 0
    else f'but all told they rose by {-gain:.1f} sigma a batch on average'
  )
  undone = {0: 'none was', 1: '1 was'}.get(
    int(num_undone), f'{num_undone:,} were'
  )
  return (
    f'{info.num_chases_paid:,} of {num_judged:,} judged {chases} lowered the '
    f'losses of the batches after {them}, {average}; {undone} undone.'
  )


def _why_none(info: ISGDInfo) -> str:
  """Why no chase was judged."""
  num_flagged, num_refused = info.num_undertrained, info.num_chases_refused
  if not num_flagged:
    if np.isposinf(info.control_limit):
      return f'the chart has no limits yet, after {info.num_steps:,} steps'
    return f'no batch was under-trained, in {info.num_steps:,} steps'
  if info.is_on_probation:
    return 'the first one is still on probation'
  of_flagged = f'{num_flagged:,} under-trained'
  if num_refused:
    return (
      f'{num_refused:,} of {of_flagged} batches found a base optimizer that '
      'climbs along the gradient, and were not chased'
    )
  if info.num_gradient_evaluations <= info.num_steps:
    return f'of {of_flagged} batches none was chased'
  if info.num_chases_reverted:
    return (
      f'of {of_flagged} batches {info.num_chases_reverted:,} were chased in '
      'vain and got the base update'
    )
  return f'of {of_flagged} batches some were chased, without probation'
