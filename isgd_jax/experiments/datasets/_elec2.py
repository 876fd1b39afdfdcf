"""Elec2: half-hours of an electricity market, 1996 to 1998."""

import os

import numpy as np

from isgd_jax.experiments.datasets._csv import find_file
from isgd_jax.experiments.datasets._csv import read_csv
from isgd_jax.experiments.datasets._table import Table
from isgd_jax.experiments.errors import DataError

_FEATURES = (
  'period',
  'nswprice',
  'nswdemand',
  'vicprice',
  'vicdemand',
  'transfer',
)
_LABELS = {'0': 0, '1': 1, 'DOWN': 0, 'UP': 1}
_NAMES = ('elec2.csv', 'elec2.csv.gz', 'electricity.csv')
_SOURCE = 'as scikit-multiflow/streaming-datasets and OpenML 151 have it'


def load_elec2(data_dir: str | os.PathLike[str] | None = None) -> Table:
  """Loads Elec2: is the price above its mean of the last day?

  Its publishers scaled it to [0, 1] by the range of the whole table, which
  running moments undo: they do not see a scale.

  Args:
    data_dir: the file, plain or gzip, or its folder.

  Returns:
    A `Table` in time order: period of the day, price and demand of two states,
    and the transfer between them. Labels are much alike from one half-hour to
    the next.

  Raises:
    DataError: (a `ValueError`) there is no file, or it is malformed.

  References:
    M. Harries, SPLICE-2 comparative evaluation: electricity pricing, Technical
    report, University of New South Wales, 1999.
  """
  if data_dir is None:
    raise DataError(
      f"data set 'elec2' needs data_dir: {_NAMES[0]} or {_NAMES[1]}, or its "
      f'folder ({_SOURCE})'
    )
  path = find_file(data_dir, _NAMES, f'put it there, {_SOURCE}')
  table = read_csv(path, (*_FEATURES, 'class'))
  labels = [_LABELS.get(value, -1) for value in table.columns['class']]
  if -1 in labels:
    raise table.refused_value('class', labels.index(-1), '0, 1, DOWN or UP')
  return Table(
    'elec2',
    np.stack([table.numbers(name) for name in _FEATURES], axis=1),
    np.array(labels, np.int32),
    'classification',
    2,
    _FEATURES,
  )
