"""Average run lengths by simulation, against the published ones.

Known parameters, zero state: the chart starts anew after each signal. The
average run length is then total time over number of signals, which censors
nothing: runs cut off at the end count with the time that they lasted.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import isgd_jax

pytestmark = [pytest.mark.one_version, pytest.mark.battery]

STANDARD = isgd_jax.fixed_limits(0.0, 1.0)
NUM_CHAINS = 2_000


def is_out(reading):
  return reading.is_above | reading.is_below


def is_above(reading):
  return reading.is_above


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def count_signals(chart, is_signal, num_steps, shift, seed, start):
  """Signals of each of independent chains of normal losses, int32[chains]."""

  def step(carry, key):
    state, count = carry
    losses = shift + jax.random.normal(key, (NUM_CHAINS,))
    state, reading = jax.vmap(chart.update)(state, losses)
    signal = is_signal(reading)
    state = jax.tree.map(
      lambda old, new: jnp.where(
        signal.reshape(-1, *[1] * (old.ndim - 1)), new, old
      ),
      state,
      starts,
    )
    return (state, count + signal.astype(jnp.int32)), None

  starts = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (NUM_CHAINS, *x.shape)), start
  )
  keys = jax.random.split(jax.random.key(seed), num_steps)
  carry = (starts, jnp.zeros(NUM_CHAINS, jnp.int32))
  return jax.lax.scan(step, carry, keys)[0][1]


def average_run_length(
  chart, shift, num_steps, is_signal=is_out, seed=0, start=None
):
  """Average run length and its standard error, from the chains' spread."""
  start = chart.init() if start is None else start
  counts = np.asarray(
    count_signals(chart, is_signal, num_steps, shift, seed, start), np.float64
  )
  arl = num_steps / counts.mean()
  error = counts.std(ddof=1) / math.sqrt(NUM_CHAINS) / counts.mean() * arl
  print(f'ARL {arl:.3f} +- {error:.3f}')
  return arl, error


def check(measured, published, half_digit):
  """Within 4 standard errors of a number published to so many digits."""
  arl, error = measured
  # Else the sample would be too small to tell.
  assert error < 0.02 * published
  assert abs(arl - published) < 4 * error + half_digit


@pytest.mark.parametrize(
  ('shift', 'published', 'half_digit', 'num_steps'),
  [
    (0.0, 370.4, 0.05, 4_000),
    (1.0, 43.9, 0.05, 1_000),
    (2.0, 6.3, 0.05, 500),
    (3.0, 2.0, 0.05, 500),
  ],
)
def test_shewhart_three_sigma_two_sided(
  shift, published, half_digit, num_steps
):
  """Montgomery, section 6.2 (ARL = 1 / p)."""
  check(average_run_length(STANDARD, shift, num_steps), published, half_digit)


@pytest.mark.parametrize('shift', [0.0, -1.0, 1.0, 2.0, 3.0])
def test_shewhart_three_sigma_one_sided(shift):
  """Upwards alone: 740.8 in control, 31,574 if the losses have fallen."""
  if shift < 0:
    counts = count_signals(STANDARD, is_above, 500, shift, 0, ())
    # 32 of 1,000,000 expected; were it two-sided, 22,782.
    assert int(counts.sum()) < 32 + 6 * math.sqrt(32)
    return
  expected = 1 / stats.norm.sf(3.0 - shift)
  if shift == 0:
    assert round(expected, 1) == 740.8
  num_steps = 8_000 if shift == 0 else 1_000
  measured = average_run_length(STANDARD, shift, num_steps, is_above)
  check(measured, expected, 0.0)


@pytest.mark.parametrize(
  ('interval', 'shift', 'published', 'half_digit', 'num_steps'),
  [
    (4.0, 0.0, 168.0, 0.5, 3_000),
    (5.0, 0.0, 465.0, 0.5, 6_000),
    (4.0, 1.0, 8.38, 0.005, 1_000),
    (5.0, 1.0, 10.4, 0.05, 1_000),
  ],
)
def test_two_sided_cusum(interval, shift, published, half_digit, num_steps):
  """Montgomery, table 9.3, k = 0.5 (Lucas, Crosier 1982: 168, 465)."""
  chart = isgd_jax.cusum(0.5, interval, reference=STANDARD)
  check(average_run_length(chart, shift, num_steps), published, half_digit)


def ewma_arl(smoothing, width, shift, is_exact):
  """Average run length by a Markov chain on a grid, in float64.

  Brook, Evans, Biometrika 59, 1972, with the limits of each time: the sum over
  t of the probability to be within all limits up to t.
  """
  factor = smoothing / (2 - smoothing)
  edge = width * math.sqrt(factor)
  edges = np.linspace(-edge, edge, 402)
  grid = (edges[1:] + edges[:-1]) / 2
  z = (edges[None, :] - (1 - smoothing) * grid[:, None]) / smoothing - shift
  moves = np.diff(stats.norm.cdf(z), axis=1)
  within = np.zeros(401)
  within[200] = 1.0
  arl, left = 0.0, 1.0
  for t in range(1, 300):
    arl += left
    remainder = (1 - smoothing) ** (2 * t) if is_exact else 0.0
    limit = width * math.sqrt(factor * (1 - remainder))
    # The share of each cell that lies within the limits.
    low = np.clip(edges, -limit, limit)
    within = within @ moves * np.diff(low) / np.diff(edges)
    before, left = left, within.sum()
  # From here on a constant share signals at each step.
  return arl + left / (1 - left / before)


@pytest.mark.parametrize(
  ('width', 'shift', 'published', 'half_digit', 'num_steps'),
  [
    (2.814, 0.0, 500.0, 0.5, 6_000),
    (2.814, 1.0, 10.3, 0.05, 1_000),
    (2.7, 0.0, 370.0, 5.0, 6_000),
  ],
)
def test_ewma_with_asymptotic_limits(
  width, shift, published, half_digit, num_steps
):
  """Lucas, Saccucci 1990; Montgomery, table 9.11: 500 and 10.3 at lambda 0.1.

  Their width is 2.814, as in the table; Montgomery's example 9.2 gives the same
  run lengths for a chart of width 2.7, whose own are about 370 and 9.7. And
  they are those of asymptotic limits: a state whose variance is complete, as
  here, has them from the start.
  """
  chart = isgd_jax.ewma(0.1, width, reference=STANDARD)
  start = chart.init()._replace(remainder=jnp.zeros(()))
  measured = average_run_length(chart, shift, num_steps, start=start)
  check(measured, published, half_digit)
  check(measured, ewma_arl(0.1, width, shift, False), 0.005 * published)


@pytest.mark.parametrize(('shift', 'num_steps'), [(0.0, 6_000), (1.0, 1_000)])
def test_ewma_with_exact_limits(shift, num_steps):
  """They are narrower at first: earlier signals, true and false."""
  chart = isgd_jax.ewma(0.1, 2.7, reference=STANDARD)
  measured = average_run_length(chart, shift, num_steps, seed=1)
  expected = ewma_arl(0.1, 2.7, shift, True)
  check(measured, expected, 0.005 * expected)
  asymptotic = ewma_arl(0.1, 2.7, shift, False)
  assert measured[0] + 4 * measured[1] < asymptotic


@pytest.mark.parametrize(
  ('numbers', 'published', 'num_steps'),
  [
    ((1,), 370.40, 4_000),
    ((1, 2), 225.44, 4_000),
    ((1, 3), 166.05, 4_000),
    ((1, 4), 152.73, 4_000),
    ((1, 2, 3, 4), 91.75, 4_000),
  ],
)
def test_western_electric_rules(numbers, published, num_steps):
  """Champ, Woodall, Technometrics 29, 1987, table 1, no shift."""
  all_rules = isgd_jax._charts.run_rules.WESTERN_ELECTRIC
  chart = isgd_jax.with_run_rules(STANDARD, [all_rules[i - 1] for i in numbers])
  check(average_run_length(chart, 0.0, num_steps, seed=2), published, 0.005)
