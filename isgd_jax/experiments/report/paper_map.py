"""Where the paper's gain appears: base rate by skew of the cycle."""

from collections.abc import Iterable, Mapping
import math
import pathlib

import numpy as np

from isgd_jax.experiments import figures
from isgd_jax.experiments.report import markdown
from isgd_jax.experiments.report.gain_map import BEST_OF_PAPER
from isgd_jax.experiments.report.gain_map import PAPER_METHODS
from isgd_jax.experiments.report.gain_map import Cell
from isgd_jax.experiments.report.gain_map import GainMap
from isgd_jax.experiments.report.gain_map import gain_of

# The paper's: AlexNet on ImageNet, time to 56 % top-1.
CLAIMED_GAIN = 0.2105
_OUR_METHODS = ('isgd-probation', 'isgd')
_TITLES = {
  BEST_OF_PAPER: "the paper's ISGD, best of three chase rates",
  'isgd-probation': 'ISGD',
  'isgd': 'ISGD, probation=False',
}


def _present(found: GainMap) -> list[str]:
  """The methods that were run, the paper's as one."""
  methods = {method for method, _, _ in found.cells}
  paper = [BEST_OF_PAPER] * bool(methods & PAPER_METHODS.keys())
  return paper + [name for name in _OUR_METHODS if name in methods]


def draw_map(path: pathlib.Path, found: GainMap) -> None:
  """Draws the map, a panel a method.

  Args:
    path: of the figure.
    found: the map.
  """
  panels = {}
  for method in _present(found):
    gains = np.full((len(found.rates), len(found.columns)), math.nan)
    for i, rate in enumerate(found.rates):
      for j, task in enumerate(found.columns):
        cell = found.cell(method, rate, task)
        gains[i, j] = math.nan if cell is None else cell.gain
    panels[_TITLES[method]] = gains
  figures.draw_gain_map(
    path,
    panels,
    [f'{rate:g}' for rate in found.rates],
    list(found.columns.values()),
    row_axis="base's learning rate (momentum 0.9)",
    column_axis='batches of the cycle',
    title=(
      'Gradient evaluations saved on the way to 90 % test accuracy, MNIST '
      f'(medians, seeds: {found.num_seeds})'
    ),
  )


def map_table(found: GainMap) -> str:
  """Every cell: the base's evaluations, and what the methods save of them.

  Args:
    found: the map.

  Returns:
    A Markdown table.
  """
  present = _present(found)
  header = ['cycle, base rate', 'base: evaluations']
  for method in present:
    header.append(_TITLES[method])
    if method == BEST_OF_PAPER:
      header.append('its chase rate, of the base')
  lines = []
  for task, title in found.columns.items():
    for rate in found.rates:
      base = found.cells.get(('base', rate, task))
      if base is None:
        continue
      cells = [
        f'{title}, {rate:g}',
        markdown.cost(base.evaluations.values(), 0),
      ]
      for method in present:
        cell = found.cell(method, rate, task)
        cells.append(_cell_text(cell))
        if method == BEST_OF_PAPER:
          cells.append(_chase_rate(cell))
      lines.append(cells)
  return markdown.markdown_table(header, lines)


def _chase_rate(cell: Cell | None) -> str:
  """Of the paper's, over the base's rate; empty where it says nothing."""
  if cell is None or math.isnan(cell.gain):
    return ''
  return f'{PAPER_METHODS[cell.method]}'


def _cell_text(cell: Cell | None) -> str:
  """Median gain and range; bold where all seeds gain."""
  if cell is None:
    return ''
  if math.isnan(cell.gain):
    return 'both missed'
  known = [g for g in cell.gains.values() if not math.isnan(g)]
  median, low, high = (_percent(x) for x in (cell.gain, min(known), max(known)))
  text = f'{median} [{low}, {high}]' if low != high else median
  return f'**{text}**' if cell.is_gain else text


def _percent(gain: float) -> str:
  if math.isinf(gain):
    return 'base missed' if gain > 0 else 'missed'
  # Rounded to a whole number, so that there is no -0.
  return f'{round(100 * gain):+d} %'


def tuned_table(found: GainMap) -> str:
  """Each method at its own best rate, cycle by cycle.

  Args:
    found: the map.

  Returns:
    A Markdown table.
  """
  groups: dict[str, Iterable[str]] = {'base': ('base',)}
  for method in _present(found):
    groups[_TITLES[method]] = (
      PAPER_METHODS if method == BEST_OF_PAPER else (method,)
    )
  lines = []
  for task, title in found.columns.items():
    base, _ = found.tuned(groups['base'], task)
    cells = [title]
    for name, methods in groups.items():
      spent, rate = found.tuned(methods, task)
      where = f'{spent:.0f} at {rate:g}'
      if math.isinf(spent):
        cells.append('missed')
      elif name == 'base':
        cells.append(where)
      else:
        cells.append(f'{_percent(gain_of(spent, base))} ({where})')
    lines.append(cells)
  return markdown.markdown_table(['cycle', *groups], lines)


def describe_cells(found: GainMap) -> str:
  """Where the gain reaches the paper's, and where it is a loss, in words.

  Args:
    found: the map.

  Returns:
    Markdown.
  """
  sentences = []
  for method in _present(found):
    places = {
      (rate, task): cell
      for task in found.columns
      for rate in found.rates
      if (cell := found.cell(method, rate, task)) is not None
    }
    reaching = {
      k: c for k, c in places.items() if CLAIMED_GAIN <= c.gain < math.inf
    }
    num_alone = sum(cell.gain == math.inf for cell in places.values())
    num_gains = sum(cell.is_gain for cell in places.values())
    num_losses = sum(cell.is_loss for cell in places.values())
    num_missed = sum(math.isnan(cell.gain) for cell in places.values())
    names = ', '.join(
      f'{found.columns[task]} at {rate:g} ({_percent(cell.gain)}'
      f'{"" if cell.is_gain else ", not in every seed"})'
      for (rate, task), cell in reaching.items()
    )
    where = f' ({names})' if names else ''
    sentences.append(
      f'- **{_TITLES[method]}**: of {len(places)} cells the median gain is '
      f'{100 * CLAIMED_GAIN:.0f} % or more in {len(reaching)}{where}, '
      f'and in {num_alone} the base alone missed. '
      f'{_highest(found, places)}Every seed gains in {num_gains}, every seed '
      f'loses in {num_losses}, and neither gets there in {num_missed}.'
    )
  return '\n'.join(sentences)


def _highest(found: GainMap, places: Mapping[tuple[float, str], Cell]) -> str:
  """The highest gain where both get there, and where that is."""
  known = {k: c for k, c in places.items() if math.isfinite(c.gain)}
  if not known:
    return ''
  rate, task = max(known, key=lambda place: known[place].gain)
  text = _cell_text(known[rate, task]).replace('**', '')
  return (
    f'The highest where both get there: {text}, {found.columns[task]} at '
    f'{rate:g}. '
  )


def describe_map(found: GainMap) -> list[str]:
  """The map as paragraphs.

  Args:
    found: the map.

  Returns:
    Markdown paragraphs, without the figure.
  """
  config = found.config
  cycle = config['num_train'] // config['batch_size']
  return [
    "## When is the paper's 21 % right? (`paper-map`)",
    f'MNIST, {config["num_train"]:,} images in a fixed cycle of batches of '
    f'{config["batch_size"]}, network {config["model"]} (one hidden layer), '
    'momentum 0.9 at a constant rate. Gradient evaluations until the test '
    f'accuracy ({config["num_test"]:,} images, judged every ten steps) is 90 % '
    'on average over ten judgements, at most '
    f'{config["num_epochs"] * cycle:,}; seeds: {found.num_seeds}. Medians of '
    'what is saved of those of the base at the same rate, with the range over '
    'the seeds; bold where all gain. The target was fixed from runs of the '
    'base alone on another seed. Of the chase rates, 1, 10 and 100 times the '
    "base's, that with the highest median gain in each cell is shown: chosen "
    'after the fact, which favours the paper.',
    describe_cells(found),
    map_table(found),
    'Each method at the rate, of the five, that is best for it on that cycle:',
    tuned_table(found),
    f'Made on: {"; ".join(found.environments)}.',
  ]
