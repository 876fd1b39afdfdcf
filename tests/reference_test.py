"""Whole trajectories against the NumPy oracle, and the oracle itself."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax._chase import probation
from tests import helpers
from tests import reference

NUM_STEPS = 150
BASES = {
  'sgd': (lambda: reference.Sgd(0.1), lambda: optax.sgd(0.1)),
  'momentum': (
    lambda: reference.Sgd(0.05, 0.9),
    lambda: optax.sgd(0.05, momentum=0.9),
  ),
  'nesterov': (
    lambda: reference.Sgd(0.05, 0.9, nesterov=True),
    lambda: optax.sgd(0.05, momentum=0.9, nesterov=True),
  ),
  'adam': (
    lambda: reference.Adam(0.01),
    lambda: helpers.relaxed(optax.adam(0.01)),
  ),
}


def make_batches(seed=0):
  """Batches of a task whose labels turn over every 25 steps."""
  rng = np.random.default_rng(seed)
  teacher = rng.normal(size=(6, 4))
  for step in range(NUM_STEPS):
    inputs = rng.normal(size=(16, 6))
    labels = (np.argmax(inputs @ teacher, axis=1) + step // 25) % 4
    yield inputs, labels


def jax_loss(params, batch):
  inputs, labels = batch
  hidden = jnp.tanh(inputs @ params['w1'] + params['b1'])
  logits = hidden @ params['w2'] + params['b2']
  return jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  )


def run_jax(optimizer, params, batches):
  """Parameters and info after every step."""

  @jax.jit
  def step(params, opt_state, batch):
    loss, grads = jax.value_and_grad(jax_loss)(params, batch)
    updates, opt_state = optimizer.update(
      grads,
      opt_state,
      params,
      value=loss,
      value_fn=lambda p: jax_loss(p, batch),
    )
    return optax.apply_updates(params, updates), opt_state

  params = jax.tree.map(jnp.asarray, params)
  opt_state = optimizer.init(params)
  for batch in batches:
    params, opt_state = step(params, opt_state, batch)
    yield params, isgd_jax.get_info(opt_state)


def assert_same_trajectory(records, trajectory, rtol=1e-7):
  evaluations = 0
  for record, (params, info) in zip(records, trajectory, strict=True):
    evaluations += record.evaluations
    chex.assert_trees_all_close(params, record.params, rtol=rtol, atol=1e-10)
    np.testing.assert_allclose(info.loss, record.loss, rtol=1e-9)
    np.testing.assert_allclose(info.mean, record.mean, rtol=1e-9)
    np.testing.assert_allclose(info.sigma, record.sigma, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(info.control_limit, record.limit, rtol=1e-9)
    np.testing.assert_allclose(info.final_loss, record.final_loss, rtol=1e-8)
    assert bool(info.is_undertrained) == record.flagged
    assert int(info.num_chase_steps) == record.chase_steps
    assert bool(info.is_chase_reverted) == record.reverted
    assert int(info.num_gradient_evaluations) == evaluations


def test_oracle_gradient_is_the_derivative_of_its_loss():
  network = reference.Mlp(6, 8, 4, seed=0)
  batch = next(make_batches())
  _, grad = network.loss_and_grad(network.params, batch)
  with jax.enable_x64(True):
    expected = jax.grad(jax_loss)(
      jax.tree.map(jnp.asarray, network.params), batch
    )
    chex.assert_trees_all_close(expected, grad, rtol=1e-9)


@pytest.mark.parametrize('base', BASES)
@pytest.mark.parametrize('chase_to', ['mean', 'limit'])
@pytest.mark.parametrize('winsorize', [False, True])
def test_isgd_reproduces_the_oracle(base, chase_to, winsorize):
  make_reference, make_optax = BASES[base]
  network = reference.Mlp(6, 8, 4, seed=1)
  records = reference.run_isgd(
    network,
    make_reference(),
    make_batches(),
    window_size=12,
    sigma_multiplier=2.0,
    winsorize=winsorize,
    chase_to=chase_to,
  )
  assert 4 <= sum(r.flagged for r in records) < NUM_STEPS // 2
  with jax.enable_x64(True):
    flagged = 'winsorize' if winsorize else 'keep'
    chart = isgd_jax.shewhart(12, 2.0, flagged_losses=flagged)
    optimizer = helpers.blind_isgd(make_optax(), chart, chase_to=chase_to)
    assert_same_trajectory(
      records, run_jax(optimizer, network.params, make_batches())
    )


# Labels turn over until this step; then every so-manieth batch is wrong.
SHIFTS_THEN_WRONG = {'many shifts': (350, 17, 0), 'few shifts': (75, 11, 2)}


def make_shifts_then_wrong_labels(name):
  """Labels that turn over every 25 steps; then now and then wrong ones."""
  last, period, seed = SHIFTS_THEN_WRONG[name]
  rng = np.random.default_rng(seed)
  teacher = rng.normal(size=(6, 4))
  for step in range(600):
    inputs = rng.normal(size=(16, 6))
    turns = min(step, last) // 25
    labels = (np.argmax(inputs @ teacher, axis=1) + turns) % 4
    if step > last + 25 and step % period == 0:
      labels = (labels + 2) % 4
    yield inputs, labels


def run_oracle_on_probation(base, stream, **rules):
  make_reference, _ = BASES[base]
  return reference.run_isgd_on_probation(
    reference.Mlp(6, 8, 4, seed=1),
    make_reference(),
    make_shifts_then_wrong_labels(stream),
    window_size=12,
    sigma_multiplier=2.0,
    **rules,
  )


@pytest.mark.parametrize('base', BASES)
@pytest.mark.parametrize('stream', SHIFTS_THEN_WRONG)
def test_probation_reproduces_the_oracle(base, stream):
  """Chases in the shadow, trusted ones, unjudged ones, and undone ones."""
  records, trust = run_oracle_on_probation(base, stream)
  _, make_optax = BASES[base]
  with jax.enable_x64(True):
    optimizer = isgd_jax.isgd(make_optax(), isgd_jax.shewhart(12, 2.0))
    trajectory = list(
      run_jax(
        optimizer,
        reference.Mlp(6, 8, 4, seed=1).params,
        make_shifts_then_wrong_labels(stream),
      )
    )
    assert_same_trajectory(records, trajectory, rtol=1e-6)
  info = trajectory[-1][1]
  counts = (
    info.num_chases_judged,
    info.num_chases_paid,
    info.num_chases_undone,
  )
  assert tuple(map(int, counts)) == (trust.judged, trust.paid, trust.undone)
  assert (float(info.trust) >= 1) == trust.is_trusted


@pytest.mark.parametrize(
  'rules',
  [
    {'num_batches': 1},
    {'num_batches': 2},
    {'num_batches': 8},
    {'forgetting': 0.5},
    {'starts_trusting': True},
  ],
  ids=str,
)
def test_another_dose_of_probation_reproduces_the_oracle_too(rules):
  stream, base = next(iter(SHIFTS_THEN_WRONG)), next(iter(BASES))
  records, trust = run_oracle_on_probation(base, stream, **rules)
  _, make_optax = BASES[base]
  with jax.enable_x64(True):
    optimizer = isgd_jax.isgd(
      make_optax(),
      isgd_jax.shewhart(12, 2.0),
      probation=probation.Rules(**rules),  # pyright: ignore[reportArgumentType]
    )
    network = reference.Mlp(6, 8, 4, seed=1)
    trajectory = list(
      run_jax(optimizer, network.params, make_shifts_then_wrong_labels(stream))
    )
    assert_same_trajectory(records, trajectory, rtol=1e-6)
  info = trajectory[-1][1]
  assert int(info.num_chases_judged) == trust.judged
  # And it is another run than that of the library.
  usual, _ = run_oracle_on_probation(base, stream)
  assert any(a.loss != b.loss for a, b in zip(records, usual, strict=True))


def test_the_oracle_of_probation_meets_every_case():
  """Chases that lead, that stay in the shadow, unjudged and undone ones."""
  most = np.zeros(4, int)
  for stream in SHIFTS_THEN_WRONG:
    for base in BASES:
      records, trust = run_oracle_on_probation(base, stream)
      num_led = sum(r.final_loss < r.loss for r in records)
      num_chases = sum(r.chase_steps > 0 for r in records)
      cases = (
        num_led,
        num_chases - num_led,
        num_chases - trust.judged,
        trust.undone,
      )
      most = np.maximum(most, cases)
  assert np.all(most > 0), most


@pytest.mark.parametrize('base', BASES)
@pytest.mark.parametrize('chase_learning_rate', [0.05, 0.5])
def test_paper_isgd_reproduces_the_oracle(base, chase_learning_rate):
  make_reference, make_optax = BASES[base]
  network = reference.Mlp(6, 8, 4, seed=2)
  records = reference.run_paper_isgd(
    network,
    make_reference(),
    make_batches(),
    batches_per_epoch=15,
    chase_learning_rate=chase_learning_rate,
  )
  assert sum(r.chase_steps for r in records) >= 3
  with jax.enable_x64(True):
    optimizer = isgd_jax.paper_isgd(
      make_optax(),
      batches_per_epoch=15,
      chase_learning_rate=chase_learning_rate,
    )
    assert_same_trajectory(
      records, run_jax(optimizer, network.params, make_batches())
    )


def test_oracle_reverts_and_so_does_isgd():
  """A loss whose gradient misleads: every chase must end in the base update."""

  class Cliff:
    """Loss |w| + 1 for w > 0 with its gradient reported three tenths as long.

    The Gauss-Newton step is then three times too long, onto the far
    slope, and the loss left is higher than the loss found.
    """

    params = {'w': np.array([1.0])}  # noqa: RUF012

    @staticmethod
    def loss_and_grad(params, batch):
      w = params['w'][0]
      slope = np.sign(w) if not batch else np.sign(w) * 0.3
      return abs(w) + 1.0 + 3.0 * batch, {'w': np.array([slope])}

  batches = [0, 0, 0, 0, 1, 0]
  records = reference.run_isgd(
    Cliff(), reference.Sgd(0.01), batches, window_size=4, sigma_multiplier=3.0
  )
  assert [r.reverted for r in records] == [False] * 4 + [True, False]

  @jax.custom_jvp
  def shortened(w, batch):
    return jnp.abs(w)

  @shortened.defjvp
  def _(primals, tangents):
    w, batch = primals
    factor = jnp.where(batch > 0, 0.3, 1.0)
    return jnp.abs(w), jnp.sign(w) * factor * tangents[0]

  def loss_fn(params, batch):
    return jnp.sum(shortened(params['w'], batch)) + 1.0 + 3.0 * batch

  with jax.enable_x64(True):
    optimizer = helpers.blind_isgd(optax.sgd(0.01), isgd_jax.shewhart(4))
    params = jax.tree.map(jnp.asarray, Cliff.params)
    opt_state = optimizer.init(params)
    trajectory = []
    for batch in batches:
      loss, grads = jax.value_and_grad(loss_fn)(params, float(batch))
      updates, opt_state = optimizer.update(
        grads,
        opt_state,
        params,
        value=loss,
        value_fn=lambda p, b=float(batch): loss_fn(p, b),
      )
      params = optax.apply_updates(params, updates)
      trajectory.append((params, isgd_jax.get_info(opt_state)))
    assert_same_trajectory(records, trajectory)
