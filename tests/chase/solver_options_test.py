"""Options of the solver and of the base state, against float64 oracles."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from tests import helpers

pytestmark = [pytest.mark.one_version, pytest.mark.battery]

RATE, B1, B2, EPS = 0.01, 0.9, 0.999, 1e-8


def loss_fn(params, batch):
  """A mean squared error that is not linear in the parameters."""
  x, y = batch
  return jnp.mean(jnp.square(jnp.tanh(x @ params['w']) @ params['v'] - y))


def make_params(dtype=jnp.float32):
  key_w, key_v = jax.random.split(jax.random.key(0))
  return {
    'w': jax.random.normal(key_w, (3, 5), dtype),
    'v': jax.random.normal(key_v, (5,), dtype),
  }


def make_batch(step, shift=0.0):
  x = jax.random.normal(jax.random.key(100 + step), (16, 3))
  return x, jnp.sin(x[:, 0]) + shift


def make_subproblem(damping=0.0, **kwargs):
  return isgd_jax.Subproblem(
    anchor=None,
    target=jnp.float32(1.0),
    damping=jnp.float32(damping),
    num_training_steps=jnp.int32(0),
    is_movable=True,
    **kwargs,
  )


def first_step(solver, subproblem, params, loss, grad):
  """Where the first step of a chase leads."""
  state = solver.init(subproblem)
  stepped, _ = solver.step(state, subproblem, params, loss, grad)
  return stepped


def chasing_isgd(base, **kwargs):
  chart = isgd_jax.shewhart(10, 2.0)
  return helpers.blind_isgd(helpers.relaxed(base), chart, **kwargs)


def update_with(optimizer, params, opt_state, batch, **kwargs):
  loss, grads = jax.value_and_grad(loss_fn)(params, batch)
  updates, opt_state = optimizer.update(
    grads,
    opt_state,
    params,
    value=loss,
    value_fn=lambda p: loss_fn(p, batch),
    **kwargs,
  )
  return updates, opt_state


def filled_chart():
  """A chart's state after which any larger loss is flagged."""
  chart = isgd_jax.shewhart(4, 1.0)
  chart_state = chart.init()
  for loss in (0.1, 0.2, 0.1, 0.2):
    chart_state, _ = chart.update(chart_state, loss)
  return chart_state


def train(optimizer, num_steps=30, params=None):
  """Parameters and state after batches that all come from one process."""
  params = make_params() if params is None else params
  opt_state = optimizer.init(params)
  step = jax.jit(functools.partial(update_with, optimizer))
  for index in range(num_steps):
    updates, opt_state = step(params, opt_state, make_batch(index))
    params = optax.apply_updates(params, updates)
  return params, opt_state, step


def chased_update(base, shift=4.0, **kwargs):
  """What a chase of a shifted batch does, and where it started."""
  params, opt_state, step = train(chasing_isgd(base, **kwargs))
  batch = make_batch(1000, shift)
  updates, new_state = step(params, opt_state, batch)
  info = isgd_jax.get_info(new_state)
  assert bool(info.is_undertrained)
  assert not bool(info.is_chase_reverted)
  return updates, new_state, params, opt_state, batch


def flat64(tree):
  leaves = jax.tree.leaves(tree)
  return np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])


def expected_step(direction, grad, gap, damping):
  """Along `direction`, with the length of the linearised subproblem."""
  squared = grad @ grad
  scale = squared / (grad @ direction)
  return -gap / (squared * (1 + damping)) * scale * direction


BASE_OF_RATE = {
  'sgd': lambda: optax.sgd(RATE),
  'momentum': lambda: optax.sgd(RATE, momentum=0.9),
  'nesterov_decay': lambda: optax.chain(
    optax.add_decayed_weights(0.1), optax.sgd(RATE, momentum=0.9, nesterov=True)
  ),
  'clipped': lambda: optax.chain(
    optax.clip_by_global_norm(0.01), optax.sgd(RATE)
  ),
}


@pytest.mark.parametrize('base', BASE_OF_RATE)
@pytest.mark.parametrize('weight', [0.0, 50.0])
def test_the_metric_of_sgd_is_the_euclidean_one(base, weight):
  """Whatever its rate, momentum and decay, and however large the damping."""
  updates, new_state, params, _, batch = chased_update(
    BASE_OF_RATE[base](),
    solver=isgd_jax.gauss_newton(metric='base'),
    max_chase_steps=1,
    conservative_weight=weight,
  )
  loss, grad = jax.value_and_grad(loss_fn)(params, batch)
  gap = float(loss) - float(isgd_jax.get_info(new_state).mean)
  grad = flat64(grad)
  np.testing.assert_allclose(
    flat64(updates),
    expected_step(grad, grad, gap, weight / 20),
    rtol=2e-4,
    atol=1e-6,
  )


@pytest.mark.parametrize('eps_root', [0.0, 1e-6])
def test_the_metric_of_adam_is_its_second_moment(eps_root):
  """Exact, with the gradient's square taken in; the first moment cancels."""
  updates, new_state, params, opt_state, batch = chased_update(
    optax.adam(RATE, b1=B1, b2=B2, eps=EPS, eps_root=eps_root),
    solver=isgd_jax.gauss_newton(metric='base'),
    max_chase_steps=1,
  )
  loss, grad = jax.value_and_grad(loss_fn)(params, batch)
  gap = float(loss) - float(isgd_jax.get_info(new_state).mean)
  grad = flat64(grad)
  count = int(optax.tree.get(opt_state.base_state, 'count')) + 1
  nu = flat64(optax.tree.get(opt_state.base_state, 'nu'))
  nu = (B2 * nu + (1 - B2) * grad**2) / (1 - B2**count)
  direction = grad / (np.sqrt(nu + eps_root) + EPS)
  got = flat64(updates)
  np.testing.assert_allclose(
    got, expected_step(direction, grad, gap, 0.1 / 20), rtol=1e-3, atol=1e-6
  )
  euclidean = expected_step(grad, grad, gap, 0.1 / 20)
  assert np.linalg.norm(got - euclidean) > 0.1 * np.linalg.norm(euclidean)


@pytest.mark.parametrize('times', [1.0, 10.0, 100.0])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_no_momentum_is_in_the_response_however_large_the_gradient(
  times, dtype
):
  """A first moment against the gradient does not turn the step."""
  params = {'w': jnp.linspace(-1.0, 1.0, 8, dtype=dtype)}
  grad = {'w': jnp.linspace(0.5, 2.0, 8, dtype=dtype) * dtype(times)}
  base = helpers.relaxed(optax.adam(RATE, b1=B1))
  optimizer = helpers.blind_isgd(
    base,
    isgd_jax.shewhart(4, 1.0),
    solver=isgd_jax.gauss_newton(metric='base'),
    max_chase_steps=1,
  )
  steps = []
  for momentum in (0.0, -3.0):
    state = optimizer.init(params)._replace(chart_state=filled_chart())
    adam = state.base_state[0]
    adam = adam._replace(
      count=jnp.int32(300),
      mu=optax.tree.full_like(adam.mu, momentum),
      nu=optax.tree.ones_like(adam.nu),
    )
    state = state._replace(base_state=(adam, *state.base_state[1:]))
    updates, state = optimizer.update(
      grad,
      state,
      params,
      value=jnp.float32(9.0),
      value_fn=lambda p: jnp.float32(2.0) + 0.0 * jnp.float32(jnp.sum(p['w'])),
    )
    assert int(isgd_jax.get_info(state).num_chase_steps) == 1
    assert not bool(isgd_jax.get_info(state).is_chase_reverted)
    steps.append(flat64(updates))
  rtol = 1e-4 if dtype == jnp.float32 else 0.05
  np.testing.assert_allclose(*steps, rtol=rtol, atol=rtol * abs(steps[0]).max())


@pytest.mark.parametrize('base', ['sgd', 'adam', 'rmsprop', 'lion'])
def test_a_linear_loss_is_at_its_target_after_one_step_in_any_metric(base):
  """psi = <slope, w> + const; a sign optimizer answers with signs."""
  make = {
    'sgd': optax.sgd,
    'adam': optax.adam,
    'rmsprop': optax.rmsprop,
    'lion': optax.lion,
  }[base]
  slope = jnp.array([3.0, -0.4, 0.05])
  transformation = helpers.relaxed(make(RATE))
  params = jnp.zeros(3)
  base_state = transformation.init(params)

  def base_response(grad):
    minus, _ = transformation.update(-grad, base_state, params)
    plus, _ = transformation.update(grad, base_state, params)
    return (minus - plus) / 2

  stepped = first_step(
    isgd_jax.gauss_newton(metric='base'),
    make_subproblem(base_response=base_response),
    params,
    jnp.float32(7.0),
    slope,
  )
  np.testing.assert_allclose(jnp.dot(slope, stepped) + 7.0, 1.0, rtol=1e-5)


def test_damping_solves_the_linearised_subproblem_in_the_metric():
  """argmin 1/2 (gap + g.d)^2 + damping/2 g.g d.D^-1.d, by least squares."""
  rng = np.random.default_rng(0)
  grad = rng.normal(size=5)
  diagonal = rng.uniform(0.1, 10.0, size=5)
  scaled = diagonal * (grad @ grad) / (grad @ (diagonal * grad))
  rows = np.vstack([grad, np.diag(np.sqrt(0.7 * (grad @ grad) / scaled))])
  step = np.linalg.lstsq(rows, np.r_[-3.0, np.zeros(5)], rcond=None)[0]
  stepped = first_step(
    isgd_jax.gauss_newton(metric='base'),
    make_subproblem(
      0.7, base_response=lambda g: jnp.asarray(diagonal, jnp.float32) * g
    ),
    jnp.zeros(5),
    jnp.float32(4.0),
    jnp.asarray(grad, jnp.float32),
  )
  np.testing.assert_allclose(stepped, step, rtol=1e-4)


@pytest.mark.parametrize('factor', [-1.0, 0.0, jnp.inf, jnp.nan])
@pytest.mark.parametrize('max_step_ratio', [None, 2.0])
def test_a_response_that_points_nowhere_gives_no_step(factor, max_step_ratio):
  params = jnp.array([1.0, 2.0])
  solver = isgd_jax.gauss_newton(metric='base', max_step_ratio=max_step_ratio)
  stepped = first_step(
    solver,
    make_subproblem(
      base_response=lambda g: factor * g, base_update_norm=jnp.float32(1.0)
    ),
    params,
    jnp.float32(5.0),
    jnp.array([3.0, 0.0]),
  )
  np.testing.assert_array_equal(stepped, params)


@pytest.mark.parametrize('metric', ['euclidean', 'base'])
@pytest.mark.parametrize('base', ['momentum', 'adam'])
def test_each_step_is_at_most_the_ratio_times_the_base_update(metric, base):
  """In isgd, by the norm of the real base update; inactive when large."""
  make = {
    'momentum': lambda: optax.sgd(RATE, momentum=0.9),
    'adam': lambda: helpers.relaxed(optax.adam(RATE)),
  }[base]

  def run(ratio):
    solver = isgd_jax.gauss_newton(metric=metric, max_step_ratio=ratio)
    updates, _, params, opt_state, batch = chased_update(
      make(), solver=solver, max_chase_steps=1
    )
    grads = jax.grad(loss_fn)(params, batch)
    base_updates, _ = make().update(grads, opt_state.base_state, params)
    return flat64(updates), np.linalg.norm(flat64(base_updates))

  free, base_length = run(None)
  ratio = np.linalg.norm(free) / base_length
  assert ratio > 0.02
  bounded, _ = run(0.5 * ratio)
  np.testing.assert_allclose(bounded, 0.5 * free, rtol=1e-3, atol=1e-7)
  loose, _ = run(2.0 * ratio)
  np.testing.assert_allclose(loose, free, rtol=1e-6)


@pytest.mark.parametrize('base_update_when_chasing', [False, True])
def test_frozen_leaves_count_in_no_length_and_stay(base_update_when_chasing):
  """A frozen leaf with a huge gradient changes nothing of the step."""
  base = optax.partition(
    {'train': optax.adam(RATE), 'freeze': optax.set_to_zero()},
    {'w': 'train', 'v': 'train', 'still': 'freeze'},
  )

  def run(slope):
    optimizer = chasing_isgd(
      base,
      solver=isgd_jax.gauss_newton(metric='base', max_step_ratio=3.0),
      base_update_when_chasing=base_update_when_chasing,
    )
    params = make_params() | {'still': jnp.float32(0.0)}
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state, batch):
      value_fn = lambda p: loss_fn(p, batch) + slope * p['still']
      loss, grads = jax.value_and_grad(value_fn)(params)
      updates, opt_state = optimizer.update(
        grads, opt_state, params, value=loss, value_fn=value_fn
      )
      return optax.apply_updates(params, updates), opt_state

    for index in range(40):
      batch = make_batch(index, 4.0 if index >= 30 else 0.0)
      params, opt_state = step(params, opt_state, batch)
    info = isgd_jax.get_info(opt_state)
    assert int(info.num_undertrained) > int(info.num_chases_reverted)
    return params

  params, expected = run(1e4), run(0.0)
  assert float(params['still']) == 0.0
  chex.assert_trees_all_close(params, expected, rtol=1e-4, atol=1e-5)


def test_extra_arguments_reach_the_base_optimizer_that_answers():
  """Without them it raises; the rate they carry has no say in the metric."""

  def update_fn(updates, state, params=None, *, rate, **extra_args):
    del params, extra_args
    return jax.tree.map(lambda g: -rate * g, updates), state

  base = optax.GradientTransformationExtraArgs(lambda _: (), update_fn)
  euclidean, metric = (
    helpers.blind_isgd(
      base,
      isgd_jax.shewhart(4, 1.0),
      solver=isgd_jax.gauss_newton(metric=metric),
    )
    for metric in ('euclidean', 'base')
  )
  params = make_params()
  results = []
  for optimizer in (euclidean, metric):
    state = optimizer.init(params)
    step = jax.jit(functools.partial(update_with, optimizer))
    for index in range(8):
      updates, state = step(
        params, state, make_batch(index), rate=jnp.float32(RATE)
      )
    updates, state = step(
      params, state, make_batch(0, 4.0), rate=jnp.float32(RATE)
    )
    assert int(isgd_jax.get_info(state).num_chase_steps) > 0
    results.append(updates)
  chex.assert_trees_all_close(*results, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('base', ['momentum', 'adam', 'schedule'])
@pytest.mark.parametrize('give_grad', [False, True])
def test_an_advanced_state_is_that_of_a_base_step_and_the_chase_is_not(
  base, give_grad
):
  """On a chased step: state as without a chase, update as when frozen."""
  base = helpers.relaxed(
    {
      'momentum': optax.sgd(RATE, momentum=0.9),
      'adam': optax.adam(RATE),
      'schedule': optax.sgd(optax.linear_schedule(RATE, 0.0, 100)),
    }[base]
  )
  frozen = chasing_isgd(base, max_chase_steps=1)
  advanced = chasing_isgd(
    base, max_chase_steps=1, base_state_when_chasing='advanced'
  )
  params, state, frozen_step = train(frozen)
  advanced_step = jax.jit(functools.partial(update_with, advanced))
  batch = make_batch(1000, 4.0)
  grads = jax.grad(loss_fn)(params, batch)
  kwargs = {'grad': grads} if give_grad else {}
  expected, frozen_state = frozen_step(params, state, batch, **kwargs)
  updates, new_state = advanced_step(params, state, batch, **kwargs)
  assert int(isgd_jax.get_info(new_state).num_chase_steps) > 0
  assert not bool(isgd_jax.get_info(new_state).is_chase_reverted)
  chex.assert_trees_all_close(updates, expected, rtol=1e-4, atol=1e-6)
  chex.assert_trees_all_equal(frozen_state.base_state, state.base_state)
  _, base_state = base.update(grads, state.base_state, params)
  chex.assert_trees_all_close(
    new_state.base_state, base_state, rtol=1e-4, atol=1e-7
  )
  count = optax.tree.get_all_with_path(new_state.base_state, 'count')
  for (_, new), (_, old) in zip(
    count,
    optax.tree.get_all_with_path(state.base_state, 'count'),
    strict=True,
  ):
    assert int(new) == int(old) + 1


def test_a_reverted_chase_from_an_advanced_state_is_a_base_step():
  """And needs no evaluation to find the gradient again."""
  optimizer = chasing_isgd(
    optax.sgd(RATE, momentum=0.9), base_state_when_chasing='advanced'
  )
  params, state, _ = train(optimizer)
  batch = make_batch(1000, 4.0)
  loss, grads = jax.value_and_grad(loss_fn)(params, batch)
  updates, new_state = optimizer.update(
    grads,
    state,
    params,
    value=loss,
    value_fn=lambda p: 1e6 + jnp.sum(jnp.square(p['w'])),
  )
  before, after = map(isgd_jax.get_info, (state, new_state))
  assert bool(after.is_chase_reverted)
  expected, base_state = optax.sgd(RATE, momentum=0.9).update(
    grads, state.base_state, params
  )
  chex.assert_trees_all_close(updates, expected, rtol=1e-6)
  chex.assert_trees_all_close(new_state.base_state, base_state, rtol=1e-6)
  evaluations = int(after.num_gradient_evaluations) - int(
    before.num_gradient_evaluations
  )
  assert evaluations == 1 + int(after.num_chase_steps)


@pytest.mark.parametrize(
  'kwargs',
  [
    {'base_state_when_chasing': 'advanced'},
    {'solver': isgd_jax.gauss_newton(metric='base', max_step_ratio=2.0)},
  ],
)
def test_invariant_1_with_the_options(kwargs):
  """Never triggered, op by op: the base optimizer bit for bit."""
  base = optax.adam(RATE)
  optimizer = helpers.blind_isgd(base, isgd_jax.shewhart(100), **kwargs)
  params = make_params()
  state, base_state = optimizer.init(params), base.init(params)
  with jax.disable_jit(), jax.numpy_dtype_promotion('standard'):
    for index in range(3):
      batch = make_batch(index)
      grads = jax.grad(loss_fn)(params, batch)
      expected, base_state = base.update(grads, base_state, params)
      updates, state = update_with(optimizer, params, state, batch)
      chex.assert_trees_all_equal(updates, expected)
      chex.assert_trees_all_equal(state.base_state, base_state)
      params = optax.apply_updates(params, updates)


@pytest.mark.parametrize('shift', [-50.0, -5.0, 2.0, 30.0])
@pytest.mark.parametrize('scale', [0.1, 1.0, 100.0])
@pytest.mark.parametrize('state', ['frozen', 'advanced'])
def test_invariant_2_with_the_options(shift, scale, state):
  """The batch is left finite and no higher, or gets the base update."""
  optimizer = helpers.blind_isgd(
    helpers.relaxed(optax.adam(RATE)),
    isgd_jax.shewhart(4, 1.0),
    solver=isgd_jax.gauss_newton(metric='base', max_step_ratio=20.0),
    base_state_when_chasing=state,
  )
  params = jax.tree.map(lambda p: scale * p, make_params())
  opt_state = optimizer.init(params)._replace(chart_state=filled_chart())
  batch = make_batch(3, shift)
  grads = jax.grad(loss_fn)(params, batch)
  updates, new_state = update_with(optimizer, params, opt_state, batch)
  info = isgd_jax.get_info(new_state)
  assert bool(info.is_undertrained)
  if info.is_chase_reverted:
    expected, _ = helpers.relaxed(optax.adam(RATE)).update(
      grads, opt_state.base_state, params
    )
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)
  else:
    left = loss_fn(optax.apply_updates(params, updates), batch)
    assert np.isfinite(left)
    assert float(left) <= float(info.loss) * (1 + 1e-4)


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'metric': 'adam'}, "metric must be 'euclidean' or 'base', got 'adam'"),
    (
      {'max_step_ratio': 0.0},
      'max_step_ratio must be a finite number above 0, got 0.0',
    ),
  ],
)
def test_invariant_10_the_solver_refuses(kwargs, message):
  with pytest.raises(ValueError, match=message):
    isgd_jax.gauss_newton(**kwargs)


@pytest.mark.parametrize(
  ('kwargs', 'field'),
  [
    ({'metric': 'base'}, 'base_response'),
    ({'max_step_ratio': 2.0}, 'base_update_norm'),
  ],
)
def test_invariant_10_a_subproblem_without_a_base_is_refused(kwargs, field):
  with pytest.raises(ValueError, match=f'needs {field} in the Subproblem'):
    first_step(
      isgd_jax.gauss_newton(**kwargs),
      make_subproblem(),
      jnp.zeros(2),
      jnp.float32(3.0),
      jnp.ones(2),
    )


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    (
      {'base_state_when_chasing': 'thawed'},
      "base_state_when_chasing must be 'frozen' or 'advanced', got 'thawed'",
    ),
    (
      {
        'base_state_when_chasing': 'frozen',
        'base_update_when_chasing': True,
      },
      "base_state_when_chasing must be 'advanced' with .*, got 'frozen'",
    ),
  ],
)
def test_invariant_10_isgd_refuses_a_base_state(kwargs, message):
  with pytest.raises(ValueError, match=message):
    chasing_isgd(optax.sgd(RATE), **kwargs)
