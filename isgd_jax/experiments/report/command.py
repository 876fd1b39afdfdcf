"""RESULTS.md and its figures, generated from the records and nothing else."""

from collections.abc import Iterable, Mapping, Sequence
import os
import pathlib
from typing import Any
import urllib.parse

from isgd_jax.experiments import figures
from isgd_jax.experiments import files
from isgd_jax.experiments.demonstrate import demonstrations
from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.report import findings
from isgd_jax.experiments.report import gain_map
from isgd_jax.experiments.report import harder
from isgd_jax.experiments.report import opening
from isgd_jax.experiments.report import paper_map
from isgd_jax.experiments.report import permuted
from isgd_jax.experiments.report import real_streams
from isgd_jax.experiments.report import rivals
from isgd_jax.experiments.report import tables
from isgd_jax.experiments.report import verdicts
from isgd_jax.experiments.report.curves import draw_task
from isgd_jax.experiments.report.findings import Finding
from isgd_jax.experiments.report.rows import Rows
from isgd_jax.experiments.runs.ablation import VARIANTS
from isgd_jax.experiments.runs.workloads import WORKLOADS
from isgd_jax.experiments.statistics import luck
from isgd_jax.experiments.statistics import performance_profile

_ABLATION = 'ablation'
_REAL_STREAMS = 'real-streams'
# Told by modules of their own.
_APART = (
  *(_ABLATION, _REAL_STREAMS, 'real-rivals', 'made-rivals', 'always-on'),
  *('made-always-on', 'over-no-momentum', 'wrong-labels', 'real-time'),
  *('doses', 'permuted-inputs', 'permuted-labels', 'permuted-inputs-alone'),
  *('rivals-over-sgd', 'strengths'),
)

_RULES = (
  'Two costs, always: gradient evaluations (each value-and-gradient of a batch,'
  ' counted in the training step), and seconds of training (reading the'
  ' batches included; compilation and the evaluation of the network left out).'
  ' Extra evaluations are those beyond the first of each batch.',
  'Each method over each base optimizer has its learning rate tuned, by the '
  'loss, on the same grid with the same number of runs, on seeds and held-out '
  'data apart from those that are reported. A rate marked * is at the edge of '
  'its grid.',
  'Stationary tasks: the same number of gradient evaluations for all methods '
  '(of batches, where the source is slower than the step), and, but for the '
  'rows that say constant, a rate that falls to zero over them. Target: 99 % of'
  ' the accuracy that the tuned base optimizer itself has at the end, the '
  'median over its seeds.',
  'Streams: one pass, each batch judged before training on it, a constant rate '
  'but for the row that says decayed. Recovery: batches from a change until the'
  ' mean accuracy of ten is at 90 % of the best that the tuned base optimizer '
  'itself has within a segment, the median over its segments and seeds; the '
  'median over the changes.',
)


def report(
  folder: pathlib.Path,
  out: pathlib.Path,
  figure_format: figures.FigureFormat = 'png',
) -> str:
  """Writes the tables and the figures of all records in a folder.

  Args:
    folder: with the files that `compare` wrote; the figures go there too.
    out: the Markdown file.
    figure_format: of the figures.

  Returns:
    The text of the file.

  Raises:
    InputError: (a `ValueError`) there are no records.
    OutputError: (an `OSError`) a file cannot be written.
  """
  found = findings.read_findings(folder)
  real = [f for f in found if f.workload == _REAL_STREAMS]
  main = [f for f in found if f.workload not in _APART]
  ablations = [f for f in found if f.workload == _ABLATION]
  together: Rows = {}
  for finding in main:
    together |= finding.rows
  parts = ['# Results', opening.verdict_table(_everything(found))]
  parts += [_rules(folder, out, together), '## In short']
  for finding in real:
    parts += _real_streams(finding)
  parts.append(real_streams.kept_gain_table(together))
  parts += _summary(folder, out, together, figure_format)
  for finding in main:
    parts += _workload(folder, out, finding, figure_format)
  everything = _everything(found)
  parts += rivals.describe_rivals(everything)
  parts += harder.describe_wrong_labels(everything)
  parts += harder.describe_real_time(everything)
  parts += harder.describe_doses(everything)
  parts += _permuted(folder, out, everything, figure_format)
  parts += [
    f'`{f.workload}`: {findings.describe_left_out(f)}'
    for f in found
    if f.left_out and f.workload in _APART[2:]
  ]
  for finding in ablations:
    parts += _ablation(finding)
  parts += _demonstrations(folder, out, figure_format)
  parts += _paper_map(folder, out, figure_format)
  parts.append('## Hardware, versions, grids')
  parts.append(findings.describe_provenance(found))
  text = '\n\n'.join(part.strip() for part in parts if part) + '\n'
  files.replace_file(out, lambda new: new.write_text(text))
  return text


def rows_of(folder: pathlib.Path) -> Rows:
  """The rows of all small workloads in a folder, without the ablation.

  Args:
    folder: with the files that `compare` wrote.

  Returns:
    The rows.

  Raises:
    InputError: (a `ValueError`) there are no records.
  """
  together: Rows = {}
  for finding in findings.read_findings(folder):
    if finding.workload not in _APART and not finding.is_large:
      together |= finding.rows
  return together


def verdict_of(folder: pathlib.Path) -> str:
  """Your data, what to use, its gain and its cost: RESULTS.md opens with it.

  Args:
    folder: with the files that `compare` wrote.

  Returns:
    Markdown; empty where there is nothing to compare.

  Raises:
    InputError: (a `ValueError`) there are no records.
  """
  return opening.verdict_table(_everything(findings.read_findings(folder)))


def rivals_of(folder: pathlib.Path) -> str:
  """What is worth what beside the chase, without its rows.

  Args:
    folder: with the files that `compare` wrote.

  Returns:
    Markdown; empty where no rival was run.

  Raises:
    InputError: (a `ValueError`) there are no records.
  """
  rows = _everything(findings.read_findings(folder))
  return '\n\n'.join(p for p in rivals.summarize_rivals(rows) if p)


def _everything(found: Iterable[Finding]) -> Rows:
  """All rows but the ablation's, real streams and large forms too."""
  together: Rows = {}
  for finding in found:
    if finding.workload != _ABLATION:
      together |= finding.rows
  return together


def _rules(folder: pathlib.Path, out: pathlib.Path, rows: Rows) -> str:
  """What this is, and by which rules."""
  num_seeds = min((len(row.runs) for row in rows.values()), default=0)
  seeds = (
    'Medians, with 95 % bootstrap intervals over the seeds in brackets (of '
    f'costs, ranges); differences are paired by seed. {luck(num_seeds)}A run '
    'that diverged or missed its target counts as infinite.'
  )
  settings = dict.fromkeys(
    _settings(row.first['algorithm'])
    for row in rows.values()
    if row.method == 'isgd'
  )
  of_isgd = (
    f'ISGD has {"the same" if len(settings) == 1 else "these"} settings '
    f"everywhere: `isgd_jax.isgd`'s defaults but for `probation=False`, and "
    f'{" or ".join(settings)}; its window is the batches of an epoch, and 50 '
    'on streams. Records that name the method `isgd` are of this blind chase, '
    'made before there was probation; `isgd-probation` (on real streams: '
    '`ISGD`) is the default of today.'
  )
  rules = [*_RULES[:2], seeds, *_RULES[2:], *([of_isgd] if settings else [])]
  return '\n\n'.join(
    [
      '## The rules',
      'Every number here is generated by `isgd-jax report` from the JSON lines '
      f'in [`{folder.resolve().name}`]({_link(folder, out)}); '
      '`isgd-jax compare WORKLOAD` makes those. The rules:',
      '\n'.join(f'- {rule}' for rule in rules),
    ]
  )


def _settings(algorithm: Mapping[str, Any]) -> str:
  """A chart as one would write it, but for its window."""
  chart = dict(algorithm['chart'])
  kind = chart.pop('kind')
  unused = {'window_size'} | (set() if kind == 'ewma' else {'smoothing'})
  options = ', '.join(f'{k}={v!r}' for k, v in chart.items() if k not in unused)
  return f'`isgd_jax.{kind.replace("-", "_")}({options})`'


def _summary(
  folder: pathlib.Path,
  out: pathlib.Path,
  rows: Rows,
  figure_format: figures.FigureFormat,
) -> list[str]:
  """What was to be reached, and what was."""
  parts = []
  streams = verdicts.stream_verdicts(rows)
  stationary = verdicts.stationary_verdicts(rows)
  if streams:
    parts.append(
      '**Streams.** The bar: prequential loss no higher than with every '
      'batch twice, lower than with the random trigger at the same number of '
      'gradient evaluations, at no more than 1.2 times the evaluations of the '
      f'base alone. Met in {verdicts.summary_of(streams, "is_met")}: no higher '
      'than every batch twice in '
      f'{verdicts.summary_of(streams, "is_no_worse_than_twice")}, lower '
      'than the random trigger in '
      f'{verdicts.summary_of(streams, "is_better_than_random")}, within 1.2 '
      f'times in {verdicts.summary_of(streams, "is_cheap")}. Differences are '
      'in nats; below zero ISGD is better.'
    )
    parts.append(tables.stream_verdict_table(streams))
  if stationary:
    num_better = sum(bool(v.better) and not v.worse for v in stationary)
    num_worse = sum(bool(v.worse) for v in stationary)
    parts.append(
      '**Stationary data.** The never-hurts rule: at equal gradient '
      'evaluations, train loss, test loss and accuracy within the base '
      "optimizer's own seeds (in brackets), or better. Met in "
      f'{verdicts.summary_of(stationary, "is_harmless")}. All seeds agree that '
      f'ISGD is better in something and worse in nothing in {num_better} of '
      f'{len(stationary)}, and that it is worse in something in {num_worse}.'
    )
    parts.append(tables.stationary_verdict_table(stationary))
  if not parts:
    parts.append(
      'No verdict yet: it takes ISGD and `base` over one base optimizer, and '
      'on a stream `twice` and `random` too, on common seeds.'
    )
  # The paper's tasks lack most controls, which would then be in no profile.
  profiled = {
    k: row for k, row in rows.items() if not k[0].startswith('paper-')
  }
  costs = verdicts.profile_costs(profiled)
  return parts + _profile(folder, out, costs, figure_format)


def _profile(
  folder: pathlib.Path,
  out: pathlib.Path,
  costs: Mapping[str, Mapping[str, float]],
  figure_format: figures.FigureFormat,
) -> list[str]:
  """The performance profile, if any problem was solved."""
  if all(c == float('inf') for of in costs.values() for c in of.values()):
    return []
  profile = performance_profile(costs)
  path = folder / f'profile.{figure_format}'
  figures.draw_profile(
    path, profile, title='Gradient evaluations to target, all workloads'
  )
  unsolved = (
    f'; {profile.num_unsolved} more that no method solved are left out'
    if profile.num_unsolved
    else ''
  )
  return [
    '**Performance profile.** Over '
    f'{profile.num_problems} problems (a task and a base optimizer{unsolved}): '
    'the share that a method solves within tau times the gradient evaluations '
    'of the best one, and as its score the mean of that share over tau from 1 '
    'to 4 (Dahl et al., '
    '[arXiv:2306.07179](https://arxiv.org/abs/2306.07179)). '
    'Only methods that were run on all of them; stationary tasks count by '
    'evaluations to target, streams by evaluations to recovery.',
    tables.profile_table(profile.scores),
    _picture(path, out, 'performance profile'),
  ]


def _workload(
  folder: pathlib.Path,
  out: pathlib.Path,
  finding: Finding,
  figure_format: figures.FigureFormat,
) -> list[str]:
  """The tables and figures of one workload."""
  parts = [_heading(finding), findings.describe_left_out(finding)]
  rows = finding.rows
  for task in dict.fromkeys(row.task for row in rows.values()):
    config = next(r for r in rows.values() if r.task == task).config
    parts.append(f'### {config["title"]}\n\n{_describe_task(config)}')
    parts.append(tables.task_table(rows, task))
    path = folder / f'{task.replace("/", "-")}.{figure_format}'
    if draw_task(path, rows, task):
      parts.append(_picture(path, out, f'{task}: curves'))
  return parts


def _real_streams(finding: Finding) -> list[str]:
  """The real streams' verdict and table."""
  described = real_streams.describe_real_streams(
    finding.rows, finding.no_change
  )
  return [
    f'### {WORKLOADS[finding.workload].title} (`{finding.workload}`)',
    findings.describe_left_out(finding),
    *described,
  ]


def _permuted(
  folder: pathlib.Path,
  out: pathlib.Path,
  rows: Rows,
  figure_format: figures.FigureFormat,
) -> list[str]:
  """The published protocol's tables and figures."""
  described = permuted.describe_permuted(rows)
  if not described:
    return []
  parts = ['## A published protocol: permuted MNIST, batch 1']
  for task, paragraphs in described.items():
    if task:
      parts.append(f'### `{task}`')
    parts += paragraphs
    path = folder / f'{task.replace("/", "-")}.{figure_format}'
    if task and permuted.draw_permuted(path, rows, task):
      parts.append(_picture(path, out, f'{task}: accuracy of each task'))
  return parts


def _heading(finding: Finding) -> str:
  size = ', large form' if finding.is_large else ''
  title = WORKLOADS[finding.workload].title
  return f'## {title} (`{finding.workload}`{size})'


def _ablation(finding: Finding) -> list[str]:
  """The ablation's tables."""
  parts = [_heading(finding), findings.describe_left_out(finding)]
  rows = finding.rows
  present = {method for _, _, method in rows}
  variants = [name for name in VARIANTS if name in present]
  if not variants:
    return parts
  num_seeds = _range(len(row.runs) for row in rows.values())
  num_rates = _range(
    len(row.first['algorithm']['grid']) for row in rows.values()
  )
  return [
    *parts,
    'Relative to the base optimizer alone, seed by seed; medians over '
    f'{num_seeds} seeds, each variant tuned over {num_rates} rates. '
    '`isgd_jax.default_chart` is `shewhart, k = 4`. Where nothing else is '
    'said, the reference chart of ewma and cusum has limits of 3 sigma; '
    '`isgd-jax train` gives it 4.',
    tables.ablation_tables(rows, variants),
  ]


def _range(numbers: Iterable[int]) -> str:
  """`5`, or `3 to 5`."""
  found = sorted(set(numbers))
  return f'{found[0]}' if len(found) == 1 else f'{found[0]} to {found[-1]}'


def _demonstrations(
  folder: pathlib.Path,
  out: pathlib.Path,
  figure_format: figures.FigureFormat,
) -> Sequence[str]:
  """What `isgd-jax demonstrate` left in the folder, of each data set."""
  parts = []
  for dataset in demonstrations.STEMS:
    try:
      records = demonstrations.read_demonstrations(folder, dataset)
    except DataError:
      continue
    drawn = demonstrations.draw_demonstrations(folder, figure_format, dataset)
    parts += [
      demonstrations.describe_demonstrations(records),
      *(_picture(p, out, p.stem.replace('-', ' ')) for p in drawn),
    ]
  if parts:
    parts.insert(0, "## What the chart sees: the paper's own demonstrations")
  return parts


def _paper_map(
  folder: pathlib.Path,
  out: pathlib.Path,
  figure_format: figures.FigureFormat,
) -> Sequence[str]:
  """Gain over base rate and skew, if it was run."""
  found = gain_map.read_map(folder)
  if found is None:
    return []
  path = folder / f'{gain_map.NAME}.{figure_format}'
  paper_map.draw_map(path, found)
  told = paper_map.describe_map(found)
  return [*told[:2], _picture(path, out, 'gain by rate and cycle'), *told[2:]]


def _describe_task(config: Mapping[str, Any]) -> str:
  """The task in a sentence."""
  if config['order'] == 'texts':
    data = f'sequences of {config["sequence_length"]} bytes'
  elif config['order'] == 'drift':
    data = f'{config["dataset"]}, {config["drift"]} drift'
    if config['transition_batches']:
      data += f', each over {config["transition_batches"]} batches'
  else:
    data = f'{config["num_train"]:,} examples of {config["dataset"]}'
  if config['order'] in ('drift', 'texts'):
    length = (
      f'{config["num_segments"]} segments of '
      f'{config["batches_per_segment"]} batches'
    )
  else:
    length = f'{config["num_epochs"]} epochs'
  return (
    f'Network {config["model"]}, {data}, batches of {config["batch_size"]}, '
    f'{length}; window {config["window_size"]}.'
  )


def _picture(path: pathlib.Path, out: pathlib.Path, title: str) -> str:
  """A Markdown image, by its path as seen from the file that shows it."""
  return f'![{title}]({_link(path, out)})'


def _link(path: pathlib.Path, out: pathlib.Path) -> str:
  """A path as seen from the folder of the file that has the link."""
  relative = os.path.relpath(path.resolve(), out.resolve().parent)
  return urllib.parse.quote(pathlib.Path(relative).as_posix())
