"""The workloads that methods are compared on, small and large.

The small forms are for two CPU cores: a comparison with all its tuning takes
minutes. The large forms are for an accelerator.
"""

import dataclasses

from isgd_jax.experiments.optimizers.base_optimizers import ALWAYS_ON
from isgd_jax.experiments.optimizers.strengths import STRENGTHS
from isgd_jax.experiments.runs import paper
from isgd_jax.experiments.runs import permuted
from isgd_jax.experiments.runs import real_streams
from isgd_jax.experiments.runs import rivals
from isgd_jax.experiments.runs.ablation import VARIANTS
from isgd_jax.experiments.runs.tasks import Task

_STREAM_METHODS = ('base', 'base-decayed', 'twice', 'isgd', 'random', 'skip')
_STATIONARY_METHODS = (
  *('base', 'base-constant', 'twice', 'isgd', 'random'),
  *('isgd-constant', 'paper-isgd', 'skip', 'reshuffled'),
)
_STREAM_WINDOW = 50
_PAPER_BASES = ('sgd', 'momentum', 'nesterov')


@dataclasses.dataclass(frozen=True)
class Workload:
  """Tasks that belong together, and what is compared on them.

  Attributes:
    name: on the command line.
    title: for headings.
    tasks: one or more.
    base_optimizers: names.
    methods: names, without the loss-adaptive ones.
    has_loss_adaptive: whether `polyak` and `momo` are compared too.
    num_rates: learning rates in the grid.
    rate_factor: of all of them, for inputs of another size.
    num_tuning_seeds: seeds of the runs that choose the rate; 0 where it is the
      published one.
    has_traces: whether what happened along the runs is recorded too.
    is_map: as of `runner.ComparisonPlan`.
  """

  name: str
  title: str
  tasks: tuple[Task, ...]
  base_optimizers: tuple[str, ...] = ('sgd', 'momentum', 'adam')
  methods: tuple[str, ...] = _STREAM_METHODS
  has_loss_adaptive: bool = True
  num_rates: int = 6
  rate_factor: float = 1.0
  num_tuning_seeds: int = 2
  has_traces: bool = True
  is_map: bool = False


def _fashion(name: str, title: str, **kwargs) -> Task:
  """An MLP on a fixed cycle of 100 batches of Fashion-MNIST."""
  defaults = {
    'dataset': 'fashion-mnist',
    'model': 'mlp',
    'order': 'cycle',
    'batch_size': 128,
    'window_size': 100,
    'schedule': 'decayed',
    'num_train': 12_800,
    'num_test': 2_000,
    'num_epochs': 8,
    'num_evaluations': 16,
  }
  return Task(name, title, **defaults | kwargs)


def _fashion_stream(name: str, title: str, **kwargs) -> Task:
  """An MLP on one pass of ten segments of Fashion-MNIST."""
  defaults = {
    'dataset': 'fashion-mnist',
    'model': 'mlp',
    'order': 'drift',
    'batch_size': 64,
    'window_size': _STREAM_WINDOW,
    'num_segments': 10,
    'batches_per_segment': 100,
  }
  return Task(name, title, **defaults | kwargs)


def _digits_stream(name: str, title: str, **kwargs) -> Task:
  return _fashion_stream(
    name, title, **{'dataset': 'digits', 'batch_size': 16} | kwargs
  )


def _digits(name: str, title: str, **kwargs) -> Task:
  defaults = {
    'dataset': 'digits',
    'order': 'cycle',
    'batch_size': 32,
    'window_size': 35,
    'schedule': 'decayed',
    'num_train': 1_120,
    'num_test': 317,
    'num_epochs': 20,
    'num_evaluations': 20,
  }
  return Task(name, title, **defaults | kwargs)


def _lenet(name: str, title: str, **kwargs) -> Task:
  """The paper's MNIST set-up, on as much data as two CPU cores can take."""
  defaults = {
    'model': 'lenet',
    'batch_size': 64,
    'window_size': 50,
    'num_train': 3_200,
    'num_test': 1_000,
    'num_epochs': 6,
    'num_evaluations': 12,
  }
  return _fashion(name, title, **defaults | kwargs)


_WORKLOADS = (
  Workload(
    'stationary-digits',
    'Digits, i.i.d. batches in a fixed cycle',
    (
      _digits('stationary-digits/mlp', 'MLP', model='mlp'),
      _digits('stationary-digits/cnn', 'small CNN', model='cnn', num_epochs=12),
    ),
    base_optimizers=('sgd', 'momentum', 'nesterov', 'adam'),
    methods=_STATIONARY_METHODS,
    num_rates=5,
    num_tuning_seeds=1,
  ),
  Workload(
    'stationary-fashion',
    "LeNet on Fashion-MNIST, the paper's MNIST set-up",
    (_lenet('stationary-fashion/lenet', 'LeNet'),),
    base_optimizers=('momentum',),
    methods=(
      *('base', 'base-constant', 'twice', 'isgd', 'random', 'paper-isgd'),
    ),
    has_loss_adaptive=False,
    num_rates=3,
    num_tuning_seeds=1,
  ),
  Workload(
    'paper-mnist',
    "Caffe's LeNet on MNIST, the paper's own",
    (paper.MNIST_TASK,),
    base_optimizers=_PAPER_BASES,
    methods=paper.MNIST_METHODS,
    has_loss_adaptive=False,
    num_rates=3,
    num_tuning_seeds=2,
  ),
  Workload(
    'paper-cifar10',
    "Caffe's CIFAR-10 quick network, the paper's CIFAR-10 set-up",
    (paper.CIFAR10_TASK,),
    base_optimizers=_PAPER_BASES,
    methods=paper.CIFAR10_METHODS,
    has_loss_adaptive=False,
    num_rates=2,
    rate_factor=paper.CIFAR10_RATE_FACTOR,
    num_tuning_seeds=1,
  ),
  Workload(
    'paper-map',
    "Where the paper's ISGD gains: base rate by skew of the cycle, MNIST",
    paper.MAP_TASKS,
    base_optimizers=('momentum',),
    methods=paper.MAP_METHODS,
    has_loss_adaptive=False,
    num_rates=paper.MAP_RATES,
    has_traces=False,
    is_map=True,
  ),
  Workload(
    'sampling-bias',
    'Fixed batches of uneven class mixes, Fashion-MNIST',
    (
      _fashion('sampling-bias/iid', 'i.i.d.'),
      _fashion('sampling-bias/dirichlet-1', 'Dirichlet 1', dirichlet_alpha=1.0),
      _fashion(
        'sampling-bias/dirichlet-0.1', 'Dirichlet 0.1', dirichlet_alpha=0.1
      ),
      _fashion(
        'sampling-bias/single-class',
        'one class each',
        single_class=True,
        window_size=96,
      ),
    ),
    methods=_STATIONARY_METHODS,
    num_rates=5,
    num_tuning_seeds=1,
  ),
  Workload(
    'imbalance',
    'Shuttle, classes of a few in ten thousand to eight in ten',
    (
      Task(
        'imbalance/shuttle',
        'MLP, balanced accuracy',
        dataset='shuttle',
        model='mlp',
        order='cycle',
        batch_size=128,
        window_size=100,
        schedule='decayed',
        num_train=12_800,
        num_test=10_000,
        num_epochs=8,
        num_evaluations=16,
        is_balanced=True,
      ),
    ),
    methods=_STATIONARY_METHODS,
  ),
  Workload(
    'label-noise',
    'Wrong labels, Fashion-MNIST',
    (
      _fashion('label-noise/10', '10 % wrong', label_noise=0.1),
      _fashion('label-noise/30', '30 % wrong', label_noise=0.3),
    ),
    methods=_STATIONARY_METHODS,
    num_rates=5,
    num_tuning_seeds=1,
  ),
  Workload(
    'drift-labels',
    'A stream whose labels rotate nine times',
    (
      _fashion_stream('drift-labels/fashion', 'Fashion-MNIST'),
      _digits_stream('drift-labels/digits', 'digits'),
    ),
  ),
  Workload(
    'drift-pixels',
    'A stream whose pixels are permuted nine times',
    (
      _fashion_stream('drift-pixels/fashion', 'Fashion-MNIST', drift='pixels'),
      _digits_stream('drift-pixels/digits', 'digits', drift='pixels'),
    ),
  ),
  Workload(
    'drift-gradual',
    'A stream whose labels rotate five times, each over 100 batches',
    (
      _fashion_stream(
        'drift-gradual/fashion',
        'Fashion-MNIST',
        num_segments=6,
        batches_per_segment=200,
        transition_batches=100,
      ),
    ),
  ),
  Workload(
    'drift-text',
    'Bytes of two texts in turn, a causal Transformer',
    (
      Task(
        'drift-text/transformer',
        'Transformer, 2 layers of 64',
        dataset='texts',
        model='transformer-small',
        order='texts',
        batch_size=8,
        window_size=_STREAM_WINDOW,
        num_segments=8,
        batches_per_segment=75,
        sequence_length=64,
      ),
    ),
    base_optimizers=('momentum', 'adam'),
    has_loss_adaptive=False,
    num_rates=4,
    num_tuning_seeds=1,
  ),
  Workload(
    'input-bound',
    'A source slower than the step, Fashion-MNIST',
    (
      _fashion(
        'input-bound/fashion',
        'a batch every 5 ms',
        num_epochs=3,
        num_evaluations=12,
        seconds_per_batch=0.005,
      ),
    ),
    base_optimizers=('momentum', 'adam'),
    methods=('base', 'twice', 'isgd', 'random', 'skip'),
    has_loss_adaptive=False,
    num_rates=4,
    num_tuning_seeds=1,
  ),
)

_REAL_STREAMS = Workload(
  'real-streams',
  'Real streams: tables in time order, and shuffled',
  real_streams.TASKS,
  methods=('base', 'twice', 'isgd', 'isgd-probation', 'skip', 'reset'),
  has_loss_adaptive=False,
  has_traces=False,
)

# Of real streams the base stands in the records of `real-streams`, and the
# rivals beside it.
_RIVALS = (
  Workload(
    'real-rivals',
    'Rivals that react, real streams',
    rivals.TABLES,
    base_optimizers=('adam',),
    methods=rivals.REAL_RIVALS,
    has_loss_adaptive=False,
    has_traces=False,
  ),
  Workload(
    'rivals-over-sgd',
    'Rivals that react, over SGD and momentum, real streams',
    rivals.TABLES,
    base_optimizers=('sgd', 'momentum'),
    methods=(*rivals.RIVALS_OVER_SGD, *rivals.TRIGGERED_OVER_SGD),
    has_loss_adaptive=False,
    has_traces=False,
  ),
  Workload(
    'always-on',
    'Rivals that are always on, real streams',
    rivals.TABLES,
    base_optimizers=(*ALWAYS_ON, 'momo'),
    methods=('base',),
    has_loss_adaptive=False,
    has_traces=False,
  ),
  Workload(
    'strengths',
    'Rivals that are always on, at other strengths, real streams',
    rivals.STRENGTH_TABLES,
    base_optimizers=tuple(STRENGTHS),
    methods=('base',),
    has_loss_adaptive=False,
    has_traces=False,
  ),
  Workload(
    'made-rivals',
    'Rivals where the change points are known, digits',
    rivals.MADE_TASKS,
    base_optimizers=('adam',),
    methods=(*rivals.OUR_METHODS, *rivals.MADE_RIVALS),
    has_loss_adaptive=False,
    has_traces=False,
  ),
  Workload(
    'made-always-on',
    'Rivals that are always on, digits',
    rivals.MADE_TASKS,
    base_optimizers=(*ALWAYS_ON, 'momo'),
    methods=('base',),
    has_loss_adaptive=False,
    has_traces=False,
  ),
  Workload(
    'over-no-momentum',
    'The chase over Adam with b1 = 0',
    (*rivals.TABLES, *rivals.MADE_TASKS),
    base_optimizers=('adam-b1-0',),
    methods=('isgd-probation',),
    has_loss_adaptive=False,
    has_traces=False,
  ),
  Workload(
    'wrong-labels',
    'Streams with batches of random labels',
    rivals.WRONG_TASKS,
    methods=('base', 'twice', 'isgd', 'isgd-probation', 'skip'),
    has_loss_adaptive=False,
    has_traces=False,
  ),
  Workload(
    'real-time',
    'Real streams in real time: an evaluation more costs a batch',
    rivals.REAL_TIME_TASKS,
    base_optimizers=('adam',),
    methods=('base', 'twice', 'isgd', 'isgd-probation'),
    has_loss_adaptive=False,
    has_traces=False,
  ),
  Workload(
    'doses',
    'Probation with one number changed',
    rivals.DOSE_TASKS,
    base_optimizers=('adam',),
    methods=rivals.DOSE_METHODS,
    has_loss_adaptive=False,
    has_traces=False,
  ),
)

_PERMUTED = tuple(
  Workload(
    f'permuted-{name}',
    f'A published protocol: {task.title}',
    (task,),
    base_optimizers=permuted.bases_of(name),
    methods=('base',) if name == 'inputs-alone' else permuted.BESIDE_ISGD,
    has_loss_adaptive=False,
    num_rates=1,
    num_tuning_seeds=0,
    has_traces=False,
  )
  for name, task in permuted.TASKS.items()
)

_BY_NAME = {workload.name: workload for workload in _WORKLOADS}
_ABLATION_TASKS = (
  ('drift-labels', 0),
  ('drift-pixels', 0),
  ('sampling-bias', 2),
  ('sampling-bias', 0),
  ('stationary-digits', 0),
)
_ABLATION = Workload(
  'ablation',
  'ISGD with one thing changed at a time',
  tuple(_BY_NAME[name].tasks[i] for name, i in _ABLATION_TASKS),
  methods=('base', *VARIANTS),
  has_loss_adaptive=False,
  num_rates=3,
  num_tuning_seeds=1,
  has_traces=False,
)

WORKLOADS = {
  **_BY_NAME,
  _ABLATION.name: _ABLATION,
  _REAL_STREAMS.name: _REAL_STREAMS,
  **{workload.name: workload for workload in (*_RIVALS, *_PERMUTED)},
}


def _enlarged(workload: Workload, **kwargs) -> Workload:
  """The same, with the sizes of every task replaced."""
  tasks = tuple(dataclasses.replace(task, **kwargs) for task in workload.tasks)
  return dataclasses.replace(workload, tasks=tasks)


_ALL_OF_FASHION = {
  'num_train': 50_000,
  'num_test': 10_000,
  'batch_size': 128,
  'window_size': 390,
}

LARGE_WORKLOADS = {
  **WORKLOADS,
  **{
    w.name: dataclasses.replace(
      w, tasks=(permuted.LARGE_TASKS[w.name.removeprefix('permuted-')],)
    )
    for w in _PERMUTED
  },
  'stationary-fashion': dataclasses.replace(
    _enlarged(
      WORKLOADS['stationary-fashion'], **_ALL_OF_FASHION, num_epochs=15
    ),
    methods=_STATIONARY_METHODS,
    base_optimizers=('sgd', 'momentum', 'nesterov', 'adam'),
    has_loss_adaptive=True,
    num_rates=6,
    num_tuning_seeds=2,
  ),
  'paper-mnist': dataclasses.replace(
    _enlarged(WORKLOADS['paper-mnist'], **paper.LARGE_MNIST),
    methods=paper.LARGE_METHODS,
    num_rates=6,
    num_tuning_seeds=2,
  ),
  'paper-cifar10': dataclasses.replace(
    _enlarged(WORKLOADS['paper-cifar10'], **paper.LARGE_CIFAR10),
    methods=paper.LARGE_METHODS,
    num_rates=6,
    num_tuning_seeds=2,
  ),
  'sampling-bias': _enlarged(
    WORKLOADS['sampling-bias'], **_ALL_OF_FASHION, num_epochs=15
  ),
  'label-noise': _enlarged(
    WORKLOADS['label-noise'], **_ALL_OF_FASHION, num_epochs=15
  ),
  'drift-text': dataclasses.replace(
    _enlarged(
      WORKLOADS['drift-text'],
      model='transformer',
      batch_size=32,
      batches_per_segment=150,
      title='Transformer, 4 layers of 128',
    ),
    base_optimizers=('sgd', 'momentum', 'adam'),
    num_rates=6,
    num_tuning_seeds=2,
  ),
}
