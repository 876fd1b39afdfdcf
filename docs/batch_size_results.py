"""Puts the validation into docs/batch_size.md, and draws its figure.

The predictions are made here, from the lines that were measured:

make bench && python docs/batch_size_results.py
"""

import json
import pathlib
import statistics
from typing import Any, NamedTuple
import warnings

import numpy as np
import scipy.stats

from isgd_jax import batch_size
from isgd_jax import plotting
from isgd_jax.experiments.plan_batch_size import losses

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINES = ROOT / 'benchmarks/batch_size_validation.jsonl'
PAGE = ROOT / 'docs/batch_size.md'
FIGURE = ROOT / 'docs/batch_size/validation.png'
BEGIN, END = '<!-- validation: begin -->', '<!-- validation: end -->'

# By name, what predicts: (law, from what).
PREDICTORS = {
  'critical, others': 'critical-batch law, fitted to the other five sizes',
  'paper, others': "paper's law, fitted to the other five sizes",
  'critical, pilot': 'critical-batch law, noise scale and pilot at 128',
  'paper, pilot': "paper's law, pilot at 128",
}


class Measured(NamedTuple):
  """A workload as it was measured.

  Attributes:
    workload: its record.
    sizes: int64[n], examples.
    rates: float64[n], tuned learning rates.
    counts: of each size, the steps of every reporting seed; infinite where a
      run missed the target.
    steps: float64[n], their medians.
    step_seconds: float64[n], medians.
    noise: its records, ascending by step.
    pilot: its record.
    timing: the record of the seconds of a step, of this workload or of the one
      whose step is the same.
  """

  workload: dict[str, Any]
  sizes: np.ndarray
  rates: np.ndarray
  counts: list[list[float]]
  steps: np.ndarray
  step_seconds: np.ndarray
  noise: list[dict[str, Any]]
  pilot: dict[str, Any]
  timing: dict[str, Any]

  @property
  def seconds(self) -> np.ndarray:
    """Seconds to the target, compilation apart."""
    return self.steps * self.step_seconds


class Score(NamedTuple):
  """How good predictions are.

  Attributes:
    step_error: median absolute relative error of the steps.
    second_error: of the seconds.
    rank_correlation: Spearman's, of predicted and measured seconds.
    optimum: the size of the least predicted seconds.
    regret: measured seconds there over the least measured ones.
  """

  step_error: float
  second_error: float
  rank_correlation: float
  optimum: int
  regret: float


def load(path: pathlib.Path = LINES) -> list[Measured]:
  """Reads the measurements, a `Measured` for each workload."""
  records = [json.loads(line) for line in path.read_text().splitlines()]

  def of_kind(kind, name):
    return [r for r in records if (r['kind'], r['workload']) == (kind, name)]

  measured = []
  for work in (r for r in records if r['kind'] == 'workload'):
    name = work['workload']
    (timing,) = of_kind('step_seconds', work.get('same_step_as') or name)
    (pilot,) = of_kind('pilot', name)
    runs = [r for r in of_kind('run', name) if r['part'] == 'reporting']
    sizes = timing['batch_sizes']
    of_size = [[r for r in runs if r['batch_size'] == size] for size in sizes]
    counts = [
      [np.inf if r['steps'] is None else float(r['steps']) for r in some]
      for some in of_size
    ]
    measured.append(
      Measured(
        workload=work,
        sizes=np.array(sizes),
        rates=np.array([some[0]['learning_rate'] for some in of_size]),
        counts=counts,
        steps=np.array([statistics.median(some) for some in counts]),
        step_seconds=np.array(timing['median']),
        noise=of_kind('noise', name),
        pilot=pilot,
        timing=timing,
      )
    )
  return measured


def pilot_critical_size(work: Measured) -> float:
  """B_crit as the planner takes it from its pilot run."""
  points = [
    losses.NoisePoint(
      r['step'],
      r['loss'],
      batch_size.NoiseScale(
        *(r[field] for field in batch_size.NoiseScale._fields)
      ),
    )
    for r in work.noise
  ]
  return losses.critical_batch_size(points, work.pilot['steps'])


def predicted(work: Measured) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Steps and seconds of each size by each predictor.

  None has seen the size, but for the pilot's size, whose steps the pilot's
  predictors begin with. Seconds a step are fitted to the other sizes for all.
  """
  target = work.workload['target_loss']
  pilot_size, pilot_steps = work.pilot['batch_size'], work.pilot['steps']
  from_pilot = {
    'critical, pilot': batch_size.critical_batch_law(
      pilot_critical_size(work), batch_size=pilot_size, steps=pilot_steps
    ),
    'paper, pilot': batch_size.fit_paper_law(
      [pilot_size], [pilot_steps], target
    ),
  }
  steps = {name: [] for name in PREDICTORS}
  seconds = {name: [] for name in PREDICTORS}
  for i, size in enumerate(work.sizes):
    others = np.arange(len(work.sizes)) != i
    sizes, counts = work.sizes[others], work.steps[others]
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # Of fits to five sizes.
      model = batch_size.fit_step_time(sizes, work.step_seconds[others])
    laws = {
      'critical, others': batch_size.fit_critical_batch_law(sizes, counts),
      'paper, others': batch_size.fit_paper_law(sizes, counts, target),
      **from_pilot,
    }
    for name, law in laws.items():
      steps[name].append(float(law.steps(size)))
      seconds[name].append(float(batch_size.time_to_loss(size, model, law)))
  return {
    name: (np.array(steps[name]), np.array(seconds[name]))
    for name in PREDICTORS
  }


def score(work: Measured, name: str) -> Score:
  """What a predictor is worth on a workload."""
  steps, seconds = predicted(work)[name]
  chosen = int(np.argmin(seconds))
  # The pilot's predictors begin with the steps at its size.
  counted = np.ones(len(work.sizes), bool)
  if name.endswith('pilot'):
    counted = work.sizes != work.pilot['batch_size']
  return Score(
    float(np.median(np.abs(steps / work.steps - 1)[counted])),
    float(np.median(np.abs(seconds / work.seconds - 1)[counted])),
    float(scipy.stats.spearmanr(seconds, work.seconds).statistic),
    int(work.sizes[chosen]),
    float(work.seconds[chosen] / work.seconds.min()),
  )


def size_tables(work: Measured) -> str:
  """Measured and predicted steps, then seconds, a line for each size."""
  predictions = predicted(work).values()
  names = ' | '.join(f'*{name}*' for name in PREDICTORS)
  rule = '| ' + ' | '.join(['---'] * (3 + len(PREDICTORS))) + ' |'
  of_steps = [f'| batch size | rate | steps (range) | {names} |', rule]
  of_seconds = [f'| batch size | ms a step | seconds | {names} |', rule]
  for i, size in enumerate(work.sizes):
    low, high = min(work.counts[i]), max(work.counts[i])
    cells = [
      f'{size}',
      f'{work.rates[i]:g}',
      f'{work.steps[i]:,.0f} ({low:,.0f} to {high:,.0f})',
      *(f'{steps[i]:,.0f}' for steps, _ in predictions),
    ]
    of_steps.append(f'| {" | ".join(cells)} |')
    cells = [
      f'{size}',
      f'{1e3 * work.step_seconds[i]:.3g}',
      f'{work.seconds[i]:.3g}',
      *(f'{seconds[i]:.3g}' for _, seconds in predictions),
    ]
    of_seconds.append(f'| {" | ".join(cells)} |')
  return '\n'.join([*of_steps, '', *of_seconds])


def score_table(works: list[Measured]) -> str:
  """How good the predictions are, a line for each."""
  lines = [
    '| data set | predictions | error of steps | error of seconds '
    '| rank correlation | predicted best | measured best | regret |',
    '| ' + ' | '.join(['---'] * 8) + ' |',
  ]
  for work in works:
    best = work.sizes[int(np.argmin(work.seconds))]
    for name in PREDICTORS:
      s = score(work, name)
      lines.append(
        f'| {work.workload["workload"]} | {PREDICTORS[name]} '
        f'| {s.step_error:.0%} | {s.second_error:.0%} '
        f'| {s.rank_correlation:.2f} | {s.optimum} | {best} '
        f'| {s.regret:.2f} |'
      )
  return '\n'.join(lines)


def mean_errors(works: list[Measured]) -> dict[str, float]:
  """Of each predictor, the mean over the data sets of the seconds' error."""
  return {
    name: statistics.mean(score(work, name).second_error for work in works)
    for name in PREDICTORS
  }


def worst_regrets(works: list[Measured]) -> dict[str, float]:
  """Of each predictor, the largest regret over the data sets."""
  return {
    name: max(score(work, name).regret for work in works) for name in PREDICTORS
  }


def verdict(works: list[Measured]) -> str:
  """What the scores say, in words."""
  errors, regrets = mean_errors(works), worst_regrets(works)
  sentences = []
  for source, what in (
    ('others', 'Fitted to runs at other sizes'),
    ('pilot', 'From one pilot run, which is all that the planner makes'),
  ):
    critical, paper = f'critical, {source}', f'paper, {source}'
    sentences.append(
      f'{what}, the critical-batch-size law was off by {errors[critical]:.0%} '
      f"in the seconds (the paper's by {errors[paper]:.0%}; median over the "
      'sizes, mean over the data sets), and the size it chose cost at most '
      f'{regrets[critical] - 1:.0%} more than the best (the '
      f"paper's {regrets[paper] - 1:.0%})."
    )
  for work in works:
    fit = batch_size.fit_critical_batch_law(work.sizes, work.steps)
    sentences.append(
      f'On {work.workload["workload"]} the steps themselves, at all sizes, '
      f'give a B_crit of {fit.critical_batch_size:,.0f} +- '
      f'{fit.critical_batch_size_error:,.0f}; the noise scale gave '
      f'{pilot_critical_size(work):,.0f}.'
    )
    if np.argmin(work.seconds) == len(work.sizes) - 1:
      sentences.append(
        'The largest size was the best there; larger ones may be better yet, '
        'and the regrets larger.'
      )
  return ' '.join(sentences)


def section(works: list[Measured]) -> str:
  """The generated part of the page."""
  timing = works[-1].timing
  versions, hardware = timing['versions'], timing['hardware']
  targets = ', '.join(
    f'{w.workload["target_loss"]:g} on {w.workload["workload"]}' for w in works
  )
  tuning, reporting = (
    len(works[0].workload[f'{part}_seeds']) for part in ('tuning', 'reporting')
  )
  same_steps = ''.join(
    f' A step on {w.workload["workload"]} has the shapes of one on '
    f'{other}, whose seconds it is given: they were not measured again.'
    for w in works
    if (other := w.workload.get('same_step_as'))
  )
  parts = [
    f'MLP with 128 hidden units, momentum 0.9, to a smoothed training loss of '
    f'{targets}; the rate tuned at each size over {tuning} seeds; medians '
    f'(and ranges) of {reporting} other seeds; seconds without compilation '
    f'({hardware["device"]}, {hardware["num_cpus"]} cores, jax '
    f'{versions["jax"]}, Python {versions["python"]}, {timing["date"]}).'
    f'{same_steps}',
    score_table(works),
    verdict(works),
    '![Steps and seconds to the target by batch size, measured and predicted]'
    '(batch_size/validation.png)',
  ]
  for work in works:
    parts += [f'On {work.workload["workload"]}:', size_tables(work)]
  return '\n\n'.join(parts)


def render(text: str, works: list[Measured]) -> str:
  """`text` with its generated part made anew."""
  before, rest = text.split(BEGIN)
  _, after = rest.split(END)
  return f'{before}{BEGIN}\n\n{section(works)}\n\n{END}{after}'


_STYLES = {
  'critical, others': (plotting.BLUE, '-', 's'),
  'paper, others': (plotting.ORANGE, '-', '^'),
  'critical, pilot': (plotting.SKY_BLUE, '--', 'D'),
  'paper, pilot': (plotting.VERMILION, '--', 'v'),
}


def draw(works: list[Measured], path: pathlib.Path = FIGURE) -> None:
  """Draws steps and seconds, measured and predicted, by batch size."""
  from matplotlib import ticker

  figure = plotting.new_figure(10.0, 3.4 * len(works) + 0.8)
  rows = figure.subplots(len(works), 2, squeeze=False)
  for axes, work in zip(rows, works, strict=True):
    predictions = predicted(work)
    for column, ax in enumerate(axes):
      of_seed = np.array(work.counts)
      if column:
        of_seed = of_seed * work.step_seconds[:, None]
      middle = np.median(of_seed, axis=1)
      ax.errorbar(
        work.sizes,
        middle,
        np.abs([of_seed.min(1) - middle, of_seed.max(1) - middle]),
        color=plotting.BLACK,
        marker='o',
        linestyle='none',
        capsize=3,
        zorder=4,
        label='measured, median and range',
      )
      for name, prediction in predictions.items():
        color, line, marker = _STYLES[name]
        ax.plot(
          work.sizes,
          prediction[column],
          color=color,
          linestyle=line,
          linewidth=1.2,
          marker=marker,
          markersize=5,
          fillstyle='none',
          label=PREDICTORS[name],
        )
      ax.set_xscale('log', base=2)
      ax.set_yscale('log')
      ax.set_xticks(work.sizes, [str(size) for size in work.sizes])
      ax.yaxis.set_minor_locator(ticker.LogLocator(subs=(2.0, 5.0)))
      ax.yaxis.set_major_formatter('{x:,g}')
      ax.yaxis.set_minor_formatter('{x:,g}')
      ax.set_ylabel(f'{("steps", "seconds")[column]} to the target')
      ax.set_title(work.workload['workload'], fontsize=10, loc='left')
      ax.spines[['top', 'right']].set_visible(False)
  for ax in rows[-1]:
    ax.set_xlabel('batch size (examples)')
  handles, labels = rows[0][0].get_legend_handles_labels()
  figure.legend(
    [handles[-1], *handles[:-1]],
    [labels[-1], *labels[:-1]],
    loc='outside lower center',
    ncols=2,
    frameon=False,
    fontsize=9,
  )
  figure.align_ylabels(rows)
  path.parent.mkdir(exist_ok=True)
  for ending in ('.png', '.svg'):
    plotting.save_figure(figure, path.with_suffix(ending), dpi=130)


if __name__ == '__main__':
  everything = load()
  draw(everything)
  PAGE.write_text(render(PAGE.read_text(), everything))
  print(section(everything))
