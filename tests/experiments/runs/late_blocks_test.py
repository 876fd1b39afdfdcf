"""No report is lost, and none is waited for while its block is under way."""

import jax.numpy as jnp
import numpy as np

from isgd_jax.experiments.runs.late_blocks import LateBlocks


def test_blocks_come_one_turn_late_in_order_with_their_notes():
  late, found, next_step = LateBlocks(), [], 0
  for size in (3, 1, 2, 0):
    for step in range(next_step, next_step + size):
      late.add(jnp.full(2, step), note=step)
    next_step += size
    before = late.num_unknown
    block = late.turn()
    if block is not None:
      np.testing.assert_array_equal(block.packed[:, 0], block.notes)
      assert late.num_unknown == before - len(block.notes) == size
      found.append(block.notes)
  assert found == [[0, 1, 2], [3], [4, 5]]
  assert late.turn() is None
  assert late.num_unknown == 0
