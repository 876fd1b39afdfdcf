"""Charts of other statistics than the loss, and several joined as one."""

import itertools
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

NORMS = [1.0, 1.1, 0.9, 1.0, 50.0, 1.05, np.nan, 0.95, 60.0, np.inf, 1.0]


def grads_of_norm(norm):
  """Of that global norm, over two leaves."""
  return {'w': jnp.array([0.48, 0.64]) * norm, 'b': jnp.float32(0.6) * norm}


def params_of():
  return {'w': jnp.ones(2), 'b': jnp.zeros(())}


def of_norm(chart=None):
  chart = chart or isgd_jax.shewhart(4, flagged_losses='leave_out')
  return isgd_jax.chart_of('gradient_norm', chart)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_the_norm_is_that_of_numpy_in_float64(dtype):
  """Squares of half-precision gradients would overflow in their own dtype."""
  rng = np.random.default_rng(0)
  tree = {
    name: jnp.asarray(rng.normal(size=shape) * scale, dtype)
    for name, shape, scale in [('a', (7, 3), 1e-3), ('b', (), 9e2), ('c', 5, 1)]
  }
  tree['masked'] = optax.MaskedNode()
  expected = np.sqrt(
    sum(np.sum(np.float64(x) ** 2) for x in jax.tree.leaves(tree))
  )
  norm = jax.jit(statistics.global_norm)(tree)
  assert norm.dtype == jnp.float32
  np.testing.assert_allclose(norm, expected, rtol=1e-6)
  with jax.enable_x64(True):
    assert statistics.global_norm(tree).dtype == jnp.float64


def test_a_chart_of_the_norm_reads_what_it_reads_of_the_norms():
  """Op by op bit for bit, whatever the loss, and with no loss at all."""
  chart = of_norm()
  alone, watch = chart.init(), isgd_jax.watch(chart)
  state = watch.init(params_of())
  num_flagged = 0
  for norm in NORMS:
    grads = grads_of_norm(jnp.float32(norm))
    alone, reading = chart.update(alone, statistics.global_norm(grads))
    args = {} if norm == 1.0 else {'value': 7.0}
    updates, state = watch.update(grads, state, **args)
    assert updates is grads
    chex.assert_trees_all_equal(state.chart_state, alone)
    info = isgd_jax.get_info(state)
    assert bool(info.is_undertrained) == bool(reading.is_above)
    np.testing.assert_array_equal(info.control_limit, reading.upper_limit)
    np.testing.assert_array_equal(info.statistic, reading.statistic)
    np.testing.assert_array_equal(info.loss, 7.0 if args else reading.statistic)
    num_flagged += int(reading.is_above)
  assert num_flagged == 2
  assert isgd_jax.get_parts(state) == ()


def test_grad_is_the_gradient_where_updates_are_something_else():
  watch = isgd_jax.watch(of_norm())
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), watch)
  grads = grads_of_norm(5.0)
  state = optimizer.init(params_of())
  for grad, expected in ((None, 1.0), (grads, 5.0)):
    extra = {} if grad is None else {'grad': grad}
    _, after = optimizer.update(grads, state, params_of(), **extra)
    info = isgd_jax.get_info(after)
    np.testing.assert_allclose(info.statistic, expected, rtol=1e-6)


def test_behind_the_base_the_norm_of_the_update_is_judged():
  chart = isgd_jax.chart_of('update_norm', isgd_jax.shewhart(4))
  optimizer = optax.chain(optax.sgd(0.1), isgd_jax.watch(chart))
  grads = grads_of_norm(5.0)
  state = optimizer.init(params_of())
  _, state = optimizer.update(grads, state, params_of(), grad=grads)
  np.testing.assert_allclose(isgd_jax.get_info(state).statistic, 0.5, rtol=1e-6)


def test_in_a_partition_the_norm_is_that_of_the_group_with_grad_or_without():
  optimizer = optax.partition(
    {'a': isgd_jax.watch(of_norm()), 'b': optax.identity()},
    {'w': 'a', 'b': 'b'},
  )
  grads = grads_of_norm(5.0)
  for extra in ({}, {'grad': grads}):
    _, state = optimizer.update(
      grads, optimizer.init(params_of()), params_of(), **extra
    )
    info = isgd_jax.get_info(state)
    np.testing.assert_allclose(info.statistic, 4.0, rtol=1e-6)


def test_any_scalar_that_update_is_given_can_be_judged():
  chart = isgd_jax.chart_of('entropy', isgd_jax.fixed_limits(1.0, 0.1))
  watch = isgd_jax.watch(chart)
  state = watch.init(params_of())
  _, after = watch.update(params_of(), state, entropy=jnp.bfloat16(5.0))
  assert isgd_jax.get_info(after).is_undertrained
  for wrong in ({}, {'entropy': None}, {'entropy': jnp.ones(2)}):
    with pytest.raises(ValueError, match='entropy'):
      watch.update(params_of(), state, **wrong)


@pytest.mark.parametrize(
  'name', ['value', 'params', 'grad', 'value_fn', 'two words', '', None, 3]
)
def test_a_name_that_cannot_be_is_refused(name):
  with pytest.raises(ValueError, match='statistic must be') as error:
    isgd_jax.chart_of(name, isgd_jax.shewhart(4))
  assert repr(name) in str(error.value)


LOSS = isgd_jax.fixed_limits(1.0, 0.1)
NORM = of_norm(isgd_jax.fixed_limits(5.0, 1.0))
OTHER = isgd_jax.chart_of('other', isgd_jax.fixed_limits(0.0, 1.0))


def flags_of(chart, values):
  _, reading = chart.update(chart.init(), values)
  return bool(reading.is_above), bool(reading.is_below)


@pytest.mark.parametrize('sides', list(itertools.product((-1, 0, 1), repeat=3)))
def test_joined_flags_are_those_of_the_parts_joined(sides):
  """Either side by itself, at any depth."""
  loss, norm, other = (
    mean + 9 * side * sigma
    for side, (mean, sigma) in zip(
      sides, [(1.0, 0.1), (5.0, 1.0), (0.0, 1.0)], strict=True
    )
  )
  above, below = [s > 0 for s in sides], [s < 0 for s in sides]
  flat = (loss, norm, other)
  any_of, all_of = isgd_jax.any_of, isgd_jax.all_of
  assert flags_of(any_of(LOSS, NORM, OTHER), flat) == (any(above), any(below))
  assert flags_of(all_of(LOSS, NORM, OTHER), flat) == (all(above), all(below))
  nested = any_of(LOSS, all_of(NORM, OTHER))
  assert flags_of(nested, (loss, (norm, other))) == (
    above[0] or (above[1] and above[2]),
    below[0] or (below[1] and below[2]),
  )


def test_parts_are_read_in_order_and_the_loss_speaks_for_all():
  chart = isgd_jax.any_of(NORM, isgd_jax.all_of(OTHER, LOSS))
  watch = isgd_jax.watch(chart)
  state = watch.init(params_of())
  for part in isgd_jax.get_parts(state):
    assert part.upper_limit == np.inf
    assert part.lower_limit == -np.inf
  _, state = watch.update(grads_of_norm(10.0), state, value=1.2, other=-9.0)
  info, parts = isgd_jax.get_info(state), isgd_jax.get_parts(state)
  np.testing.assert_allclose([p.statistic for p in parts], [10, -9, 1.2])
  np.testing.assert_allclose([p.upper_limit for p in parts], [8, 3, 1.3])
  np.testing.assert_allclose([p.lower_limit for p in parts], [2, -3, 0.7])
  np.testing.assert_allclose([p.mean for p in parts], [5, 0, 1])
  np.testing.assert_allclose([p.sigma for p in parts], [1, 1, 0.1])
  assert [bool(p.is_above) for p in parts] == [True, False, False]
  assert [bool(p.is_below) for p in parts] == [False, True, False]
  np.testing.assert_allclose(info.control_limit, 1.3, rtol=1e-6)
  np.testing.assert_allclose(info.loss, 1.2, rtol=1e-6)
  assert info.is_undertrained
  assert not info.is_well_trained
  assert isgd_jax.info_dict(state)['control_limit'] == info.control_limit


def test_each_part_is_as_if_it_were_alone():
  """What is not finite for one of them is nothing to the others."""
  window = isgd_jax.shewhart(4, flagged_losses='leave_out')
  losses = [1.0, 1.1, np.nan, 1.0, 1.0, 9.0, 1.0, 1.05, 1.0, np.inf, 1.0]
  joined = isgd_jax.any_of(window, of_norm())
  watch = isgd_jax.watch(joined)
  state = watch.init(params_of())
  alone = window.init(), of_norm().init()
  for loss, norm in zip(losses, NORMS, strict=True):
    grads = grads_of_norm(jnp.float32(norm))
    _, state = watch.update(grads, state, value=jnp.float32(loss))
    alone = (
      window.update(alone[0], jnp.float32(loss))[0],
      of_norm().update(alone[1], statistics.global_norm(grads))[0],
    )
    chex.assert_trees_all_equal(state.chart_state, alone)


def test_the_norm_is_computed_once_and_only_if_a_chart_asks_for_it():
  def num_norms(chart):
    watch = isgd_jax.watch(chart)
    jaxpr = jax.make_jaxpr(
      lambda g: watch.update(g, watch.init(g), value=1.0, other=1.0)[1]
    )(params_of())
    return sum(
      equation.primitive.name == 'optimization_barrier'
      for equation in jaxpr.jaxpr.eqns
    )

  assert num_norms(LOSS) == num_norms(OTHER) == 0
  assert num_norms(NORM) == 1
  assert num_norms(isgd_jax.any_of(LOSS, NORM, OTHER, of_norm())) == 1


def test_the_state_of_a_chart_of_one_statistic_has_what_it_always_had():
  """Checkpoints of before fit."""
  for chart in (isgd_jax.shewhart(4), of_norm()):
    state = isgd_jax.watch(chart).init(params_of())
    assert state.packed_info.floats.shape == (9,)
    assert state.packed_info.integers.shape == (19,)
    assert len(jax.tree.leaves(state.chart_state)) == 3
    _, reading = chart.update(chart.init(), 1.0)
    assert len(jax.tree.leaves(reading)) == 11


WRAPPERS = {
  'restart': lambda chart: isgd_jax.with_restart(chart, 3),
  'rules': lambda chart: isgd_jax.with_run_rules(chart, 'nelson'),
  'ewma': lambda chart: isgd_jax.ewma(reference=chart),
  'cusum': lambda chart: isgd_jax.cusum(reference=chart),
}


@pytest.mark.parametrize('name', WRAPPERS)
def test_what_is_built_upon_a_chart_judges_what_it_judges(name):
  assert WRAPPERS[name](of_norm()).statistic == 'gradient_norm'
  assert WRAPPERS[name](isgd_jax.shewhart(4)).statistic == 'loss'
  with pytest.raises(ValueError, match=r'any_of'):
    WRAPPERS[name](isgd_jax.any_of(LOSS, NORM))


def test_a_joined_chart_starts_again_part_by_part():
  chart = isgd_jax.any_of(isgd_jax.shewhart(4), of_norm())
  state = chart.init()
  for _ in range(5):
    state, reading = chart.update(state, (1.0, 2.0))
  assert np.isfinite(reading.upper_limit)
  _, reading = chart.update(chart.restart(state, jnp.bool(True)), (1.0, 2.0))
  assert [part.upper_limit for part in reading.parts] == [np.inf] * 2


@pytest.mark.parametrize(
  'make',
  [
    lambda: isgd_jax.any_of(LOSS),
    lambda: isgd_jax.all_of(LOSS, 'gradient_norm'),
    lambda: isgd_jax.chart_of('loss', 3.0),
    lambda: isgd_jax.chart_of('loss', isgd_jax.any_of(LOSS, NORM)),
    lambda: isgd_jax.isgd(optax.sgd(0.1), NORM),
    lambda: isgd_jax.isgd(optax.sgd(0.1), isgd_jax.any_of(NORM, OTHER)),
    lambda: isgd_jax.watch(LOSS, any_device=True),
    lambda: isgd_jax.isgd(optax.sgd(0.1), LOSS, any_device=True),
    lambda: isgd_jax.watch(NORM, axis_name='d', any_device=True),
    lambda: isgd_jax.watch(LOSS, axis_name='d', any_device=1),
  ],
)
def test_what_has_no_meaning_is_refused(make):
  with pytest.raises(ValueError, match=r'any_of|ControlChart|any_device'):
    make()


def test_a_batch_whose_norm_is_flagged_is_chased_where_its_loss_is_high():
  """Down to the mean of the chart of the loss."""
  chart = isgd_jax.any_of(
    isgd_jax.shewhart(4, 1e6), of_norm(isgd_jax.fixed_limits(1.0, 0.5))
  )
  optimizer = helpers.blind_isgd(optax.sgd(0.01), chart)
  loss_fn = lambda p, x: jnp.mean(jnp.square(p['w'] - x))
  params = {'w': jnp.zeros(2)}
  state = optimizer.init(params)
  chased = []
  for t, x in enumerate([1.0, 1.1, 0.9, 1.0, 0.3, 8.0, 1.0]):
    loss, grads = jax.value_and_grad(loss_fn)(params, x)
    scale = 50.0 if t in (4, 5) else 1.0
    updates, state = optimizer.update(
      grads,
      state,
      params,
      value=loss,
      value_fn=lambda p, x=x: loss_fn(p, x),
      grad=optax.tree.scale(scale, grads),
    )
    params = optax.apply_updates(params, updates)
    info = isgd_jax.get_info(state)
    if info.num_chase_steps > 0 or info.is_chase_reverted:
      chased.append(t)
      assert info.loss > info.mean
  assert int(info.num_undertrained) >= 2
  assert chased == [5]


def test_the_state_of_another_joined_chart_is_named():
  watch = isgd_jax.watch(isgd_jax.any_of(isgd_jax.shewhart(4), of_norm()))
  other = isgd_jax.watch(of_norm())
  grads = params_of()
  with pytest.raises(ValueError, match=r"chart's state .* checkpoint of anoth"):
    watch.update(grads, other.init(grads), value=1.0)


def test_joined_charts_under_scan_and_vmap():
  watch = isgd_jax.watch(isgd_jax.any_of(isgd_jax.shewhart(3), of_norm()))
  norms = jnp.array([1.0, 1.1, 0.9, 1.0, 30.0, 1.0])

  def run(losses, norms):
    def step(state, row):
      loss, norm = row
      _, state = watch.update(grads_of_norm(norm), state, value=loss)
      return state, isgd_jax.get_parts(state)

    return jax.lax.scan(step, watch.init(params_of()), (losses, norms))[1]

  losses = jnp.ones(6).at[5].set(9.0)
  both = jax.jit(jax.vmap(run))(
    jnp.stack([losses, norms]), jnp.stack([norms, losses])
  )
  for lane, args in enumerate([(losses, norms), (norms, losses)]):
    single = jax.jit(run)(*args)
    chex.assert_trees_all_close(
      jax.tree.map(operator.itemgetter(lane), both),
      single,
      rtol=1e-5,
    )
  assert both[1].is_above[0].tolist() == [False] * 4 + [True, False]
