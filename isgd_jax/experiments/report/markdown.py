"""Numbers and tables as Markdown."""

from collections.abc import Iterable, Sequence
import math
import statistics

from isgd_jax.experiments.statistics import Interval

_LOSS_DIGITS = 3
_SMALL_LOSS = 0.01


def markdown_table(
  header: Sequence[str], lines: Iterable[Sequence[str]]
) -> str:
  """A Markdown table; the first column is left-aligned, the others right.

  Args:
    header: one title a column.
    lines: one text a cell.

  Returns:
    The text.

  Example:
    >>> print(markdown_table(['a', 'b'], [['x', '1']]))
    | a | b |
    | :-- | --: |
    | x | 1 |
  """
  rule = [':--', *['--:'] * (len(header) - 1)]
  return '\n'.join(
    '| ' + ' | '.join(cells) + ' |' for cells in (header, rule, *lines)
  )


def spread(
  interval: Interval, digits: int, scale: float = 1.0, *, signed: bool = False
) -> str:
  """`median [low, high]`.

  Args:
    interval: the numbers.
    digits: behind the point.
    scale: what they are multiplied by.
    signed: whether to show a plus.

  Returns:
    The text; infinities are `inf`.

  Example:
    >>> spread(Interval(0.5, 0.25, math.inf), 1, 100.0)
    '50.0 [25.0, inf]'
  """
  median, low, high = (
    number(x * scale, digits, signed=signed) for x in interval
  )
  return f'{median} [{low}, {high}]'


def cost(values: Iterable[float], digits: int) -> str:
  """Median and range of what runs cost; how many missed, if any.

  Args:
    values: one a run; infinite where it missed.
    digits: behind the point.

  Returns:
    The text; `missed` where all did.

  Example:
    >>> cost([100.0, 120.0, math.inf], 0), cost([math.inf], 0)
    ('120 (1 of 3 missed)', 'missed')
  """
  values = list(values)
  num_missed = sum(map(math.isinf, values))
  median = statistics.median_high(values)
  text = number(median, digits) if math.isfinite(median) else 'missed'
  if num_missed == len(values):
    return 'missed'
  if num_missed:
    verb = ' missed' if math.isfinite(median) else ''
    return f'{text} ({num_missed} of {len(values)}{verb})'
  return spread(Interval(median, min(values), max(values)), digits)


def number(value: float, digits: int, *, signed: bool = False) -> str:
  """A number; an infinity as `inf`.

  Args:
    value: the number, not NaN.
    digits: behind the point; with three, as losses have, a small one has two
      that say something.
    signed: whether to show a plus.

  Returns:
    The text.

  Example:
    >>> number(0.25, 3), number(0.0025, 3), number(25.0, 1, signed=True)
    ('0.250', '0.0025', '+25.0')
  """
  if not math.isfinite(value):
    return ('+' if signed and value > 0 else '-' if value < 0 else '') + 'inf'
  sign = '+' if signed else ''
  # A small loss would be 0.000, as would one of half its size.
  if digits == _LOSS_DIGITS and not signed and 0 < value < _SMALL_LOSS:
    return f'{value:#.2g}'
  return f'{value:{sign}.{digits}f}'
