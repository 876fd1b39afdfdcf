"""How far long work has come: a bar on a terminal, elsewhere a line at times.

Both are written to stderr. Lines come from the command alone: a notebook, or a
program that calls what a command calls, is not spoken to unless it asks.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import sys
import time
from typing import Any, Self, TextIO

from isgd_jax.experiments.errors import missing_extra

try:
  import tqdm
except ImportError as error:
  raise missing_extra('tqdm') from error

# A line soon, so that what is wrong shows, and then one a minute.
_FIRST_SECONDS = 5.0
_LONGEST_SECONDS = 60.0
_FORMAT = (
  '{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} '
  '[{elapsed}<{remaining}{postfix}]'
)
_SHORTEST_BAR = 4
_has_lines = [False]


class Bar(tqdm.tqdm):
  """A bar that fits its terminal; where it is narrow, without the title.

  Example:
    >>> for ncols in (64, 48):
    ...   print(Bar.format_meter(
    ...     120, 1200, 3.0, ncols, prefix='transformer', postfix='loss 0.123',
    ...     bar_format=_FORMAT, ascii=True))
    transformer:  10%|#         | 120/1200 [00:03<00:27, loss 0.123]
     10%|7      | 120/1200 [00:03<00:27, loss 0.123]
  """

  def begin(self, total: int, done: int) -> None:
    """Begins, with so much done before, which says nothing of the speed."""
    self.reset(total)
    self.initial = self.n = self.last_print_n = done
    self.refresh()

  @staticmethod
  def format_meter(  # pyright: ignore[reportIncompatibleMethodOverride]
    n: float,
    total: Any,
    elapsed: float,
    ncols: int | None = None,
    prefix: str | None = '',
    **kwargs: Any,
  ) -> str:
    """As tqdm's, without the title where that leaves no room for a bar."""
    # It takes 10 columns where none are set.
    text = tqdm.tqdm.format_meter(n, total, elapsed, prefix=prefix, **kwargs)
    if ncols and len(text) - 10 + _SHORTEST_BAR > ncols:
      prefix = ''
    return tqdm.tqdm.format_meter(
      n, total, elapsed, ncols=ncols, prefix=prefix, **kwargs
    )


class Lines:
  """A line every so often, with the interface of a bar.

  The first comes with the first news after five seconds, the next after twice
  as long each, up to a minute.

  Attributes:
    n: how much is done.
    total: how much there is; None where that is not known yet.
    disable: False: what is said is shown.

  Example:
    >>> now = iter([0.0, 3.0, 6.0, 7.0]).__next__
    >>> with Lines(200, title='mlp', file=sys.stdout, clock=now) as lines:
    ...   lines.set_postfix_str('loss 0.5')
    ...   for _ in range(3):
    ...     lines.update(20)
    mlp: 40 of 200 steps (20 %), 00:06 so far, about 00:24 left; loss 0.5
  """

  disable = False

  def __init__(
    self,
    total: int | None = None,
    *,
    title: str = '',
    unit: str = 'step',
    initial: int = 0,
    file: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Begins to count, and says nothing yet.

    Args:
      total: how much there is to do.
      title: what the lines begin with.
      unit: of what is counted.
      initial: how much is done already.
      file: where to; stderr by default.
      clock: seconds.
    """
    self._file = sys.stderr if file is None else file
    self._clock = clock
    self._title = title
    self._unit = unit
    self._postfix = ''
    self.begin(total, initial)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def begin(self, total: int | None, done: int) -> None:
    """Begins, with so much done before, which says nothing of the speed."""
    self.total = total
    self.n = done
    self._initial = self.n
    self._start = self._clock()
    self._gap = _FIRST_SECONDS
    self._due = self._start + self._gap

  def set_description(self, title: str) -> None:
    """What the next lines begin with."""
    self._title = title

  def set_postfix_str(self, text: str) -> None:
    """What the next lines end with."""
    self._postfix = text

  def update(self, count: int = 1) -> None:
    """Counts on, and says so where a line is due."""
    self.n += count
    now = self._clock()
    if now < self._due:
      return
    self._gap = min(2 * self._gap, _LONGEST_SECONDS)
    self._due = now + self._gap
    # Nobody may be there to read it any more.
    with contextlib.suppress(OSError):
      print(self._line(now - self._start), file=self._file, flush=True)

  def close(self) -> None:
    """Nothing is left to say."""

  def _line(self, seconds: float) -> str:
    """How far it has come, and how long it will take."""
    text = f'{self._title}: ' if self._title else ''
    text += f'{self.n:,}'
    if self.total:
      text += f' of {self.total:,} {self._unit}s ({self.n / self.total:.0%})'
      text = text.replace('%', ' %')
    else:
      text += f' {self._unit}s'
    text += f', {_spelt(seconds)} so far'
    done = self.n - self._initial
    if self.total and done:
      left = seconds / done * (self.total - self.n)
      text += f', about {_spelt(left)} left'
    return text + (f'; {self._postfix}' if self._postfix else '')


Progress = Bar | Lines


def progress(
  total: int | None = None,
  *,
  title: str = '',
  unit: str = 'step',
  initial: int = 0,
  show: bool | None = None,
) -> Progress:
  """Shows how far long work has come, on stderr.

  Args:
    total: how much there is to do; None if that comes with `begin`.
    title: what it is.
    unit: of what is counted.
    initial: how much is done already.
    show: False shows nothing, True a bar; None a bar on a terminal whose width
      is known, and elsewhere lines within `lines_elsewhere`, or else nothing.

  Returns:
    A bar or its like, a context, with `update`, `begin`, `set_description` and
    `set_postfix_str`.

  Example:
    >>> with progress(10, show=False) as bar:
    ...   _ = bar.update(3)
  """
  is_wide = _is_wide(sys.stderr)
  if show is None and not is_wide and _has_lines[-1]:
    return Lines(total, title=title, unit=unit, initial=initial)
  return Bar(
    desc=title,
    total=total,
    unit=unit,
    initial=initial,
    file=sys.stderr,
    disable=not (is_wide if show is None else show),
    dynamic_ncols=True,
    bar_format=_FORMAT,
  )


@contextlib.contextmanager
def lines_elsewhere() -> Iterator[None]:
  """Has `progress` write lines where no bar can be.

  Yields:
    Nothing.

  Example:
    >>> with lines_elsewhere():
    ...   isinstance(progress(10), Progress)
    True
  """
  _has_lines.append(True)
  try:
    yield
  finally:
    _has_lines.pop()


def say(text: str) -> None:
  """Prints to stdout, above the bar where there is one.

  Args:
    text: a line, or several.

  Example:
    >>> say('step 12')
    step 12
  """
  tqdm.tqdm.write(text, file=sys.stdout)
  sys.stdout.flush()


def _is_wide(file: TextIO) -> bool:
  """Whether this is a terminal that says how wide it is."""
  try:
    return file.isatty() and os.get_terminal_size(file.fileno()).columns > 0
  except (OSError, ValueError):
    return False


def _spelt(seconds: float) -> str:
  """3725.0 as '1:02:05'."""
  return tqdm.tqdm.format_interval(seconds)
