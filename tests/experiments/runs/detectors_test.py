"""A detector in blocks is a detector that stops the run at each batch."""

import numpy as np
import pytest

from isgd_jax.experiments.runs import detectors

river = pytest.importorskip('river')


def system(flags_by_step):
  """Losses that a flag takes down, batch by batch: a run in plain Python."""
  rng = np.random.default_rng(0)
  noise, level, losses = rng.normal(size=200), 0.0, []
  for step, is_flagged in enumerate(flags_by_step):
    level += 0.3
    losses.append(level + noise[step])
    if is_flagged:
      level = 0.0
  return losses


class Above:
  """Flags a loss above four, and counts what it has read."""

  def __init__(self):
    self.num_read = 0

  def __call__(self, loss):
    self.num_read += 1
    return loss > 4


def block_of(carry, start, flags):
  """The same system, a block at a time."""
  before = list(carry)
  losses = system([*before, *flags])
  return (*before, *flags), np.array(losses[start:], ndmin=2).T


@pytest.mark.parametrize('block_size', [1, 7, 64, 200])
def test_blocks_are_the_run_that_is_stopped_at_each_batch(block_size):
  detector, flags = Above(), []
  for step in range(200):
    loss = system([*flags, False])[step]
    flags.append(detector(loss))
  assert 5 < sum(flags) < 100
  again = Above()
  carry, metrics = detectors.run_in_closed_loop(
    block_of, (), 200, block_size, again
  )
  assert list(carry) == flags
  np.testing.assert_allclose(metrics[:, 0], system(flags))
  # Each loss is read once.
  assert again.num_read == 200


@pytest.mark.parametrize('name', detectors.DETECTORS)
@pytest.mark.parametrize(('after', 'is_found'), [(6.0, True), (-6.0, False)])
def test_a_rise_is_flagged_and_a_fall_is_not(name, after, is_found):
  rng = np.random.default_rng(1)
  losses = rng.normal(size=1000) + np.where(np.arange(1000) < 500, 0.0, after)
  detector = detectors.build_detector(name)
  flags = [detector(loss) for loss in losses]
  assert not any(flags[:500])
  assert any(flags[500:]) == is_found


@pytest.mark.parametrize('name', detectors.DETECTORS)
def test_a_loss_that_is_not_finite_is_left_out(name):
  losses = np.random.default_rng(2).normal(size=600)
  losses[300:] += 5
  with_gaps = np.insert(losses, [10, 320], [np.nan, np.inf])
  found = []
  for sequence in (losses, with_gaps):
    detector = detectors.build_detector(name)
    flags = np.array([detector(loss) for loss in sequence])
    found.append(flags[np.isfinite(sequence)])
  np.testing.assert_array_equal(*found)


def test_a_detector_that_there_is_none_of_gives_the_nearest():
  with pytest.raises(ValueError, match="did you mean 'adwin'"):
    detectors.build_detector('adwim')
