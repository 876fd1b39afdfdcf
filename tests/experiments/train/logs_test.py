"""Files that a run can take up again, and that say when they are full."""

import errno
import json
import pathlib

import numpy as np
import pytest
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import OutputError
from isgd_jax.experiments.files import read_records
from isgd_jax.experiments.train import json_lines
from isgd_jax.experiments.train import logs
from isgd_jax.experiments.train import reports

FULL = pathlib.Path('/dev/full')


def report(num_steps, **columns):
  """A report of steps with losses 1, 2, ..."""
  zeros = np.zeros((num_steps, len(reports.StepReport._fields)), np.float32)
  loss = np.arange(1, num_steps + 1, dtype=np.float32) / 3
  return reports.unpack(zeros)._replace(**{'loss': loss, **columns})


def positions(first, last):
  return [(step, 0, step % 3) for step in range(first, last + 1)]


@pytest.mark.parametrize(
  ('text', 'kept'),
  [
    ('', 0),
    ('{"step": 1}\n{"step": 2}\n{"step": 3}\n', 2),
    ('{"step": 1}\n{"step": 2}\n', 2),
    ('{"step": 1}\n{"step": 2', 1),
    ('{"step": 1}\n{"step": 2}', 1),
    ('{"step": 1}\n\0\0\0\0', 1),
    ('{"step": 1}\n[2]\n{"step": 3}\n', 1),
  ],
)
def test_what_lies_behind_a_step_or_is_torn_is_cut_off(tmp_path, text, kept):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(text)
  with json_lines.JsonLines(path, last_step=2) as lines:
    lines.write([{'step': 9}])
  expected = [*range(1, kept + 1), 9]
  assert [record['step'] for record in read_records(path)] == expected
  assert path.read_text().count('\n') == len(expected)


@pytest.mark.parametrize('damaged', ['\0\0\0', '[2]', '{"step": "2"}'])
def test_what_is_lost_among_the_rest_is_named_and_nothing_is_cut(
  tmp_path, damaged
):
  path = tmp_path / 'metrics.jsonl'
  text = f'{{"step": 1}}\n{damaged}\n{{"step": 2}}\n'
  path.write_text(text)
  with pytest.raises(InputError, match=r"line 2 of '.*metrics\.jsonl' is dam"):
    json_lines.JsonLines(path, last_step=2)
  assert path.read_text() == text


def test_a_log_that_lost_steps_is_refused(tmp_path):
  with logs.RunLog(tmp_path, last_step=0, log_every=50) as log:
    log.write_steps(positions(1, 4), report(4), wait_seconds=0.0)
  with pytest.raises(InputError, match='has 4 of the 6 steps before the check'):
    logs.RunLog(tmp_path, last_step=6, log_every=50)
  assert len(list(read_records(tmp_path / logs.METRICS))) == 4


def test_float32_is_written_shortly_and_reads_back_the_same(tmp_path):
  with logs.RunLog(tmp_path, last_step=0, log_every=50) as log:
    log.write_steps(positions(1, 20), report(20), wait_seconds=0.0)
  records = list(read_records(tmp_path / logs.METRICS))
  read = np.array([record['loss'] for record in records], np.float32)
  np.testing.assert_array_equal(read, report(20).loss)
  assert '"loss": 0.33333334,' in (tmp_path / logs.METRICS).read_text()


def test_what_is_not_finite_is_null(tmp_path):
  limits = np.array([np.inf, np.nan], np.float32)
  with logs.RunLog(tmp_path, last_step=0, log_every=50) as log:
    log.write_steps(positions(1, 2), report(2, control_limit=limits), 0.0)
  for line in (tmp_path / logs.METRICS).read_text().splitlines():
    assert json.loads(line)['control_limit'] is None


def test_totals_go_on_after_a_resumption(tmp_path):
  columns = {
    'is_undertrained': np.array([True, False, True]),
    'num_chase_steps': np.array([2, 0, 5]),
    'num_gradient_evaluations': np.array([3, 1, 6]),
    'num_examples': np.array([8, 8, 7]),
    'num_undecodable': np.array([0, 0, 1]),
    'is_chase_reverted': np.array([False, False, True]),
  }
  with logs.RunLog(tmp_path, last_step=0, log_every=50) as log:
    log.write_steps(positions(1, 3), report(3, **columns), 0.0)
    whole = dict(log.totals)
  with logs.RunLog(tmp_path, last_step=2, log_every=50) as log:
    assert log.totals['num_steps'] == 2
    assert log.totals['num_chase_steps'] == 2
    last = {name: column[2:] for name, column in columns.items()}
    log.write_steps(positions(3, 3), report(1, **last), 0.0)
    assert dict(log.totals) == whole
  assert whole == {
    'num_steps': 3,
    'num_judged': 3,
    'num_left_out': 0,
    'num_undertrained': 2,
    'num_chases_reverted': 1,
    'num_chases_undone': 0,
    'num_examples': 23,
    'num_undecodable': 1,
    'num_well_trained': 0,
    'num_skipped': 0,
    'num_chase_steps': 7,
    'num_gradient_evaluations': 10,
  }


def tensorboard_points(folder):
  """Of each tag its values by step."""
  points = {}
  for path in sorted(folder.iterdir()):
    data = path.read_bytes()
    while data:  # TFRecord: length, its checksum, the event, its checksum.
      size = int.from_bytes(data[:8], 'little')
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      for value in event.summary.value:
        points.setdefault(value.tag, {})[event.step] = value.simple_value
  return points


@pytest.mark.parametrize('block_size', [1, 3, 12])
def test_tensorboard_has_the_means_between_points(tmp_path, block_size):
  losses = np.arange(12, dtype=np.float32)
  with logs.RunLog(tmp_path, last_step=0, log_every=5) as log:
    for first in range(0, 12, block_size):
      block = losses[first : first + block_size]
      log.write_steps(
        positions(first + 1, first + block_size),
        report(block_size, loss=block),
        0.0,
      )
    log.write_evaluation(12, 1, loss=0.5, accuracy=0.75)
    log.finish()
  points = tensorboard_points(tmp_path / logs.TENSORBOARD)
  # The last point is of what is left.
  assert points['train/loss'] == {5: 2.0, 10: 7.0, 12: 10.5}
  assert points['test/accuracy'] == {12: 0.75}
  assert set(points['cost/gradient_evaluations']) == {5, 10, 12}


def test_a_full_disk_under_tensorboard_is_named_at_once(tmp_path, monkeypatch):
  def refuse(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  with (
    logs.RunLog(tmp_path, last_step=0, log_every=1) as log,
    monkeypatch.context() as patch,
  ):
    patch.setattr(record_writer.RecordWriter, 'flush', refuse)
    with pytest.raises(OutputError, match=r'tensorboard.*No space left'):
      log.write_steps(positions(1, 1), report(1), 0.0)


@pytest.mark.skipif(not FULL.exists(), reason='no /dev/full here')
def test_a_full_disk_is_named(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  with json_lines.JsonLines(path, last_step=0) as lines:
    lines._file.close()
    lines._file = open(FULL, 'ab', buffering=0)  # noqa: SIM115
    with pytest.raises(OutputError, match='No space left on device; make room'):
      lines.write([{'step': 1}])


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
  (tmp_path / logs.METRICS).mkdir()
  with pytest.raises(OutputError, match=r'metrics\.jsonl'):
    logs.RunLog(tmp_path, last_step=0, log_every=1)
