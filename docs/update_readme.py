"""Puts the measured numbers into README.md and the pages of docs/.

They come from the files that were measured:

make demo OUT=docs/demo && make bench && python docs/update_readme.py

and those of results/ from `isgd-jax compare`.
"""

import functools
import json
import pathlib
import statistics

from isgd_jax.experiments.report import command
from isgd_jax.experiments.report import gain_map
from isgd_jax.experiments.report import paper_map
from isgd_jax.experiments.report import paper_targets
from isgd_jax.experiments.report import replication
from isgd_jax.experiments.report import tables
from isgd_jax.experiments.report import verdicts
from isgd_jax.experiments.report.rows import Rows
from isgd_jax.experiments.statistics import verdict

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = (
  'README.md',
  'docs/charts.md',
  'docs/comparing.md',
  'docs/costs.md',
  'docs/demo.md',
  'docs/replication.md',
  'docs/streams.md',
)
_NONE_YET = (
  'No comparison is on record in `results/` yet; `make results` makes them.'
)


def numbers_section() -> str:
  """Streams, data that stay the same, and the time of a step, in numbers."""
  rows = measured_rows()
  found = [stream_numbers(rows), stationary_numbers(rows)]
  found = [text for text in found if text] or [_NONE_YET]
  return '\n'.join(f'- {text}' for text in [*found, step_numbers()])


def verdict_section() -> str:
  """The table of what to use, without what it is held against."""
  lines = command.verdict_of(ROOT / 'results').split('\n\n')[0]
  return '\n'.join(
    '|'.join(line.split('|')[:5]) + '|' for line in lines.splitlines()
  )


def stream_numbers(rows: Rows) -> str:
  """What ISGD's loss on streams is against the base and every batch twice."""
  found = verdicts.stream_verdicts(rows)
  if not found:
    return ''
  losses, seeds, lower, higher = [], [], 0, 0
  for v in found:
    ours, base = (rows[v.task, v.base, name] for name in ('isgd', 'base'))
    losses.append(ours.median('loss') / base.median('loss'))
    seeds.append(len(ours.runs))
    word = verdict(v.versus['base'])
    lower, higher = lower + (word == 'lower'), higher + (word == 'higher')
  spent = [v.evaluation_ratio for v in found]
  count = verdicts.summary_of
  return (
    f'**Streams that we made drift**, `probation=False` ({len(found)} pairs of '
    f'a stream and a base optimizer, {least_to_most(seeds, 0)} seeds, each '
    'method with its own tuned rate). The prequential loss of ISGD was lower '
    f"than the base's in {lower} and higher in {higher}; it was "
    f"{statistics.median(losses):.2f} times the base's (median; "
    f'{least_to_most(losses)}), for {least_to_most(spent)} times the '
    'gradient evaluations. It was no higher than with *every batch twice*, '
    'which takes 2 times the evaluations, in '
    f'{count(found, "is_no_worse_than_twice")}, and lower than with the same '
    'extra steps on random batches in '
    f'{count(found, "is_better_than_random")}.'
  )


def stationary_numbers(rows: Rows) -> str:
  """How often ISGD did no harm on data that stay the same."""
  found = verdicts.stationary_verdicts(rows)
  if not found:
    return ''
  num_better = sum(bool(v.better) and not v.worse for v in found)
  num_worse = sum(bool(v.worse) for v in found)
  return (
    '**Data that stay the same**, `probation=False`, at equal gradient '
    'evaluations. Train loss, '
    "test loss and accuracy were within the base optimizer's own seeds, or "
    f'better, in {verdicts.summary_of(found, "is_harmless")} comparisons; all '
    f'seeds agree on a gain in {num_better}, and on a loss in {num_worse}.'
  )


def step_numbers() -> str:
  """What a step without a chase takes, of the base optimizer's step."""
  run = newest_run('step_cost')
  steps = [row['untriggered'] for row in run['rows']]
  parts = [
    f'{least_to_most([s["ratio"] for s in chosen])} times where it takes '
    f'{words} a millisecond'
    for words, chosen in (
      ('more than', [s for s in steps if s['base_ms'] > 1]),
      ('less than', [s for s in steps if s['base_ms'] <= 1]),
    )
    if chosen
  ]
  return (
    "**Time of a step that flags nothing**, of the base optimizer's step "
    f'({describe_machine(run)}): {", ".join(parts)}.'
  )


def newest_run(part: str):
  """The newest line of a benchmark, with the usual allocator."""
  return [r for r in runs_of(part) if not r.get('keeps_memory')][-1]


def runs_of(part: str):
  """All lines of a benchmark."""
  lines = (ROOT / f'benchmarks/{part}.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def with_memory_kept(run):
  """What a step without a chase takes where the allocator keeps its memory.

  Returns:
    (network, base, window) -> ratio, of the newest run on the same device.
  """
  kept = [
    r
    for r in runs_of('step_cost')
    if r.get('keeps_memory') and r['hardware'] == run['hardware']
  ]
  return {
    (row['network'], row['base'], row['window_size']): (
      f'{row["untriggered"]["ratio"]:.3f}'
    )
    for row in (kept[-1]['rows'] if kept else ())
  }


def describe_machine(run) -> str:
  """Hardware and versions, in short."""
  hardware, versions = run['hardware'], run['versions']
  return (
    f'{hardware["device"]}, {hardware["num_cpus"]} cores, jax '
    f'{versions["jax"]}, {run["date"]}'
  )


def least_to_most(numbers, digits: int = 2) -> str:
  """`5`, or `3 to 5`."""
  ends = [f'{of(numbers):.{digits}f}' for of in (min, max)]
  return ' to '.join(dict.fromkeys(ends))


def demo_section() -> str:
  """What the demo printed, and its figures."""
  summary = (ROOT / 'docs/demo/summary.txt').read_text().rstrip()
  return (
    f'`make demo` printed this:\n\n```text\n{summary}\n```\n\n'
    '![Control chart of ISGD on the drifting stream]'
    '(demo/control_chart.png)\n'
    '![Accuracy over the drifting stream](demo/accuracy_over_stream.png)'
  )


def bench_section() -> str:
  """The newest line of the benchmark as a table."""
  run = newest_run('step_cost')
  kept = with_memory_kept(run)
  steps = run['num_chase_steps']
  table = [
    '| training step | base, ms | no chase (quartiles) | no chase, memory kept '
    f'| chase of {steps}, an evaluation | compile | memory, copies |',
    '| --- | --- | --- | --- | --- | --- | --- |',
  ]
  for row in run['rows']:
    plain = row['untriggered']
    key = row['network'], row['base'], row['window_size']
    low, high = plain['quartiles']
    table.append(
      f'| {row["network"]}, {row["base"]}, window {row["window_size"]:,} '
      f'| {plain["base_ms"]:.2f} | {plain["ratio"]:.3f} '
      f'({low:.3f} to {high:.3f}) | {kept.get(key, "")} '
      f'| {row["chase"]["ratio"]:.2f} '
      f'| {row["compile"]:.1f} | {row["memory_copies"]:+.2f} |'
    )
  return (
    '`make bench`, ratios to the base optimizer, side by side in one process '
    f'({describe_machine(run)}); memory is live bytes above the base step, in '
    'copies of the parameters. '
    '[benchmarks/RESULTS.md](../benchmarks/RESULTS.md) has what else was '
    'measured.\n\n' + '\n'.join(table)
  )


@functools.cache
def measured_rows():
  """The rows of all small comparisons, without the ablation."""
  try:
    return command.rows_of(ROOT / 'results')
  except ValueError:
    return {}


def results_section() -> str:
  """What the comparisons showed, in a table and a paragraph."""
  rows = measured_rows()
  if not rows:
    return _NONE_YET
  streams = verdicts.stream_verdicts(rows)
  stationary = verdicts.stationary_verdicts(rows)
  count = verdicts.summary_of
  num_worse = sum(bool(v.worse) for v in stationary)
  num_better = sum(bool(v.better) and not v.worse for v in stationary)
  return (
    f'{command.verdict_of(ROOT / "results")}\n\n'
    '**Streams** (prequential accuracy in percent, median of five seeds with '
    'its 95 % interval; every method with its own tuned rate):\n\n'
    f'{tables.overview_table(rows)}\n\n'
    'Prequential loss is lower than with the random trigger in '
    f'{count(streams, "is_better_than_random")}, and no higher than with every '
    f'batch twice in {count(streams, "is_no_worse_than_twice")}, at no more '
    'than 1.2 times the gradient evaluations of the base in '
    f'{count(streams, "is_cheap")}.\n\n'
    '**Stationary data** (shuffled and skewed batches, wrong labels, rare '
    'classes), at equal gradient evaluations: train loss, test loss and '
    "accuracy are within the base optimizer's own seeds, or better, in "
    f'{count(stationary, "is_harmless")} comparisons; all seeds agree on a '
    f'gain in {num_better}, and on a loss in {num_worse}.\n\n'
    '[RESULTS.md](../RESULTS.md) has every row: costs in seconds, tuning, '
    'further baselines, the ablation.'
  )


def streams_section() -> str:
  """Accuracy on all streams."""
  if not verdicts.stream_verdicts(measured_rows()):
    return _NONE_YET
  return (
    f'{tables.overview_table(measured_rows())}\n\n'
    'Prequential accuracy in percent, median of five seeds with its 95 % '
    'interval; every method has its own tuned learning rate. '
    '[RESULTS.md](../RESULTS.md) has the losses, the costs in seconds and the '
    'other baselines.'
  )


def rivals_section() -> str:
  """Rivals that react and rivals that are always on, beside the chase."""
  return command.rivals_of(ROOT / 'results') or _NONE_YET


def claims_section() -> str:
  """The paper's claims, each beside what was measured here."""
  return replication.claims_table(
    ROOT / 'results',
    measured_rows(),
    step_costs=newest_run('step_cost'),
    batch_sizes=runs_of('batch_size_validation'),
  )


def pictures_section() -> str:
  """What the paper's pictures show on MNIST."""
  return replication.describe_pictures(ROOT / 'results')


def targets_section() -> str:
  """LeNet on MNIST and the quick network on CIFAR-10, as far as they ran."""
  return '\n\n'.join(paper_targets.describe_targets(measured_rows()))


def map_section() -> str:
  """Where the paper's gain appears."""
  found = gain_map.read_map(ROOT / 'results')
  if found is None:
    return _NONE_YET
  return (
    f'{paper_map.describe_cells(found)}\n\n'
    'Each method at the rate, of the five, that is best for it on that cycle:'
    f'\n\n{paper_map.tuned_table(found)}'
  )


# What each chart is good at, and where it is from.
_CHARTS = {
  'shewhart': (
    '`shewhart(n)`',
    'large shifts and lone bad batches; the published chart',
    'Shewhart 1931; Montgomery ch. 6',
  ),
  'shewhart, moving_range': (
    "`shewhart(n, sigma_estimator='moving_range')`",
    'the same, where level shifts would inflate sigma',
    'Montgomery section 6.4',
  ),
  'shewhart, mad': (
    "`shewhart(n, sigma_estimator='mad')`",
    'the same, where up to half of the losses are odd',
    'Rousseeuw, Croux 1993',
  ),
  'ewma': (
    '`ewma(0.1, 2.7, reference=...)`',
    'small shifts that last',
    'Roberts 1959; Lucas, Saccucci 1990',
  ),
  'ewma, defaults': (
    '`ewma(reference=...)`: smoothing 0.3, width 4',
    'shifts that last, with hardly a false alarm',
    'as above',
  ),
  'cusum': (
    '`cusum(reference=...)`: k = 0.5, h = 5',
    'a lasting shift of about one sigma, soonest',
    'Page 1954; Montgomery section 9.1',
  ),
  'difference': (
    '`difference_chart(n)`',
    'fixed cycles whose batches differ: each against its own past',
    'Montgomery section 10.2, baselines of ours',
  ),
  'western electric': (
    '`with_run_rules(shewhart(n))`',
    'rows of losses on one side; more false alarms',
    'Western Electric 1956; Champ, Woodall 1987',
  ),
  'nelson': (
    "`with_run_rules(shewhart(n), 'nelson')`",
    'also trends, alternation, too little spread',
    'Nelson 1984',
  ),
  'restart after 5': (
    '`with_restart(shewhart(n), 5)`',
    'changes that stay: flagged five times, then accepted',
    'ours',
  ),
}


def charts_section() -> str:
  """The newest line of the charts' benchmark as a table."""
  run = newest_run('chart_cost')
  table = [
    '| chart | good at | ARL in control | us a step, n = 1,000 '
    '| n = 1,000,000 | state, n = 1,000 | reference |',
    '| --- | --- | --- | --- | --- | --- | --- |',
  ]
  for row in run['rows']:
    chart, good_at, reference = _CHARTS[row['chart']]
    short, long = (row['sizes'][size] for size in ('1000', '1000000'))
    table.append(
      f'| {chart} | {good_at} | {row["arl"]:,.0f} '
      f'(+-{2 * row["arl_error"]:,.0f}) | {short["us"]:.1f} '
      f'| {long["us"]:,.1f} | {short["bytes"] / 1000:.1f} kB | {reference} |'
    )
  return (
    '\n'.join(table) + '\n\nMeasured by `make bench` '
    f'({describe_machine(run)}). ARL: losses from one false alarm to the '
    'next, on independent normal losses, +- two standard errors; with known '
    'mean and sigma, but for `moving_range`, `mad` and the difference chart, '
    'which estimate theirs from 1,000 losses.'
  )


def render(text: str) -> str:
  """`text` with every marked section that it has made anew."""
  for name, section in {
    'verdict': verdict_section,
    'numbers': numbers_section,
    'demo': demo_section,
    'results': results_section,
    'streams': streams_section,
    'rivals': rivals_section,
    'claims': claims_section,
    'pictures': pictures_section,
    'targets': targets_section,
    'map': map_section,
    'bench': bench_section,
    'charts': charts_section,
  }.items():
    begin, end = (f'<!-- {name} table: {mark} -->' for mark in ('begin', 'end'))
    if begin not in text:
      continue
    section = section()
    before, rest = text.split(begin)
    _, after = rest.split(end)
    text = f'{before}{begin}\n\n{section}\n\n{end}{after}'
  return text


if __name__ == '__main__':
  for page in PAGES:
    path = ROOT / page
    path.write_text(render(path.read_text()))
