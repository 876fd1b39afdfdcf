"""One battery for every configuration, like Optax's for its optimizers."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import isgd_jax
from tests import helpers

pytestmark = [pytest.mark.cheap_compile, pytest.mark.battery]

_BASES = {
  'sgd': lambda rate: optax.sgd(rate),
  'momentum': lambda rate: helpers.relaxed(optax.sgd(rate, momentum=0.9)),
  'nesterov': lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
  'adam': lambda rate: helpers.relaxed(optax.adam(rate)),
  'adamw': lambda rate: helpers.relaxed(optax.adamw(rate)),
  'rmsprop': lambda rate: helpers.relaxed(optax.rmsprop(rate)),
  'lion': lambda rate: helpers.relaxed(optax.lion(rate)),
  'clip_then_sgd': lambda rate: optax.chain(
    optax.clip_by_global_norm(1.0), optax.sgd(rate)
  ),
  'injected': lambda rate: helpers.relaxed(
    optax.inject_hyperparams(optax.sgd)(learning_rate=rate)
  ),
}
_WRAPPERS = {
  'isgd': lambda base: isgd_jax.isgd(base, isgd_jax.shewhart(4, 1.0)),
  'isgd_winsorized': lambda base: isgd_jax.isgd(
    base,
    isgd_jax.shewhart(4, 1.0, flagged_losses='winsorize'),
    chase_to='limit',
  ),
  'isgd_base_update': lambda base: isgd_jax.isgd(
    base, isgd_jax.shewhart(4, 1.0), base_update_when_chasing=True
  ),
  'isgd_gradient_descent': lambda base: isgd_jax.isgd(
    base,
    isgd_jax.shewhart(4, 1.0),
    solver=isgd_jax.gradient_descent(optax.constant_schedule(0.01)),
  ),
  'isgd_base_metric': lambda base: isgd_jax.isgd(
    base,
    isgd_jax.shewhart(4, 1.0),
    solver=isgd_jax.gauss_newton(metric='base', max_step_ratio=3.0),
  ),
  'isgd_advanced': lambda base: isgd_jax.isgd(
    base,
    isgd_jax.shewhart(4, 1.0),
    solver=isgd_jax.gauss_newton(max_step_ratio=3.0),
    base_state_when_chasing='advanced',
  ),
  'paper_isgd': lambda base: isgd_jax.paper_isgd(
    base, batches_per_epoch=11, chase_learning_rate=0.01
  ),
  'isgd_ewma': lambda base: isgd_jax.isgd(
    base, isgd_jax.ewma(0.5, 2.0, reference=isgd_jax.shewhart(4, 1.0))
  ),
  'isgd_cusum': lambda base: isgd_jax.isgd(
    base, isgd_jax.cusum(0.5, 2.0, reference=isgd_jax.shewhart(4, 1.0))
  ),
  'isgd_difference': lambda base: isgd_jax.isgd(
    base, isgd_jax.difference_chart(3, 1.0)
  ),
  'isgd_run_rules': lambda base: isgd_jax.isgd(
    base, isgd_jax.with_run_rules(isgd_jax.shewhart(4, 1.0))
  ),
  'isgd_restart': lambda base: isgd_jax.isgd(
    base,
    isgd_jax.with_restart(isgd_jax.shewhart(4, 1.0, sigma_estimator='mad'), 20),
  ),
  'skip': lambda base: isgd_jax.skip_out_of_control(
    base, isgd_jax.shewhart(4, 1.0), max_consecutive=2
  ),
  'watch': lambda base: optax.chain(
    isgd_jax.watch(isgd_jax.shewhart(4, 1.0)), base
  ),
}
# Every base with isgd and where it is asked for its metric, few with the rest:
# what these add is their chart.
_BASES_OF = {'isgd': tuple(_BASES), 'isgd_base_metric': tuple(_BASES)} | {
  f'isgd_{chart}': ('adam',)
  for chart in ('ewma', 'cusum', 'difference', 'run_rules', 'restart')
}
_CASES = tuple(
  {'base': base, 'wrapper': wrapper}
  for base in _BASES
  for wrapper in _WRAPPERS
  if base in _BASES_OF.get(wrapper, ('sgd', 'adam'))
)


def _make(base, wrapper, rate=0.05):
  return _WRAPPERS[wrapper](_BASES[base](rate))


def _loss(params, target):
  return jnp.sum(jnp.stack([jnp.sum(jnp.square(p - target)) for p in params]))


def _initial_params(dtype=jnp.float32):
  return [jnp.ones((2, 3), dtype), -jnp.ones((4,), dtype)]


def _step(optimizer, params, opt_state, target, value_dtype=None):
  """One step to `target`, with an extra argument nobody asked for."""
  value, grads = jax.value_and_grad(_loss)(params, target)
  if value_dtype is not None:
    value = value.astype(value_dtype)
  updates, opt_state = optimizer.update(
    grads,
    opt_state,
    params,
    value=value,
    value_fn=lambda p: _loss(p, target),
    an_argument_the_optimizer_does_not_expect=1,
  )
  return optax.apply_updates(params, updates), opt_state


def _targets(dtype=jnp.float32, num_steps=16):
  """A target that jumps at the end, so that every chart flags."""
  return jnp.asarray(
    [0.1 * (i % 3) for i in range(num_steps - 1)] + [6.0], dtype
  )


class CommonTest(chex.TestCase):
  @parameterized.product(_CASES)
  def test_accepts_foreign_extra_arguments_and_never_recompiles(
    self, base, wrapper
  ):
    optimizer = _make(base, wrapper)
    num_traces = 0

    @jax.jit
    def step(params, opt_state, target):
      nonlocal num_traces
      num_traces += 1
      return _step(optimizer, params, opt_state, target)

    params = _initial_params()
    opt_state = optimizer.init(params)
    for target in _targets():
      params, opt_state = step(params, opt_state, target)
    self.assertEqual(num_traces, 1)
    self.assertGreater(int(isgd_jax.get_info(opt_state).num_undertrained), 0)

  @parameterized.product(_CASES)
  def test_optimizes(self, base, wrapper):
    # Lion's updates are signs: it needs a small rate to end near a target.
    optimizer = _make(base, wrapper, rate=0.01)
    targets = jnp.full(1_000, 2.0)
    carry = (_initial_params(), optimizer.init(_initial_params()))
    (params, _), _ = jax.lax.scan(
      lambda c, t: (_step(optimizer, *c, t), None), carry, targets
    )
    chex.assert_trees_all_close(
      params, jax.tree.map(lambda p: jnp.full_like(p, 2.0), params), atol=0.06
    )

  @parameterized.product(_CASES)
  def test_state_is_mapped_scanned_shaped_and_vmapped(self, base, wrapper):
    optimizer = _make(base, wrapper)
    params = _initial_params()
    opt_state = optimizer.init(params)
    mapped = optax.tree.map_params(optimizer, lambda p: p, opt_state)
    chex.assert_trees_all_equal(mapped, opt_state)
    specs = optax.tree.map_params(
      optimizer,
      lambda _: 'param',
      opt_state,
      transform_non_params=lambda _: 'other',
    )
    state = specs[0] if wrapper == 'watch' else specs
    self.assertEqual(state.packed_info.floats, 'other')
    shapes = jax.eval_shape(optimizer.init, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, opt_state)
    after = jax.eval_shape(
      functools.partial(_step, optimizer), params, opt_state, jnp.float32(0)
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(after, (params, opt_state))

    def run(scale):
      params = jax.tree.map(lambda p: scale * p, _initial_params())
      carry = (params, optimizer.init(params))
      return jax.lax.scan(
        lambda c, t: (_step(optimizer, *c, t), None), carry, _targets()
      )[0]

    scales = jnp.array([0.5, 1.0, 2.0])
    batched = jax.jit(jax.vmap(run))(scales)
    one_by_one = [jax.jit(run)(scale) for scale in scales]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *one_by_one)
    chex.assert_trees_all_close(batched, stacked, rtol=1e-3, atol=1e-4)

  @parameterized.product(_CASES)
  def test_state_can_be_donated(self, base, wrapper):
    optimizer = _make(base, wrapper)
    step = jax.jit(functools.partial(_step, optimizer), donate_argnums=(0, 1))
    plain = jax.jit(functools.partial(_step, optimizer))
    params, kept = _initial_params(), _initial_params()
    opt_state, kept_state = optimizer.init(params), optimizer.init(kept)
    for target in _targets():
      params, opt_state = step(params, opt_state, target)
      kept, kept_state = plain(kept, kept_state, target)
    chex.assert_trees_all_close(params, kept, rtol=1e-4)

  @parameterized.product(
    _CASES, dtype=('bfloat16', 'float16', 'float32', 'float64')
  )
  def test_invariant_5_dtypes_never_change(self, base, wrapper, dtype):
    """With a value of another dtype than the parameters, to confuse."""
    value_dtype = jnp.float16 if dtype != 'float16' else jnp.bfloat16
    with jax.enable_x64(dtype == 'float64'):
      optimizer = _make(base, wrapper)
      params = _initial_params(dtype)
      opt_state = optimizer.init(params)
      statistic = 'float64' if dtype == 'float64' else 'float32'
      self.assertEqual(isgd_jax.get_info(opt_state).mean.dtype, statistic)
      step = jax.jit(
        functools.partial(_step, optimizer, value_dtype=value_dtype)
      )
      for target in _targets(dtype):
        new_params, new_state = step(params, opt_state, target)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_params, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, opt_state)
        self.assertFalse(
          any(x.weak_type for x in jax.tree.leaves((new_params, new_state)))
        )
        params, opt_state = new_params, new_state
      self.assertGreater(int(isgd_jax.get_info(opt_state).num_undertrained), 0)

  @parameterized.product(
    base=('sgd', 'momentum', 'adam'), dtype=('bfloat16', 'float16')
  )
  def test_gradients_of_another_dtype_than_the_parameters(self, base, dtype):
    """Jitted, with wide gradients of narrow parameters and vice versa."""
    for param_dtype, grad_dtype in ((dtype, 'float32'), ('float32', dtype)):
      optimizer = _make(base, 'isgd')

      @jax.jit
      def step(params, opt_state, target):
        value, grads = jax.value_and_grad(_loss)(params, target)
        updates, opt_state = optimizer.update(  # noqa: B023
          optax.tree.cast(grads, grad_dtype),  # noqa: B023
          opt_state,
          params,
          value=value,
          value_fn=lambda p: _loss(p, target),
        )
        add = lambda p, u: p + u.astype(p.dtype)
        return jax.tree.map(add, params, updates), opt_state

      params = _initial_params(param_dtype)
      opt_state = optimizer.init(params)
      for target in _targets(param_dtype):
        new_params, new_state = step(params, opt_state, target)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, opt_state)
        params, opt_state = new_params, new_state
      chex.assert_tree_all_finite(params)
      self.assertGreater(int(isgd_jax.get_info(opt_state).num_undertrained), 0)

  def test_can_be_wrapped_in_inject_hyperparams(self):
    """Numbers are traced; they take effect, and the result is the same."""
    factory = functools.partial(
      isgd_jax.isgd, optax.sgd(0.05), isgd_jax.shewhart(4, 1.0)
    )
    injected = optax.inject_hyperparams(factory)(
      max_chase_steps=2, conservative_weight=0.5
    )
    plain = factory(max_chase_steps=2, conservative_weight=0.5)
    results = []
    for optimizer in (injected, plain):
      params = _initial_params()
      opt_state = jax.jit(optimizer.init)(params)
      step = jax.jit(functools.partial(_step, optimizer))
      for target in _targets():
        params, opt_state = step(params, opt_state, target)
      results.append((params, isgd_jax.get_info(opt_state)))
    chex.assert_trees_all_close(*results, rtol=1e-5)
    self.assertEqual(int(results[0][1].num_chase_steps), 2)

  def test_an_injected_shape_is_refused_with_the_remedy(self):
    factory = lambda batches_per_epoch: isgd_jax.paper_isgd(
      optax.sgd(0.1),
      batches_per_epoch=batches_per_epoch,
      chase_learning_rate=0.1,
    )
    optimizer = optax.inject_hyperparams(factory)(batches_per_epoch=20)
    with self.assertRaisesRegex(ValueError, 'static_args'):
      jax.jit(optimizer.init)(_initial_params())

  def test_an_injected_zero_of_chase_steps_only_watches(self):
    factory = functools.partial(
      isgd_jax.isgd, optax.sgd(0.05), isgd_jax.shewhart(4, 1.0)
    )
    optimizer = optax.inject_hyperparams(factory)(max_chase_steps=3)
    params = _initial_params()
    opt_state = optimizer.init(params)
    opt_state.hyperparams['max_chase_steps'] = jnp.int32(0)
    step = jax.jit(functools.partial(_step, optimizer))
    for target in _targets():
      params, opt_state = step(params, opt_state, target)
    info = isgd_jax.get_info(opt_state)
    self.assertGreater(int(info.num_undertrained), 0)
    self.assertEqual(int(info.num_gradient_evaluations), 16)


def test_a_base_optimizer_that_changes_its_state_structure_is_refused():
  base = optax.GradientTransformation(
    lambda params: (), lambda updates, state, params=None: (updates, (1.0,))
  )
  optimizer = isgd_jax.isgd(base, isgd_jax.shewhart(4))
  params = _initial_params()
  step = functools.partial(_step, optimizer)
  for run in (step, jax.jit(step)):
    with pytest.raises(ValueError, match='changed the structure or the shapes'):
      run(params, optimizer.init(params), jnp.float32(0))


if __name__ == '__main__':
  absltest.main()
