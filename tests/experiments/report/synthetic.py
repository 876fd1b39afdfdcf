"""Records of runs that were never made, as `compare` would write them."""

import itertools
from typing import Any

from isgd_jax.experiments.report.rows import collect
from isgd_jax.experiments.runs.methods import METHODS
from isgd_jax.experiments.runs.records import Store
from isgd_jax.experiments.runs.records import read_runs
from isgd_jax.experiments.runs.tasks import Task

STREAM = Task(
  'drift-labels/made-up',
  'made-up stream',
  dataset='digits',
  model='mlp',
  order='drift',
  batch_size=16,
  window_size=50,
  num_segments=4,
  batches_per_segment=100,
)
CYCLE = Task(
  'stationary-digits/made-up',
  'made-up cycle',
  dataset='digits',
  model='mlp',
  order='cycle',
  batch_size=32,
  window_size=35,
  schedule='decayed',
  num_train=1120,
  num_test=317,
  num_epochs=20,
  num_evaluations=2,
)
RATES = (0.1, 0.2, 0.3)
# Of each segment after the first: [batches, evaluations, accuracy].
RECOVERY = [[[10, 11, 0.4], [20, 22, 0.8]], [[10, 11, 0.9]], [[30, 33, 0.8]]]


class Folder:
  """A results folder that is filled with made-up runs."""

  def __init__(self, path):
    self.path = path

  def run(self, task, base, method, purpose, rate, seed, loss, **changes):
    """One run; of the changes, those that a summary has go there.

    `workload` names the file, by default the task's name says which.
    """
    workload = changes.pop('workload', task.name.split('/')[0])
    options = changes.pop('algorithm', {})
    summary = {
      'loss': loss,
      'accuracy': None if loss is None else 1 - loss / 4,
      'train_loss': loss,
      'num_steps': 400,
      'num_gradient_evaluations': 400,
      'num_undertrained': 10,
      'share_undertrained': 0.025,
      'num_extra_steps': 0,
      'run_seconds': 2.0,
      'compile_seconds': 1.0,
      'is_diverged': loss is None,
    }
    record: dict[str, Any] = {'extra_steps': {'0': 400}}
    if task.is_stream:
      record['recovery'] = RECOVERY
      record['accuracy_curve'] = [0.5] * 50
    else:
      end = [700, 2.0, summary['accuracy']]
      record['evaluations'] = [[350, 1.0, 0.5], end]
    for name, value in changes.items():
      (summary if name in summary else record)[name] = value
    identity = (task.name, base, method, purpose, rate, seed, task.num_batches)
    algorithm = METHODS[method].isgd.as_record()
    algorithm |= {'kind': METHODS[method].kind, 'grid': RATES} | options
    Store(self.path / f'{workload}.jsonl').append(
      {
        'id': repr(identity),
        'task': task.name,
        'base': base,
        'method': method,
        'purpose': purpose,
        'learning_rate': rate,
        'seed': seed,
        'summary': summary,
        **record,
      },
      task=task.as_record(),
      algorithm=algorithm,
    )

  def row(self, task, base, method, losses, tuning=(0.3, 0.2, 0.4), **changes):
    """Tuning runs, a loss a rate, and runs at 0.2, a loss a seed."""
    for rate, loss in zip(RATES, tuning, strict=False):
      self.run(task, base, method, 'tuning', rate, 0, loss, **changes)
    for seed, loss in zip(itertools.count(1000), losses, strict=False):
      self.run(task, base, method, 'reporting', 0.2, seed, loss, **changes)

  def rows(self, workload=None):
    """All rows, or those of one file."""
    pattern = f'{workload or "*"}.jsonl'
    paths = sorted(self.path.glob(pattern))
    return collect(r for path in paths for r in read_runs(path))
