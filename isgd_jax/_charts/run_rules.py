"""Run rules: what a row of losses says that no single one does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isgd_jax import _checks
from isgd_jax._charts import chart as chart_lib
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart

_KINDS = ('beyond', 'trend', 'alternating', 'within', 'outside')


class RunRule(NamedTuple):
  """A pattern in the last losses, in sigmas from the mean.

  Attributes:
    kind: the pattern, completed by the newest loss:

      * `'beyond'`: `count` of the last `window` lie more than `sigmas` from the
        mean on one side, the newest among them.
      * `'trend'`: `count` losses in a row rise, or fall, each from the one
        before, wherever the mean is by then.
      * `'alternating'`: `count` losses in a row go up and down in turn.
      * `'within'`: `count` in a row lie within `sigmas` of the mean.
      * `'outside'`: `count` in a row lie more than `sigmas` from the mean, on
        either side.
    count: losses that make the pattern, >= 1.
    window: losses among which they are looked for (`'beyond'`); 0: `count`.
    sigmas: distance from the mean >= 0.
  """

  kind: str
  count: int  # pyright: ignore[reportIncompatibleMethodOverride]
  window: int = 0
  sigmas: float = 0.0

  @property
  def length(self) -> int:
    """Losses that the rule looks at."""
    return self.window or self.count


WESTERN_ELECTRIC = (
  RunRule('beyond', 1, 1, 3.0),
  RunRule('beyond', 2, 3, 2.0),
  RunRule('beyond', 4, 5, 1.0),
  RunRule('beyond', 8, 8, 0.0),
)
NELSON = (
  RunRule('beyond', 1, 1, 3.0),
  RunRule('beyond', 9, 9, 0.0),
  RunRule('trend', 6),
  RunRule('alternating', 14),
  RunRule('beyond', 2, 3, 2.0),
  RunRule('beyond', 4, 5, 1.0),
  RunRule('within', 15, sigmas=1.0),
  RunRule('outside', 8, sigmas=1.0),
)
_SETS = {'western_electric': WESTERN_ELECTRIC, 'nelson': NELSON}


class RunRulesState(NamedTuple):
  """State of a chart with run rules.

  Attributes:
    chart_state: state of the chart.
    z_scores: float[m], the last losses in sigmas from the mean each was judged
      by, newest last.
    points: float[m], the same losses as they are, less their baselines; None
      where no rule compares losses with one another.
    num_scores: int32 scalar, how many of them there are since Phase I.
  """

  chart_state: Any
  z_scores: jax.Array
  points: jax.Array | None
  num_scores: jax.Array


def with_run_rules(
  chart: ControlChart, rules: str | Sequence[RunRule] = 'western_electric'
) -> ControlChart:
  r"""Adds run rules to a Shewhart chart.

  A loss is out of control where the chart finds it so, or where it completes a
  pattern. `violated_rules` of the reading tells which, bit i for the i-th rule.
  Above are the patterns on the upper side: `'beyond'` there, a rising
  `'trend'`, and `'outside'` with the newest loss above the mean; below
  likewise. `'alternating'` and `'within'` have no side: they show in
  `violated_rules` alone.

  Rules find smaller shifts sooner and raise more false alarms: on independent
  normal losses with known parameters, one in 92 with the four Western Electric
  rules against one in 370 without.

  Args:
    chart: a Shewhart chart (:func:`shewhart`, :func:`fixed_limits`,
      :func:`difference_chart`). The statistic of any other depends on the ones
      before it, and makes rows by itself.
    rules: `'western_electric'`, `'nelson'`, or :class:`RunRule` s.

  Returns:
    A :class:`ControlChart`.

  Raises:
    ValueError: on a chart that run rules do not fit, or a rule that cannot be.

  Examples:
    >>> import jax, jax.numpy as jnp, isgd_jax
    >>> chart = isgd_jax.with_run_rules(isgd_jax.fixed_limits(0.0, 1.0))
    >>> losses = jnp.array([0.1, 2.3, -0.2, 2.1])  # Two of three beyond two.
    >>> _, readings = jax.lax.scan(chart.update, chart.init(), losses)
    >>> print(readings.is_above, readings.violated_rules)
    [False False False  True] [0 0 0 2]

  References:
    Western Electric, *Statistical Quality Control Handbook*, 1956; Nelson,
    `The Shewhart Control Chart - Tests for Special Causes
    <https://doi.org/10.1080/00224065.1984.11978921>`_, 1984; Champ, Woodall,
    `Exact Results for Shewhart Control Charts with Supplementary Runs Rules
    <https://doi.org/10.1080/00401706.1987.10488266>`_, 1987 (run lengths).
  """
  kind = getattr(chart, 'kind', type(chart).__name__)
  if kind != 'shewhart':
    raise ValueError(
      f'run rules do not fit a chart of kind {kind!r}: they count independent '
      'points around a mean, and its points depend on one another. Put them on '
      'shewhart(...), fixed_limits(...) or difference_chart(...).'
    )
  rules = _checked_rules(rules)
  length = max(rule.length for rule in rules)
  compares = any(rule.kind in ('trend', 'alternating') for rule in rules)

  def init_fn() -> RunRulesState:
    return RunRulesState(
      chart.init(),
      jnp.zeros(length),
      jnp.zeros(length) if compares else None,
      jnp.zeros((), jnp.int32),
    )

  def update_fn(
    state: RunRulesState, loss: jax.typing.ArrayLike
  ) -> tuple[RunRulesState, ChartReading]:
    chart_state, reading = chart.update(state.chart_state, loss)
    reading = chart_lib.as_arrays(reading, None, loss)
    loss = jnp.asarray(loss).astype(reading.mean.dtype)
    is_ready = jnp.isfinite(reading.upper_limit)
    is_new = is_ready & jnp.isfinite(loss)
    score = chart_lib.z_score(reading, jnp.where(is_new, loss, reading.mean))
    scores = jnp.where(
      is_new, jnp.append(state.z_scores[1:], score), state.z_scores
    )
    points = state.points
    baseline = jnp.asarray(reading.baseline)
    if points is not None:
      point = loss - baseline
      points = jnp.where(is_new, jnp.append(points[1:], point), points)
    num_scores = jnp.minimum(
      state.num_scores + is_new.astype(jnp.int32), length
    )
    above, below, violated = reading.is_above, reading.is_below, 0
    loss_limit = chart_lib.loss_limit_of(reading)
    for bit, rule in enumerate(rules):
      is_violated, up, down = _judge(rule, scores, points, num_scores)
      above |= is_new & up
      below |= is_new & down
      violated |= jnp.where(is_new & is_violated, 1 << bit, 0)
      if rule.kind == 'trend' and points is not None:
        least = points[-2] + baseline
      else:
        least = reading.mean + rule.sigmas * reading.sigma
      loss_limit = jnp.where(
        is_new & up, jnp.minimum(loss_limit, least), loss_limit
      )
    reading = reading._replace(
      is_above=above,
      is_below=below,
      violated_rules=jnp.asarray(violated, jnp.int32),
      loss_limit=jnp.maximum(loss_limit, reading.mean),
    )
    num_scores = jnp.where(is_ready, num_scores, 0).astype(jnp.int32)
    return RunRulesState(chart_state, scores, points, num_scores), reading

  def restart_fn(state: RunRulesState, is_due: jax.Array) -> RunRulesState:
    return RunRulesState(
      chart_lib.restart_if(chart, state.chart_state, is_due),
      state.z_scores,
      state.points,
      jnp.where(is_due, jnp.int32(0), state.num_scores),
    )

  return ControlChart(
    init_fn, update_fn, 'run_rules', restart_fn, chart.statistic
  )


def _judge(
  rule: RunRule,
  scores: jax.Array,
  points: jax.Array | None,
  num_scores: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Whether the rule is violated at all, upwards, and downwards."""
  z = scores[-rule.length :]
  # Places without a loss in them match nothing.
  index = jnp.arange(rule.length, dtype=jnp.int32)
  is_filled = index >= rule.length - num_scores
  is_full = num_scores >= rule.count
  newest = z[-1]
  last = z if points is None else points[-rule.length :]
  rises, falls = last[1:] > last[:-1], last[1:] < last[:-1]
  if rule.kind == 'beyond':
    high, low = (is_filled & (side * z > rule.sigmas) for side in (1, -1))
    up = high[-1] & (jnp.sum(high) >= rule.count)
    down = low[-1] & (jnp.sum(low) >= rule.count)
    return up | down, up, down
  if rule.kind == 'trend':
    up = is_full & jnp.all(rises)
    down = is_full & jnp.all(falls)
    return up | down, up, down
  if rule.kind == 'alternating':
    turns = (rises[1:] & falls[:-1]) | (falls[1:] & rises[:-1])
    no_side = jnp.zeros((), bool)
    return is_full & jnp.all(turns), no_side, no_side
  if rule.kind == 'within':
    no_side = jnp.zeros((), bool)
    return is_full & jnp.all(jnp.abs(z) < rule.sigmas), no_side, no_side
  is_violated = is_full & jnp.all(jnp.abs(z) > rule.sigmas)
  return is_violated, is_violated & (newest > 0), is_violated & (newest < 0)


def _checked_rules(rules: str | Sequence[RunRule]) -> tuple[RunRule, ...]:
  """The rules; raises on any that cannot be."""
  if isinstance(rules, str):
    _checks.check_choice('rules', rules, _SETS)
    return _SETS[rules]
  if not isinstance(rules, Sequence):
    raise ValueError(
      "rules must be 'western_electric', 'nelson' or a sequence of RunRules, "
      f'got {rules!r}.'
    )
  rules = tuple(rules)
  if not 1 <= len(rules) <= 31:
    raise ValueError(f'rules must be 1 to 31 of them, got {len(rules)}.')
  checked = []
  for rule in rules:
    if not isinstance(rule, RunRule):
      raise ValueError(
        f"rules must be RunRules, 'western_electric' or 'nelson', got {rule!r}."
      )
    _checks.check_choice('kind of a RunRule', rule.kind, _KINDS)
    least = {'trend': 2, 'alternating': 3}.get(rule.kind, 1)
    count = _checks.check_integer(
      'count of a RunRule', rule.count, minimum=least
    )
    _checks.check_number('sigmas of a RunRule', rule.sigmas, minimum=0.0)
    window = _checks.check_integer(
      'window of a RunRule', rule.window, minimum=0
    )
    if window and rule.kind != 'beyond':
      raise ValueError(f"only the kind 'beyond' has a window, got {rule!r}.")
    if window and window < count:
      raise ValueError(
        f'window of a RunRule must hold its count, got {rule!r}.'
      )
    checked.append(rule._replace(count=count, window=window))
  return tuple(checked)
