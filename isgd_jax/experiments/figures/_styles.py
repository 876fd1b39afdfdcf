"""How each method looks in every figure, and what all figures share."""

from collections.abc import Iterable, Mapping
import itertools
import pathlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from isgd_jax import plotting
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.figures._saving import save_figure

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

LineStyle = str | tuple[float, tuple[float, ...]]


class MethodStyle(NamedTuple):
  """How a method looks in every figure.

  Attributes:
    title: its name in legends.
    color: of Okabe and Ito's.
    line: matplotlib's line style; with the colour, no other method's.
    marker: matplotlib's marker, for points; no other method's.
  """

  title: str
  color: str
  line: LineStyle
  marker: str


_LONG_DASHES = (0.0, (8.0, 2.0))
_DASH_DOT_DOT = (0.0, (5.0, 1.5, 1.0, 1.5, 1.0, 1.5))

METHOD_STYLES: Mapping[str, MethodStyle] = MappingProxyType(
  {
    'base': MethodStyle('base', plotting.BLACK, '-', 'o'),
    'base-constant': MethodStyle(
      'base, constant rate', plotting.GREY, _LONG_DASHES, 's'
    ),
    'base-decayed': MethodStyle(
      'base, decayed rate', plotting.BLACK, '-.', 'D'
    ),
    'twice': MethodStyle('every batch twice', plotting.GREEN, '--', '^'),
    'random': MethodStyle('random trigger', plotting.ORANGE, '-.', 'v'),
    'isgd': MethodStyle('ISGD', plotting.BLUE, '-', '*'),
    'isgd-probation': MethodStyle(
      'ISGD on probation', plotting.BLUE, _DASH_DOT_DOT, 'd'
    ),
    'isgd-constant': MethodStyle(
      'ISGD, constant rate', plotting.SKY_BLUE, _LONG_DASHES, 'p'
    ),
    'paper-isgd': MethodStyle("the paper's ISGD", plotting.PURPLE, '-', 'P'),
    'skip': MethodStyle('skip on spike', plotting.VERMILION, ':', 'X'),
    'reset': MethodStyle('reset of the base state', plotting.GREY, ':', '1'),
    'reshuffled': MethodStyle(
      'base, reshuffled', plotting.GREEN, _DASH_DOT_DOT, '<'
    ),
    'polyak': MethodStyle('Polyak SGD', plotting.VERMILION, '--', '>'),
    'momo': MethodStyle('MoMo', plotting.PURPLE, ':', 'h'),
  }
)

# For variants of a method, in an ablation: nothing that is above.
_FURTHER_STYLES = tuple(
  (color, line)
  for line in ('-', (0.0, (3.0, 1.0, 1.0, 1.0)), (0.0, (1.0, 3.0)))
  for color in (
    plotting.VERMILION,
    plotting.SKY_BLUE,
    plotting.ORANGE,
    plotting.GREEN,
    plotting.GREY,
  )
)
_FURTHER_MARKERS = ('H', '8', '2', '3', '4', '+', 'x')


def method_styles(
  methods: Iterable[str], titles: Mapping[str, str] | None = None
) -> dict[str, MethodStyle]:
  """How each of some methods looks.

  Args:
    methods: their names. Those of `METHOD_STYLES` look the same in every
      figure; others, in their order, get what no method of it has.
    titles: of methods whose legend is to differ; a name that has neither is its
      own title.

  Returns:
    The style of each method, in their order.

  Example:
    >>> styles = method_styles(['isgd', 'gauss-newton'], {'isgd': 'ours'})
    >>> [style.title for style in styles.values()]
    ['ours', 'gauss-newton']
  """
  titles = titles or {}
  further = itertools.cycle(_FURTHER_STYLES)
  markers = itertools.cycle(_FURTHER_MARKERS)
  styles = {}
  for method in dict.fromkeys(methods):
    style = METHOD_STYLES.get(method)
    if style is None:
      style = MethodStyle(method, *next(further), next(markers))
    styles[method] = style._replace(title=titles.get(method, style.title))
  return styles


def check_not_empty(name: str, value: Any) -> None:
  """An error where there is nothing to draw."""
  if not len(value):
    raise InputError(
      f'{name} must not be empty, got {value!r}; leave the figure out where '
      'there is nothing to draw'
    )


def finish(ax: 'Axes') -> None:
  """What all axes share."""
  ax.spines[['top', 'right']].set_visible(False)


def enclose(
  ax: 'Axes', drawn: Iterable[np.ndarray], *, log: bool = False
) -> None:
  """A vertical axis around what is finite, though bands go on beyond it."""
  values = np.concatenate([np.ravel(d) for d in drawn])
  values = values[np.isfinite(values)]
  if log:
    values = values[values > 0]
    ax.set_yscale('log')
  if not values.size:
    return
  low, high = float(values.min()), float(values.max())
  if log:
    margin = max(high / low, 1.1) ** 0.05
    ax.set_ylim(low / margin, high * margin)
    plain_log_axis(ax.yaxis)
  else:
    margin = 0.05 * (high - low or abs(high) or 1.0)
    ax.set_ylim(low - margin, high + margin)


def plain_log_axis(axis: Any) -> None:
  """Numbers such as 0.05 on a logarithmic axis, and few enough of them."""
  from matplotlib import ticker

  low, high = axis.get_view_interval()
  axis.set_major_formatter('{x:,g}')
  # Over more decades they would run into one another.
  if high / low < 1000:
    subs = (2.0, 3.0, 5.0) if high / low < 30 else (2.0, 5.0)
    # Within less than a decade there may be but one of these.
    subs = (1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if high / low < 5 else subs
    axis.set_minor_locator(ticker.LogLocator(subs=subs))
    axis.set_minor_formatter('{x:,g}')
  else:
    axis.set_minor_formatter(ticker.NullFormatter())


def legend_below(
  figure: 'Figure', axes: Iterable['Axes'], ncols: int | None = None
) -> None:
  """One legend below all panels, of what is seen, each label once.

  `ncols` of None takes what fits.
  """
  ncols = ncols or max(3, int(figure.get_figwidth() / 1.5))
  by_label = {}
  for ax in axes:
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
      if not (ax.get_yscale() == 'log' and _is_below_zero(handle)):
        by_label.setdefault(label, handle)
  figure.legend(
    list(by_label.values()),
    list(by_label),
    loc='outside lower center',
    ncols=min(ncols, len(by_label)),
    frameon=False,
    fontsize=9,
    handlelength=3.2,  # Room for the pattern of a line to be seen.
  )


def _is_below_zero(handle: Any) -> bool:
  """Whether a line has nothing that a logarithmic axis can show."""
  if not hasattr(handle, 'get_ydata'):
    return False
  values = np.asarray(handle.get_ydata())
  return values.size > 0 and not (values > 0).any()


def save(figure: 'Figure', path: pathlib.Path, title: str) -> 'Figure':
  """Titles the figure and writes it in one piece."""
  if title:
    figure.suptitle(title, fontsize=11)
  save_figure(figure, path, dpi=110)
  return figure
