"""TensorBoard event files, written at once.

tensorboardX's own `SummaryWriter` writes from a thread: when the disk is full
the thread dies unheard, and the run stops for ever at its full queue.
"""

# Generated from protocol buffers, at import: a type checker sees nothing.
# pyright: reportAttributeAccessIssue=false

import contextlib
import os
import pathlib
import time
from typing import Self

from isgd_jax.experiments.errors import missing_extra
from isgd_jax.experiments.files import explained

try:
  from tensorboardX import event_file_writer
  from tensorboardX.proto import event_pb2
  from tensorboardX.proto import summary_pb2
except ImportError as error:
  raise missing_extra('tensorboardX') from error


class EventFile:
  """One event file; a run that is carried on begins another beside it.

  Use it as a context, which closes it.

  Example:
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with EventFile(folder, first_step=1) as events:
    ...   events.write(5, {'train/loss': 0.25})
    >>> len(list(folder.iterdir()))
    1
  """

  def __init__(self, folder: pathlib.Path, first_step: int):
    """Begins a file, and hides what older ones hold from `first_step` on.

    Args:
      folder: made where it is missing.
      first_step: the first step that this file may speak of.

    Raises:
      OutputError: the file cannot be written.
    """
    self._path = folder
    with explained(folder):
      folder.mkdir(parents=True, exist_ok=True)
      self._writer = event_file_writer.EventsWriter(
        os.fspath(folder / 'events'),
        # Two files of one second would be one.
        filename_suffix=f'.{os.getpid()}.{first_step}',
      )
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(
      event_pb2.Event(wall_time=time.time(), step=first_step, session_log=start)
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    # All is written already; a disk that is full has been complained of.
    with contextlib.suppress(OSError):
      self._writer.close()

  def write(self, step: int, scalars: dict[str, float]) -> None:
    """Writes scalars, through to the operating system.

    Args:
      step: they belong to.
      scalars: by tag.

    Raises:
      OutputError: the file cannot be written.
    """
    summary = summary_pb2.Summary(
      value=[
        summary_pb2.Summary.Value(tag=tag, simple_value=value)
        for tag, value in scalars.items()
      ]
    )
    self._write(
      event_pb2.Event(wall_time=time.time(), step=step, summary=summary)
    )

  def _write(self, event: event_pb2.Event) -> None:
    """Writes an event."""
    with explained(self._path):
      self._writer.write_event(event)
      self._writer.flush()
