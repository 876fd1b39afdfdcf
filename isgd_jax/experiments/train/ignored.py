"""Options that a training run would ignore."""

import dataclasses

from isgd_jax.experiments.ignored_options import refuse
from isgd_jax.experiments.train.config import IsgdConfig
from isgd_jax.experiments.train.config import TrainConfig

_OF_CHASES = (
  *('solver', 'chase_learning_rate', 'chase_to', 'max_chase_steps'),
  *('conservative_weight', 'base_update_when_chasing', 'probation'),
)
_OF_PAPER = ('window_size', 'chase_learning_rate')
# Option -> the charts that have it.
_OF_CHARTS = {
  'smoothing': ('ewma', 'difference'),
  'limit_width': ('ewma',),
  'allowance': ('cusum',),
  'decision_interval': ('cusum',),
}


def check_ignored(config: TrainConfig) -> None:
  """Raises on an option that differs from its default and would do nothing.

  Args:
    config: the run.

  Raises:
    InputError: naming the option, what it belongs to, and what was chosen.

  Example:
    >>> config = TrainConfig(isgd=IsgdConfig(method='skip', chase_to='limit'))
    >>> try:
    ...   check_ignored(config)
    ... except ValueError as error:
    ...   print(str(error).partition(';')[0])
    --chase-to limit has no effect with --method skip, which does not chase
  """
  isgd, optimizer, data = config.isgd, config.optimizer, config.data
  _check_method(isgd)
  if data.dataset != 'text':
    refuse(
      data, 'sequence_length', f'--dataset {data.dataset}', '--dataset text'
    )
  if isgd.method not in ('base', 'paper-isgd'):
    for name, charts in _OF_CHARTS.items():
      if isgd.chart not in charts:
        refuse(
          isgd, name, f'--chart {isgd.chart}', f'--chart {" or ".join(charts)}'
        )
  if optimizer.base not in ('momentum', 'nesterov'):
    refuse(
      optimizer,
      'momentum',
      f'--base {optimizer.base}',
      '--base momentum or nesterov',
    )
  if optimizer.schedule not in ('step', 'loss-driven'):
    refuse(
      optimizer,
      'rate_factor',
      f'--schedule {optimizer.schedule}',
      '--schedule step or loss-driven',
    )


def _check_method(isgd: IsgdConfig) -> None:
  """Raises on what the method has no use for."""
  method = f'--method {isgd.method}'
  names = [f.name for f in dataclasses.fields(isgd) if f.name != 'method']
  if isgd.method == 'base':
    for name in names:
      refuse(isgd, name, f'{method}, which has no chart', 'another --method')
  elif isgd.method == 'paper-isgd':
    for name in names:
      if name not in _OF_PAPER:
        refuse(isgd, name, f"{method}, which is the paper's", '--method isgd')
  elif isgd.method in ('skip', 'watch'):
    for name in _OF_CHASES:
      refuse(isgd, name, f'{method}, which does not chase', '--method isgd')
  elif isgd.solver != 'gradient-descent':
    refuse(
      isgd,
      'chase_learning_rate',
      f'--solver {isgd.solver}, which needs no rate',
      '--solver gradient-descent',
    )
