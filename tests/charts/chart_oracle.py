"""Slow charts by definition, in pure Python: the oracle of the chart tests."""

import math
import statistics

from isgd_jax import ChartReading


class Clear:
  """Whether every decision so far was clear of rounding."""

  def __init__(self):
    self.is_clear = True
    self.scale = 1.0

  def see(self, loss):
    """Rounding is that of the largest magnitude so far."""
    if math.isfinite(loss):
      self.scale = max(self.scale, abs(loss))

  def above(self, a, b, *, is_exact=False):
    """`a > b`; unclear if they are so close that rounding may decide."""
    if not is_exact and math.isfinite(b):
      self.is_clear &= abs(a - b) > 1e-9 * max(1.0, abs(a), abs(b))
      self.is_clear &= abs(a - b) > 1e-13 * self.scale
    return a > b


def reading(mean, sigma, width, above, below, statistic, rules=0):
  return ChartReading(
    *(mean, sigma, mean - width, mean + width),
    *(above, below, statistic, rules),
  )


class Shewhart:
  """All values that have entered since Phase I, of which the last n count."""

  def __init__(self, size, multiplier, estimator, flagged, phase_one_size):
    self.size, self.multiplier, self.estimator = size, multiplier, estimator
    self.flagged, self.phase_one_size = flagged, phase_one_size
    self.restart()

  def restart(self):
    self.entered, self.ranges = [], []

  def estimate(self):
    window = self.entered[-self.size :]
    if not window:
      return 0.0, 0.0
    if self.estimator == 'mad':
      median = statistics.median(window)
      mad = statistics.median([abs(x - median) for x in window])
      return median, 1.4826 * mad
    # From the first value: equal losses have no spread at all.
    deviations = [x - window[0] for x in window]
    mean = math.fsum(deviations) / len(window)
    if self.estimator == 'moving_range':
      ranges = self.ranges[1:][-self.size + 1 :]
      mean_range = math.fsum(ranges) / max(len(ranges), 1)
      return window[0] + mean, mean_range / 1.128
    squares = math.fsum((d - mean) ** 2 for d in deviations)
    count = len(window) - (self.estimator == 'sample_std')
    return window[0] + mean, math.sqrt(squares / max(count, 1))

  def update(self, loss, clear):
    mean, sigma = self.estimate()
    clear.see(loss)
    is_ready = len(self.entered) >= self.phase_one_size
    width = self.multiplier * sigma if is_ready else math.inf
    above = below = False
    if math.isfinite(loss):
      is_exact = sigma == 0
      above = clear.above(loss, mean + width, is_exact=is_exact)
      below = clear.above(mean - width, loss, is_exact=is_exact or not is_ready)
      enters = loss
      if sigma > 0 and (above or below):
        if self.flagged == 'winsorize':
          enters = mean + width if above else mean - width
        elif self.flagged == 'leave_out':
          enters = None
      if enters is not None:
        # The range is that of losses as found, up to what the limits allow.
        new = abs(loss - self.found) if self.entered else math.inf
        if self.flagged == 'winsorize' and sigma > 0 and is_ready:
          new = min(new, 2 * width)
        self.ranges.append(new)
        self.found = loss
        self.entered.append(enters)
    return reading(mean, sigma, width, above, below, loss)


class Exponential:
  """Mean and variance of Phase I by definition, then by their recursion."""

  def __init__(self, decay, multiplier, flagged, phase_one_size, epsilon):
    self.decay, self.multiplier, self.flagged = decay, multiplier, flagged
    self.phase_one_size, self.epsilon = phase_one_size, epsilon
    self.restart()

  def restart(self):
    self.first, self.mean, self.variance = [], 0.0, 0.0

  def update(self, loss, clear):
    clear.see(loss)
    is_ready = len(self.first) >= self.phase_one_size
    mean = self.mean
    sigma = math.sqrt(self.variance) + (self.epsilon if is_ready else 0.0)
    width = self.multiplier * sigma if is_ready else math.inf
    above = below = False
    if math.isfinite(loss):
      is_exact = sigma == 0
      above = clear.above(loss, mean + width, is_exact=is_exact)
      below = clear.above(mean - width, loss, is_exact=is_exact or not is_ready)
      self.take_in(self.entering(loss, sigma, width, above, below))
    return reading(mean, sigma, width, above, below, loss)

  def entering(self, loss, sigma, width, above, below):
    if not sigma or not (above or below) or self.flagged == 'keep':
      return loss
    if self.flagged == 'leave_out':
      return None
    if self.flagged == 'winsorize':
      return self.mean + width if above else self.mean - width
    if below:
      return loss
    z = (loss - self.mean) / sigma
    return self.mean + self.multiplier**2 / z * sigma

  def take_in(self, x):
    if x is None:
      return
    if len(self.first) < self.phase_one_size:
      self.first.append(x)
      deviations = [y - self.first[0] for y in self.first]
      offset = math.fsum(deviations) / len(deviations)
      self.mean = self.first[0] + offset
      squares = math.fsum((d - offset) ** 2 for d in deviations)
      self.variance = squares / len(deviations)
      return
    self.mean = self.decay * self.mean + (1 - self.decay) * x
    self.variance = (
      self.decay * self.variance + (1 - self.decay) * (x - self.mean) ** 2
    )


class Fixed:
  """Known parameters."""

  def __init__(self, mean, sigma, multiplier):
    self.mean, self.sigma, self.multiplier = mean, sigma, multiplier

  def restart(self):
    pass

  def update(self, loss, clear):
    clear.see(loss)
    width = self.multiplier * self.sigma
    above = below = False
    if math.isfinite(loss):
      above = clear.above(loss, self.mean + width)
      below = clear.above(self.mean - width, loss)
    return reading(self.mean, self.sigma, width, above, below, loss)


def z_score(loss, given):
  if given.sigma > 0:
    return (loss - given.mean) / given.sigma
  if loss == given.mean:
    return 0.0
  return math.copysign(math.inf, loss - given.mean)


class Ewma:
  """The average is summed up anew each time, from all z-scores."""

  def __init__(self, smoothing, width, reference, clip):
    self.smoothing, self.width, self.clip = smoothing, width, clip
    self.reference = reference
    self.scores = []

  def restart(self):
    self.reference.restart()
    self.scores = []

  def update(self, loss, clear):
    given = self.reference.update(loss, clear)
    lam = self.smoothing
    if math.isinf(given.upper_limit):
      self.scores = []
      return reading(
        given.mean, given.sigma, math.inf, False, False, given.mean
      )
    is_new = math.isfinite(loss)
    if is_new:
      z = z_score(loss, given)
      self.scores.append(min(max(z, -self.clip), self.clip))
    t = len(self.scores)
    average = math.fsum(
      lam * (1 - lam) ** (t - 1 - i) * z for i, z in enumerate(self.scores)
    )
    variance = lam / (2 - lam) * (1 - (1 - lam) ** (2 * t))
    limit = self.width * math.sqrt(variance)
    return reading(
      given.mean,
      given.sigma,
      given.sigma * limit,
      is_new and clear.above(average, limit),
      is_new and clear.above(-average, limit),
      given.mean + given.sigma * average,
    )


class Cusum:
  """Page's recursion."""

  def __init__(self, allowance, interval, reference, clip, is_reset):
    self.allowance, self.interval, self.clip = allowance, interval, clip
    self.reference, self.is_reset = reference, is_reset
    self.high = self.low = 0.0

  def restart(self):
    self.reference.restart()
    self.high = self.low = 0.0

  def update(self, loss, clear):
    given = self.reference.update(loss, clear)
    if math.isinf(given.upper_limit):
      self.high = self.low = 0.0
      return reading(
        given.mean, given.sigma, math.inf, False, False, given.mean
      )
    above = below = False
    if math.isfinite(loss):
      z = min(max(z_score(loss, given), -self.clip), self.clip)
      self.high = max(0.0, self.high + z - self.allowance)
      self.low = max(0.0, self.low - z - self.allowance)
      above = clear.above(self.high, self.interval)
      below = clear.above(self.low, self.interval)
    both_zero = self.high == self.low == 0
    is_high = clear.above(self.high, self.low, is_exact=both_zero)
    statistic = self.high if is_high else -self.low
    if self.is_reset and above:
      self.high = 0.0
    if self.is_reset and below:
      self.low = 0.0
    width = given.sigma * self.interval
    statistic = given.mean + given.sigma * statistic
    return reading(given.mean, given.sigma, width, above, below, statistic)


class Difference:
  """A dictionary of baselines."""

  def __init__(self, cycle_length, smoothing, chart):
    self.cycle_length, self.smoothing, self.chart = (
      *(cycle_length, smoothing, chart),
    )
    self.baselines, self.time = {}, 0

  def restart(self):
    self.chart.restart()
    self.baselines = {}

  def update(self, loss, clear):
    batch = self.time % self.cycle_length
    self.time += 1
    clear.see(loss)
    baseline = self.baselines.get(batch)
    if baseline is None:
      given = self.chart.update(math.nan, clear)
      if math.isfinite(loss):
        self.baselines[batch] = loss
      return reading(given.mean, given.sigma, math.inf, False, False, loss)
    given = self.chart.update(loss - baseline, clear)
    if math.isfinite(loss):
      self.baselines[batch] += self.smoothing * (loss - baseline)
    return given._replace(
      baseline=baseline,
      mean=given.mean + baseline,
      lower_limit=given.lower_limit + baseline,
      upper_limit=given.upper_limit + baseline,
      statistic=loss,
    )


class Rules:
  """All z-scores since Phase I, and each rule as it is worded."""

  def __init__(self, chart, rules):
    self.chart, self.rules = chart, rules
    self.scores, self.points = [], []

  def restart(self):
    self.chart.restart()
    self.scores, self.points = [], []

  def update(self, loss, clear):
    given = self.chart.update(loss, clear)
    if math.isinf(given.upper_limit):
      self.scores, self.points = [], []
      return given
    if not math.isfinite(loss):
      return given
    self.scores.append(z_score(loss, given))
    # Losses are compared exactly; differences have been rounded.
    self.is_exact = given.baseline is None
    self.points.append(loss - (given.baseline or 0.0))
    above, below, violated = given.is_above, given.is_below, 0
    for bit, rule in enumerate(self.rules):
      is_violated, up, down = getattr(self, rule.kind)(rule, clear)
      violated |= is_violated << bit
      above, below = above or up, below or down
    return given._replace(
      is_above=above, is_below=below, violated_rules=violated
    )

  def beyond(self, rule, clear):
    last = self.scores[-(rule.window or rule.count) :]
    up, down = (
      [clear.above(side * z, rule.sigmas, is_exact=math.isinf(z)) for z in last]
      for side in (1, -1)
    )
    is_up = up[-1] and sum(up) >= rule.count
    is_down = down[-1] and sum(down) >= rule.count
    return is_up or is_down, is_up, is_down

  def steps(self, count, clear):
    """+1, -1 or 0 from each of the last losses to the next, or None."""
    last = self.points[-count:]
    if len(last) < count:
      return None
    pairs = list(zip(last[1:], last, strict=False))
    return [
      clear.above(b, a, is_exact=self.is_exact)
      - clear.above(a, b, is_exact=self.is_exact)
      for b, a in pairs
    ]

  def trend(self, rule, clear):
    steps = self.steps(rule.count, clear)
    up = steps is not None and all(s == 1 for s in steps)
    down = steps is not None and all(s == -1 for s in steps)
    return up or down, up, down

  def alternating(self, rule, clear):
    steps = self.steps(rule.count, clear)
    is_violated = steps is not None and all(
      a * b == -1 for a, b in zip(steps[1:], steps, strict=False)
    )
    return is_violated, False, False

  def within(self, rule, clear):
    last = self.scores[-rule.count :]
    return (
      len(last) == rule.count
      and all(clear.above(rule.sigmas, abs(z)) for z in last),
      *(False, False),
    )

  def outside(self, rule, clear):
    last = self.scores[-rule.count :]
    is_violated = len(last) == rule.count and all(
      clear.above(abs(z), rule.sigmas, is_exact=math.isinf(z)) for z in last
    )
    return (
      is_violated,
      is_violated and last[-1] > 0,
      is_violated and last[-1] < 0,
    )


class Restart:
  """Counts flags in a row."""

  def __init__(self, chart, restart_after):
    self.chart, self.restart_after = chart, restart_after
    self.row = 0

  def restart(self):
    self.chart.restart()
    self.row = 0

  def update(self, loss, clear):
    given = self.chart.update(loss, clear)
    if math.isfinite(loss):
      self.row = self.row + 1 if given.is_above or given.is_below else 0
    if self.row >= self.restart_after:
      self.restart()
    return given
