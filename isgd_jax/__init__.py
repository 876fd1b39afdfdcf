"""Inconsistent SGD for JAX: a control chart in the optimizer state.

`isgd` wraps an Optax optimizer. A statistical-process-control chart of the
batch losses, kept in the optimizer state, finds the batches that are out of
control; inside the jitted step each of them gets a bounded number of extra
gradient steps on a conservative subproblem.
"""

from isgd_jax._actions import SkipState
from isgd_jax._actions import WatchState
from isgd_jax._actions import skip_out_of_control
from isgd_jax._actions import watch
from isgd_jax._charts.chart import ChartReading
from isgd_jax._charts.chart import ControlChart
from isgd_jax._charts.cusum import CusumState
from isgd_jax._charts.cusum import cusum
from isgd_jax._charts.difference import DifferenceState
from isgd_jax._charts.difference import difference_chart
from isgd_jax._charts.estimators import MedianState
from isgd_jax._charts.estimators import MovingRangeState
from isgd_jax._charts.ewma import EwmaState
from isgd_jax._charts.ewma import ewma
from isgd_jax._charts.exponential import ExponentialState
from isgd_jax._charts.exponential import exponential_chart
from isgd_jax._charts.joined import all_of
from isgd_jax._charts.joined import any_of
from isgd_jax._charts.joined import chart_of
from isgd_jax._charts.restart import RestartState
from isgd_jax._charts.restart import with_restart
from isgd_jax._charts.run_rules import RunRule
from isgd_jax._charts.run_rules import RunRulesState
from isgd_jax._charts.run_rules import with_run_rules
from isgd_jax._charts.shewhart import default_chart
from isgd_jax._charts.shewhart import fixed_limits
from isgd_jax._charts.shewhart import shewhart
from isgd_jax._charts.window import WindowState
from isgd_jax._chase.solvers import gauss_newton
from isgd_jax._chase.solvers import gradient_descent
from isgd_jax._chase.subproblem import Subproblem
from isgd_jax._chase.subproblem import SubproblemSolver
from isgd_jax._convolution import conv_general_dilated
from isgd_jax._describe import describe_chases
from isgd_jax._describe import info_dict
from isgd_jax._devices.collectives import value_and_grad
from isgd_jax._devices.microbatched import microbatched
from isgd_jax._devices.shares import PaddedShards
from isgd_jax._devices.shares import measure_throughputs
from isgd_jax._devices.shares import pad_shards
from isgd_jax._devices.shares import proportional_shards
from isgd_jax._info import ISGDInfo
from isgd_jax._info import PartInfo
from isgd_jax._info import get_info
from isgd_jax._info import get_parts
from isgd_jax._isgd import ISGDState
from isgd_jax._isgd import isgd
from isgd_jax._isgd import paper_isgd
from isgd_jax._mean_loss import ScaleByMeanLossState
from isgd_jax._mean_loss import scale_by_mean_loss
from isgd_jax._presets import levanter_skip_step
from isgd_jax._presets import maxtext_skip_on_spike
from isgd_jax._presets import olmo_core_skip_step
from isgd_jax._presets import zclip
from isgd_jax._reactions.clip import ClipState
from isgd_jax._reactions.clip import clip
from isgd_jax._reactions.react import ReactState
from isgd_jax._reactions.react import react
from isgd_jax._reactions.reaction import Reaction
from isgd_jax._reactions.reaction import ReactionStep
from isgd_jax._reactions.reset import ResetState
from isgd_jax._reactions.reset import reset
from isgd_jax._reactions.rewarm import RewarmState
from isgd_jax._reactions.rewarm import rewarm
from isgd_jax._reactions.skip import SkippingState
from isgd_jax._reactions.skip import skip

__version__ = '0.1.0'

__all__ = (
  # The optimizer, and the chart's other actions.
  'isgd',
  'paper_isgd',
  'skip_out_of_control',
  'watch',
  'get_info',
  'info_dict',
  'get_parts',
  'describe_chases',
  'scale_by_mean_loss',
  # A chart and reactions to it.
  'react',
  'skip',
  'clip',
  'reset',
  'rewarm',
  'Reaction',
  'ReactionStep',
  # Rules that other frameworks carry.
  'olmo_core_skip_step',
  'maxtext_skip_on_spike',
  'levanter_skip_step',
  'zclip',
  # Many devices, of equal and unequal speed.
  'value_and_grad',
  'proportional_shards',
  'measure_throughputs',
  'pad_shards',
  'microbatched',
  # Control charts.
  'default_chart',
  'shewhart',
  'fixed_limits',
  'ewma',
  'cusum',
  'difference_chart',
  'exponential_chart',
  'chart_of',
  'any_of',
  'all_of',
  'with_run_rules',
  'with_restart',
  'ControlChart',
  'ChartReading',
  'RunRule',
  # The conservative subproblem and its solvers.
  'gauss_newton',
  'gradient_descent',
  'Subproblem',
  'SubproblemSolver',
  # For networks that are chased on a CPU.
  'conv_general_dilated',
  # States and reports.
  'ISGDInfo',
  'ISGDState',
  'SkipState',
  'WatchState',
  'PartInfo',
  'ReactState',
  'SkippingState',
  'ClipState',
  'ResetState',
  'RewarmState',
  'PaddedShards',
  'ScaleByMeanLossState',
  'WindowState',
  'MovingRangeState',
  'MedianState',
  'EwmaState',
  'CusumState',
  'DifferenceState',
  'ExponentialState',
  'RunRulesState',
  'RestartState',
)
