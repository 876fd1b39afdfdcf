"""What `isgd-jax` shows on a terminal, into a file, and after Ctrl-C."""

import fcntl
import io
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

import isgd_jax
from isgd_jax.experiments import progress
from isgd_jax.experiments.train import logs

ENVIRONMENT = {
  **{k: v for k, v in os.environ.items() if k not in ('COLUMNS', 'LINES')},
  'PYTHONPATH': str(pathlib.Path(isgd_jax.__file__).parents[1]),
  'JAX_PLATFORMS': 'cpu',
}
# A process that a shell started in the background ignores SIGINT.
RUN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from isgd_jax.experiments.main import main
main()
"""
TIME_LIMIT_SECONDS = 120


class Terminal:
  """A pseudo-terminal with a process in it, and all that it has shown."""

  def __init__(self, columns, *args):
    self._fd, end = pty.openpty()
    size = struct.pack('HHHH', 24 if columns else 0, columns, 0, 0)
    fcntl.ioctl(end, termios.TIOCSWINSZ, size)
    self.process = subprocess.Popen(
      [sys.executable, '-c', RUN, *args],
      stdin=end,
      stdout=end,
      stderr=end,
      env=ENVIRONMENT,
    )
    os.close(end)
    self.text = ''

  def read_until(self, is_done):
    """Reads until `is_done()`, or until the process ends."""
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    while not is_done():
      if time.monotonic() > deadline:
        raise TimeoutError(self.text[-2000:])
      if select.select([self._fd], [], [], 0.1)[0]:
        try:
          data = os.read(self._fd, 65536)
        except OSError:  # It has closed its end.
          data = b''
        if not data:
          break
        self.text += data.decode(errors='replace')

  def finish(self):
    self.read_until(lambda: False)
    return self.process.wait(TIME_LIMIT_SECONDS)

  def close(self):
    self.process.kill()
    self.process.wait()
    os.close(self._fd)

  @property
  def bars(self):
    """What the bar has looked like."""
    frames = re.split(r'[\r\n]', re.sub(r'\x1b\[\w*', '', self.text))
    return [frame.rstrip() for frame in frames if re.search(r'%\|', frame)]


@pytest.fixture(name='terminal')
def fixture_terminal():
  opened = []

  def start(columns, *args):
    opened.append(Terminal(columns, *args))
    return opened[-1]

  yield start
  for each in opened:
    each.close()


@pytest.mark.one_version
@pytest.mark.processes
@pytest.mark.timeout(2 * TIME_LIMIT_SECONDS)
def test_a_terminal_shows_a_bar_that_fits_and_says_how_far_phase_one_is(
  terminal, tmp_path
):
  shown = terminal(
    80,
    *('train', '--epochs', '25', '--model', 'mlp', '--window-size', '200'),
    *('--evaluate-every', '1000', '--out', str(tmp_path / 'run')),
  )
  assert shown.finish() == 0, shown.text
  assert shown.bars
  assert max(map(len, shown.bars)) <= 80
  assert any(re.search(r'window \d+/200\]', bar) for bar in shown.bars)
  assert 'flagged ' in shown.bars[-1]
  assert re.search(r'^mlp: 100%\|.*\| 300/300 \[', shown.bars[-1])
  assert not re.search(r'steps \(\d+ %\)', shown.text)


@pytest.mark.one_version
@pytest.mark.processes
@pytest.mark.timeout(2 * TIME_LIMIT_SECONDS)
def test_ctrl_c_is_answered_at_once(terminal, tmp_path):
  out = tmp_path / 'run'
  # A terminal that does not know how wide it is gets no bar.
  shown = terminal(
    0, 'train', '--steps', '1000000', '--model', 'mlp', '--out', str(out)
  )

  def has_begun():
    path = out / logs.METRICS
    return path.exists() and path.stat().st_size > 0

  shown.read_until(has_begun)
  shown.process.send_signal(signal.SIGINT)
  assert shown.finish() == 130
  assert not shown.bars
  # In this order, whatever lines there are in between.
  after = shown.text.partition('SIGINT: saving ...')[2]
  assert 'SIGINT: saved after step ' in after
  assert 'carry on with isgd-jax train --resume --out' in after


def test_lines_come_seldom_and_say_how_long_it_will_take(capsys):
  """By a clock of our own: every second one more of 1000 steps."""
  now = [0.0]
  with progress.Lines(1000, title='mlp', clock=lambda: now[0]) as lines:
    lines.set_postfix_str('loss 0.5')
    for _ in range(300):
      now[0] += 1.0
      lines.update()
  said = capsys.readouterr().err.splitlines()
  steps = [int(re.search(r'mlp: (\d+) of', line).group(1)) for line in said]
  # After 5 seconds, then 10, 20, 40, and 60 from there on.
  assert steps == [5, 15, 35, 75, 135, 195, 255]
  assert said[1] == (
    'mlp: 15 of 1,000 steps (2 %), 00:15 so far, about 16:25 left; loss 0.5'
  )


def test_lines_count_on_from_where_they_begin(capsys):
  now = [0.0]
  with progress.Lines(
    100, unit='run', initial=50, clock=lambda: now[0]
  ) as lines:
    now[0] = 10.0
    lines.update(10)
  assert capsys.readouterr().err == (
    '60 of 100 runs (60 %), 00:10 so far, about 00:40 left\n'
  )


def test_a_run_that_is_carried_on_is_not_taken_for_a_fast_one(capsys):
  now = [0.0]
  lines = progress.Lines(clock=lambda: now[0])
  lines.begin(1000, 900)
  now[0] = 10.0
  lines.update(10)
  assert 'about 01:30 left' in capsys.readouterr().err
  bar = progress.Bar(disable=False, file=io.StringIO())
  bar.begin(1000, 900)
  bar.update(10)
  assert bar.format_dict['initial'] == 900
  assert bar.format_dict['n'] == 910
  bar.close()


def test_only_the_command_writes_lines(capsys):
  assert not isinstance(progress.progress(10), progress.Lines)
  with progress.lines_elsewhere():
    assert isinstance(progress.progress(10), progress.Lines)
    assert progress.progress(10, show=False).disable
  assert not isinstance(progress.progress(10), progress.Lines)
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize('ncols', [40, 60, 80, 100])
@pytest.mark.parametrize('title', ['', 'transformer-small'])
@pytest.mark.parametrize(
  'postfix', ['loss 0.123, acc 91%, window 46,900/46,900', '']
)
def test_a_bar_fits_its_terminal(ncols, title, postfix):
  text = progress.Bar.format_meter(
    12_000,
    46_900,
    3_600.0,
    ncols,
    prefix=title,
    postfix=postfix,
    bar_format=progress._FORMAT,
  )
  assert len(text) <= ncols
  assert ' 26%|' in text
