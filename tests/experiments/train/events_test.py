"""What happened in a run, a line an event; and batches that are left out."""

import dataclasses
import json
import signal

import chex
import numpy as np
import pytest

from isgd_jax import sampling
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import RunStopped
from isgd_jax.experiments.files import read_records
from isgd_jax.experiments.train import command
from isgd_jax.experiments.train import left_out
from isgd_jax.experiments.train import logs
from isgd_jax.experiments.train import loop
from isgd_jax.experiments.train import running
from isgd_jax.experiments.train.checkpoints import to_flat
from isgd_jax.experiments.train.config import DataConfig
from isgd_jax.experiments.train.config import IsgdConfig
from isgd_jax.experiments.train.config import OptimizerConfig
from isgd_jax.experiments.train.config import TrainConfig
from isgd_jax.experiments.train.events import Events

OF_AN_ORDINARY_STEP = {
  'epoch': 0,
  'batch': 0,
  'loss': 1.0,
  'statistic': 1.0,
  'control_limit': 2.0,
  'lower_limit': 0.5,
  'num_gradient_evaluations': 1,
  'num_chase_steps': 0,
  'final_loss': 1.0,
}
FLAGGED = {'is_undertrained': True, 'loss': 3.0, 'statistic': 3.0}
CHASED = FLAGGED | {'num_chase_steps': 2, 'num_gradient_evaluations': 4}
LED = CHASED | {'final_loss': 1.5}
SHADOW = CHASED | {'final_loss': 3.0}


def events_of(*changes, method='isgd'):
  """The events of steps that differ so from an ordinary one."""
  records = [
    OF_AN_ORDINARY_STEP | {'step': step} | change
    for step, change in enumerate(changes, 1)
  ]
  return list(Events(IsgdConfig(method=method)).of(records))


@pytest.mark.parametrize(
  ('change', 'method', 'kind', 'reaction'),
  [
    (LED, 'isgd', 'under-trained', 'chase'),
    (SHADOW, 'isgd', 'under-trained', 'chase in the shadow'),
    (
      CHASED | {'is_chase_reverted': True},
      'isgd',
      'under-trained',
      'chase reverted',
    ),
    (FLAGGED, 'isgd', 'under-trained', 'base update'),
    (FLAGGED, 'watch', 'under-trained', 'base update'),
    (FLAGGED | {'is_skipped': True}, 'skip', 'under-trained', 'skip'),
    (CHASED | {'final_loss': 4.0}, 'paper-isgd', 'under-trained', 'chase'),
    ({'is_well_trained': True}, 'isgd', 'well-trained', 'base update'),
    ({'violated_rules': 2}, 'isgd', 'run rule', 'base update'),
    ({'loss': float('nan')}, 'isgd', 'not finite', 'base update'),
    ({'loss': None}, 'isgd', 'not finite', 'base update'),
    ({'num_gradient_evaluations': 0}, 'isgd', 'left-out', 'none'),
  ],
)
def test_each_kind_of_event_has_a_line(change, method, kind, reaction):
  (event,) = events_of({}, change, {}, method=method)
  assert event['step'] == 2
  assert (event['event'], event['reaction']) == (kind, reaction)
  json.dumps(event, allow_nan=False)


ON = {'is_on_probation': True}


@pytest.mark.parametrize(
  ('after', 'verdict'),
  [
    # Four batches, and the leader is kept.
    ([ON, ON, ON, {}], (6, 2, 'kept')),
    ([ON, {'is_chase_undone': True}], (4, 2, 'undone')),
    # A step that the user left out is no witness.
    ([{'num_gradient_evaluations': 0} | ON, ON, {}], (5, 2, 'kept')),
    # The next chase ends it, even if it is on probation at once.
    ([LED | ON], (3, 2, 'kept')),
    ([ON, ON], None),
  ],
)
def test_a_verdict_says_what_became_of_a_chase(after, verdict):
  events = events_of({}, LED | ON, *after)
  verdicts = [e for e in events if e['event'] == 'verdict']
  found = [(v['step'], v['of_step'], v['outcome']) for v in verdicts]
  assert found == ([] if verdict is None else [verdict])


def test_a_chase_that_was_never_in_use_paid_or_did_not():
  paid = {'num_chases_paid': 1}
  for last, outcome in ((paid, 'paid'), ({}, 'did not pay')):
    *_, verdict = events_of(SHADOW | ON, ON, last)
    assert verdict['outcome'] == outcome
    assert verdict['of_step'] == 1


def test_events_follow_from_the_steps_however_they_are_cut():
  changes = [LED | ON, ON, {}, SHADOW | ON, {'is_well_trained': True} | ON, {}]
  whole = events_of(*changes)
  assert len(whole) == 5
  records = [
    OF_AN_ORDINARY_STEP | {'step': step} | change
    for step, change in enumerate(changes, 1)
  ]
  for cut in range(len(records)):
    events = Events(IsgdConfig())
    assert [*events.of(records[:cut]), *events.of(records[cut:])] == whole


@pytest.mark.parametrize('last_batch', ['wrap', 'pad', 'short', 'drop'])
@pytest.mark.parametrize('reshuffle', [False, True])
def test_records_are_those_that_the_batch_has(last_batch, reshuffle):
  options = {'seed': 3, 'reshuffle': reshuffle, 'last_batch': last_batch}
  cycle = sampling.fixed_cycle((np.arange(10) * 7,), 4, **options)
  for step in range(9):
    records = sampling.record_indices(10, 4, step, **options)
    batch = cycle[step]
    np.testing.assert_array_equal(batch.data[0][batch.weight > 0], 7 * records)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((10, 4, -1), 'step must be an integer of at least 0, got -1'),
    ((0, 4, 1), 'at least 1 record'),
    ((10, 11, 1), 'batch_size must be at most'),
  ],
)
def test_records_of_no_batch_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    sampling.record_indices(*arguments, seed=0)


# --- Batches that are left out.

CHASING = IsgdConfig(window_size=12, sigma_multiplier=1.0)


def config(**options):
  optimizer = OptimizerConfig(learning_rate=0.1)
  defaults = {'isgd': CHASING, 'optimizer': optimizer, 'epochs': 3}
  return TrainConfig(**(defaults | options))


def write(path, *lines):
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return path


def metrics(out):
  return list(read_records(out / logs.METRICS))


@pytest.mark.whole_runs
def test_a_batch_that_is_left_out_moves_nothing(tmp_path):
  """The run that leaves its last batch out is the run that ends before it."""
  before = loop.train(config(steps=29, epochs=None), tmp_path / 'before')
  left = loop.train(
    config(steps=30, epochs=None),
    tmp_path / 'left',
    skip_batches=write(tmp_path / 'skip.jsonl', {'step': 30}),
  )
  chex.assert_trees_all_equal(to_flat(before.state), to_flat(left.state))
  *same, last = metrics(tmp_path / 'left')
  assert same == metrics(tmp_path / 'before')
  assert last['is_skipped']
  assert last['num_gradient_evaluations'] == 0
  assert last['num_examples'] == 128
  assert left.totals['num_left_out'] == 1
  assert left.totals['num_judged'] == before.totals['num_judged']
  event = list(read_records(tmp_path / 'left' / logs.EVENTS))[-1]
  assert (event['step'], event['event']) == (30, 'left-out')
  assert len(event['records']) == 128
  assert 'Batches left out (--skip-batches): 1.' in command.summary(
    config(), left
  )
  assert command.draw_chart(tmp_path / 'left').is_file()


@pytest.mark.whole_runs
def test_a_batch_of_the_cycle_is_left_out_in_every_epoch(tmp_path):
  path = write(tmp_path / 'skip.jsonl', {'batch': 3}, {'batch': 5})
  run_config = config(isgd=IsgdConfig(method='base'))
  result = loop.train(run_config, tmp_path / 'run', skip_batches=path)
  assert result.totals['num_left_out'] == 2 * 3
  for record in metrics(tmp_path / 'run'):
    is_left_out = record['num_gradient_evaluations'] == 0
    assert is_left_out == (record['batch'] in (3, 5))


@pytest.mark.whole_runs
def test_a_run_that_is_carried_on_leaves_out_what_it_was_told(
  tmp_path, monkeypatch
):
  path = write(tmp_path / 'skip.jsonl', {'batch': 3}, {'step': 33})
  run_config = config(checkpoint_every=7)
  whole = loop.train(run_config, tmp_path / 'whole', skip_batches=path)
  assert whole.totals['num_left_out'] == 4
  real = running.Run._evaluate

  def stop(self, state, step):
    if step == 24:
      signal.raise_signal(signal.SIGTERM)
    return real(self, state, step)

  with monkeypatch.context() as patch:
    patch.setattr(running.Run, '_evaluate', stop)
    with pytest.raises(RunStopped):
      loop.train(run_config, tmp_path / 'torn', skip_batches=path)
  path.unlink()
  # A lost file of events is made again.
  (tmp_path / 'torn' / logs.EVENTS).unlink()
  result = loop.train(run_config, tmp_path / 'torn', resume=True)
  chex.assert_trees_all_equal(to_flat(whole.state), to_flat(result.state))
  for name in (logs.METRICS, logs.EVENTS, left_out.LEFT_OUT):
    one, other = (tmp_path / out / name for out in ('whole', 'torn'))
    assert one.read_bytes() == other.read_bytes(), name


@pytest.mark.whole_runs
def test_events_of_a_run_say_what_the_next_one_leaves_out(tmp_path):
  wild = OptimizerConfig(learning_rate=1.0)
  isgd = IsgdConfig(window_size=12, sigma_multiplier=0.5)
  noisy = config(optimizer=wild, isgd=isgd)
  first = loop.train(noisy, tmp_path / 'first')
  events = tmp_path / 'first' / logs.EVENTS
  named = {
    event['step']
    for event in read_records(events)
    if event['event'] == 'under-trained'
  }
  assert named
  assert first.totals['num_well_trained'] > 0
  second = loop.train(noisy, tmp_path / 'second', skip_batches=events)
  assert second.totals['num_left_out'] == len(named)
  # In another order of the data these steps are other batches.
  with pytest.raises(InputError, match='has other records at step'):
    loop.train(
      dataclasses.replace(noisy, seed=1),
      tmp_path / 'third',
      skip_batches=events,
    )
  assert not (tmp_path / 'third').exists()


@pytest.mark.whole_runs
def test_what_lies_behind_a_run_cannot_be_left_out_any_more(tmp_path):
  out = tmp_path / 'run'
  loop.train(config(epochs=1), out)
  path = write(tmp_path / 'skip.jsonl', {'step': 12}, {'step': 5})
  with pytest.raises(InputError, match=r'up to 12.* carried on after step 12'):
    loop.train(config(epochs=2), out, resume=True, skip_batches=path)
  assert not (out / left_out.LEFT_OUT).exists()
  path = write(tmp_path / 'skip.jsonl', {'step': 13}, {'step': 5})
  result = loop.train(config(epochs=2), out, resume=True, skip_batches=path)
  assert result.totals['num_left_out'] == 1


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'names no batch; leave it out'),
    ('{"event": "verdict", "step": 3}\n', 'names no batch; leave it out'),
    ('3\n', r"line 1 .* names no batch: '3'; give .*step"),
    ('{"step": 1}\n{"stp": 3}\n', 'line 2 of'),
    ('{"step": 0}\n', 'line 1 of'),
    ('{"step": true}\n', 'line 1 of'),
    ('{"step": 1.5}\n', 'line 1 of'),
    ('{"batch": -1}\n', 'line 1 of'),
    ('{"batch": null}\n', 'line 1 of'),
    ('{"step": 37}\n', 'names step 37, and the run has 36'),
    ('{"batch": 12}\n', 'names batch 12, and a cycle has 12'),
    ('\n'.join(f'{{"batch": {i}}}' for i in range(12)), 'leaves none to train'),
    ('\xff\xfe', 'it is not a text'),
  ],
)
def test_a_file_that_does_not_fit_is_refused_before_anything_is_made(
  tmp_path, text, message
):
  path = tmp_path / 'skip.jsonl'
  path.write_bytes(text.encode('latin-1'))
  with pytest.raises(InputError, match=message):
    loop.train(config(), tmp_path / 'run', skip_batches=path)
  assert not (tmp_path / 'run').exists()


def test_a_file_that_is_not_there_is_named(tmp_path):
  with pytest.raises(InputError, match=r'nowhere.* cannot be read: No such'):
    loop.train(config(), tmp_path / 'run', skip_batches=tmp_path / 'nowhere')


def test_without_a_cycle_a_batch_is_named_by_its_step(tmp_path):
  shuffled = config(data=DataConfig(sampling='reshuffle'))
  path = write(tmp_path / 'skip.jsonl', {'batch': 3})
  with pytest.raises(InputError, match=r'reshuffle .*name steps'):
    loop.train(shuffled, tmp_path / 'run', skip_batches=path)
