"""The log of a process of several that leaves the writing to the first one."""

import contextlib
import pathlib
from typing import Any

from isgd_jax.experiments.train import logs


class SilentLog(logs.RunLog):
  """The log of a process that does not write: it counts as the first one does.

  Example:
    >>> totals = dict.fromkeys(logs.TOTALS, 0)
    >>> progress = {'totals': totals, 'last_evaluation': None}
    >>> with SilentLog(pathlib.Path('run'), progress, log_every=50) as log:
    ...   log.write_evaluation(step=1, epoch=0, loss=2.0, accuracy=0.5)
    >>> log.last_evaluation['loss']
    2.0
  """

  def __init__(
    self, folder: pathlib.Path, progress: dict[str, Any], log_every: int
  ):
    """Goes on from where the first process is.

    Args:
      folder: of the run, which is left alone.
      progress: of the first process's log.
      log_every: steps between points in TensorBoard.
    """
    self.folder = folder
    self._log_every = log_every
    self._stack = contextlib.ExitStack()
    self._metrics = self._evaluations = self._timing = _Nowhere()
    self._events = _Nowhere()
    self._events_of = None
    self.num_unjudged = 0
    self.totals = dict(progress['totals'])
    self.last_evaluation = progress['last_evaluation']
    self._begin()


class _Nowhere:
  """Where a silent process writes to."""

  def write(self, *record: Any) -> None:
    """Forgets it."""

  def sync(self) -> None:
    """Has nothing to wait for."""
