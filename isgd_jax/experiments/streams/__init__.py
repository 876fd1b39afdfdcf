"""Orders in which a training run meets its batches."""

from isgd_jax.experiments.streams._dated_texts import texts_in_order
from isgd_jax.experiments.streams._drift import DRIFTS
from isgd_jax.experiments.streams._drift import Drift
from isgd_jax.experiments.streams._drift import drifting_stream
from isgd_jax.experiments.streams._epochs import fixed_cycle
from isgd_jax.experiments.streams._epochs import shuffled_epochs
from isgd_jax.experiments.streams._permuted import PermutedInputs
from isgd_jax.experiments.streams._permuted import PermutedTasks
from isgd_jax.experiments.streams._permuted import draw_permuted_tasks
from isgd_jax.experiments.streams._permuted import permuted_stream
from isgd_jax.experiments.streams._permuted import permuted_targets
from isgd_jax.experiments.streams._stream import Stream
from isgd_jax.experiments.streams._tables import TableBatches
from isgd_jax.experiments.streams._tables import running_moments
from isgd_jax.experiments.streams._tables import table_batches
from isgd_jax.experiments.streams._tables import table_stream
from isgd_jax.experiments.streams._texts import switching_texts
from isgd_jax.experiments.streams._throttled import throttled

__all__ = [
  'Stream',
  # A fixed set of examples
  'fixed_cycle',
  'shuffled_epochs',
  # One pass that changes on its way
  'DRIFTS',
  'Drift',
  'drifting_stream',
  'switching_texts',
  # Permuted tasks, batch 1
  'PermutedInputs',
  'PermutedTasks',
  'draw_permuted_tasks',
  'permuted_stream',
  'permuted_targets',
  # One pass in time order, or shuffled as its control
  'TableBatches',
  'running_moments',
  'table_batches',
  'table_stream',
  'texts_in_order',
  # From a slow source
  'throttled',
]
