"""The demo: ISGD and its baselines, on shuffled epochs and a drifting stream.

The table, the sentences and the figures are made from the files that the runs
wrote, and from nothing else.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import sys
import textwrap
from typing import Any

from isgd_jax import plotting
from isgd_jax.experiments import figures
from isgd_jax.experiments import report
from isgd_jax.experiments import results
from isgd_jax.experiments._errors import InputError
from isgd_jax.experiments._errors import check_name
from isgd_jax.experiments.base_optimizers import base_optimizer_names
from isgd_jax.experiments.base_optimizers import learning_rate_grid
from isgd_jax.experiments.jobs import drifting_job
from isgd_jax.experiments.jobs import shuffled_job
from isgd_jax.experiments.methods import METHODS
from isgd_jax.experiments.methods import IsgdSettings
from isgd_jax.experiments.runner import Plan
from isgd_jax.experiments.runner import Runner

try:
  import tqdm
except ImportError as error:
  from isgd_jax.experiments._errors import missing_extra

  raise missing_extra('tqdm') from error

# The learning rates and the lengths of the jobs are chosen for it.
_DATASETS = ('digits',)
_MODELS = ('cnn', 'mlp')

# One setting for all jobs and base optimizers: a window of about one epoch of
# digits; winsorised, so that a drift cannot raise its own limit.
_ISGD = IsgdSettings(
  window_size=50, sigma_multiplier=3.0, flagged_losses='winsorize'
)

_WIDTH = 100


@dataclasses.dataclass(frozen=True)
class DemoConfig:
  """What the demo runs.

  Attributes:
    seed: tuning and reporting seeds are counted from here, not negative.
    quick: fewer seeds, fewer rates, shorter runs.
    dataset: name of the data set.
    model: name of the network.
    base_optimizers: names of the base optimizers.
  """

  seed: int = 0
  quick: bool = False
  dataset: str = 'digits'
  model: str = 'mlp'
  base_optimizers: tuple[str, ...] = ('momentum', 'adam')

  def plan(self) -> Plan:
    """Checks everything that a user can get wrong, before any compute.

    Returns:
      What to run.

    Raises:
      ValueError: a name is unknown (the message gives the nearest valid
        names) or given twice, there is no base optimizer, or the seed is
        negative.

    Example:
      >>> DemoConfig(quick=True).plan().num_runs
      80
    """
    check_name('data set', self.dataset, _DATASETS)
    check_name('model', self.model, _MODELS)
    for name in self.base_optimizers:
      check_name('base optimizer', name, base_optimizer_names())
    if not self.base_optimizers or (
      len(set(self.base_optimizers)) != len(self.base_optimizers)
    ):
      raise InputError(
        f'base optimizers {list(self.base_optimizers)}: name one or more, each '
        f'once, of {", ".join(base_optimizer_names())}'
      )
    if self.seed < 0:
      raise InputError(f'seed must not be negative, got {self.seed}')
    drift = drifting_job(num_segments=5 if self.quick else 10)
    num_tuning, num_reporting = (1, 2) if self.quick else (2, 5)
    first_reporting = self.seed + 1000
    return Plan(
      dataset=self.dataset,
      model=self.model,
      jobs=(shuffled_job(num_epochs=6 if self.quick else 15), drift),
      grids={
        name: learning_rate_grid(name, self.quick)
        for name in self.base_optimizers
      },
      isgd=_ISGD,
      tuning_seeds=range(self.seed, self.seed + num_tuning),
      reporting_seeds=range(first_reporting, first_reporting + num_reporting),
      drawn_job=drift.name,
    )


def run_demo(
  config: DemoConfig,
  out: str | pathlib.Path,
  *,
  show_progress: bool | None = None,
) -> str:
  """Runs the demo and writes its results.

  Writes into the folder: `runs.jsonl` (one line a run, appended to what is
  there), `steps.jsonl` (one line a step of the runs that are drawn),
  `summary.txt`, `control_chart.png` and `accuracy_over_stream.png`.

  Args:
    config: what to run.
    out: the folder; made where it is missing.
    show_progress: whether to show a progress bar on stderr; None shows it on a
      terminal only.

  Returns:
    The text of `summary.txt`: the table, and what it shows.

  Raises:
    ValueError: `config` is not valid.
    OSError: the folder cannot be written.
    ImportError: matplotlib is missing; the message names the extra.
    KeyboardInterrupt: with a message that says what was kept and where.
  """
  plan = config.plan()
  plotting.new_figure()  # A missing matplotlib shows now, not after the runs.
  folder = results.prepare_output_folder(out)
  path = folder / 'runs.jsonl'
  runner = Runner(plan, path)
  bar = tqdm.tqdm(
    total=plan.num_runs,
    unit='run',
    file=sys.stderr,
    disable=None if show_progress is None else not show_progress,
  )
  try:
    with bar:
      runner.run_all(bar)
    results.write_records(folder / 'steps.jsonl', runner.steps)
    return report_demo(folder, runner.experiment)
  except KeyboardInterrupt as error:
    num_kept = len(_records(path, runner.experiment))
    raise KeyboardInterrupt(
      f'{num_kept} of {plan.num_runs} runs are kept in {path}'
      if num_kept
      else 'no run had finished, none is kept'
    ) from error


def report_demo(folder: pathlib.Path, experiment: str) -> str:
  """Makes the summary and the figures from the files of a finished demo.

  Args:
    folder: where the files are, and where the summary and figures go.
    experiment: which of the experiments in `runs.jsonl`.

  Returns:
    The text of `summary.txt`.

  Raises:
    OSError: a file cannot be read or written.
  """
  records = _records(folder / 'runs.jsonl', experiment)
  rows = report.collect_rows(records)
  sentences = [
    textwrap.fill(sentence, _WIDTH)
    for sentence in report.describe(rows).splitlines()
  ]
  summary = '\n\n'.join(
    [report.format_table(rows), '\n'.join(sentences), _rules(records, rows)]
  )
  results.replace_file(
    folder / 'summary.txt', lambda new: new.write_text(summary + '\n')
  )
  _draw(folder, [record for record in records if record['is_drawn']])
  return summary


def _records(path: pathlib.Path, experiment: str) -> list[dict[str, Any]]:
  """What is on disk of one experiment; nothing if there is no file."""
  if not path.exists():
    return []
  return [
    record
    for record in results.read_records(path)
    if record['experiment'] == experiment
  ]


def _rules(
  records: Sequence[Mapping[str, Any]], rows: Sequence[report.Row]
) -> str:
  """How the numbers were made."""

  def seeds(purpose: str) -> str:
    chosen = {r['config']['seed'] for r in records if r['purpose'] == purpose}
    return ', '.join(map(str, sorted(chosen)))

  first = records[0]
  chart = ', '.join(f'{k}={v}' for k, v in first['config']['isgd'].items())
  hardware = first['hardware']
  compile_seconds = sum(r['summary']['compile_seconds'] for r in records)
  lines = [
    'Better and worse: the ranges over the seeds do not touch; no different: '
    'they do.',
    f'ISGD: isgd_jax.shewhart({chart}), all else as the library has it.',
    f'Rates tuned on seeds {seeds("tuning")}; reported on seeds '
    f'{seeds("reporting")}.',
    report.describe_time(rows),
    f'Compilation ({compile_seconds:.1f} s in all) is not in the time.',
    f'Data {first["dataset"]}, model {first["model"]}, '
    f'{hardware["num_devices"]} x {hardware["device"]}, '
    f'{hardware["num_cpus"]} CPU cores.',
  ]
  return '\n'.join(textwrap.fill(line, _WIDTH) for line in lines if line)


def _draw(folder: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
  """The figures of the runs that are drawn."""
  steps = results.read_steps(folder / 'steps.jsonl')
  change_points = records[0]['change_points']
  label = f'{records[0]["job"].lower()}, seed {records[0]["config"]["seed"]}'
  chart = next(r for r in records if r['config']['method'] == 'isgd')
  figures.draw_control_chart(
    folder / 'control_chart.png',
    steps[chart['run']],
    change_points,
    f'Control chart: ISGD over {chart["config"]["base_optimizer"]}, {label}',
  )
  accuracies: dict[str, dict[str, Any]] = {}
  for record in sorted(
    records, key=lambda r: METHODS.index(r['config']['method'])
  ):
    config = record['config']
    of_base = accuracies.setdefault(config['base_optimizer'], {})
    of_base[config['method']] = steps[record['run']].accuracy
  figures.draw_accuracy(
    folder / 'accuracy_over_stream.png',
    accuracies,
    change_points,
    f'Prequential accuracy, mean of 20 batches: {label}',
  )
