"""What else a user would try on a stream, and harder streams for the chase.

* `real-rivals`: reactions in place of the chase, on the real streams' tables.
* `rivals-over-sgd`: the same over SGD and momentum.
* `always-on`: optimizers that react to nothing, on the same tables.
* `strengths`: some of these, weaker and stronger, on three small tables.
* `over-no-momentum`: the chase over the best of these, Adam with b1 = 0.
* `made-rivals`: both, where the change points are known, so an oracle too.
* `wrong-labels`: streams some of whose batches have random labels.
* `real-time`: tables where each evaluation beyond the first costs a batch.
* `doses`: probation with one number changed.
"""

import dataclasses

from isgd_jax.experiments.runs import real_streams
from isgd_jax.experiments.runs.methods import DOSES
from isgd_jax.experiments.runs.methods import RIVALS
from isgd_jax.experiments.runs.tasks import SCANNED_DRIFT
from isgd_jax.experiments.runs.tasks import Task

_BY_NAME = {task.name: task for task in real_streams.TASKS}
TABLES = real_streams.TASKS
_TWICE_OVER = ('random-reset', 'adwin-echo', 'page-hinkley-echo')
# Without the oracle: nobody knows when a real stream changes.
# A rate that falls, since a reset of Adam's count shortens the steps after it.
REAL_RIVALS = (
  'base-decayed',
  *(
    m.name
    for m in RIVALS
    if not m.name.startswith('oracle') and m.name not in _TWICE_OVER
  ),
)
# At no extra evaluation, beside `skip` and `reset`, which `real-streams` has.
# SGD has no state, so a reset of any part leaves it as it is; momentum has no
# count, and its moments are all of its state.
RIVALS_OVER_SGD = ('base-decayed', 'rewarm-3', 'shrink')
# The chase and these on other flags than the chart's.
TRIGGERED_OVER_SGD = (
  *('random-isgd', 'adwin-isgd', 'page-hinkley-isgd'),
  *('random-reset', 'adwin-reset', 'page-hinkley-reset'),
  *('random-rewarm-3', 'random-shrink'),
)
STRENGTH_TABLES = tuple(
  _BY_NAME[f'real-streams/{name}']
  for name in ('phishing-1', 'water-flow-1', 'elec2-16')
)
MADE_RIVALS = tuple(m.name for m in RIVALS)
OUR_METHODS = ('base', 'twice', 'isgd', 'isgd-probation', 'skip', 'reset')


def _digits(drift: str) -> Task:
  return Task(
    f'made-rivals/{drift}-digits',
    f'digits, {drift} drift, batches of 16',
    dataset='digits',
    model='mlp',
    order=SCANNED_DRIFT,
    batch_size=16,
    window_size=50,
    num_segments=10,
    batches_per_segment=100,
    drift=drift,
  )


MADE_TASKS = tuple(_digits(drift) for drift in ('labels', 'pixels'))


def _with_wrong(name: str, percent: int) -> Task:
  task = _BY_NAME[f'real-streams/{name}']
  return dataclasses.replace(
    task,
    name=f'wrong-labels/{name}-{percent}',
    title=f'{task.title}, {percent} % of batches with random labels',
    wrong_batches=percent / 100,
  )


def _images_with_wrong(percent: int) -> Task:
  return Task(
    f'wrong-labels/fashion-64-{percent}',
    f'Fashion-MNIST, batches of 64, {percent} % of batches with random labels',
    dataset='fashion-mnist',
    model='mlp',
    order=SCANNED_DRIFT,
    batch_size=64,
    window_size=50,
    num_segments=1,
    batches_per_segment=400,
    drift='none',
    wrong_batches=percent / 100,
  )


WRONG_TASKS = (
  *(
    _with_wrong(name, percent)
    for name in ('elec2-16', 'shuttle-stream-16', 'phishing-4')
    for percent in (3, 10)
  ),
  *(_images_with_wrong(percent) for percent in (3, 10)),
)


def _in_real_time(name: str) -> Task:
  task = _BY_NAME[f'real-streams/{name}']
  return dataclasses.replace(
    task,
    name=f'real-time/{name}',
    title=f'{task.title}, in real time',
    is_real_time=True,
  )


REAL_TIME_TASKS = tuple(
  _in_real_time(name)
  for name in (
    *('elec2-1', 'sp500-1', 'phishing-1', 'water-flow-1', 'shuttle-stream-1'),
    *('trump-approval-1', 'elec2-16', 'shuttle-stream-16'),
  )
)

DOSE_TASKS = (
  *(
    dataclasses.replace(_BY_NAME[f'real-streams/{name}'], name=f'doses/{name}')
    for name in (
      *('elec2-1', 'sp500-1', 'phishing-1', 'shuttle-stream-16'),
      'water-flow-1',
    )
  ),
  dataclasses.replace(MADE_TASKS[0], name='doses/labels-digits'),
)
DOSE_METHODS = ('base', 'isgd', 'isgd-probation', *(m.name for m in DOSES))
