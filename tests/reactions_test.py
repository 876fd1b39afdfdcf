"""What a flagged batch sets off: skip, clip, reset, rewarm, and one's own."""

import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax._charts import statistics
from tests import helpers

pytestmark = [pytest.mark.cheap_compile, pytest.mark.newest_version]

BASES = {
  'sgd': lambda: optax.sgd(0.1),
  'momentum': lambda: optax.sgd(0.1, momentum=0.9),
  'adam': lambda: helpers.relaxed(optax.adam(0.05)),
  'chain': lambda: helpers.relaxed(
    optax.chain(
      optax.clip_by_global_norm(100.0),
      optax.scale_by_adam(),
      optax.scale_by_schedule(optax.linear_schedule(-0.1, 0.0, 50)),
    )
  ),
  'injected': lambda: helpers.relaxed(
    optax.inject_hyperparams(optax.adam)(
      learning_rate=optax.linear_schedule(0.1, 0.0, 50)
    )
  ),
  'schedule_free': lambda: helpers.relaxed(
    optax.contrib.schedule_free_sgd(0.1)
  ),
}
WITH_MOMENTS = [name for name in BASES if name not in ('sgd',)]
WITH_COUNT = ['adam', 'chain', 'injected']
SIZES = [1.0, 1.1, 0.9, 1.0, 50.0, 1.05, 0.95, 60.0, 70.0, 1.0, 1.1, -40.0]
SIZES += [1.0, np.nan, 80.0, np.inf, 1.0]
FLAGGED = [4, 7, 8, 14]
REACTIONS = {
  'skip': isgd_jax.skip(),
  'clip': isgd_jax.clip(),
  'clip_reciprocal': isgd_jax.clip('reciprocal'),
  'clip_mean': isgd_jax.clip('mean'),
  'reset': isgd_jax.reset(),
  'reset_moments': isgd_jax.reset('moments'),
  'reset_count': isgd_jax.reset('count'),
  'rewarm': isgd_jax.rewarm(3.0, 2),
}


def window(multiplier=3.0):
  return isgd_jax.shewhart(4, multiplier, flagged_losses='leave_out')


def of_both(multiplier=3.0):
  return isgd_jax.any_of(
    window(multiplier),
    isgd_jax.chart_of('gradient_norm', window(multiplier)),
  )


def make_params():
  return {'w': jnp.array([1.0, -2.0, 3.0]), 'b': jnp.float32(0.5)}


def grads_of(step, norm=None):
  keys = jax.random.split(jax.random.key(step))
  grads = {
    'w': jax.random.normal(keys[0], (3,)),
    'b': jax.random.normal(keys[1], ()),
  }
  if norm is None:
    return grads
  scale = norm / statistics.global_norm(grads)
  return jax.tree.map(lambda g: g * scale, grads)


def run(optimizer, sizes=SIZES, *, norms=None, jit=False, **extra_args):
  """Parameters and state before, updates and state after, of each step."""
  params = make_params()
  state = optimizer.init(params)
  update = jax.jit(optimizer.update) if jit else optimizer.update
  rows = []
  for t, size in enumerate(sizes):
    grads = grads_of(t, None if norms is None else jnp.float32(norms[t]))
    updates, new_state = update(
      grads, state, params, value=jnp.float32(size), **extra_args
    )
    rows.append((params, state, updates, new_state))
    params = optax.apply_updates(params, updates)
    state = new_state
  return rows


def fits(name, base):
  return not (
    (name == 'reset_count' and base not in WITH_COUNT)
    or (name == 'reset_moments' and base not in WITH_MOMENTS)
  )


@pytest.mark.parametrize('base_name', BASES)
@pytest.mark.parametrize('name', REACTIONS)
def test_a_step_that_is_not_flagged_is_that_of_the_base_bit_for_bit(
  name, base_name
):
  """Op by op, from the state that it finds; also past what was flagged."""
  if not fits(name, base_name):
    pytest.skip('nothing to reset')
  base = BASES[base_name]()
  optimizer = isgd_jax.react(base, of_both(), REACTIONS[name])
  lasts = 2 if name == 'rewarm' else 1
  near = {t + i for t in FLAGGED for i in range(lasts)}
  num_quiet = 0
  norms = np.random.default_rng(0).uniform(0.8, 1.2, len(SIZES))
  for t, (params, before, updates, after) in enumerate(
    run(optimizer, norms=norms)
  ):
    assert bool(isgd_jax.get_info(after).is_undertrained) == (t in FLAGGED)
    if t not in near:
      expected, base_state = base.update(
        grads_of(t, jnp.float32(norms[t])), before.base_state, params
      )
      chex.assert_trees_all_equal(updates, expected)
      chex.assert_trees_all_equal(after.base_state, base_state)
      num_quiet += 1
  assert num_quiet >= 9


@pytest.mark.parametrize('max_consecutive', [1, 2, None])
@pytest.mark.parametrize('jit', [False, True])
def test_the_reaction_skip_does_what_skip_out_of_control_does(
  max_consecutive, jit
):
  base = BASES['momentum']()
  alone = isgd_jax.skip_out_of_control(
    base, window(), max_consecutive=max_consecutive
  )
  optimizer = isgd_jax.react(base, window(), isgd_jax.skip(max_consecutive))
  for ours, theirs in zip(
    run(optimizer, jit=jit), run(alone, jit=jit), strict=True
  ):
    chex.assert_trees_all_equal(ours[2], theirs[2])
    chex.assert_trees_all_equal(ours[3].base_state, theirs[3].base_state)
    chex.assert_trees_all_equal(ours[3].packed_info, theirs[3].packed_info)
    chex.assert_trees_all_equal(
      ours[3].reaction_states['skip'].num_above_in_a_row,
      theirs[3].num_above_in_a_row,
    )


def test_skip_non_finite_drops_what_cannot_be_judged():
  """In Phase I too, by either statistic, and beyond max_consecutive."""
  optimizer = isgd_jax.react(
    BASES['momentum'](), of_both(), isgd_jax.skip(1, skip_non_finite=True)
  )
  losses = [1.0, np.nan, 1.1, 0.9, 1.0, 1.0, np.inf, np.nan, 1.0, -np.inf, 1.0]
  norms = [1.0, 1.1, 0.9, 1.0, 1.0, np.inf, 1.0, 1.0, np.nan, 1.0, 1.0]
  bad = [1, 5, 6, 7, 8, 9]
  for t, (_, before, updates, after) in enumerate(
    run(optimizer, losses, norms=norms)
  ):
    assert bool(isgd_jax.get_info(after).is_skipped) == (t in bad)
    if t in bad:
      assert not any(np.any(u) for u in jax.tree.leaves(updates))
      chex.assert_trees_all_equal(after.base_state, before.base_state)


def statistics_of(taken_in, size=4):
  """Mean and sigma of the last ones, in float64; no limit before."""
  last = taken_in[-size:]
  return (np.mean(last), np.std(last)) if len(last) == size else (0.0, np.inf)


NORMS = [1.0, 1.2, 0.8, 1.0, 50.0, 1.05, 0.9, 3.0, 1.0, np.nan, 8.0, np.inf]


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('to', ['limit', 'reciprocal', 'mean'])
def test_clip_leaves_the_direction_and_the_norm_that_it_says(to, jit):
  """Against the statistics of the norms that were taken in, in float64."""
  chart = isgd_jax.chart_of('gradient_norm', window())
  optimizer = isgd_jax.react(optax.scale(1.0), chart, isgd_jax.clip(to))
  taken_in, num_clipped = [], 0
  for t, (_, _, updates, after) in enumerate(
    run(optimizer, [0.0] * len(NORMS), norms=NORMS, jit=jit)
  ):
    norm, grads = NORMS[t], grads_of(t, jnp.float32(NORMS[t]))
    mean, sigma = statistics_of(taken_in)
    is_clipped = len(taken_in) >= 4 and norm > mean + 3 * sigma
    if is_clipped and np.isfinite(norm):
      z = (norm - mean) / sigma
      target = {
        'limit': mean + 3 * sigma,
        'mean': mean,
        'reciprocal': mean + 9 * sigma / z,
      }[to]
      expected = optax.tree.scale(target / norm, grads)
      chex.assert_trees_all_close(updates, expected, rtol=1e-5)
      num_clipped += 1
    else:
      chex.assert_trees_all_equal(updates, grads)
      if np.isfinite(norm):
        taken_in.append(norm)
    assert int(after.reaction_states['clip'].num_clipped) == num_clipped
  assert num_clipped == 3


def test_clip_heeds_the_chart_of_the_norm_alone():
  """A high loss clips nothing, and a high norm is clipped whatever the loss."""
  optimizer = isgd_jax.react(optax.scale(1.0), of_both(), isgd_jax.clip())
  rows = run(
    optimizer,
    [1.0, 1.1, 0.9, 1.0, 50.0, 1.0],
    norms=[1.0, 1.1, 0.9, 1.0, 1.0, 50.0],
  )
  norms = [float(statistics.global_norm(row[2])) for row in rows]
  np.testing.assert_allclose(norms[4], 1.0, rtol=1e-6)
  _, of_norm = isgd_jax.get_parts(rows[5][3])
  np.testing.assert_allclose(norms[5], of_norm.upper_limit, rtol=1e-6)
  assert norms[5] < 1.5


def expected_after_reset(what, base, base_state, params):
  """By hand, for the states of these bases."""
  fresh = base.init(params)
  if what == 'state':
    return fresh
  moments = lambda new, old: (
    old._replace(mu=new.mu, nu=new.nu)
    if what == 'moments'
    else old._replace(count=new.count)
  )
  is_adam = lambda node: isinstance(node, optax.ScaleByAdamState)
  return jax.tree.map(
    lambda new, old: moments(new, old) if is_adam(new) else old,
    fresh,
    base_state,
    is_leaf=is_adam,
  )


@pytest.mark.parametrize('what', ['state', 'moments', 'count'])
@pytest.mark.parametrize('base_name', WITH_COUNT)
def test_reset_puts_back_what_it_says_and_nothing_else(base_name, what):
  """Not the count of a schedule, unless the whole state goes."""
  base = BASES[base_name]()
  optimizer = isgd_jax.react(base, window(), isgd_jax.reset(what))
  num_resets = 0
  for t, (params, before, updates, after) in enumerate(run(optimizer)):
    base_state = before.base_state
    if t in FLAGGED:
      base_state = expected_after_reset(what, base, base_state, params)
      num_resets += 1
      with np.testing.assert_raises(AssertionError):
        chex.assert_trees_all_equal(base_state, before.base_state)
    expected, base_state = base.update(grads_of(t), base_state, params)
    chex.assert_trees_all_equal(updates, expected)
    chex.assert_trees_all_equal(after.base_state, base_state)
    assert int(after.reaction_states['reset'].num_resets) == num_resets


def test_reset_of_momentum_and_of_all_that_follows_the_parameters():
  base = BASES['momentum']()
  optimizer = isgd_jax.react(base, window(), isgd_jax.reset('moments'))
  params, _, updates, _ = run(optimizer)[4]
  expected, _ = base.update(grads_of(4), base.init(params), params)
  chex.assert_trees_all_equal(updates, expected)


@pytest.mark.parametrize('refractory', [0, 1, 3])
def test_flags_in_the_refractory_period_are_not_heeded(refractory):
  sizes = [1.0, 1.1, 0.9, 1.0, *[50.0] * 9]
  optimizer = isgd_jax.react(
    BASES['adam'](),
    window(),
    isgd_jax.reset(refractory=refractory),
    isgd_jax.rewarm(3.0, 2, refractory=refractory),
  )
  rows = run(optimizer, sizes)
  states = [row[3].reaction_states for row in rows]
  resets = np.diff([0, *(int(s['reset'].num_resets) for s in states)])
  rewarms = np.diff([0, *(int(s['rewarm'].num_rewarms) for s in states)])
  assert np.flatnonzero(resets).tolist() == [*range(4, 13, 1 + refractory)]
  assert np.flatnonzero(rewarms).tolist() == [*range(4, 13, 2 + refractory)]


@pytest.mark.parametrize('jit', [False, True])
def test_rewarm_scales_updates_by_what_comes_down_to_one(jit):
  optimizer = isgd_jax.react(
    optax.scale(-1.0), window(), isgd_jax.rewarm(5.0, 4)
  )
  factors = {4: 5.0, 5: 4.0, 6: 3.0, 7: 2.0, 8: 5.0, 9: 4.0, 10: 3.0, 11: 2.0}
  factors |= {14: 5.0, 15: 4.0, 16: 3.0}
  for t, (*_, updates, _) in enumerate(run(optimizer, jit=jit)):
    expected = optax.tree.scale(-factors.get(t, 1.0), grads_of(t))
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)


def test_reactions_act_one_after_the_other_on_one_reading():
  """A reset, then the clipped gradient, then a larger update of it."""
  base = BASES['momentum']()
  optimizer = isgd_jax.react(
    base,
    of_both(),
    isgd_jax.reset('moments'),
    isgd_jax.clip(),
    isgd_jax.rewarm(2.0, 1),
  )
  rows = run(optimizer, [1.0] * 5, norms=[1.0, 1.1, 0.9, 1.0, 50.0])
  params, _, updates, after = rows[4]
  _, of_norm = isgd_jax.get_parts(after)
  clipped = grads_of(4, of_norm.upper_limit)
  expected, _ = base.update(clipped, base.init(params), params)
  chex.assert_trees_all_close(
    updates, jax.tree.map(lambda u: 2 * u, expected), rtol=1e-5
  )


@pytest.mark.parametrize('name', REACTIONS)
def test_reactions_under_jit_scan_and_vmap(name):
  optimizer = isgd_jax.react(BASES['adam'](), of_both(), REACTIONS[name])
  norms = [1.0, 1.2, 0.8, 1.0, 50.0, 1.05, 1.0, 40.0]
  losses = [1.0, 1.1, 0.9, 1.0, 1.0, 30.0, 1.0, 1.0]
  op_by_op = run(optimizer, losses, norms=norms)
  jitted = run(optimizer, losses, norms=norms, jit=True)

  def scan(losses, norms):
    params = make_params()

    def step(carry, row):
      params, state = carry
      t, loss, norm = row
      updates, state = optimizer.update(
        grads_of(t, norm), state, params, value=loss
      )
      return (optax.apply_updates(params, updates), state), updates

    steps = jnp.arange(len(losses), dtype=jnp.int32)
    return jax.lax.scan(
      step, (params, optimizer.init(params)), (steps, losses, norms)
    )

  losses, norms = jnp.array(losses), jnp.array(norms)
  (_, state), _ = jax.jit(scan)(losses, norms)
  chex.assert_trees_all_close(state, op_by_op[-1][3], rtol=2e-4, atol=1e-6)
  chex.assert_trees_all_close(state, jitted[-1][3], rtol=2e-4, atol=1e-6)
  # Not all equal: of such rounding would decide what is flagged.
  quiet = 1.0 + 0.1 * jnp.cos(3.0 * jnp.arange(8.0))
  both = jnp.stack([losses, quiet]), jnp.stack([norms, quiet])
  mapped = jax.jit(jax.vmap(scan))(*both)
  for lane in (0, 1):
    single = jax.jit(scan)(both[0][lane], both[1][lane])
    chex.assert_trees_all_close(
      jax.tree.map(operator.itemgetter(lane), mapped),
      single,
      rtol=2e-4,
      atol=1e-6,
    )


@pytest.mark.parametrize('name', REACTIONS)
def test_dtypes_and_structure_are_kept_and_nothing_is_compiled_twice(name):
  for dtype in ('bfloat16', 'float32'):
    optimizer = isgd_jax.react(BASES['adam'](), of_both(), REACTIONS[name])
    params = optax.tree.cast(make_params(), dtype)
    state = optimizer.init(params)

    @jax.jit
    def step(s, p, v, update=optimizer.update):
      return update(p, s, p, value=v)

    for value in (1.0, 1.1, 0.9, 1.0, 50.0):
      updates, after = step(state, params, value)
      chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
      chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
      assert not any(x.weak_type for x in jax.tree.leaves(after))
      state = after
    assert step._cache_size() == 1
  specs = optax.tree.map_params(
    optimizer, lambda _: 'param', state, transform_non_params=lambda _: 'other'
  )
  assert set(jax.tree.leaves(specs.reaction_states)) == {'other'}
  assert 'param' in jax.tree.leaves(specs.base_state)


def test_numbers_of_reactions_can_be_injected_and_states_found_by_name():
  factory = lambda factor: isgd_jax.react(
    optax.sgd(0.1), window(), isgd_jax.skip(), isgd_jax.rewarm(factor, 3)
  )
  injected = helpers.relaxed(optax.inject_hyperparams(factory)(factor=3.0))
  for ours, theirs in zip(run(injected), run(factory(3.0)), strict=True):
    chex.assert_trees_all_close(ours[2], theirs[2], rtol=1e-6)
  state = ours[3]
  assert int(optax.tree.get(state, 'num_rewarms')) == 3
  assert int(optax.tree.get(state, 'num_above_in_a_row')) == 0


def test_one_reaction_for_each_group_of_parameters():
  """As AdaGC clips: each group to a limit of its own history, in NumPy."""
  make = lambda: isgd_jax.react(
    optax.sgd(1.0),
    isgd_jax.chart_of('gradient_norm', window()),
    isgd_jax.clip(),
  )
  optimizer = optax.partition({'a': make(), 'b': make()}, {'w': 'a', 'b': 'b'})
  params = make_params()
  state = optimizer.init(params)
  step = jax.jit(lambda g, s: optimizer.update(g, s, params))
  history = {'w': [], 'b': []}
  num_clipped = dict.fromkeys(history, 0)
  rng = np.random.default_rng(2)
  for t in range(60):
    grads = {'w': rng.normal(size=3) + 3, 'b': rng.normal() + 5}
    grads['w'] *= 20 if t % 11 == 10 else 1
    grads['b'] *= 20 if t % 7 == 6 else 1
    updates, state = step(
      jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), grads), state
    )
    for name, past in history.items():
      norm = np.linalg.norm(grads[name])
      mean, sigma = statistics_of(past)
      limit = mean + 3 * sigma
      factor = 1.0
      if len(past) >= 4 and norm > limit:
        factor = limit / norm
        num_clipped[name] += 1
      elif not (len(past) >= 4 and norm < mean - 3 * sigma):
        past.append(norm)
      np.testing.assert_allclose(
        updates[name], -factor * grads[name], rtol=2e-4
      )
  assert min(num_clipped.values()) >= 5
  for group, name in (('a', 'w'), ('b', 'b')):
    inner = state.inner_states[group]
    assert int(optax.tree.get(inner, 'num_clipped')) == num_clipped[name]
    assert int(isgd_jax.get_info(inner).num_steps) == 60


def quadratic(params, target):
  return sum(jnp.sum(jnp.square(p - target)) for p in jax.tree.leaves(params))


def test_a_chase_sits_inside_and_knows_the_gradient_as_it_was():
  """Its chart is of the loss; norms are clipped outside."""
  of_norm = isgd_jax.chart_of('gradient_norm', isgd_jax.fixed_limits(2.0, 1.0))
  optimizer = isgd_jax.react(
    helpers.blind_isgd(optax.sgd(0.05), isgd_jax.shewhart(4)),
    of_norm,
    isgd_jax.clip(),
  )
  alone = helpers.blind_isgd(optax.sgd(0.05), isgd_jax.shewhart(4))
  params = make_params()
  state = optimizer.init(params)
  step = jax.jit(optimizer.update, static_argnames='value_fn')
  num_chases = 0
  for t in range(20):
    target = 6.0 if t == 15 else 0.1 * (t % 3)
    loss, grads = jax.value_and_grad(quadratic)(params, target)
    value_fn = lambda p, target=target: quadratic(p, target)
    args = {'value': loss, 'value_fn': value_fn}
    updates, after = step(grads, state, params, **args)
    norm = statistics.global_norm(grads)
    clipped = optax.tree.scale(jnp.minimum(1.0, 5.0 / norm), grads)
    expected, _ = alone.update(
      clipped, state.base_state, params, grad=grads, **args
    )
    chex.assert_trees_all_close(updates, expected, rtol=1e-4, atol=1e-6)
    params, state = optax.apply_updates(params, updates), after
    info = isgd_jax.get_info(state.base_state)
    num_chases += int(info.num_chase_steps) > 0
  assert num_chases >= 1
  with pytest.raises(ValueError, match='found 2'):
    isgd_jax.get_info(state)


@pytest.mark.parametrize(
  'make',
  [
    lambda: isgd_jax.react(optax.sgd(0.1), window(), isgd_jax.clip()),
    lambda: isgd_jax.react(
      optax.sgd(0.1), window(), isgd_jax.skip(), isgd_jax.skip(3)
    ),
    lambda: isgd_jax.react(optax.sgd(0.1), window(), 'skip'),
    lambda: isgd_jax.clip('upper'),
    lambda: isgd_jax.reset('all'),
    lambda: isgd_jax.reset(refractory=-1),
    lambda: isgd_jax.rewarm(0.0, 3),
    lambda: isgd_jax.rewarm(2.0, 0),
    lambda: isgd_jax.skip(0),
    lambda: isgd_jax.react(optax.sgd(0.1), window(), any_device=True),
  ],
)
def test_what_cannot_be_is_refused_by_name(make):
  with pytest.raises(
    ValueError,
    match=r'chart_of|names|Reactions|to must|what|refractory|factor|num_steps'
    r'|max_consecutive|any_device',
  ):
    make()


def test_nothing_to_reset_is_said():
  for what in ('moments', 'count'):
    optimizer = isgd_jax.react(optax.sgd(0.1), window(), isgd_jax.reset(what))
    with pytest.raises(ValueError, match='nothing to reset'):
      run(optimizer, [1.0])
  optimizer = isgd_jax.react(optax.sgd(0.1), window(), isgd_jax.reset())
  params = make_params()
  with pytest.raises(ValueError, match='reset needs params'):
    optimizer.update(params, optimizer.init(params), value=1.0)


def test_the_state_of_other_reactions_is_named_with_what_to_do():
  params = make_params()
  before = isgd_jax.react(optax.sgd(0.1), window(), isgd_jax.skip())
  now = isgd_jax.react(optax.sgd(0.1), window(), isgd_jax.reset())
  old = before.init(params)
  with pytest.raises(ValueError, match='checkpoint of other reactions'):
    now.update(params, old, params, value=1.0)
  carried = now.init(params)._replace(
    base_state=old.base_state, chart_state=old.chart_state
  )
  now.update(params, carried, params, value=1.0)


@pytest.mark.parametrize('name', REACTIONS)
def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(
  name, tmp_path
):
  checkpoint = pytest.importorskip('orbax.checkpoint')
  optimizer = isgd_jax.react(BASES['adam'](), of_both(), REACTIONS[name])
  norms = [1.0, 1.2, 0.8, 1.0, 50.0, 1.05, 1.0, 40.0]
  rows = run(optimizer, [1.0] * 8, norms=norms)
  kept = rows[5][:2]
  with checkpoint.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'state', kept)
  shapes = jax.eval_shape(lambda p: (p, optimizer.init(p)), make_params())
  with checkpoint.StandardCheckpointer() as checkpointer:
    params, state = checkpointer.restore(tmp_path / 'state', shapes)
  for t in range(5, 8):
    updates, state = optimizer.update(
      grads_of(t, jnp.float32(norms[t])), state, params, value=jnp.float32(1.0)
    )
    chex.assert_trees_all_equal(updates, rows[t][2])
    params = optax.apply_updates(params, updates)
  chex.assert_trees_all_equal(state, rows[7][3])
