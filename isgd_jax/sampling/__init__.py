"""Fixed-cycle pseudo-random sampling, on Grain (the extra `data`).

The records are permuted once and cut into n batches, which are visited in a
cycle: the batch of step t is number t mod n. A position in the data is that one
integer t, whatever the number of processes, threads and workers.
"""

from isgd_jax.sampling._fixed_cycle import CycleBatch
from isgd_jax.sampling._fixed_cycle import batches_per_cycle
from isgd_jax.sampling._fixed_cycle import fixed_cycle
from isgd_jax.sampling._prefetch import PrefetchIterator
from isgd_jax.sampling._prefetch import prefetch
from isgd_jax.sampling._records import record_indices

__all__ = (
  'CycleBatch',
  'PrefetchIterator',
  'batches_per_cycle',
  'fixed_cycle',
  'prefetch',
  'record_indices',
)
