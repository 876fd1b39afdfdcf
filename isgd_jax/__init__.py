"""Inconsistent SGD for JAX: a control chart in the optimizer state.

`isgd` wraps an Optax optimizer. A statistical-process-control chart of the
batch losses, kept in the optimizer state, finds the batches that are out of
control; inside the jitted step each of them gets a bounded number of extra
gradient steps on a conservative subproblem.
"""

from isgd_jax._control_chart import ChartReading
from isgd_jax._control_chart import ControlChart
from isgd_jax._control_chart import ShewhartState
from isgd_jax._control_chart import shewhart
from isgd_jax._data_parallel import value_and_grad
from isgd_jax._info import ISGDInfo
from isgd_jax._info import get_info
from isgd_jax._isgd import ISGDState
from isgd_jax._isgd import isgd
from isgd_jax._isgd import paper_isgd
from isgd_jax._schedules import ScaleByMeanLossState
from isgd_jax._schedules import scale_by_mean_loss
from isgd_jax._subproblem import Subproblem
from isgd_jax._subproblem import SubproblemSolver
from isgd_jax._subproblem import gauss_newton
from isgd_jax._subproblem import gradient_descent

__version__ = '0.1.0'

__all__ = (
  'ChartReading',
  'ControlChart',
  'ISGDInfo',
  'ISGDState',
  'ScaleByMeanLossState',
  'ShewhartState',
  'Subproblem',
  'SubproblemSolver',
  'gauss_newton',
  'get_info',
  'gradient_descent',
  'isgd',
  'paper_isgd',
  'scale_by_mean_loss',
  'shewhart',
  'value_and_grad',
)
