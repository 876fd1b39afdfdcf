"""Tables that PyPI's river has in its wheel, read as files."""

import datetime
import os
from typing import NamedTuple

import numpy as np

from isgd_jax._extras import how_to_install
from isgd_jax.experiments.datasets._csv import CSV
from isgd_jax.experiments.datasets._csv import find_file
from isgd_jax.experiments.datasets._csv import package_folder
from isgd_jax.experiments.datasets._csv import read_csv
from isgd_jax.experiments.datasets._table import Kind
from isgd_jax.experiments.datasets._table import Table
from isgd_jax.experiments.errors import missing_extra


class _File(NamedTuple):
  """A file of river, and what its columns are for."""

  name: str
  features: tuple[str, ...]
  target: str
  kind: Kind


_SHARES = ('AAPL', 'AMZN', 'IBM', 'INTC', 'JNJ', 'JPM', 'KO', 'MSFT', 'WMT')
_FLOW_TIME = 'Time'
_FILES = {
  'phishing': _File(
    'phishing.csv.gz',
    (
      'empty_server_form_handler',
      'popup_window',
      'https',
      'request_from_other_domain',
      'anchor_from_other_domain',
      'is_popular',
      'long_url',
      'age_of_domain',
      'ip_in_url',
    ),
    'is_phishing',
    'classification',
  ),
  'shuttle-stream': _File(
    'shuttle.csv.gz',
    tuple(f'f{i}' for i in range(1, 10)),
    'anomaly',
    'classification',
  ),
  'sp500': _File(
    'sp500.csv.gz', (*_SHARES, 'XOM'), 'next_day_return', 'regression'
  ),
  'trump-approval': _File(
    'trump_approval.csv.gz',
    (
      'ordinal_date',
      'gallup',
      'ipsos',
      'morning_consult',
      'rasmussen',
      'you_gov',
    ),
    'five_thirty_eight',
    'regression',
  ),
  'water-flow': _File(
    'water-flow.csv', (_FLOW_TIME,), 'Water flow [l/s]', 'regression'
  ),
}
_FLOW_FEATURES = (
  'day_sin',
  'day_cos',
  'half_day_sin',
  'half_day_cos',
  'week_sin',
  'week_cos',
)


def load_river_table(
  name: str, data_dir: str | os.PathLike[str] | None = None
) -> Table:
  """Loads a table of river's; river itself is not imported.

  Args:
    name: as in `load_table`.
    data_dir: the file or its folder; None takes the package that is installed.

  Returns:
    A `Table`, rows in the order of the file. Of `water-flow` the inputs are
    where in the day and in the week an hour is: past flows would be targets of
    the same batch.

  Raises:
    DataError: (a `ValueError`) there is no such file, or it is malformed.
    ImportError: river is missing; the message names the extra.

  References:
    J. Montiel et al., River: machine learning for streaming data in Python,
    JMLR 22, 2021.
  """
  file = _FILES[name]
  if data_dir is None:
    package = package_folder('river')
    if package is None:
      raise missing_extra('river', 'streams')
    data_dir = os.path.join(package, 'datasets')
  path = find_file(
    data_dir,
    (file.name, file.name.removesuffix('.gz')),
    f'install river >= 0.26 ({how_to_install("streams")}), or name the '
    'folder of its files by data_dir',
  )
  table = read_csv(path, (*file.features, file.target))
  targets = table.numbers(file.target)
  if file.kind == 'classification':
    wrong = np.flatnonzero((targets != 0) & (targets != 1))
    if len(wrong):
      raise table.refused_value(file.target, int(wrong[0]), '0 or 1')
    targets = targets.astype(np.int32)
  if file.features == (_FLOW_TIME,):
    features, inputs = _FLOW_FEATURES, _positions(table)
  else:
    features = file.features
    inputs = np.stack([table.numbers(each) for each in features], axis=1)
  num_classes = 2 if file.kind == 'classification' else 1
  return Table(name, inputs, targets, file.kind, num_classes, features)


def _positions(table: CSV) -> np.ndarray:
  """[n, 6]: where in the day, the half-day and the week a time is."""
  turns = []
  for row, text in enumerate(table.columns[_FLOW_TIME]):
    try:
      time = datetime.datetime.fromisoformat(text)
    except ValueError:
      raise table.refused_value(
        _FLOW_TIME, row, 'a time such as 2022-03-20T11:00:00+01:00'
      ) from None
    day = (time.hour + time.minute / 60) / 24
    turns.append((day, 2 * day, (time.weekday() + day) / 7))
  angles = 2 * np.pi * np.array(turns)
  # Sine beside cosine, as `_FLOW_FEATURES` has them.
  return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(-1, 6)
