"""What was written stays whole, and reads back as it was."""

import json
import math
import os
import pathlib
import signal
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

import isgd_jax
from isgd_jax.experiments import files

json_values = st.recursive(
  st.none()
  | st.booleans()
  | st.integers(-(2**53), 2**53)
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.text(),
  lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
  max_leaves=10,
)


def strict_loads(text):
  def refuse(token):
    raise ValueError(f'{token} is not JSON')

  return json.loads(text, parse_constant=refuse)


@given(value=json_values)
def test_json_round_trip_on_one_line(value):
  text = files.to_json(value)
  assert len(text.splitlines()) <= 1
  assert strict_loads(text) == value


@given(value=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_not_finite_is_null(value):
  nested = {'a': [value, np.float32(value)], 'b': np.array([value, 1.0])}
  assert strict_loads(files.to_json(nested)) == {
    'a': [None, None],
    'b': [None, 1.0],
  }


def test_appended_records_read_back_in_order(tmp_path):
  path = tmp_path / 'runs.jsonl'
  records = [{'run': i, 'loss': i / 7} for i in range(5)]
  for record in records:
    files.append_record(path, record)
  assert list(files.read_records(path)) == records


def test_a_torn_line_costs_itself_alone(tmp_path):
  path = tmp_path / 'runs.jsonl'
  files.append_record(path, {'run': 0})
  with path.open('a') as file:
    file.write('{"run": 1, "lo')
  files.append_record(path, {'run': 2})
  assert list(files.read_records(path)) == [{'run': 0}, {'run': 2}]


@pytest.mark.processes
def test_a_killed_writer_leaves_whole_lines(tmp_path):
  path = tmp_path / 'runs.jsonl'
  code = (
    'import pathlib, sys, itertools\n'
    'from isgd_jax.experiments import files\n'
    'for i in itertools.count():\n'
    '  record = {"run": i, "filler": "x" * 5000}\n'
    '  files.append_record(pathlib.Path(sys.argv[1]), record)\n'
    '  print(i, flush=True)\n'
  )
  root = pathlib.Path(isgd_jax.__file__).parents[1]
  with subprocess.Popen(
    [sys.executable, '-c', code, str(path)],
    stdout=subprocess.PIPE,
    env={**os.environ, 'PYTHONPATH': str(root), 'JAX_PLATFORMS': 'cpu'},
  ) as process:
    try:
      for _ in range(20):
        announced = int(process.stdout.readline())
    finally:
      process.send_signal(signal.SIGKILL)
  lines = path.read_text().splitlines()
  assert [strict_loads(line)['run'] for line in lines] == list(
    range(len(lines))
  )
  assert len(lines) > announced  # what was announced is there


def test_a_replaced_file_is_the_old_or_the_new_one(tmp_path):
  path = tmp_path / 'summary.txt'
  path.write_text('old')

  def fail_halfway(new):
    new.write_text('half')
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    files.replace_file(path, fail_halfway)
  assert path.read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]
  files.replace_file(path, lambda new: new.write_text('new'))
  assert path.read_text() == 'new'
  assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_a_replaced_file_sees_one_version_whole(tmp_path):
  path = tmp_path / 'summary.txt'
  path.write_text('old')
  with path.open() as reader:
    files.replace_file(path, lambda new: new.write_text('new and longer'))
    assert reader.read() == 'old'


def test_a_file_that_cannot_be_written_is_named_with_a_remedy(tmp_path):
  path = tmp_path / 'missing' / 'runs.jsonl'
  for write in (
    lambda: files.append_record(path, {}),
    lambda: files.write_records(path, [{}]),
  ):
    with pytest.raises(OSError, match=rf'{path}.*another folder with --out'):
      write()


def test_output_folder_is_made_with_its_parents_and_left_empty(tmp_path):
  folder = files.prepare_output_folder(tmp_path / 'a' / 'b')
  assert folder.is_dir()
  assert not list(folder.iterdir())
  files.append_record(folder / 'runs.jsonl', {'run': 0})
  files.prepare_output_folder(folder)
  assert list(files.read_records(folder / 'runs.jsonl')) == [{'run': 0}]


@pytest.mark.parametrize('below', ['file', 'file/a', f'a/b/{"x" * 300}'])
def test_an_impossible_folder_is_refused_and_leaves_nothing(tmp_path, below):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match=r'cannot write results to .*--out'):
    files.prepare_output_folder(tmp_path / below)
  assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_a_folder_without_permission_is_refused():
  with pytest.raises(OSError, match='cannot write results to'):
    files.prepare_output_folder('/proc/isgd-demo')
