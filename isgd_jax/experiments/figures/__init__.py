"""The figures of the comparison, each drawn from plain arrays."""

from isgd_jax.experiments.figures._batches import draw_batch_kinds
from isgd_jax.experiments.figures._batches import draw_loss_distributions
from isgd_jax.experiments.figures._batches import draw_positions
from isgd_jax.experiments.figures._curves import Curve
from isgd_jax.experiments.figures._curves import draw_stream
from isgd_jax.experiments.figures._curves import draw_training
from isgd_jax.experiments.figures._curves import rolling_mean
from isgd_jax.experiments.figures._gain_map import draw_gain_map
from isgd_jax.experiments.figures._saving import FigureFormat
from isgd_jax.experiments.figures._saving import save_figure
from isgd_jax.experiments.figures._scores import IntervalRow
from isgd_jax.experiments.figures._scores import draw_intervals
from isgd_jax.experiments.figures._scores import draw_profile
from isgd_jax.experiments.figures._styles import METHOD_STYLES
from isgd_jax.experiments.figures._styles import MethodStyle
from isgd_jax.experiments.figures._styles import method_styles

__all__ = [
  # Scores
  'IntervalRow',
  'draw_gain_map',
  'draw_intervals',
  'draw_profile',
  # Curves
  'Curve',
  'draw_stream',
  'draw_training',
  'rolling_mean',
  # Losses of batches
  'draw_batch_kinds',
  'draw_loss_distributions',
  'draw_positions',
  # Files
  'FigureFormat',
  'save_figure',
  # How a method looks
  'METHOD_STYLES',
  'MethodStyle',
  'method_styles',
]
