"""Drift detectors of river, on the losses of a run, in a closed loop with it.

A detector lives on the host, a run on the device. The run goes on in blocks,
none of their batches flagged; the detector reads the block's losses up to the
first that it flags. Then the block is run again with that flag, and the losses
after it are what the reaction made of them. A loss is found before the step on
its batch, so all up to the flagged one are as they were.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.errors import missing_extra

DETECTORS = ('adwin', 'page-hinkley')


class Detector(Protocol):
  """Reads losses one by one."""

  def __call__(self, loss: float) -> bool:
    """Whether the losses have risen."""
    ...


def build_detector(name: str) -> Detector:
  """A detector of river, with river's defaults.

  ADWIN finds changes in either direction; it flags where its estimate of the
  mean has risen. Page-Hinkley looks for rises alone (`mode='up'`), and is begun
  anew after each as river does. A loss that is not finite is left out.

  Args:
    name: `'adwin'` or `'page-hinkley'`.

  Returns:
    A detector that has seen nothing.

  Raises:
    ValueError: the name is unknown.
    ImportError: river is missing; the message names the extra.
  """
  check_name('detector', name, DETECTORS)
  try:
    from river import drift  # pyright: ignore[reportMissingImports] an extra
  except ImportError as error:
    raise missing_extra('river', 'streams') from error
  if name == 'adwin':
    adwin = drift.ADWIN()

    def rises(loss: float) -> bool:
      if not np.isfinite(loss):
        return False
      before = adwin.estimation
      adwin.update(loss)
      return bool(adwin.drift_detected and adwin.estimation > before)

    return rises
  page_hinkley = drift.PageHinkley(mode='up')

  def passes(loss: float) -> bool:
    if not np.isfinite(loss):
      return False
    page_hinkley.update(loss)
    return bool(page_hinkley.drift_detected)

  return passes


def run_in_closed_loop(
  run_block: Callable[[Any, int, np.ndarray], tuple[Any, np.ndarray]],
  carry: Any,
  num_batches: int,
  block_size: int,
  detector: Detector,
) -> tuple[Any, np.ndarray]:
  """A run whose batches a detector flags.

  Args:
    run_block: `run_block(carry, start, flags) -> (carry, metrics)`, batches
      from `start` on, as many as there are flags; `metrics[i, 0]` is a loss.
      Called again with a carry that it was given before.
    carry: of the first block.
    num_batches: of the run.
    block_size: batches a block, the last one shorter.
    detector: fresh.

  Returns:
    The last carry, and the metrics of all batches.
  """
  found = []
  for start in range(0, num_batches, block_size):
    flags = np.zeros(min(block_size, num_batches - start), bool)
    num_read = 0
    while True:
      next_carry, metrics = run_block(carry, start, flags)
      while num_read < len(flags):
        num_read += 1
        if detector(float(metrics[num_read - 1, 0])):
          flags = flags.copy()
          flags[num_read - 1] = True
          break
      else:
        break
    carry = next_carry
    found.append(metrics)
  return carry, np.concatenate(found)
