"""Which records a batch of the fixed cycle is made of, without reading them."""

from __future__ import annotations

import operator

import numpy as np

from isgd_jax import _checks
from isgd_jax.sampling import _fixed_cycle


def record_indices(
  num_records: int,
  batch_size: int,
  step: int,
  *,
  seed: int,
  reshuffle: bool = False,
  last_batch: str = 'wrap',
) -> np.ndarray:
  r"""The records in a batch of :func:`fixed_cycle`: which batch it was.

  With the permutation :math:`\pi`, n batches a cycle and batch size b, these
  are :math:`\pi(jb), \ldots, \pi(jb + b - 1)` with :math:`j = t \bmod n`, in
  the order of the rows of the global batch, over all processes. Nothing is
  read.

  Args:
    num_records: records in the source, >= 1.
    batch_size: records in a global batch.
    step: the step t >= 0, as in `fixed_cycle(...)[t]`.
    seed: as in :func:`fixed_cycle`; so are the others.
    reshuffle: whether every epoch has a permutation of its own.
    last_batch: what becomes of the last batch of an epoch. Rows of weight 0
      that `'pad'` adds are not listed.

  Returns:
    int64[rows], indices into the source.

  Raises:
    ValueError: on an argument out of range.

  Examples:
    >>> import numpy as np
    >>> from isgd_jax import sampling
    >>> x = np.arange(10) * 10
    >>> batch = sampling.fixed_cycle((x,), 4, seed=0)[7]
    >>> records = sampling.record_indices(10, 4, step=7, seed=0)
    >>> bool(np.all(batch.data[0] == x[records]))
    True
  """
  num_batches = _fixed_cycle.batches_per_cycle(
    num_records, batch_size, last_batch
  )
  cycle = _fixed_cycle._Cycle(
    source=None,
    num_records=operator.index(num_records),
    num_batches=num_batches,
    batch_size=operator.index(batch_size),
    seed=_checks.check_integer('seed', seed, minimum=0),
    num_epochs=1,
    process_index=0,
    process_count=1,
    reshuffle=reshuffle,
    last_batch=last_batch,
    transform=None,
  )
  step = _checks.check_integer('step', step, minimum=0)
  indices, weight = _fixed_cycle._local_indices(
    cycle, *divmod(step, num_batches)
  )
  return indices[weight > 0]
