"""The loop does what each method says, and nothing else."""

import functools

import chex
import jax
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax.experiments import datasets
from isgd_jax.experiments import methods
from isgd_jax.experiments import models
from isgd_jax.experiments import stream_training
from isgd_jax.experiments import streams
from isgd_jax.experiments.base_optimizers import base_optimizer_names
from isgd_jax.experiments.base_optimizers import build_base_optimizer

RATES = {'sgd': 0.1, 'momentum': 0.03, 'nesterov': 0.03, 'adam': 0.003}
SETTINGS = methods.IsgdSettings(window_size=10)


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


def config(method, base_optimizer='momentum', **kwargs):
  defaults = {
    'learning_rate': RATES[base_optimizer],
    'seed': 5,
    'isgd': SETTINGS,
  }
  return stream_training.TrainConfig(
    method, base_optimizer, **defaults | kwargs
  )


def plain_loop(base_optimizer, steps_per_batch, stream, model_name='mlp'):
  """An Optax loop as anyone would write it: parameters and batch losses."""
  loss_fn = model(model_name).loss_fn
  optimizer = build_base_optimizer(base_optimizer, RATES[base_optimizer])
  params = model(model_name).init(5)
  opt_state = optimizer.init(params)

  @jax.jit
  def step(params, opt_state, batch):
    (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  losses = []
  for batch in stream.batches:
    for i in range(steps_per_batch):
      params, opt_state, loss = step(params, opt_state, batch)
      if i == 0:
        losses.append(float(loss))
  return params, losses


@pytest.mark.parametrize('base_optimizer', base_optimizer_names())
@pytest.mark.parametrize(('method', 'steps'), [('base', 1), ('twice', 2)])
def test_base_and_twice_are_plain_optax_steps(base_optimizer, method, steps):
  stream = functools.partial(drifting, num_segments=1, batches_per_segment=12)
  result = stream_training.train(
    config(method, base_optimizer), model(), stream()
  )
  params, losses = plain_loop(base_optimizer, steps, stream())
  chex.assert_trees_all_close(result.params, params, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(result.metrics.loss, losses, rtol=1e-4)
  np.testing.assert_array_equal(result.metrics.num_gradient_evaluations, steps)


def test_the_convolutional_net_trains_too():
  stream = functools.partial(drifting, num_segments=1, batches_per_segment=12)
  result = stream_training.train(config('base', 'sgd'), model('cnn'), stream())
  params, _ = plain_loop('sgd', 1, stream(), model_name='cnn')
  chex.assert_trees_all_close(result.params, params, rtol=1e-4, atol=1e-5)


def test_isgd_is_the_library_s_update_step_by_step():
  result = stream_training.train(config('isgd'), model(), drifting())
  loss_fn = model().loss_fn
  optimizer = isgd_jax.isgd(
    build_base_optimizer('momentum', RATES['momentum']),
    isgd_jax.shewhart(window_size=10),
  )

  @jax.jit
  def step(params, opt_state, batch):
    (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch)
    updates, opt_state = optimizer.update(
      grads,
      opt_state,
      params,
      value=loss,
      value_fn=lambda p: loss_fn(p, batch)[0],
    )
    params = optax.apply_updates(params, updates)
    return params, opt_state, isgd_jax.get_info(opt_state)

  params = model().init(5)
  opt_state, infos = optimizer.init(params), []
  for batch in drifting().batches:
    params, opt_state, info = step(params, opt_state, batch)
    infos.append(jax.device_get(info))
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
  assert metrics.is_undertrained.any()
  assert metrics.num_gradient_evaluations.sum() == (
    infos[-1].num_gradient_evaluations
  )


def test_random_trigger_takes_exactly_isgd_s_extra_evaluations():
  isgd = stream_training.train(config('isgd'), model(), drifting())
  extra = isgd.extra_evaluations()
  random = stream_training.train(
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
  random = stream_training.train(
    config('random'), model(), stream(), isgd_extra_steps=extra
  )
  repeated = [
    batch
    for batch, count in zip(
      stream().batches,
      stream_training.random_trigger(extra, seed=5),
      strict=True,
    )
    for _ in range(1 + count)
  ]
  params, _ = plain_loop(
    'momentum', 1, streams.Stream(iter(repeated), len(repeated), ())
  )
  chex.assert_trees_all_close(random.params, params, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('extra', [None, np.zeros(3, int)])
def test_random_trigger_without_its_model_run_is_refused(extra):
  with pytest.raises(ValueError, match='run the method isgd first'):
    stream_training.train(
      config('random'), model(), drifting(), isgd_extra_steps=extra
    )


@pytest.mark.parametrize('num_batches', [1, 31, 32, 33, 70])
def test_every_step_is_reported_once_and_in_order(num_batches):
  """A linear chain of losses: a lost, doubled or swapped step breaks it."""
  stream = functools.partial(
    drifting, num_segments=1, batches_per_segment=num_batches
  )
  result = stream_training.train(config('base'), model(), stream())
  _, losses = plain_loop('momentum', 1, stream())
  np.testing.assert_allclose(result.metrics.loss, losses, rtol=1e-3)


def test_metrics_are_fetched_after_later_steps_are_dispatched(monkeypatch):
  num_dispatched, dispatched_at_fetch = 0, []
  compiled = methods.compile_step(model(), 'sgd', None, (8, 8, 8, 1))

  def step(*args):
    nonlocal num_dispatched
    num_dispatched += 1
    return compiled.step(*args)

  def device_get(pending):
    dispatched_at_fetch.append(num_dispatched)
    return real_device_get(pending)

  real_device_get = jax.device_get
  program = compiled._replace(step=step)
  monkeypatch.setattr(stream_training, '_compile', lambda *_: (program, 0.0))
  monkeypatch.setattr(jax, 'device_get', device_get)
  stream_training.train(
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
    stream_training.train(config(method, 'sgd'), model(), drifting())
  events.clear()
  for method in ('base', 'twice', 'isgd'):
    result = stream_training.train(
      config(method, 'sgd', learning_rate=0.01, seed=6), model(), drifting()
    )
    assert result.compile_seconds == 0.0
  assert not events
  is_listening = False


@pytest.mark.parametrize('method', ['base', 'isgd'])
def test_same_seed_same_run(method):
  one, again, other = (
    stream_training.train(config(method, seed=seed), model(), drifting(1))
    for seed in (1, 1, 2)
  )
  chex.assert_trees_all_equal(one.metrics, again.metrics)
  chex.assert_trees_all_equal(one.params, again.params)
  assert not np.array_equal(one.metrics.loss, other.metrics.loss)


@pytest.mark.parametrize('method', ['base', 'twice', 'isgd'])
def test_a_diverging_run_is_finished_and_marked(method):
  stream = drifting()
  result = stream_training.train(
    config(method, learning_rate=1e30), model(), stream
  )
  summary = result.summary()
  assert result.is_diverged
  assert summary['is_diverged']
  assert summary['num_steps'] == stream.num_batches
  assert np.isnan(summary['prequential_loss'])
  assert np.isnan(summary['prequential_accuracy'])


def test_summary_counts_and_averages():
  result = stream_training.train(config('isgd'), model(), drifting())
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
    stream_training.train(config('isdg'), model(), drifting())


def test_an_empty_stream_is_refused():
  with pytest.raises(ValueError, match='no batch'):
    stream_training.train(
      config('base'), model(), streams.Stream(iter([]), 0, ())
    )


@pytest.mark.parametrize('show_progress', [True, False, None])
def test_progress_is_shown_on_demand_and_never_off_a_terminal(
  show_progress, capsys
):
  stream_training.train(
    config('isgd'), model(), drifting(), show_progress=show_progress
  )
  out, err = capsys.readouterr()
  assert out == ''
  if show_progress:
    for word in ('69/69', 'loss=', 'accuracy=', 'flagged=', '<00:00'):
      assert word in err
  else:
    assert err == ''
