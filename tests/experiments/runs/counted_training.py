"""The real training of a comparison, watched by its tests."""

from isgd_jax.experiments.runs.training import train


class Training:
  """The real training, counted, and interrupted once if asked."""

  def __init__(self, interrupt_at=None):
    self.num_runs = 0
    self._interrupt_at = interrupt_at

  def __call__(self, *args, **kwargs):
    if self.num_runs == self._interrupt_at:
      self._interrupt_at = None
      raise KeyboardInterrupt
    self.num_runs += 1
    return train(*args, **kwargs)
