"""Probation and trust: what they promise, apart from the oracle's numbers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax._chase import probation
from tests import helpers
from tests.chase.linear import loss_fn
from tests.chase.linear import train

BASES = {
  'momentum': lambda: optax.sgd(0.02, momentum=0.9),
  'adam': lambda: helpers.relaxed(optax.adam(0.02)),
}


def noisy(num_steps, *, seed=0, spread=3.0):
  """Small batches whose targets are heavy-tailed noise: nothing to chase."""
  rng = np.random.default_rng(seed)
  for _ in range(num_steps):
    x = rng.normal(size=(2, 3)).astype(np.float32)
    noise = rng.standard_t(2, size=2) * spread
    yield x, (x.sum(axis=1) + noise).astype(np.float32)


@pytest.mark.parametrize('base', BASES)
def test_untrusted_chases_leave_the_base_optimizer_bit_for_bit(base):
  """Op by op, through chases that are tried in the shadow and judged."""
  make_base = BASES[base]
  optimizer = isgd_jax.isgd(make_base(), isgd_jax.shewhart(12, 2.0))
  batches = list(noisy(70, seed=3))
  with jax.disable_jit():
    got = list(train(optimizer, batches, is_jitted=False))
    alone = optax.with_extra_args_support(make_base())
    expected = list(train(alone, batches, is_jitted=False))
  infos = [isgd_jax.get_info(state) for _, state in got]
  num_compared = 0
  for (params, state), (base_params, base_state), info in zip(
    got, expected, infos, strict=True
  ):
    if info.trust >= 1:
      break
    chex.assert_trees_all_equal(params, base_params)
    chex.assert_trees_all_equal(state.base_state, base_state)
    num_compared += int(info.num_chase_steps) > 0
  assert num_compared > 0
  assert max(int(info.num_chases_judged) for info in infos) > 0


@pytest.mark.parametrize('base', BASES)
@pytest.mark.parametrize('sigmas', [0.5, 2.0])
def test_extra_evaluations_stay_within_a_fifth_of_the_steps_and_four(
  base, sigmas
):
  """Also where nearly a third of the batches are flagged."""
  optimizer = isgd_jax.isgd(BASES[base](), isgd_jax.shewhart(12, sigmas))
  extra = 0
  for step, (_, state) in enumerate(train(optimizer, noisy(400)), 1):
    info = isgd_jax.get_info(state)
    extra = int(info.num_gradient_evaluations) - step
    assert extra <= 0.2 * step + 4, step
  assert extra > 0


def judged(trust, gains, own_gain=1.0):
  """The record after one chase with these gains on the batches after it."""
  trust, _ = probation.begin(trust, jnp.bool_(True), jnp.float32(own_gain))
  assert bool(trust.is_on_probation)
  for gain in gains:
    base, chased = 10.0 + gain, 10.0
    losses = (chased, base) if trust.leads else (base, chased)
    trust = probation.observe(trust, *map(jnp.float32, losses))
    trust, is_undone = probation.settle(
      trust, jnp.bool_(False), jnp.float32(1.0)
    )
  return trust, bool(is_undone)


def no_record():
  return probation.unpack(probation.initial_trust(jnp.float32))


def test_two_equal_gains_are_trusted_and_one_is_not():
  trust, _ = judged(no_record(), [1.0] * 4)
  assert not bool(probation.is_trusted(trust))
  trust, _ = judged(trust, [1.0] * 4)
  assert bool(probation.is_trusted(trust))


def test_a_trusting_start_ends_with_the_second_chase_or_the_first_loss():
  rules = probation.Rules(starts_trusting=True)
  assert bool(probation.is_trusted(no_record(), rules))
  lost, _ = judged(no_record(), [-1.0] * 4)
  assert not bool(probation.is_trusted(lost, rules))
  small, _ = judged(no_record(), [0.01] * 4)
  assert bool(probation.is_trusted(small, rules))
  small, _ = judged(small, [0.01] * 4)
  assert not bool(probation.is_trusted(small, rules))


def test_the_ablation_s_rules_leave_the_library_s_program_as_it_is():
  params = {'w': jnp.zeros(3), 'b': jnp.zeros(())}
  batch = next(iter(noisy(1)))

  def program(value):
    optimizer = isgd_jax.isgd(
      optax.adam(0.02), isgd_jax.shewhart(12, 2.0), probation=value
    )

    def step(params, state):
      loss, grads = jax.value_and_grad(loss_fn)(params, batch)
      return optimizer.update(
        grads, state, params, value=loss, value_fn=lambda p: loss_fn(p, batch)
      )

    state = optimizer.init(params)
    with jax.numpy_dtype_promotion('standard'):
      return jax.jit(step).lower(params, state).as_text()

  assert program(True) == program(probation.Rules())
  assert program(True) != program(probation.Rules(num_batches=2))


def test_small_coins_beside_what_a_chase_moves_are_not_trusted():
  trust = no_record()
  for _ in range(20):
    trust, _ = judged(trust, [0.05] * 4, own_gain=1.0)
  assert not bool(probation.is_trusted(trust))


def test_the_pause_between_trials_doubles_up_to_32():
  trust, refused = no_record(), []
  for _ in range(7):
    count = 0
    while True:
      trust, is_to_chase = probation.admit(
        trust,
        jnp.bool_(True),
        jnp.int32(10_000),
        jnp.int32(0),
        max_steps=5,
      )
      if is_to_chase:
        break
      count += 1
    refused.append(count)
    trust, _ = judged(trust, [-1.0] * 4)
  assert refused == [0, 1, 3, 7, 15, 31, 31]


def test_a_trusted_chase_that_loses_all_that_was_gained_is_undone():
  trust = no_record()
  for _ in range(2):
    trust, _ = judged(trust, [1.0] * 4)
  trust = trust._replace(num_unjudged=jnp.int32(0))
  trust, is_undone = judged(trust, [-9.0])
  assert is_undone
  assert int(trust.num_undone) == 1
  assert not bool(probation.is_trusted(trust))


@pytest.mark.parametrize('leads', [False, True])
@pytest.mark.parametrize('bad', [np.inf, np.nan])
def test_a_loss_that_is_not_finite_counts_against_its_candidate(leads, bad):
  trust = no_record()._replace(
    leads=jnp.bool_(leads),
    is_on_probation=jnp.bool_(True),
    current_own_gain=jnp.float32(2.0),
  )
  chased_fails = (bad, 1.0) if leads else (1.0, bad)
  base_fails = chased_fails[::-1]
  for losses, expected in (
    (chased_fails, -200.0),
    (base_fails, 200.0),
    ((bad, bad), 0.0),
  ):
    seen = probation.observe(trust, *map(jnp.float32, losses))
    np.testing.assert_allclose(seen.current_gain, expected)


def test_a_packed_record_is_the_same_unpacked():
  trust = no_record()._replace(
    gain=jnp.float32(1.5), leads=jnp.bool_(True), pause=jnp.int32(7)
  )
  chex.assert_trees_all_equal(probation.unpack(probation.pack(trust)), trust)


@pytest.mark.parametrize(
  'kwargs',
  [
    {'guard': False},
    {'base_update_when_chasing': True},
    {'base_state_when_chasing': 'advanced'},
  ],
)
def test_what_cannot_be_judged_is_refused_or_left_out(kwargs):
  with pytest.raises(ValueError, match='probation=True needs a chase in place'):
    isgd_jax.isgd(
      optax.sgd(0.1), isgd_jax.shewhart(9), probation=True, **kwargs
    )
  optimizer = isgd_jax.isgd(optax.sgd(0.1), isgd_jax.shewhart(9), **kwargs)
  assert optimizer.init(jnp.ones(3)).probation_state == ()
