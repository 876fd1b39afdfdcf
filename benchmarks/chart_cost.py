"""What each control chart costs, and how often it raises a false alarm.

* Time: median of one update, in a `lax.scan` whose state stays in place, as in
  a donated optimizer state.
* State: the bytes that the chart adds to the optimizer state.
* ARL, the average run length in control: losses between false alarms, on
  independent normal losses. Of charts with a memory, from a start anew after
  each alarm; of Shewhart charts the inverse of the share of flagged losses
  (with its standard error).
"""

from collections.abc import Callable
import time

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from benchmarks import measuring
import isgd_jax

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
KNOWN = isgd_jax.fixed_limits(0.0, 1.0)

# Name -> (chart of a window of n, chart whose run lengths are published).
CHARTS: dict[
  str, tuple[Callable[[int], isgd_jax.ControlChart], isgd_jax.ControlChart]
] = {
  'shewhart': (isgd_jax.shewhart, KNOWN),
  **{
    f'shewhart, {estimator}': (
      lambda n, e=estimator: isgd_jax.shewhart(n, sigma_estimator=e),
      isgd_jax.shewhart(1_000, sigma_estimator=estimator),
    )
    for estimator in ('moving_range', 'mad')
  },
  'ewma': (
    lambda n: isgd_jax.ewma(0.1, 2.7, reference=isgd_jax.shewhart(n)),
    isgd_jax.ewma(0.1, 2.7, reference=KNOWN),
  ),
  'ewma, defaults': (
    lambda n: isgd_jax.ewma(reference=isgd_jax.shewhart(n)),
    isgd_jax.ewma(reference=KNOWN),
  ),
  'cusum': (
    lambda n: isgd_jax.cusum(reference=isgd_jax.shewhart(n)),
    isgd_jax.cusum(reference=KNOWN),
  ),
  'difference': (
    isgd_jax.difference_chart,
    isgd_jax.difference_chart(1_000),
  ),
  'western electric': (
    lambda n: isgd_jax.with_run_rules(isgd_jax.shewhart(n)),
    isgd_jax.with_run_rules(KNOWN),
  ),
  'nelson': (
    lambda n: isgd_jax.with_run_rules(isgd_jax.shewhart(n), 'nelson'),
    isgd_jax.with_run_rules(KNOWN, 'nelson'),
  ),
  'restart after 5': (
    lambda n: isgd_jax.with_restart(isgd_jax.shewhart(n), 5),
    isgd_jax.with_restart(KNOWN, 5),
  ),
}


def step_microseconds(chart: isgd_jax.ControlChart, num_steps: int) -> float:
  """Median time of an update, within one program."""

  def scan(state, losses):
    def body(state, loss):
      state, reading = chart.update(state, loss)
      return state, (reading.upper_limit, reading.is_above)

    return jax.lax.scan(body, state, losses)

  losses = jax.random.normal(jax.random.key(0), (num_steps,))
  run = jax.jit(scan, donate_argnums=0)
  state, _ = jax.block_until_ready(run(chart.init(), losses))
  seconds = []
  for _ in range(9):
    begin = time.perf_counter()
    state, _ = jax.block_until_ready(run(state, losses))
    seconds.append(time.perf_counter() - begin)
  return 1e6 * float(np.median(seconds)) / num_steps


def run_length(chart: isgd_jax.ControlChart) -> tuple[float, float]:
  """Average run length in control, and its standard error."""
  num_chains, num_steps = 64, 20_000
  warm_up = 2_000  # Phase I of a window or cycle of 1,000.

  @jax.jit
  def count(key):
    def body(state, loss):
      state, reading = chart.update(state, loss)
      is_alarm = reading.is_above | reading.is_below
      has_memory = chart.kind != 'shewhart'
      if has_memory:
        state = chart.restart(state, is_alarm)
      return state, is_alarm

    losses = jax.random.normal(key, (warm_up + num_steps,))
    _, alarms = jax.lax.scan(body, chart.init(), losses)
    return jnp.sum(alarms[warm_up:])

  counts = []
  for key in jax.random.split(jax.random.key(1), num_chains // 16):
    counts.append(jax.vmap(count)(jax.random.split(key, 16)))
  counts = np.concatenate(counts).astype(np.float64)
  mean = counts.mean()
  error = counts.std(ddof=1) / np.sqrt(num_chains)
  return num_steps / mean, num_steps / mean**2 * error


def state_bytes(chart: isgd_jax.ControlChart) -> int:
  """Bytes of a chart's state."""
  leaves = jax.tree.leaves(jax.eval_shape(chart.init))
  return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def main(seconds: float) -> None:
  """Measures every chart; the time it takes is its own."""
  del seconds
  rows = []
  for name, (of_window, of_run_length) in tqdm.tqdm(CHARTS.items()):
    mean, error = run_length(of_run_length)
    row = {'chart': name, 'arl': mean, 'arl_error': error, 'sizes': {}}
    for size in SIZES:
      # The median's update is linear in its window.
      num_steps = 200 if 'mad' in name and size > 10_000 else 10_000
      row['sizes'][str(size)] = {
        'us': step_microseconds(of_window(size), num_steps),
        'bytes': state_bytes(of_window(size)),
      }
    rows.append(row)
    costs = ', '.join(f'{s["us"]:.1f}' for s in row['sizes'].values())
    tqdm.tqdm.write(f'{name}: ARL {mean:.1f} ({error:.1f}); us {costs}')
  measuring.append('chart_cost', rows)
