"""The loop does what each method says, and nothing else."""

import dataclasses
import functools
import itertools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax.experiments import datasets
from isgd_jax.experiments import models
from isgd_jax.experiments import streams
from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.optimizers.base_optimizers import base_optimizer_names
from isgd_jax.experiments.optimizers.base_optimizers import build_base_optimizer
from isgd_jax.experiments.optimizers.charts import ChartSettings
from isgd_jax.experiments.runs import steps as run_steps
from isgd_jax.experiments.runs import training as run_training
from isgd_jax.experiments.runs.ablation import VARIANTS
from tests import helpers

pytestmark = pytest.mark.whole_runs

RATES = dict.fromkeys(base_optimizer_names(), 0.003) | {
  'sgd': 0.1,
  'momentum': 0.03,
  'nesterov': 0.03,
  'adam': 0.003,
  'polyak': 1.0,
  'momo': 1.0,
}
# The paper's queue has the loss judged in it: none of eleven or fewer losses is
# three of their sigmas above their mean.
PAPER = Algorithm('isgd', ChartSettings(window_size=20, sigma_multiplier=3.0))
ISGD = Algorithm('isgd', ChartSettings(window_size=11, sigma_multiplier=3.0))


@functools.cache
def digits():
  return datasets.load_dataset('digits')


def model(name='mlp'):
  return models.build_model(name, (8, 8, 1), 10)


def drifting(num_segments=3, batches_per_segment=23, seed=0):
  """Not a multiple of the block size, and long enough to flag."""
  return streams.drifting_stream(
    digits().train.images,
    digits().train.labels,
    batch_size=8,
    num_segments=num_segments,
    batches_per_segment=batches_per_segment,
    num_classes=10,
    rng=np.random.default_rng(seed),
  )


def long_enough():
  """For every chart to flag the change after 60 batches."""
  return drifting(2, batches_per_segment=60)


def config(method, base_optimizer='momentum', **kwargs):
  defaults = {
    'learning_rate': RATES[base_optimizer],
    'seed': 5,
    'isgd': ISGD,
  }
  return run_training.RunConfig(method, base_optimizer, **defaults | kwargs)


def plain_loop(
  base_optimizer, steps_per_batch, stream, model_name='mlp', rate=None
):
  """An Optax loop as anyone would write it: parameters and batch losses."""
  loss_fn = model(model_name).loss_fn
  rate = RATES[base_optimizer] if rate is None else rate
  optimizer = optax.with_extra_args_support(
    build_base_optimizer(base_optimizer, rate)
  )
  params = model(model_name).init(5)
  opt_state = optimizer.init(params)

  @jax.jit
  def step(params, opt_state, batch):
    (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
    return optax.apply_updates(params, updates), opt_state, loss

  losses = []
  for batch in stream.batches:
    for i in range(steps_per_batch):
      params, opt_state, loss = step(params, opt_state, batch)
      if i == 0:
        losses.append(float(loss))
  return params, losses


def library_loop(build, stream, schedule):
  """The library's update at `build(rate)`, step by step: what it reports.

  The rate is that of `schedule` at the gradient evaluations spent so far.
  """
  loss_fn = model().loss_fn

  @jax.jit
  def step(params, opt_state, rate, batch):
    (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch)
    updates, opt_state = build(rate).update(
      grads,
      opt_state,
      params,
      value=loss,
      value_fn=lambda p: loss_fn(p, batch)[0],
    )
    params = optax.apply_updates(params, updates)
    return params, opt_state, isgd_jax.get_info(opt_state)

  params = model().init(5)
  opt_state, infos = build(0.1).init(params), []
  for batch in stream.batches:
    spent = infos[-1].num_gradient_evaluations if infos else 0
    rate = jnp.float32(schedule(spent))
    params, opt_state, info = step(params, opt_state, rate, batch)
    infos.append(jax.device_get(info))
  return infos


def digit_epochs(num_epochs):
  """Epochs of 14 batches."""
  return streams.shuffled_epochs(
    digits().train.images[:112],
    digits().train.labels[:112],
    batch_size=8,
    num_epochs=num_epochs,
    rng=np.random.default_rng(0),
  )


@pytest.mark.parametrize('base_optimizer', base_optimizer_names())
@pytest.mark.parametrize(('method', 'steps'), [('base', 1), ('twice', 2)])
def test_base_and_twice_are_plain_optax_steps(base_optimizer, method, steps):
  stream = functools.partial(drifting, num_segments=1, batches_per_segment=12)
  result = run_training.train(config(method, base_optimizer), model(), stream())
  params, losses = plain_loop(base_optimizer, steps, stream())
  chex.assert_trees_all_close(result.params, params, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(result.metrics.loss, losses, rtol=1e-4)
  np.testing.assert_array_equal(result.metrics.num_gradient_evaluations, steps)


def test_the_convolutional_net_trains_too():
  stream = functools.partial(drifting, num_segments=1, batches_per_segment=12)
  result = run_training.train(config('base', 'sgd'), model('cnn'), stream())
  params, _ = plain_loop('sgd', 1, stream(), model_name='cnn')
  chex.assert_trees_all_close(result.params, params, rtol=1e-4, atol=1e-5)


def build_isgd(rate):
  chart = isgd_jax.shewhart(20, 3.0, flagged_losses='winsorize')
  return helpers.blind_isgd(build_base_optimizer('momentum', rate), chart)


def build_paper_isgd(rate):
  return isgd_jax.paper_isgd(
    build_base_optimizer('momentum', rate),
    batches_per_epoch=20,
    chase_learning_rate=rate,
  )


def build_skip(rate):
  chart = isgd_jax.shewhart(20, 3.0, flagged_losses='winsorize')
  return isgd_jax.skip_out_of_control(
    build_base_optimizer('momentum', rate), chart
  )


@pytest.mark.parametrize('is_decayed', [False, True])
@pytest.mark.parametrize(
  ('method', 'build'),
  [
    ('isgd', build_isgd),
    ('paper-isgd', build_paper_isgd),
    ('skip', build_skip),
  ],
)
def test_a_chart_s_method_is_the_library_s_update_step_by_step(
  method, build, is_decayed
):
  """Where the rate falls, it follows the evaluations spent, chases too."""
  rate, num_decay = RATES['momentum'], 200
  result = run_training.train(
    config(method, isgd=PAPER, decay_evaluations=num_decay * is_decayed),
    model(),
    long_enough(),
  )
  schedule = (
    optax.cosine_decay_schedule(rate, num_decay)
    if is_decayed
    else optax.constant_schedule(rate)
  )
  infos = library_loop(build, long_enough(), schedule)
  metrics = result.metrics
  for name, info_name in {
    'loss': 'loss',
    'mean': 'mean',
    'control_limit': 'control_limit',
    'is_undertrained': 'is_undertrained',
    'num_extra_steps': 'num_chase_steps',
    'final_loss': 'final_loss',
  }.items():
    np.testing.assert_allclose(
      getattr(metrics, name),
      [getattr(info, info_name) for info in infos],
      rtol=2e-3,
      atol=1e-5,
      err_msg=name,
    )
  np.testing.assert_array_equal(
    np.cumsum(metrics.num_gradient_evaluations),
    [info.num_gradient_evaluations for info in infos],
  )
  assert metrics.is_undertrained.any()
  assert (method == 'skip') == (metrics.num_extra_steps.sum() == 0)


@pytest.mark.parametrize('base_optimizer', ['sgd', 'adam'])
@pytest.mark.parametrize(('method', 'steps'), [('base', 1), ('twice', 2)])
def test_a_decayed_rate_is_half_a_cosine_to_zero(base_optimizer, method, steps):
  """Over fewer evaluations than there are: at zero nothing moves any more."""
  stream = functools.partial(drifting, num_segments=1, batches_per_segment=20)
  num_decay = 15 * steps
  result = run_training.train(
    config(method, base_optimizer, decay_evaluations=num_decay),
    model(),
    stream(),
  )
  schedule = optax.cosine_decay_schedule(RATES[base_optimizer], num_decay)
  params, losses = plain_loop(base_optimizer, steps, stream(), rate=schedule)
  chex.assert_trees_all_close(result.params, params, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(result.metrics.loss, losses, rtol=1e-4)
  shorter, _ = plain_loop(
    base_optimizer,
    steps,
    streams.Stream(itertools.islice(stream().batches, 15), 15, ()),
    rate=schedule,
  )
  chex.assert_trees_all_close(result.params, shorter, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('budget', [1, 2, 31, 32, 33, 56])
def test_base_spends_the_budget_and_twice_does_on_half_the_batches(budget):
  base = run_training.train(
    config('base'), model(), digit_epochs(4), budget=budget
  ).summary()
  twice = run_training.train(
    config('twice'), model(), digit_epochs(4), budget=budget
  ).summary()
  assert base['num_steps'] == base['num_gradient_evaluations'] == budget
  # A step begun is finished.
  assert twice['num_steps'] == (budget + 1) // 2
  assert twice['num_gradient_evaluations'] == 2 * twice['num_steps']


@pytest.mark.parametrize('method', ['isgd', 'paper-isgd'])
@pytest.mark.parametrize('budget', [1, 32, 61, 65, 90, 120])
def test_a_chase_counts_against_the_budget(method, budget):
  settings = config(method, isgd=PAPER)
  whole = run_training.train(settings, model(), long_enough())
  result = run_training.train(settings, model(), long_enough(), budget=budget)
  spent = np.cumsum(result.metrics.num_gradient_evaluations)
  most = settings.algorithm.max_evaluations
  assert budget <= spent[-1] <= budget + most - 1
  # The same steps as without a budget, up to the one that spends the last.
  np.testing.assert_array_equal(
    spent, np.cumsum(whole.metrics.num_gradient_evaluations)[: len(spent)]
  )
  assert (spent[:-1] < budget).all()
  if budget == 120:
    assert len(spent) < 120


@pytest.mark.parametrize(
  'algorithm',
  [
    pytest.param(algorithm, id=name)
    for name, algorithm in VARIANTS.items()
    if algorithm.options or algorithm == Algorithm('isgd')
  ],
)
def test_no_step_takes_more_evaluations_than_is_promised(algorithm):
  """What is promised decides when a budget may be overspent."""
  algorithm = dataclasses.replace(algorithm, chart=PAPER.chart)
  result = run_training.train(
    config('isgd', isgd=algorithm), model(), long_enough()
  )
  most = result.metrics.num_gradient_evaluations.max()
  assert 1 < most <= algorithm.max_evaluations


@pytest.mark.parametrize(
  ('method', 'budget', 'num_evaluations'),
  [
    ('base', None, 3),
    ('base', None, 4),
    ('base', 50, 5),
    ('twice', 50, 5),
    ('isgd', None, 3),
    ('isgd', 60, 6),
    ('base', None, 1),
  ],
)
def test_evaluations_come_evenly_and_at_the_end(
  method, budget, num_evaluations
):
  def evaluate(params):
    return jax.tree.map(np.array, params)

  def run(**kwargs):
    return run_training.train(
      config(method), model(), drifting(), evaluate=evaluate, **kwargs
    )

  result = run(budget=budget, num_evaluations=num_evaluations)
  steps = [e.num_steps for e in result.evaluations]
  assert steps[-1] == len(result.metrics.loss)
  interval = steps[0]
  if method != 'isgd':
    assert interval == steps[-1] // num_evaluations
  assert steps[:-1] == [interval * (i + 1) for i in range(len(steps) - 1)]
  assert 0 < steps[-1] - sum(steps[-2:-1]) <= interval
  spent = np.cumsum(result.metrics.num_gradient_evaluations)
  for evaluation in result.evaluations:
    n = evaluation.num_steps
    assert evaluation.num_gradient_evaluations == spent[n - 1]
    # What is judged is the network as it was then.
    then = run_training.train(
      config(method),
      model(),
      streams.Stream(itertools.islice(drifting().batches, n), n, ()),
    )
    chex.assert_trees_all_close(evaluation.measures, then.params, rtol=1e-5)


def test_evaluations_do_not_change_the_run():
  plain = run_training.train(config('isgd'), model(), drifting(), budget=60)
  judged = run_training.train(
    config('isgd'),
    model(),
    drifting(),
    budget=60,
    evaluate=lambda params: None,
    num_evaluations=20,
  )
  chex.assert_trees_all_equal(plain.params, judged.params)
  chex.assert_trees_all_equal(plain.metrics, judged.metrics)


def test_reading_a_batch_takes_training_seconds_and_evaluating_none(
  monkeypatch,
):
  now = 0.0

  def batches():
    nonlocal now
    for batch in drifting(1, batches_per_segment=12).batches:
      now += 1.0
      yield batch

  def evaluate(params):
    nonlocal now
    now += 1000.0

  monkeypatch.setattr(
    run_training, 'time', types.SimpleNamespace(perf_counter=lambda: now)
  )
  result = run_training.train(
    config('base'),
    model(),
    streams.Stream(batches(), 12, ()),
    evaluate=evaluate,
    num_evaluations=4,
  )
  # The first batch is read before the program is compiled.
  assert result.run_seconds == 11.0
  assert [e.seconds for e in result.evaluations] == [2.0, 5.0, 8.0, 11.0]


def test_random_trigger_takes_exactly_isgd_s_extra_evaluations():
  isgd = run_training.train(config('isgd'), model(), drifting())
  extra = isgd.extra_evaluations()
  random = run_training.train(
    config('random'), model(), drifting(), isgd_extra_steps=extra
  )
  assert extra.sum() > 0
  np.testing.assert_array_equal(
    np.sort(random.metrics.num_extra_steps), np.sort(extra)
  )
  assert not np.array_equal(random.metrics.num_extra_steps, extra)
  assert (
    random.metrics.num_gradient_evaluations.sum()
    == isgd.metrics.num_gradient_evaluations.sum()
  )


def test_random_trigger_s_extra_steps_are_base_steps_on_that_batch():
  extra = np.array([0, 2, 1, 0])
  stream = functools.partial(drifting, num_segments=1, batches_per_segment=4)
  random = run_training.train(
    config('random'), model(), stream(), isgd_extra_steps=extra
  )
  repeated = [
    batch
    for batch, count in zip(
      stream().batches,
      run_training.random_trigger(extra, seed=5),
      strict=True,
    )
    for _ in range(1 + count)
  ]
  params, _ = plain_loop(
    'momentum', 1, streams.Stream(iter(repeated), len(repeated), ())
  )
  chex.assert_trees_all_close(random.params, params, rtol=1e-4, atol=1e-5)


def test_random_trigger_reads_as_many_batches_as_isgd_did():
  isgd = run_training.train(config('isgd'), model(), drifting(), budget=60)
  assert len(isgd.metrics.loss) < 60
  random = run_training.train(
    config('random'),
    model(),
    drifting(),
    budget=60,
    isgd_extra_steps=isgd.extra_evaluations(),
  )
  for name in ('num_steps', 'num_gradient_evaluations'):
    assert random.summary()[name] == isgd.summary()[name]


@pytest.mark.parametrize('extra', [None, np.zeros(0, int), np.zeros(70, int)])
def test_random_trigger_without_its_model_run_is_refused(extra):
  with pytest.raises(ValueError, match='run the method isgd first'):
    run_training.train(
      config('random'), model(), drifting(), isgd_extra_steps=extra
    )


@pytest.mark.parametrize('num_batches', [1, 31, 32, 33, 70])
def test_every_step_is_reported_once_and_in_order(num_batches):
  """A linear chain of losses: a lost, doubled or swapped step breaks it."""
  stream = functools.partial(
    drifting, num_segments=1, batches_per_segment=num_batches
  )
  result = run_training.train(config('base'), model(), stream())
  _, losses = plain_loop('momentum', 1, stream())
  np.testing.assert_allclose(result.metrics.loss, losses, rtol=1e-3)


def test_metrics_are_fetched_after_later_steps_are_dispatched(monkeypatch):
  num_dispatched, dispatched_at_fetch = 0, []
  compiled = run_steps.compile_step(
    model(),
    'sgd',
    Algorithm(),
    jax.ShapeDtypeStruct((8, 8, 8, 1), np.float32),
    jax.ShapeDtypeStruct((8,), np.int32),
  )

  def step(*args):
    nonlocal num_dispatched
    num_dispatched += 1
    return compiled.step(*args)

  def device_get(pending):
    dispatched_at_fetch.append(num_dispatched)
    return real_device_get(pending)

  real_device_get = jax.device_get
  program = compiled._replace(step=step)
  monkeypatch.setattr(run_training, '_compile', lambda *_: (program, 0.0))
  monkeypatch.setattr(jax, 'device_get', device_get)
  run_training.train(
    config('base', 'sgd'), model(), drifting(1, batches_per_segment=100)
  )
  assert dispatched_at_fetch == [64, 96, 100, 100]


def test_nothing_is_compiled_after_the_first_run_of_a_program():
  events = []

  def listen(event, duration, **kwargs):
    del duration, kwargs
    if is_listening and event.endswith('backend_compile_duration'):
      events.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  is_listening = True
  jax.jit(lambda x: x * 3)(np.float32(1))
  assert events, 'the listener hears compilations'
  for method in ('base', 'twice', 'isgd'):
    run_training.train(config(method, 'sgd'), model(), drifting())
  events.clear()
  for method in ('base', 'twice', 'isgd'):
    result = run_training.train(
      config(method, 'sgd', learning_rate=0.01, seed=6), model(), drifting()
    )
    assert result.compile_seconds == 0.0
  assert not events
  is_listening = False


@pytest.mark.parametrize('method', ['base', 'isgd'])
def test_same_seed_same_run(method):
  one, again, other = (
    run_training.train(config(method, seed=seed), model(), drifting(1))
    for seed in (1, 1, 2)
  )
  chex.assert_trees_all_equal(one.metrics, again.metrics)
  chex.assert_trees_all_equal(one.params, again.params)
  assert not np.array_equal(one.metrics.loss, other.metrics.loss)


@pytest.mark.parametrize('method', ['base', 'twice', 'isgd'])
def test_a_diverging_run_is_finished_and_marked(method):
  stream = drifting()
  result = run_training.train(
    config(method, learning_rate=1e30), model(), stream
  )
  summary = result.summary()
  assert result.is_diverged
  assert summary['is_diverged']
  assert summary['num_steps'] == stream.num_batches
  assert np.isnan(summary['prequential_loss'])
  assert np.isnan(summary['prequential_accuracy'])


def test_summary_counts_and_averages():
  result = run_training.train(config('isgd'), model(), drifting())
  summary, metrics = result.summary(), result.metrics
  assert summary['num_undertrained'] == metrics.is_undertrained.sum() > 0
  assert summary['prequential_accuracy'] == pytest.approx(
    np.mean([float(a) for a in metrics.accuracy])
  )
  assert summary['num_gradient_evaluations'] == summary['num_steps'] + (
    metrics.num_extra_steps.sum()
  )


def test_unknown_method_gives_the_nearest():
  with pytest.raises(ValueError, match=r"'isdg'; did you mean 'isgd'\?"):
    run_training.train(config('isdg'), model(), drifting())


def test_an_empty_stream_is_refused():
  with pytest.raises(ValueError, match='no batch'):
    run_training.train(config('base'), model(), streams.Stream(iter([]), 0, ()))


@pytest.mark.parametrize('show_progress', [True, False, None])
def test_progress_is_shown_on_demand_and_never_off_a_terminal(
  show_progress, capsys
):
  run_training.train(
    config('isgd'), model(), drifting(), show_progress=show_progress
  )
  out, err = capsys.readouterr()
  assert out == ''
  if show_progress:
    for word in ('69/69', 'loss 1', 'acc ', 'flagged ', '<00:00'):
      assert word in err
  else:
    assert err == ''
