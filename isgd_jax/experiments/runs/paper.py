"""The paper's own data: its networks, and the map of where it gains.

The map is over what the paper leaves open: how far the base's learning rate is
from its best, and how unevenly the fixed batches are mixed.
"""

import dataclasses

from isgd_jax.experiments.runs.tasks import Task

MAP_RATES = 5
MAP_METHODS = (
  *('base', 'isgd', 'isgd-probation'),
  *('paper-isgd', 'paper-isgd-10', 'paper-isgd-100'),
)
# Each base alone (the rate decayed, and constant), and in a fixed cycle and in
# a new order each epoch; the paper's ISGD at three rates of its chase.
MNIST_METHODS = (
  *('base', 'base-constant', 'isgd', 'isgd-probation'),
  *('paper-isgd', 'paper-isgd-10', 'paper-isgd-100'),
  *('reshuffled', 'paper-isgd-reshuffled'),
)
CIFAR10_METHODS = (
  *('base', 'base-constant', 'isgd-probation'),
  *('paper-isgd', 'paper-isgd-10', 'reshuffled'),
)
LARGE_METHODS = (*MNIST_METHODS, 'isgd-reshuffled', 'twice', 'random')

_MAP = Task(
  'paper-map/iid',
  'i.i.d.',
  dataset='mnist',
  model='mlp-32',
  order='cycle',
  batch_size=60,
  window_size=100,
  num_train=6_000,
  num_test=1_000,
  num_epochs=50,
  num_evaluations=500,
)


def _skewed(name: str, title: str, **kwargs) -> Task:
  return dataclasses.replace(
    _MAP, name=f'paper-map/{name}', title=title, **kwargs
  )


MAP_TASKS = (
  _MAP,
  _skewed('dirichlet-1', 'Dirichlet 1', dirichlet_alpha=1.0),
  _skewed('dirichlet-0.1', 'Dirichlet 0.1', dirichlet_alpha=0.1),
  # No class fills its last batch, so the cycle is shorter.
  _skewed('single-class', 'one class each', single_class=True, window_size=95),
  # Most of a class is left out, so the cycle is shorter.
  _skewed('lone-4', '9 in 4 batches', num_lone_batches=4, window_size=93),
  _skewed('lone-2', '9 in 2 batches', num_lone_batches=2, window_size=91),
)

MNIST_TASK = Task(
  'paper-mnist/lenet',
  'LeNet on MNIST',
  dataset='mnist',
  model='lenet',
  order='cycle',
  batch_size=64,
  window_size=50,
  schedule='decayed',
  num_train=3_200,
  num_test=1_000,
  num_epochs=5,
  num_evaluations=25,
)
LARGE_MNIST = {
  'batch_size': 64,
  'window_size': 859,
  'num_train': 55_000,
  'num_test': 5_000,
  'num_epochs': 10,
  'num_evaluations': 100,
}

CIFAR10_TASK = Task(
  'paper-cifar10/quick',
  'CIFAR-10 quick',
  dataset='cifar10',
  model='cifar10-quick',
  order='cycle',
  batch_size=100,
  window_size=50,
  schedule='decayed',
  num_train=5_000,
  num_test=1_000,
  num_epochs=4,
  num_evaluations=20,
  # With shares of 255 its first layer, which starts at 1e-4, is not learned in
  # so many steps: every loss stays at the log of ten.
  has_centered_bytes=True,
)
# Caffe's rate on such inputs is 0.001, with momentum.
CIFAR10_RATE_FACTOR = 0.1
LARGE_CIFAR10 = {
  'num_train': 45_000,
  'num_test': 5_000,
  'window_size': 450,
  'num_epochs': 15,
  'num_evaluations': 60,
}
