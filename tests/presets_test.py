"""Presets decide as the rules that they are named after, step by step.

The rules are written down here once more, in NumPy and float64, from what the
sources say: over a list of all that came before, with nothing kept but that.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax

pytestmark = [pytest.mark.cheap_compile, pytest.mark.one_version]

NUM_STEPS = 100_000
PRESETS = {
  'olmo_core': isgd_jax.olmo_core_skip_step,
  'maxtext': isgd_jax.maxtext_skip_on_spike,
  'levanter': isgd_jax.levanter_skip_step,
}


def synthetic_series(num_steps=NUM_STEPS, seed=0):
  """Loss and gradient norm of a long run: drift, jumps, heavy tails, spikes."""
  rng = np.random.default_rng(seed)
  steps = np.arange(num_steps)
  level = 2.0 + 8.0 * np.exp(-steps / 2e4) + 0.3 * np.sin(steps / 3e3)
  level += 0.5 * (steps > 0.6 * num_steps)  # The data change.
  loss = level * (1 + 0.01 * rng.standard_t(5, num_steps))
  norm = 0.3 + 0.5 * np.exp(-steps / 1e4) + 0.1 * rng.gamma(4, 0.25, num_steps)
  norm *= np.exp(0.2 * np.sin(steps / 700))
  for series in (loss, norm):
    spikes = rng.random(num_steps) < 2e-3
    series[spikes] *= 1 + rng.exponential(0.5, spikes.sum())
  # Spikes that last, and stretches without any spread.
  loss[30_000:30_060] += 4.0
  norm[50_000:50_300] *= 3.0
  loss[70_000:70_200] = 3.0
  norm[80_000:80_200] = 0.5
  return np.float32(loss), np.float32(norm)


def recorded_series(num_steps=20_000):
  """Loss and gradient norm of a small network that is trained, recorded.

  One batch in 97 has wrong labels, and the data change every 5000 steps.
  """
  key = jax.random.key(11)

  def loss_fn(params, x, y):
    (w0, b0), (w1, b1) = params
    return jnp.mean(jnp.square(jnp.tanh(x @ w0 + b0) @ w1 + b1 - y))

  def step(params, t):
    x = jax.random.normal(jax.random.fold_in(key, t + 100), (16, 8))
    y = jnp.sin(x @ jnp.arange(8.0) + (t // 5000).astype(x.dtype))[:, None]
    y = y + jnp.where(t % 97 == 96, 3.0, 0.0)
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    norm = optax.tree.norm(grads)
    params = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)
    return params, (loss, norm)

  params = [
    (0.3 * jax.random.normal(key, (8, 16)), jnp.zeros(16)),
    (0.3 * jax.random.normal(key, (16, 1)), jnp.zeros(1)),
  ]
  steps = jnp.arange(num_steps, dtype=jnp.int32)
  return jax.tree.map(
    np.asarray, jax.jit(lambda: jax.lax.scan(step, params, steps)[1])()
  )


def with_non_finite(series, seed=1):
  """Some losses and norms, of different steps, are not finite."""
  rng = np.random.default_rng(seed)
  spoilt = []
  for values in series:
    values = values.copy()
    places = rng.random(len(values)) < 1e-3
    values[places] = rng.choice([np.nan, np.inf, -np.inf], places.sum())
    values[:3] = np.nan, 1.0, np.inf
    spoilt.append(values)
  return tuple(spoilt)


SERIES = {
  'synthetic': synthetic_series,
  'recorded': recorded_series,
  'synthetic, not finite': lambda: with_non_finite(synthetic_series()),
  'recorded, not finite': lambda: with_non_finite(recorded_series()),
}


@pytest.fixture(scope='module')
def series():
  known = {}

  def of(name):
    if name not in known:
      known[name] = SERIES[name]()
    return known[name]

  return of


def skipper(optimizer):
  """Which steps of a series of losses and norms the preset skips."""

  def step(state, row):
    loss, norm = row
    updates, state = optimizer.update(norm[None], state, value=loss)
    return state, updates[0] == 0

  scan = jax.jit(
    lambda *rows: jax.lax.scan(step, optimizer.init(jnp.ones(1)), rows)
  )
  return lambda *rows: np.asarray(scan(*map(jnp.asarray, rows))[1])


def skips_of(optimizer, losses, norms):
  return skipper(optimizer)(losses, norms)


def flags(rule, values):
  """What a rule says of each value, and how near its limit it was."""
  least, limit_of = rule
  is_finite = np.isfinite(values)
  finite = np.float64(values[is_finite])
  limits = np.full(len(finite), np.inf)
  for t in range(least, min(M, len(finite))):
    limits[t] = limit_of(finite[:t])
  before = np.lib.stride_tricks.sliding_window_view(finite, M)[:-1]
  for start in range(0, len(before), 5000):  # In pieces, for the memory.
    piece = slice(start + M, min(start + 5000, len(before)) + M)
    limits[piece] = limit_of(before[start : start + 5000])
  flagged = np.zeros(len(values), bool)
  flagged[is_finite] = finite > limits
  margins = np.full(len(values), np.inf)
  is_judged = np.isfinite(limits)
  relative = np.abs(finite - limits)[is_judged] / limits[is_judged]
  margins[np.flatnonzero(is_finite)[is_judged]] = relative
  return flagged, margins


def above_sample(last):
  """Mean plus six sample deviations of the last ones."""
  return last.mean(-1) + 6 * last.std(-1, ddof=1)


def above_population(last):
  """The same with the population deviation, of at least 1e-6."""
  return last.mean(-1) + 6 * np.maximum(last.std(-1), 1e-6)


M = 128


def rules_of(m):
  """How many values a rule needs before the one it judges, and its limit."""
  return {
    'olmo_core': (max(20, m // 2) - 1, above_sample),
    'maxtext': (max(2, m // 2) - 1, above_sample),
    'levanter': (max(2, m // 2), above_population),
  }


RULES = rules_of(M)


def expected_skips(name, losses, norms):
  """By either statistic, or where one is not finite; and the least margin."""
  by_loss, near_loss = flags(RULES[name], losses)
  by_norm, near_norm = flags(RULES[name], norms)
  is_finite = np.isfinite(losses) & np.isfinite(norms)
  return by_loss | by_norm | ~is_finite, np.minimum(near_loss, near_norm)


@pytest.mark.parametrize('name', PRESETS)
@pytest.mark.parametrize('kind', SERIES)
def test_a_preset_skips_what_its_rule_skips(name, kind, series):
  """In float64 at every step; in float32 at all but those on the limit.

  There rounding decides, ours and that of the frameworks too: their own float32
  sums differ from machine to machine.
  """
  losses, norms = series(kind)
  expected, margins = expected_skips(name, losses, norms)
  assert 30 < expected.sum() < 0.02 * len(losses)
  with jax.enable_x64(True):
    skipped = skips_of(PRESETS[name](optax.sgd(1.0)), losses, norms)
  # Losses that are all equal are on the limit: no spread, in any precision.
  is_clear = margins > 1e-12
  np.testing.assert_array_equal(skipped[is_clear], expected[is_clear])
  assert np.sum(~is_clear) <= 600
  skipped = skips_of(PRESETS[name](optax.sgd(1.0)), losses, norms)
  is_clear = margins > 1e-5
  np.testing.assert_array_equal(skipped[is_clear], expected[is_clear])
  assert np.sum(~is_clear) <= 600


def as_they_are(name, losses, norms, num_steps):
  """The rules with what is not finite in their windows, as published."""
  skips = []
  for t in range(num_steps):
    is_ok = True
    for series in (losses, norms):
      past, x = np.float64(series[max(0, t - 128) : t]), series[t]
      with np.errstate(invalid='ignore'):
        if name == 'levanter':
          mean, std = past.mean() if t else 0.0, past.std() if t else 0.0
          std = np.nan_to_num(max(std, 1e-6), nan=1e-6, posinf=1e-6)
          is_ok &= bool(
            x <= np.nan_to_num(mean, nan=0.0, posinf=np.inf) + 6 * std
          )
        elif t > 1:
          is_ok &= bool(x - past.mean() <= 6 * past.std(ddof=1))
    least = 64 if name == 'levanter' else 63
    skips.append(t >= least and not is_ok)
  return np.array(skips)


@pytest.mark.parametrize('name', PRESETS)
def test_one_loss_that_is_no_number_stops_theirs_for_a_window_and_ours_not(
  name,
):
  """What our choice differs in, and that it differs in nothing else."""
  losses, norms = synthetic_series(1000, seed=3)
  clean = as_they_are(name, losses, norms, 1000)
  np.testing.assert_array_equal(
    skips_of(PRESETS[name](optax.sgd(1.0)), losses, norms), clean
  )
  losses = losses.copy()
  losses[500] = np.nan
  theirs = as_they_are(name, losses, norms, 1000)
  ours = skips_of(PRESETS[name](optax.sgd(1.0)), losses, norms)
  assert theirs[500:629].all()
  assert ours[500]
  assert ours[501:629].sum() <= 3
  np.testing.assert_array_equal(ours[:500], theirs[:500])
  np.testing.assert_array_equal(ours[700:], theirs[700:])


def zclip_rule(norms, alpha=0.97, k=2.5, eps=1e-6, warmup=25):
  """The norms that are left, before max_grad_norm, and the z-scores."""
  left, scores, first = [], [], []
  mean = var = None
  for g in np.float64(norms):
    if not np.isfinite(g):
      left.append(g)
      scores.append(-np.inf)
      continue
    if mean is None:
      left.append(g)
      scores.append(-np.inf)
      first.append(g)
      if len(first) == warmup:
        mean, var = np.mean(first), np.var(first)
      continue
    std = np.sqrt(var)
    z = (g - mean) / (std + eps)
    clipped = mean + k * std / (z / k) if z > k else g
    mean = alpha * mean + (1 - alpha) * clipped
    var = alpha * var + (1 - alpha) * (clipped - mean) ** 2
    left.append(clipped)
    scores.append(z)
  return np.array(left), np.array(scores)


def norms_left(optimizer, norms):
  """What the base optimizer is handed of each."""

  def step(state, norm):
    updates, state = optimizer.update(norm[None], state, jnp.ones(1))
    return state, updates[0]

  scan = jax.jit(
    lambda xs: jax.lax.scan(step, optimizer.init(jnp.ones(1)), xs)[1]
  )
  return np.asarray(scan(jnp.asarray(norms)))


@pytest.mark.parametrize('kind', SERIES)
def test_zclip_leaves_of_each_norm_what_zclip_leaves(kind, series):
  """Decisions at every step in float64; of float32 those clear of the limit."""
  _, norms = series(kind)
  expected, z = zclip_rule(norms)
  assert 100 < np.sum(z > 2.5) < 0.2 * len(norms)
  optimizer = isgd_jax.zclip(optax.identity(), max_grad_norm=None)
  with jax.enable_x64(True):
    wide = np.float64(norms)
    left = norms_left(optimizer, wide)
    np.testing.assert_array_equal(left != wide, expected != wide)
    # Not sigma plus epsilon but sigma: seen where there is next to no spread.
    np.testing.assert_allclose(left, expected, rtol=1e-3)
  left = norms_left(optimizer, norms)
  is_clear = np.abs(z - 2.5) > 1e-3
  np.testing.assert_array_equal((left < norms)[is_clear], (z > 2.5)[is_clear])
  np.testing.assert_allclose(left[is_clear], expected[is_clear], rtol=1e-3)
  assert np.mean(~is_clear) < 1e-3


def test_zclip_leaves_nothing_above_its_largest_norm():
  norms = synthetic_series(2000)[1]
  expected = np.minimum(zclip_rule(norms)[0], 0.8)
  left = norms_left(isgd_jax.zclip(optax.identity(), max_grad_norm=0.8), norms)
  np.testing.assert_allclose(left, expected, rtol=1e-3)
  assert np.sum(left > 0.799) > 100


def test_one_norm_that_is_no_number_spoils_theirs_for_ever_and_ours_not():
  norms = synthetic_series(2000)[1]
  spoilt = norms.copy()
  spoilt[1000] = np.nan
  optimizer = isgd_jax.zclip(optax.identity(), max_grad_norm=None)
  left = norms_left(optimizer, spoilt)
  assert np.flatnonzero(np.isnan(left)).tolist() == [1000]
  np.testing.assert_allclose(
    np.delete(left, 1000),
    norms_left(optimizer, np.delete(norms, 1000)),
    rtol=1e-6,
  )


@pytest.mark.parametrize(
  'make',
  [
    lambda base: isgd_jax.olmo_core_skip_step(base, rolling_interval_length=19),
    lambda base: isgd_jax.maxtext_skip_on_spike(base, interval=5),
    lambda base: isgd_jax.levanter_skip_step(base, rolling_interval_length=3),
    lambda base: isgd_jax.olmo_core_skip_step(base, sigma_factor=0.0),
    lambda base: isgd_jax.zclip(base, alpha=1.0),
    lambda base: isgd_jax.zclip(base, z_thresh=-1.0),
    lambda base: isgd_jax.zclip(base, max_grad_norm=0.0),
    lambda base: isgd_jax.zclip(base, warmup_steps=1),
    lambda base: isgd_jax.zclip(base, eps=-1e-6),
  ],
)
def test_arguments_out_of_range_are_refused(make):
  with pytest.raises(ValueError, match=r'must be'):
    make(optax.sgd(0.1))


@pytest.mark.parametrize('name', PRESETS)
@pytest.mark.parametrize('size', [20, 31, 50])
def test_a_shorter_interval_is_in_force_when_its_rule_says(size, name):
  """A spike at each step from the third on, in a run of its own."""
  rng = np.random.default_rng(5)
  losses = np.float32(rng.normal(5.0, 0.1, size))
  option = 'interval' if name == 'maxtext' else 'rolling_interval_length'
  skip = skipper(PRESETS[name](optax.sgd(1.0), **{option: size}))
  num_skipped = 0
  for place in range(2, size):
    spoilt = losses.copy()
    spoilt[place] = 50.0
    least, limit_of = rules_of(size)[name]
    is_due = place >= least and limit_of(np.float64(losses[:place])) < 50.0
    skipped = skip(spoilt, np.ones(size, np.float32))[place]
    assert skipped == is_due, place
    num_skipped += skipped
  assert 0 < num_skipped < size - 2
