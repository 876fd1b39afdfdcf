"""Which batch size, on this machine, for this network.

Seconds to a loss are steps times seconds a step. Bigger batches need fewer
steps and take longer for each; the machine decides where the product is least:

1. `measure_step_seconds` and `fit_step_time`: seconds a step, by batch size.
2. `gradient_noise_scale` with `critical_batch_law`, or `paper_law`: steps, by
   batch size.
3. `optimal_batch_size`: the product's minimum, and how flat it is.

`measure_scaling` tells what several devices bring, synchronisation apart.
"""

from isgd_jax.batch_size._noise_scale import NoiseScale
from isgd_jax.batch_size._noise_scale import gradient_noise_scale
from isgd_jax.batch_size._plan import BatchSizePlan
from isgd_jax.batch_size._plan import optimal_batch_size
from isgd_jax.batch_size._plan import scale_learning_rate
from isgd_jax.batch_size._plan import time_to_loss
from isgd_jax.batch_size._scaling import ScalingRow
from isgd_jax.batch_size._scaling import measure_scaling
from isgd_jax.batch_size._step_time import StepTimeModel
from isgd_jax.batch_size._step_time import fit_step_time
from isgd_jax.batch_size._step_timing import StepSeconds
from isgd_jax.batch_size._step_timing import measure_step_seconds
from isgd_jax.batch_size._steps_law import CriticalBatchLaw
from isgd_jax.batch_size._steps_law import PaperLaw
from isgd_jax.batch_size._steps_law import StepsLaw
from isgd_jax.batch_size._steps_law import critical_batch_law
from isgd_jax.batch_size._steps_law import fit_critical_batch_law
from isgd_jax.batch_size._steps_law import fit_paper_law
from isgd_jax.batch_size._steps_law import paper_law
from isgd_jax.batch_size._steps_law import steps_to_loss

__all__ = (
  'BatchSizePlan',
  'CriticalBatchLaw',
  'NoiseScale',
  'PaperLaw',
  'ScalingRow',
  'StepSeconds',
  'StepTimeModel',
  'StepsLaw',
  'critical_batch_law',
  'fit_critical_batch_law',
  'fit_paper_law',
  'fit_step_time',
  'gradient_noise_scale',
  'measure_scaling',
  'measure_step_seconds',
  'optimal_batch_size',
  'paper_law',
  'scale_learning_rate',
  'steps_to_loss',
  'time_to_loss',
)
