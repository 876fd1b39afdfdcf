"""What inconsistent SGD reports: the scalars of the last step, and counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools
from typing import NamedTuple
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax

from isgd_jax._charts import chart as chart_lib
from isgd_jax._charts import statistics


class ISGDInfo(NamedTuple):
  """What inconsistent SGD saw and did; all arrays are scalars.

  Attributes:
    loss: loss of the last batch as it was found, floating; the statistic that
      the chart judges, where it is another and `update` was given no loss.
    mean: centre line of the chart that judged it, floating.
    sigma: standard deviation of that chart, floating.
    control_limit: its upper control limit, floating; `+inf` in Phase I.
    is_undertrained: whether the loss was above the limit, boolean.
    num_chase_steps: chase steps taken on the last batch, int32.
    final_loss: loss that the chase left, floating; `loss` itself where there
      was no chase or it was reverted. (`paper_isgd` does not evaluate the loss
      after its last allowed step: there, the loss before that step.)
    is_chase_reverted: whether the guard undid the chase and fell back to the
      base update, boolean.
    is_chase_refused: whether a chase that was due was not begun, since the base
      optimizer climbs along its gradient (the sign or the rate stands after
      :func:`isgd` in a chain), boolean.
    lower_limit: the chart's lower control limit, floating; `-inf` in Phase I.
    statistic: what the chart held against its limits, floating; the loss itself
      in a Shewhart chart.
    is_well_trained: whether the chart found the loss out of control downwards,
      boolean.
    is_skipped: whether :func:`skip_out_of_control` dropped the batch, boolean.
    violated_rules: run rules that the loss violated, int32, bit i for the i-th.
    num_steps: training steps since init, int32.
    num_undertrained: under-trained batches since init, int32.
    num_chases_reverted: chases undone by the guard since init, int32.
    num_chases_refused: chases not begun since init, int32.
    num_gradient_evaluations: values-and-gradients of a batch since init, int32:
      one a training step, and every one inside a chase.
    num_well_trained: well-trained batches since init, int32.
    num_skipped: batches dropped since init, int32.
    trust: what chases gained on the batches after them, over the least at which
      they are trusted: from 1 on the chased parameters lead, below it a chase
      is tried in the shadow. Floating; 0 without a record.
    mean_chase_gain: what a judged chase took off a batch after it, in sigmas of
      the chart, the mean; floating.
    is_on_probation: whether the next batch will judge a chase, boolean.
    is_chase_undone: whether this batch undid the chase before it, boolean.
    num_chases_judged: chases judged on probation since init, int32.
    num_chases_paid: of these, the ones that lowered the losses after them,
      int32.
    num_chases_undone: chases undone on probation since init, int32.
  """

  loss: jax.Array
  mean: jax.Array
  sigma: jax.Array
  control_limit: jax.Array
  is_undertrained: jax.Array
  num_chase_steps: jax.Array
  final_loss: jax.Array
  is_chase_reverted: jax.Array
  is_chase_refused: jax.Array
  lower_limit: jax.Array
  statistic: jax.Array
  is_well_trained: jax.Array
  is_skipped: jax.Array
  violated_rules: jax.Array
  num_steps: jax.Array
  num_undertrained: jax.Array
  num_chases_reverted: jax.Array
  num_chases_refused: jax.Array
  num_gradient_evaluations: jax.Array
  num_well_trained: jax.Array
  num_skipped: jax.Array
  trust: jax.Array
  mean_chase_gain: jax.Array
  is_on_probation: jax.Array
  is_chase_undone: jax.Array
  num_chases_judged: jax.Array
  num_chases_paid: jax.Array
  num_chases_undone: jax.Array


class PartInfo(NamedTuple):
  """What one part of a joined chart said of the last batch; all are scalars.

  Attributes:
    statistic: what the part held against its limits, floating; what it judges
      itself in a Shewhart chart.
    mean: its centre line, floating.
    sigma: its standard deviation, floating.
    lower_limit: its lower control limit, floating; `-inf` in Phase I.
    upper_limit: its upper control limit, floating; `+inf` in Phase I.
    is_above: whether it found the batch out of control upwards, boolean.
    is_below: whether it did so downwards, boolean.
  """

  statistic: jax.Array
  mean: jax.Array
  sigma: jax.Array
  lower_limit: jax.Array
  upper_limit: jax.Array
  is_above: jax.Array
  is_below: jax.Array


class PackedInfo(NamedTuple):
  """An :class:`ISGDInfo` as it is kept in the state.

  Two leaves instead of one a field: each leaf of an optimizer state costs a
  microsecond or two whenever a step is dispatched, and twelve were a quarter of
  the smallest steps.

  Attributes:
    floats: the floating fields, float[9], and of a joined chart those of the
      :class:`PartInfo` of each part, float[9 + 7 p].
    integers: the integer and boolean fields, int32[19].
  """

  floats: jax.Array
  integers: jax.Array


_FLOATS = (
  *('loss', 'mean', 'sigma', 'control_limit', 'final_loss'),
  *('lower_limit', 'statistic', 'trust', 'mean_chase_gain'),
)
_BOOLEANS = (
  *('is_undertrained', 'is_chase_reverted', 'is_chase_refused'),
  *('is_well_trained', 'is_skipped', 'is_on_probation', 'is_chase_undone'),
)
_INTEGERS = tuple(name for name in ISGDInfo._fields if name not in _FLOATS)
# What adds up from step to step, and what stays until a chase changes it.
_KEPT = (
  *('num_steps', 'num_undertrained', 'num_chases_reverted'),
  'num_chases_refused',
  *('num_gradient_evaluations', 'num_well_trained', 'num_skipped'),
  *('trust', 'mean_chase_gain', 'is_on_probation'),
  *('num_chases_judged', 'num_chases_paid', 'num_chases_undone'),
)


def pack(info: ISGDInfo, parts: Sequence[PartInfo] = ()) -> PackedInfo:
  """Packs `info` and `parts`; `unpack` is its inverse."""
  floats = [getattr(info, name) for name in _FLOATS]
  dtype = floats[0].dtype
  floats += [field.astype(dtype) for part in parts for field in part]
  return PackedInfo(
    floats=vector_of(floats),
    integers=vector_of(
      [jnp.asarray(getattr(info, name), jnp.int32) for name in _INTEGERS]
    ),
  )


def vector_of(scalars: Sequence[jax.Array]) -> jax.Array:
  """Scalars of one dtype as a vector.

  Element-wise, which XLA fuses with what made the scalars, all in one kernel. A
  `jnp.stack` of them, and of the counters taken out of the vector before, took
  some 20 microseconds a step on a CPU.
  """
  places = jnp.arange(len(scalars))
  vector = jnp.full(len(scalars), scalars[0])
  for place, scalar in enumerate(scalars[1:], 1):
    vector = jnp.where(places == place, scalar, vector)
  return vector


@functools.partial(jax.jit, inline=True)
def unpack(packed: PackedInfo) -> ISGDInfo:
  """Unpacks an info, or infos with leading dimensions."""
  fields = {name: packed.floats[..., i] for i, name in enumerate(_FLOATS)}
  fields |= {name: packed.integers[..., i] for i, name in enumerate(_INTEGERS)}
  return ISGDInfo(**fields | {name: fields[name] != 0 for name in _BOOLEANS})


def replace_scalars(
  vector: jax.Array, names: Sequence[str], fields: Mapping[str, jax.Array]
) -> jax.Array:
  """A vector with some of its elements replaced, by name, in their places.

  Element by element, so that XLA writes it where the old one was.
  """
  places = jnp.arange(vector.shape[-1])
  for name, value in fields.items():
    value = jnp.asarray(value).astype(vector.dtype)
    vector = jnp.where(places == names.index(name), value, vector)
  return vector


def replace(packed: PackedInfo, **fields: jax.Array) -> PackedInfo:
  """An info with some of its fields replaced."""
  floats = {name: fields.pop(name) for name in _FLOATS if name in fields}
  return PackedInfo(
    replace_scalars(packed.floats, _FLOATS, floats),
    replace_scalars(packed.integers, _INTEGERS, fields),
  )


class Outcome(NamedTuple):
  """What came of a chase; scalars."""

  final_loss: jax.Array
  num_chase_steps: jax.Array
  num_evaluations: jax.Array
  is_reverted: jax.Array
  is_refused: jax.Array


def with_chase(packed: PackedInfo, outcome: Outcome) -> PackedInfo:
  """The info of a step that had a chase; its counters saturate.

  Args:
    packed: of the same step, as without it.
    outcome: of the chase.

  Returns:
    The info.
  """
  before = unpack(packed)

  def increased(counter: jax.Array, by: jax.Array) -> jax.Array:
    room = jnp.iinfo(jnp.int32).max - counter
    return counter + jnp.minimum(by.astype(jnp.int32), room)

  return replace(
    packed,
    final_loss=outcome.final_loss,
    num_chase_steps=outcome.num_chase_steps,
    is_chase_reverted=outcome.is_reverted,
    is_chase_refused=outcome.is_refused,
    num_chases_reverted=increased(
      before.num_chases_reverted, outcome.is_reverted
    ),
    num_chases_refused=increased(before.num_chases_refused, outcome.is_refused),
    num_gradient_evaluations=increased(
      before.num_gradient_evaluations, outcome.num_evaluations
    ),
  )


def get_info(opt_state: optax.OptState) -> ISGDInfo:
  """The :class:`ISGDInfo` in an optimizer state, wherever it sits.

  Args:
    opt_state: state of a transformation that contains :func:`isgd`,
      :func:`react`, :func:`skip_out_of_control` or :func:`watch` once, at any
      depth of `optax.chain`, `optax.inject_hyperparams` and the like.

  Returns:
    The :class:`ISGDInfo`.

  Raises:
    ValueError: if there is none, or more than one.

  Warns:
    UserWarning: if it is under `optax.MultiSteps`, which shows it the loss of
      one micro-batch.

  Examples:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> optimizer = optax.chain(
    ...     optax.clip_by_global_norm(1.0),  # so update needs grad=grads
    ...     isgd_jax.isgd(optax.adam(1e-3), isgd_jax.shewhart(50)))
    >>> info = isgd_jax.get_info(optimizer.init(jnp.zeros(3)))
    >>> print(info.num_steps)
    0
  """
  return unpack(find_packed(opt_state))


def get_parts(opt_state: optax.OptState) -> tuple[PartInfo, ...]:
  """What each part of a joined chart said of the last batch.

  Args:
    opt_state: as for :func:`get_info`.

  Returns:
    A :class:`PartInfo` for each chart of a single statistic, in the order in
    which they were joined; none where the chart is of one statistic, of which
    :func:`get_info` has all.

  Raises:
    ValueError: as :func:`get_info`.

  Examples:
    >>> import jax.numpy as jnp, optax, isgd_jax
    >>> chart = isgd_jax.any_of(
    ...     isgd_jax.fixed_limits(1.0, 0.1),
    ...     isgd_jax.chart_of('gradient_norm', isgd_jax.fixed_limits(5.0, 1.0)))
    >>> watch = isgd_jax.watch(chart)
    >>> grads = jnp.array([6.0, 8.0])
    >>> _, state = watch.update(grads, watch.init(grads), value=1.0)
    >>> _, of_norm = isgd_jax.get_parts(state)
    >>> print(of_norm.statistic, of_norm.upper_limit, of_norm.is_above)
    10.0 8.0 True
  """
  floats = find_packed(opt_state).floats[..., len(_FLOATS) :]
  size = len(PartInfo._fields)
  parts = [
    PartInfo(*(floats[..., start + i] for i in range(size)))
    for start in range(0, floats.shape[-1], size)
  ]
  return tuple(
    part._replace(is_above=part.is_above != 0, is_below=part.is_below != 0)
    for part in parts
  )


def find_packed(opt_state: optax.OptState) -> PackedInfo:
  """The one packed info in an optimizer state; ValueError where none is."""
  is_packed = lambda node: isinstance(node, PackedInfo)
  infos = [
    node
    for node in jax.tree.leaves(opt_state, is_leaf=is_packed)
    if is_packed(node)
  ]
  if len(infos) != 1:
    raise ValueError(
      'opt_state must hold the state of one isgd (or react, or '
      f'skip_out_of_control, or watch), found {len(infos)} in a '
      f'{type(opt_state).__name__}. Pass the state of an optimizer that '
      'contains exactly one, or that part of it.'
    )
  _warn_of_multi_steps(opt_state)
  return infos[0]


def _warn_of_multi_steps(opt_state: optax.OptState) -> None:
  """Warns where the chart is under `optax.MultiSteps`.

  That hands on the mean gradient of k micro-batches beside the loss of the last
  one: the chart judges, and a chase chases, a k-th of the batch.
  """
  is_packed = lambda node: isinstance(node, PackedInfo)
  is_multi_steps = lambda node: isinstance(node, optax.MultiStepsState)
  for node in jax.tree.leaves(opt_state, is_leaf=is_multi_steps):
    if is_multi_steps(node) and any(
      map(is_packed, jax.tree.leaves(node, is_leaf=is_packed))
    ):
      warnings.warn(
        'optax.MultiSteps around isgd (or skip_out_of_control, or watch) shows '
        'it the loss of the last micro-batch alone: flags and chases are about '
        'that one. Accumulate inside the step with isgd_jax.microbatched, or '
        'isgd_jax.training.nnx_microbatched, and leave MultiSteps out.',
        UserWarning,
        stacklevel=4,
      )


def to_numbers(packed: PackedInfo) -> dict[str, float | int | bool]:
  """Plain Python numbers of an info that is on the host, in its order."""
  floats, integers = (np.asarray(leaf).tolist() for leaf in packed)
  # Those of the parts of a joined chart come after them.
  numbers = dict(zip(_FLOATS, floats[: len(_FLOATS)], strict=True))
  numbers |= dict(zip(_INTEGERS, integers, strict=True))
  return {
    name: bool(numbers[name]) if name in _BOOLEANS else numbers[name]
    for name in ISGDInfo._fields
  }


def initial_info(control_chart: chart_lib.ControlChart) -> PackedInfo:
  """Zeros, and no limit yet."""
  _, reading = jax.eval_shape(
    lambda: control_chart.update(
      control_chart.init(), statistics.placeholders(control_chart)
    )
  )
  num_parts = len(_joined_in(reading))
  num_floats = len(_FLOATS) + num_parts * len(PartInfo._fields)
  floats = jnp.zeros(num_floats, reading.mean.dtype)
  for part in range(num_parts):
    for name in ('lower_limit', 'upper_limit'):
      place = len(_FLOATS) + part * len(PartInfo._fields)
      place += PartInfo._fields.index(name)
      floats = floats.at[place].set(-jnp.inf if name[0] == 'l' else jnp.inf)
  floats = floats.at[_FLOATS.index('control_limit')].set(jnp.inf)
  return PackedInfo(
    floats=floats.at[_FLOATS.index('lower_limit')].set(-jnp.inf),
    integers=jnp.zeros(len(_INTEGERS), jnp.int32),
  )


def _joined_in(
  reading: chart_lib.ChartReading,
) -> list[chart_lib.ChartReading]:
  """The readings of single statistics of a joined one; none of another."""
  return [] if reading.parts is None else statistics.leaf_readings(reading)


def next_info(
  packed: PackedInfo,
  loss: jax.Array,
  reading: chart_lib.ChartReading,
  is_skipped: jax.typing.ArrayLike = False,
) -> PackedInfo:
  """The info after a step without a chase; its counters saturate."""
  is_skipped = jnp.asarray(is_skipped)
  statistic, rules = reading.statistic, reading.violated_rules
  zero, none = jnp.zeros((), loss.dtype), jnp.zeros((), jnp.int32)
  step = pack(
    ISGDInfo(
      loss=loss,
      mean=reading.mean,
      sigma=reading.sigma,
      control_limit=reading.upper_limit,
      is_undertrained=reading.is_above,
      num_chase_steps=none,
      final_loss=loss,
      is_chase_reverted=none,
      is_chase_refused=none,
      lower_limit=reading.lower_limit,
      statistic=loss if statistic is None else statistic,
      is_well_trained=reading.is_below,
      is_skipped=is_skipped,
      violated_rules=none if rules is None else rules,
      num_steps=none + 1,
      num_undertrained=reading.is_above,
      num_chases_reverted=none,
      num_chases_refused=none,
      num_gradient_evaluations=none + 1,
      num_well_trained=reading.is_below,
      num_skipped=is_skipped,
      trust=zero,
      mean_chase_gain=zero,
      is_on_probation=none,
      is_chase_undone=none,
      num_chases_judged=none,
      num_chases_paid=none,
      num_chases_undone=none,
    ),
    [
      PartInfo(
        statistic=jnp.asarray(part.statistic),
        mean=part.mean,
        sigma=part.sigma,
        lower_limit=part.lower_limit,
        upper_limit=part.upper_limit,
        is_above=part.is_above,
        is_below=part.is_below,
      )
      for part in _joined_in(reading)
    ],
  )
  is_kept = np.zeros(packed.floats.shape[-1], bool)
  is_kept[: len(_FLOATS)] = np.isin(_FLOATS, _KEPT)
  before = jnp.where(np.isin(_INTEGERS, _KEPT), packed.integers, 0)
  room = jnp.iinfo(jnp.int32).max - before
  return PackedInfo(
    floats=jnp.where(is_kept, packed.floats, step.floats),
    integers=before + jnp.minimum(step.integers, room),
  )
