"""Figures of the control chart (matplotlib, the extra `plot`).

The colours are Okabe and Ito's, which people with any kind of colour vision
can tell apart (https://jfly.uni-koeln.de/color/).
"""

from isgd_jax.plotting._chart_figure import BLACK
from isgd_jax.plotting._chart_figure import BLUE
from isgd_jax.plotting._chart_figure import GREEN
from isgd_jax.plotting._chart_figure import GREY
from isgd_jax.plotting._chart_figure import ORANGE
from isgd_jax.plotting._chart_figure import PURPLE
from isgd_jax.plotting._chart_figure import SKY_BLUE
from isgd_jax.plotting._chart_figure import VERMILION
from isgd_jax.plotting._control_chart import new_figure
from isgd_jax.plotting._control_chart import plot_control_chart
from isgd_jax.plotting._control_chart import plot_cycle
from isgd_jax.plotting._control_chart import plot_run
from isgd_jax.plotting._control_chart import save_figure

__all__ = (
  'BLACK',
  'BLUE',
  'GREEN',
  'GREY',
  'ORANGE',
  'PURPLE',
  'SKY_BLUE',
  'VERMILION',
  'new_figure',
  'plot_control_chart',
  'plot_cycle',
  'plot_run',
  'save_figure',
)
