r"""Probation and trust: whether chases pay, judged on the batches after them.

A chase lowers the loss of its own batch. Whether it was right shows on the next
ones. So a chase leaves two candidates, the parameters that it led to and those
that the base update would have left; one *leads*, the other is the *rival*,
follows the same base updates and is evaluated beside it on the next m batches.
Their losses :math:`\psi^{\text{base}}_i, \psi^{\text{chased}}_i` give the gain

.. math::
  S = \sum_{i \le m} (\psi^{\text{base}}_i - \psi^{\text{chased}}_i)

of that chase, in the unit of the loss. Over the chases on record, with older
ones forgotten by a factor :math:`\gamma` a chase,

.. math::
  s = \sum_j \gamma^{n-j} S_j, \quad q = \sum_j \gamma^{n-j} S_j^2, \quad
  a = \sum_j \gamma^{n-j} A_j,

where :math:`A_j` is what chase j took off its own batch. Chases are *trusted*
while :math:`s > 0`, :math:`s \ge c \sqrt q` (they gained more than they
scatter) and :math:`s \ge \kappa a` (what they gain is not a small coin beside
what they move). While they are trusted the chased parameters lead; else those
of the base optimizer do, unchanged, and a chase is only tried in the shadow, at
the cost of its evaluations and of nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax import _info

# After one batch the gains do not tell the streams on which chases pay from the
# others; after four they do, and after eight the rival has drifted away from
# what it stands for.
NUM_BATCHES = 4
_FORGETTING = 0.98
# Just below the root of two: two chases of equal gain are trusted, one is not.
_LEAST_Z = 1.4
_LEAST_TRANSFER = 0.25
# Chases that are refused between two trials in the shadow, at most.
_LONGEST_PAUSE = 32
# Trusted chases of which one is judged, at most.
_MOST_UNJUDGED = 8
# Extra evaluations, as a share of the training steps, that no chase may exceed.
_EXTRA_SHARE = 0.2
# A loss that is not finite counts as so many times what the chase took off.
_WORST = 100.0


class Rules(NamedTuple):
  """What an ablation may change; the library has these alone.

  Attributes:
    num_batches: that judge a chase, m >= 1.
    forgetting: factor of the record, a judged chase.
    starts_trusting: whether chases lead until two are judged, while they have
      lost nothing, and not only from two that paid on.
  """

  num_batches: int = NUM_BATCHES
  forgetting: float = _FORGETTING
  starts_trusting: bool = False


DEFAULT_RULES = Rules()


class Trust(NamedTuple):
  """What is on record of the chases; scalars, floating unless they say else.

  Attributes:
    gain: discounted sum s of the gains of judged chases, in units of the loss.
    gain_squared: discounted sum q of their squares.
    own_gain: discounted sum a of what they took off their own batches.
    current_gain: gain so far of the chase that is on probation.
    current_own_gain: what that one took off its own batch.
    is_on_probation: whether there is a rival, boolean.
    leads: whether the chased candidate is the one in use, boolean.
    age: batches that the probation has seen, int32.
    pause: chases still to be refused, int32.
    next_pause: of the back-off, int32.
    num_unjudged: trusted chases still to go unjudged, int32.
    next_unjudged: how many after the next judged one, int32.
    num_judged: chases judged since init, int32.
    num_paid: of these, the ones with a positive gain, int32.
    num_undone: chases undone on probation since init, int32.
    mean_gain: gain of a judged chase a batch, in sigmas, the mean.
    ratio: `gain` over the least at which chases are trusted, so that it is from
      1 on that they are; 0 without a record. Kept, not computed in each step.
  """

  gain: jax.Array
  gain_squared: jax.Array
  own_gain: jax.Array
  current_gain: jax.Array
  current_own_gain: jax.Array
  is_on_probation: jax.Array
  leads: jax.Array
  age: jax.Array
  pause: jax.Array
  next_pause: jax.Array
  num_unjudged: jax.Array
  next_unjudged: jax.Array
  num_judged: jax.Array
  num_paid: jax.Array
  num_undone: jax.Array
  mean_gain: jax.Array
  ratio: jax.Array


class PackedTrust(NamedTuple):
  """A :class:`Trust` in two leaves: each leaf of a state costs a microsecond.

  Attributes:
    floats: the floating fields, float[7].
    integers: the integer and boolean fields, int32[10].
  """

  floats: jax.Array
  integers: jax.Array


_FLOATS = (
  *('gain', 'gain_squared', 'own_gain', 'current_gain', 'current_own_gain'),
  *('mean_gain', 'ratio'),
)
_BOOLEANS = ('is_on_probation', 'leads')
_INTEGERS = tuple(name for name in Trust._fields if name not in _FLOATS)


def initial_trust(dtype: jax.typing.DTypeLike) -> PackedTrust:
  """Nothing on record."""
  integers = [int(name.startswith('next_')) for name in _INTEGERS]
  return PackedTrust(
    jnp.zeros(len(_FLOATS), dtype), jnp.asarray(integers, jnp.int32)
  )


def pack(trust: Trust) -> PackedTrust:
  """Packs a record; `unpack` is its inverse."""
  return PackedTrust(
    _info.vector_of([getattr(trust, name) for name in _FLOATS]),
    _info.vector_of(
      [jnp.asarray(getattr(trust, name), jnp.int32) for name in _INTEGERS]
    ),
  )


def unpack(packed: PackedTrust) -> Trust:
  """Unpacks a record."""
  fields = {name: packed.floats[i] for i, name in enumerate(_FLOATS)}
  fields |= {name: packed.integers[i] for i, name in enumerate(_INTEGERS)}
  return Trust(**fields | {name: fields[name] != 0 for name in _BOOLEANS})


def count_refused(packed: PackedTrust, is_refused: jax.Array) -> PackedTrust:
  """A record with a chase less to refuse, where this one was.

  Element by element, so that XLA writes it where the old one was.
  """
  is_pause = jnp.asarray([name == 'pause' for name in _INTEGERS])
  less = (is_pause & is_refused).astype(jnp.int32)
  return packed._replace(integers=packed.integers - less)


def is_trusted(trust: Trust, rules: Rules = DEFAULT_RULES) -> jax.Array:
  """Whether chases have paid, beyond their scatter and beside their size."""
  has_paid = (trust.gain > 0) & (trust.gain >= _least_gain(trust))
  if not rules.starts_trusting:
    return has_paid
  return has_paid | ((trust.num_judged < 2) & (trust.gain >= 0))


def _least_gain(trust: Trust) -> jax.Array:
  """The discounted gain from which on chases are trusted."""
  scatter = _LEAST_Z * jnp.sqrt(trust.gain_squared)
  return jnp.maximum(scatter, _LEAST_TRANSFER * trust.own_gain)


def observe(trust: Trust, loss: jax.Array, rival_loss: jax.Array) -> Trust:
  """Takes in one batch of a probation: losses of the leader and the rival."""
  loss, rival_loss = (
    jnp.where(jnp.isnan(x), jnp.inf, x) for x in (loss, rival_loss)
  )
  gain = jnp.where(trust.leads, rival_loss - loss, loss - rival_loss)
  gain = jnp.where(jnp.isnan(gain), 0.0, gain)  # Both are infinite.
  worst = _WORST * trust.current_own_gain
  gain = jnp.clip(gain, -worst, worst)
  return trust._replace(
    current_gain=trust.current_gain + gain, age=trust.age + 1
  )


def settle(
  trust: Trust,
  is_flagged: jax.Array,
  sigma: jax.Array,
  rules: Rules = DEFAULT_RULES,
) -> tuple[Trust, jax.Array]:
  """Ends a probation that is due to end.

  It is after m batches, with the next flagged one, or as soon as the leader has
  used up all that chases before it had gained.

  Args:
    trust: the record, the current batch observed.
    is_flagged: whether the current batch is to be chased.
    sigma: standard deviation of the chart.
    rules: of probation.

  Returns:
    The record, and whether the chased candidate is undone.
  """
  has_lost_all = trust.leads & (trust.gain + trust.current_gain < 0)
  is_due = trust.is_on_probation & (
    (trust.age >= rules.num_batches) | is_flagged | has_lost_all
  )
  gain = trust.current_gain
  share = trust.age.astype(gain.dtype) / rules.num_batches
  gain_a_batch = (
    gain
    / jnp.where(sigma > 0, sigma, 1.0)
    / jnp.maximum(trust.age, 1).astype(gain.dtype)
  )
  num_judged = (trust.num_judged + 1).astype(gain.dtype)
  settled = trust._replace(
    gain=rules.forgetting * trust.gain + gain,
    gain_squared=rules.forgetting * trust.gain_squared + jnp.square(gain),
    own_gain=rules.forgetting * trust.own_gain + share * trust.current_own_gain,
    is_on_probation=jnp.zeros((), bool),
    num_judged=trust.num_judged + 1,
    num_paid=trust.num_paid + (gain > 0).astype(jnp.int32),
    mean_gain=trust.mean_gain + (gain_a_batch - trust.mean_gain) / num_judged,
  )
  least = _least_gain(settled)
  settled = settled._replace(
    ratio=jnp.where(least > 0, settled.gain / jnp.where(least > 0, least, 1), 0)
  )
  is_undone = is_due & trust.leads & (settled.gain < 0)
  does_pay = is_trusted(settled, rules)
  fails = (settled.gain < 0) | (
    settled.gain < _LEAST_TRANSFER * settled.own_gain
  )
  backs_off = ~does_pay & fails
  pause = jnp.minimum(2 * trust.next_pause, _LONGEST_PAUSE)
  unjudged = jnp.minimum(2 * trust.next_unjudged, _MOST_UNJUDGED)
  settled = settled._replace(
    next_pause=jnp.where(backs_off, pause, 1),
    pause=jnp.where(backs_off, pause - 1, 0),
    next_unjudged=jnp.where(does_pay, unjudged, 1),
    num_unjudged=jnp.where(does_pay, unjudged - 1, 0),
    num_undone=trust.num_undone + is_undone.astype(jnp.int32),
  )
  return _where(is_due, settled, trust), is_undone


def admit(
  trust: Trust,
  is_flagged: jax.Array,
  num_steps: jax.Array,
  num_extra: jax.Array,
  max_steps: jax.typing.ArrayLike,
) -> tuple[Trust, jax.Array]:
  """Whether a flagged batch is chased: not on probation, in a pause, or broke.

  Args:
    trust: the record.
    is_flagged: whether the batch is to be chased at all.
    num_steps: training steps so far, int32 scalar.
    num_extra: evaluations so far beyond one a step, int32 scalar.
    max_steps: most steps of a chase.

  Returns:
    The record, and whether to chase.
  """
  dtype = trust.gain.dtype
  allowed = _EXTRA_SHARE * (num_steps + 1).astype(dtype)
  most = num_extra.astype(dtype) + jnp.asarray(max_steps, dtype) + 1
  would = is_flagged & ~trust.is_on_probation & (most <= allowed)
  # A pause is of chases that are not trusted: `settle` leaves no other.
  waits = would & (trust.pause > 0)
  return (
    trust._replace(pause=trust.pause - waits.astype(jnp.int32)),
    would & ~waits,
  )


def begin(
  trust: Trust,
  is_kept: jax.Array,
  own_gain: jax.Array,
  rules: Rules = DEFAULT_RULES,
) -> tuple[Trust, jax.Array]:
  """What becomes of a chase: who leads, and whether it is on probation.

  Args:
    trust: the record.
    is_kept: whether the chase passed its guard.
    own_gain: what it took off its batch.
    rules: of probation.

  Returns:
    The record, and whether the chased candidate leads.
  """
  leads = is_trusted(trust, rules)
  is_unjudged = leads & (trust.num_unjudged > 0)
  begun = trust._replace(
    current_gain=jnp.zeros_like(trust.gain),
    current_own_gain=jnp.maximum(own_gain, 0.0),
    is_on_probation=~is_unjudged,
    leads=leads,
    age=jnp.zeros((), jnp.int32),
    num_unjudged=trust.num_unjudged - is_unjudged.astype(jnp.int32),
  )
  return _where(is_kept, begun, trust), is_kept & leads


def _where(condition: jax.Array, new: Trust, old: Trust) -> Trust:
  return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
