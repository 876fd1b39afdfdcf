"""The jitted steps: weights, model state, and the optimizer's schedules."""

import types

import chex
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from isgd_jax.experiments import models
from isgd_jax.experiments.train import optimizers
from isgd_jax.experiments.train import reports
from isgd_jax.experiments.train import steps
from isgd_jax.experiments.train.config import IsgdConfig
from isgd_jax.experiments.train.config import OptimizerConfig
from isgd_jax.experiments.train.config import TrainConfig

pytestmark = [pytest.mark.one_version, pytest.mark.whole_runs]

SHAPE = (8, 8, 1)
DATASET = types.SimpleNamespace(pixel_mean=(0.5,), pixel_std=(0.25,))


class Net(nnx.Module):
  """BatchNorm and dropout, so that model state shows each evaluation."""

  def __init__(self, rngs):
    self.hidden = nnx.Linear(64, 16, rngs=rngs)
    self.norm = nnx.BatchNorm(16, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.out = nnx.Linear(16, 10, rngs=rngs)

  def __call__(self, x, *, train=False):
    x = self.norm(self.hidden(x.reshape(len(x), -1)), not train)
    return self.out(self.dropout(nnx.relu(x), deterministic=not train))


def mlp(rngs):
  return models.create_model('mlp', SHAPE, 10, rngs=rngs)


def make_record(seed, size=16):
  rng = np.random.default_rng(seed)
  return {
    'image': rng.integers(0, 256, (size, *SHAPE), np.uint8),
    'label': rng.integers(0, 10, size, np.int32),
  }


def build(create=mlp, cycle=20, **options):
  config = TrainConfig(
    epochs=10,
    optimizer=OptimizerConfig(**options.pop('optimizer', {})),
    isgd=IsgdConfig(**options),
  )
  optimizer = optimizers.build_optimizer(config, cycle)
  return steps.build_steps(create, DATASET, optimizer, seed=0)


def run(programs, records):
  """The state and the report after each record."""
  state, found = programs.init(), []
  for record in records:
    weight = np.ones(len(record['label']), np.float32)
    state, report = programs.train(state, record, weight)
    found.append(report)
  return state, reports.unpack(np.stack(found))


def drifting_records(num_steps=40, at=30):
  for seed in range(num_steps):
    record = make_record(seed, size=32)
    # Learnable: the class is the brightest of ten pixels; then it is not.
    pixels = record['image'].reshape(32, 64)[:, :10]
    label = pixels.argmax(1) if seed < at else pixels.argmin(1)
    yield {**record, 'label': label.astype(np.int32)}


def test_weights_and_unlabelled_examples_count_for_nothing():
  programs = build(method='base')
  record = make_record(0)
  few = {name: column[:10] for name, column in record.items()}
  alone, report = programs.train(programs.init(), few, np.ones(10, np.float32))

  weight = (np.arange(16) < 10).astype(np.float32)
  padded, padded_report = programs.train(programs.init(), record, weight)
  chex.assert_trees_all_close(alone.params, padded.params, atol=1e-6)
  np.testing.assert_allclose(report, padded_report, rtol=1e-5)

  label = np.where(weight, record['label'], -1)
  unlabelled, unlabelled_report = programs.train(
    programs.init(), {**record, 'label': label}, np.ones(16, np.float32)
  )
  chex.assert_trees_all_equal(padded.params, unlabelled.params)
  padded_report, unlabelled_report = (
    reports.unpack(r[None]) for r in (padded_report, unlabelled_report)
  )
  assert padded_report.num_examples == 10
  assert padded_report.num_undecodable == 0
  assert unlabelled_report.num_undecodable == 6
  chex.assert_trees_all_equal(
    padded_report, unlabelled_report._replace(num_undecodable=np.array([0]))
  )


def test_a_batch_without_examples_moves_nothing():
  programs = build(method='base', optimizer={'base': 'sgd'})
  before = jax.device_get(programs.init().params)
  state, report = programs.train(
    programs.init(), make_record(0), np.zeros(16, np.float32)
  )
  chex.assert_trees_all_equal(before, state.params)
  assert reports.unpack(report[None]).num_examples == 0


def test_bytes_are_scaled_and_standardised():
  seen = []

  class Spy(nnx.Module):
    def __init__(self, rngs):
      self.bias = nnx.Param(jnp.zeros(10))

    def __call__(self, x, *, train):
      seen.append((x.dtype, train))
      return jnp.stack([x.min(), x.max(), *jnp.zeros(8)])[None] + self.bias

  programs = build(lambda rngs: Spy(rngs), method='base')
  image = np.zeros((1, *SHAPE), np.uint8)
  image[0, 0, 0] = 255
  record = {'image': image, 'label': np.zeros(1, np.int32)}
  sums = programs.evaluate(programs.init(), record, np.ones(1, np.float32))
  logits = np.array([-2.0, 2.0, *[0.0] * 8])
  expected = np.log(np.exp(logits).sum()) - logits[0]
  np.testing.assert_allclose(sums.loss, expected, rtol=1e-6)
  assert seen == [(jnp.float32, False)]


def test_a_chase_leaves_model_state_as_the_first_evaluation_does():
  rate = {'base': 'momentum', 'learning_rate': 0.05}
  options = {'optimizer': rate, 'window_size': 15, 'sigma_multiplier': 2.0}
  chasing = build(Net, **options)
  watching = build(Net, **options, max_chase_steps=0)
  state, num_chases = chasing.init(), 0
  for record in drifting_records():
    weight = np.ones(32, np.float32)
    copy = jax.tree.map(jnp.copy, state)
    alone, _ = watching.train(copy, record, weight)
    state, report = chasing.train(state, record, weight)
    # Two programs, so to rounding; counts of dropout's draws are exact.
    chex.assert_trees_all_close(
      jax.tree.map(_plain, state.model_state),
      jax.tree.map(_plain, alone.model_state),
      rtol=1e-5,
      atol=1e-6,
    )
    num_chases += reports.unpack(report[None]).num_chase_steps[0] > 0
  assert num_chases


def _plain(leaf):
  is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  return jax.random.key_data(leaf) if is_key else leaf


def test_reports_agree_with_the_chart():
  programs = build(
    window_size=15,
    sigma_multiplier=2.0,
    flagged_losses='keep',
    probation=False,
    optimizer={'learning_rate': 0.1},
  )
  _, report = run(programs, drifting_records())
  loss = report.loss.astype(np.float64)
  for step in range(15, 40):
    window = loss[step - 15 : step]
    np.testing.assert_allclose(report.mean[step], window.mean(), rtol=1e-5)
    np.testing.assert_allclose(report.sigma[step], window.std(), rtol=1e-4)
  np.testing.assert_array_equal(
    report.is_undertrained, report.loss > report.control_limit
  )
  assert np.isinf(report.control_limit[:15]).all()
  chased = report.num_chase_steps > 0
  assert chased.any()
  assert (report.final_loss[chased] < report.loss[chased]).all()
  np.testing.assert_array_equal(
    report.final_loss[~chased], report.loss[~chased]
  )
  assert (report.num_gradient_evaluations[chased] > 1).all()
  assert (report.num_gradient_evaluations[~chased] == 1).all()


def test_the_base_method_has_no_chart():
  _, report = run(build(method='base'), drifting_records(5))
  assert np.isnan(report.mean).all()
  assert not report.is_undertrained.any()
  assert (report.num_gradient_evaluations == 1).all()


@pytest.mark.parametrize(
  ('options', 'expected'),
  [
    ({'schedule': 'constant'}, [0.1, 0.1, 0.1, 0.1]),
    (
      {'schedule': 'step', 'rate_boundaries': (1.0,)},
      [0.1, 0.1, 0.01, 0.01],
    ),
    (
      {'schedule': 'cosine'},
      [0.1 * (1 + np.cos(np.pi * step / 40)) / 2 for step in (0, 1, 4, 6)],
    ),
    (
      {'schedule': 'constant', 'warmup_steps': 4},
      [0.0, 0.025, 0.1, 0.1],
    ),
    (
      {'schedule': 'step', 'rate_boundaries': (1.0,), 'warmup_steps': 2},
      [0.0, 0.05, 0.01, 0.01],
    ),
  ],
)
def test_the_learning_rate_follows_its_schedule(options, expected):
  """At steps 0, 1, 4 and 6 of 40, with 4 batches an epoch."""
  programs = build(
    cycle=4, method='base', optimizer={'learning_rate': 0.1, **options}
  )
  _, report = run(programs, (make_record(s) for s in range(7)))
  np.testing.assert_allclose(
    report.learning_rate[[0, 1, 4, 6]], expected, rtol=1e-5, atol=1e-9
  )


def test_two_boundaries_at_one_step_both_count():
  programs = build(
    cycle=4,
    method='base',
    optimizer={'schedule': 'step', 'rate_boundaries': (0.5, 0.51)},
  )
  _, report = run(programs, (make_record(s) for s in range(4)))
  np.testing.assert_allclose(report.learning_rate[[1, 3]], [1e-2, 1e-4])


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'warmup_steps': 200}, '--warmup-steps 200 must be less than the 200'),
    (
      {
        'schedule': 'step',
        'rate_boundaries': (0.1,),
        'warmup_steps': 2,
      },
      '--rate-boundaries 0.1 .* lies within the --warmup-steps 2',
    ),
  ],
)
def test_schedules_that_cannot_be_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    build(method='base', optimizer=options)


def test_the_loss_driven_rate_falls_with_the_chart_s_mean():
  programs = build(
    window_size=8,
    max_chase_steps=0,
    optimizer={
      'schedule': 'loss-driven',
      'rate_boundaries': (1.5, 1.0),
      'rate_factor': 0.5,
      'learning_rate': 0.2,
    },
  )
  few = [make_record(seed) for seed in range(4)]
  _, report = run(programs, few * 30)
  mean = np.where(np.isinf(report.control_limit), np.inf, report.mean)
  lowest = np.minimum.accumulate(mean)
  expected = 0.2 * 0.5 ** ((lowest < 1.5).astype(int) + (lowest < 1.0))
  np.testing.assert_allclose(report.learning_rate, expected, rtol=1e-6)
  assert set(expected) == {0.2, 0.1, 0.05}


@pytest.mark.parametrize('base', ['sgd', 'momentum', 'nesterov', 'adam'])
def test_weight_decay_is_added_to_the_gradient(base):
  decayed = build(method='base', optimizer={'base': base, 'weight_decay': 0.1})
  plain = build(method='base', optimizer={'base': base})
  state, other = decayed.init(), plain.init()
  record, weight = make_record(0), np.zeros(16, np.float32)
  before = jax.device_get(state.params)
  state, _ = decayed.train(state, record, weight)
  other, _ = plain.train(other, record, weight)
  # Without examples only the decay is left.
  chex.assert_trees_all_equal(other.params, before)
  shrunk = jax.tree.map(
    # Adam's step is its rate whatever the weight: it oversteps small ones.
    lambda new, old: (np.abs(new) < np.abs(old))[np.abs(old) > 0.02].all(),
    jax.device_get(state.params),
    before,
  )
  assert all(jax.tree.leaves(shrunk))


def test_every_option_of_isgd_reaches_it():
  """Each option changes the run, on records that make it chase."""
  common = {
    'window_size': 15,
    'sigma_multiplier': 3.0,
    'flagged_losses': 'keep',
    'probation': False,
    'optimizer': {'learning_rate': 0.1},
  }
  records = list(drifting_records())
  default = run(build(**common), records)[0].params
  for option in (
    {'method': 'base'},
    {'probation': True},
    {'method': 'paper-isgd'},
    {'sigma_multiplier': 1.0},
    {'flagged_losses': 'winsorize'},
    {'sigma_estimator': 'mad'},
    {'chart': 'ewma', 'limit_width': 2.0},
    {'chart': 'cusum', 'decision_interval': 2.0},
    {'chart': 'difference', 'sigma_multiplier': 1.0},
    {'run_rules': 'western_electric'},
    {'method': 'skip'},
    {'solver': 'gradient-descent', 'chase_learning_rate': 0.1},
    {'chase_to': 'limit'},
    {'max_chase_steps': 1},
    {'conservative_weight': 1e6},
    {'base_update_when_chasing': True},
    {'window_size': 12},
  ):
    params = run(build(**(common | option)), records)[0].params
    is_same = jax.tree.map(lambda a, b: bool((a == b).all()), default, params)
    assert not all(jax.tree.leaves(is_same)), option


def test_the_chart_restarts_after_as_many_flags_as_it_is_told():
  options = {'window_size': 10, 'flagged_losses': 'leave_out'}
  records = list(drifting_records())
  _, never = run(build(**options, max_chase_steps=0), records)
  _, once = run(build(**options, max_chase_steps=0, restart_after=2), records)
  assert np.isfinite(never.control_limit[10:]).all()
  assert np.isinf(once.control_limit[32:]).all()


def test_text_is_predicted_byte_by_byte():
  tokens = np.random.default_rng(0).integers(0, 256, (3, 9), np.uint8)
  config = TrainConfig(model='transformer', isgd=IsgdConfig(method='base'))
  programs = steps.build_steps(
    lambda rngs: models.create_model('transformer', (8,), 256, rngs=rngs),
    types.SimpleNamespace(pixel_mean=(), pixel_std=()),
    optimizers.build_optimizer(config, 20),
    seed=0,
  )
  state = programs.init()
  network = models.create_model('transformer', (8,), 256, rngs=nnx.Rngs(0))
  logits = network(tokens[:, :-1].astype(np.int32), train=False)
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, tokens[:, 1:].astype(np.int32)
  )
  sums = programs.evaluate(state, {'tokens': tokens}, np.ones(3, np.float32))
  np.testing.assert_allclose(sums.loss, losses.mean(1).sum(), rtol=1e-5)
  assert sums.num_examples == 3
  _, report = programs.train(state, {'tokens': tokens}, np.ones(3, np.float32))
  np.testing.assert_allclose(
    reports.unpack(report[None]).loss, losses.mean(), rtol=1e-5
  )
