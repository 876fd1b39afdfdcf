"""The demo: ISGD and its baselines, on shuffled epochs and a drifting stream.

The table, the sentences and the figures are made from the files that the runs
wrote, and from nothing else.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import pathlib
import textwrap
from typing import Any

from isgd_jax import plotting
from isgd_jax.experiments import files
from isgd_jax.experiments.demo import figures as demo_figures
from isgd_jax.experiments.demo import summary as summary_lib
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import check_name
from isgd_jax.experiments.figures import FigureFormat
from isgd_jax.experiments.optimizers.base_optimizers import ALWAYS_ON
from isgd_jax.experiments.optimizers.base_optimizers import base_optimizer_names
from isgd_jax.experiments.optimizers.strengths import STRENGTHS
from isgd_jax.experiments.progress import progress
from isgd_jax.experiments.runs import step_records
from isgd_jax.experiments.runs.methods import LOSS_ADAPTIVE
from isgd_jax.experiments.runs.methods import resolve_methods
from isgd_jax.experiments.runs.records import Store
from isgd_jax.experiments.runs.records import read_runs
from isgd_jax.experiments.runs.runner import ComparisonPlan
from isgd_jax.experiments.runs.runner import run_plan
from isgd_jax.experiments.runs.tasks import Task
from isgd_jax.experiments.runs.training import RunResult
from isgd_jax.experiments.statistics import luck

# The learning rates and the lengths of the tasks are chosen for it.
_DATASETS = ('digits',)
_MODELS = ('cnn', 'mlp')
_BASES = tuple(
  x
  for x in base_optimizer_names()
  if x not in (*LOSS_ADAPTIVE, *ALWAYS_ON, *STRENGTHS)
)
_METHODS = resolve_methods(('base', 'twice', 'isgd', 'random'))

# The stream's: its runs with the first of the reporting seeds are drawn.
_DRAWN_TASK = 'demo/drift-labels'

# One window for both tasks and all base optimizers, of about one epoch.
_WINDOW_SIZE = 50

_CHART_OPTIONS = ('sigma_estimator', 'flagged_losses')
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

  def plans(self) -> tuple[ComparisonPlan, ...]:
    """Checks everything that a user can get wrong, before any compute.

    Returns:
      What to run, a plan for each task.

    Raises:
      ValueError: a name is unknown (the message gives the nearest valid
        names) or given twice, there is no base optimizer, or the seed is
        negative.

    Example:
      >>> [plan.num_runs for plan in DemoConfig(quick=True).plans()]
      [40, 40]
    """
    check_name('data set', self.dataset, _DATASETS)
    check_name('model', self.model, _MODELS)
    for name in self.base_optimizers:
      check_name('base optimizer', name, _BASES)
    if not self.base_optimizers or (
      len(set(self.base_optimizers)) != len(self.base_optimizers)
    ):
      raise InputError(
        f'base optimizers {list(self.base_optimizers)}: name one or more, each '
        f'once, of {", ".join(_BASES)}'
      )
    if self.seed < 0:
      raise InputError(f'seed must not be negative, got {self.seed}')
    num_rates, num_tuning_seeds, num_seeds = (
      (3, 1, 2) if self.quick else (6, 2, 5)
    )
    return tuple(
      ComparisonPlan(
        task,
        self.base_optimizers,
        _METHODS,
        num_rates=num_rates,
        num_tuning_seeds=num_tuning_seeds,
        num_seeds=num_seeds,
        first_seed=self.seed,
      )
      for task in self._tasks()
    )

  def _tasks(self) -> tuple[Task, Task]:
    shuffled = Task(
      'demo/shuffled',
      'Shuffled epochs',
      dataset=self.dataset,
      model=self.model,
      order='reshuffled',
      batch_size=32,
      window_size=_WINDOW_SIZE,
      num_train=1_120,
      num_test=317,
      num_epochs=6 if self.quick else 15,
    )
    stream = Task(
      _DRAWN_TASK,
      'Drifting stream',
      dataset=self.dataset,
      model=self.model,
      order='drift',
      batch_size=16,
      window_size=_WINDOW_SIZE,
      num_segments=5 if self.quick else 10,
      batches_per_segment=100,
    )
    return shuffled, stream


def run_demo(
  config: DemoConfig,
  out: str | pathlib.Path,
  *,
  show_progress: bool | None = None,
  figure_format: FigureFormat = 'png',
) -> str:
  """Runs the demo and writes its results.

  Writes into the folder: `runs.jsonl` (what the runs share, and one line a
  run; that of an earlier demo is kept as `runs.1.jsonl`, `runs.2.jsonl`, ...),
  `steps.jsonl` (one line a step of the runs that are drawn), `summary.txt`,
  `control_chart.png` and `accuracy_over_stream.png`, or of another format.

  Args:
    config: what to run.
    out: the folder; made where it is missing.
    show_progress: whether to show a progress bar on stderr; None shows it on a
      terminal only.
    figure_format: of the figures.

  Returns:
    The text of `summary.txt`: the table, and what it shows.

  Raises:
    ValueError: `config` is not valid.
    OSError: the folder cannot be written.
    ImportError: matplotlib is missing; the message names the extra.
    KeyboardInterrupt: with a message that says what was kept and where.
  """
  plans = config.plans()
  plotting.new_figure()  # A missing matplotlib shows now, not after the runs.
  folder = files.prepare_output_folder(out)
  path = folder / 'runs.jsonl'
  # A run on record would not be made again.
  _set_aside(path)
  num_runs = sum(plan.num_runs for plan in plans)
  steps: list[dict[str, Any]] = []

  def keep_steps(record: Mapping[str, Any], result: RunResult) -> None:
    first = plans[0].reporting_seeds[0]
    if record['task'] == _DRAWN_TASK and record['seed'] == first:
      steps.extend(step_records.step_records(record['id'], result.metrics))

  bar = progress(num_runs, unit='run', show=show_progress)
  try:
    with bar:
      store = Store(path)
      for plan in plans:
        run_plan(plan, store, bar, on_result=keep_steps)
    files.write_records(folder / 'steps.jsonl', steps)
    return report_demo(folder, figure_format)
  except KeyboardInterrupt as error:
    num_kept = len(list(read_runs(path))) if path.exists() else 0
    raise KeyboardInterrupt(
      f'{num_kept} of {num_runs} runs are kept in {path}'
      if num_kept
      else 'no run had finished, none is kept'
    ) from error


def _set_aside(path: pathlib.Path) -> None:
  """Renames a file, if there is one, to the first free number."""
  if not path.exists():
    return
  for number in itertools.count(1):
    other = path.with_suffix(f'.{number}{path.suffix}')
    if not other.exists():
      with files.explained(path):
        path.rename(other)
      return


def report_demo(
  folder: pathlib.Path, figure_format: FigureFormat = 'png'
) -> str:
  """Makes the summary and the figures from the files of a finished demo.

  Args:
    folder: where the files are, and where the summary and figures go.
    figure_format: of the figures.

  Returns:
    The text of `summary.txt`.

  Raises:
    OSError: a file cannot be read or written.
  """
  records = list(read_runs(folder / 'runs.jsonl'))
  summary = summarise(records)
  files.replace_file(
    folder / 'summary.txt', lambda new: new.write_text(summary + '\n')
  )
  _draw(folder, records, figure_format)
  return summary


def summarise(records: Sequence[Mapping[str, Any]]) -> str:
  """The table of the runs, what it shows, and how it was made."""
  rows = summary_lib.collect_rows(records)
  sentences = [
    textwrap.fill(sentence, _WIDTH)
    for sentence in summary_lib.describe_rows(rows).splitlines()
  ]
  return '\n\n'.join(
    [
      summary_lib.format_table(rows),
      '\n'.join(sentences),
      _rules(records, rows),
    ]
  )


def _rules(
  records: Sequence[Mapping[str, Any]], rows: Sequence[summary_lib.Row]
) -> str:
  """How the numbers were made."""

  def seeds(purpose: str) -> str:
    chosen = {r['seed'] for r in records if r['purpose'] == purpose}
    return ', '.join(map(str, sorted(chosen)))

  first = next(record for record in records if record['method'] == 'isgd')
  task, chart = first['task_config'], first['algorithm']['chart']
  names = ('window_size', 'sigma_multiplier', *_CHART_OPTIONS)
  settings = ', '.join(f'{name}={chart[name]!r}' for name in names)
  hardware = first['environment']['hardware']
  compile_seconds = sum(r['summary']['compile_seconds'] for r in records)
  lines = [
    'Better and worse: the 95 % bootstrap interval of the difference, paired '
    'by seed, leaves zero out; no different: it does not. Points are the '
    'medians of these differences. '
    + luck(min((len(row.accuracy) for row in rows), default=0)),
    f'ISGD: isgd_jax.shewhart({settings}), chases that lead at once '
    '(probation=False), all else as the library has it.',
    f'Rates tuned on seeds {seeds("tuning")}; reported on seeds '
    f'{seeds("reporting")}.',
    summary_lib.describe_time(rows),
    f'Compilation ({compile_seconds:.1f} s in all) is not in the time.',
    f'Data {task["dataset"]}, model {task["model"]}, '
    f'{hardware["num_devices"]} x {hardware["device"]}, '
    f'{hardware["num_cpus"]} CPU cores.',
  ]
  return '\n'.join(textwrap.fill(line, _WIDTH) for line in lines if line)


def _draw(
  folder: pathlib.Path,
  records: Sequence[Mapping[str, Any]],
  figure_format: FigureFormat,
) -> None:
  """The figures of the runs whose steps were kept."""
  steps = step_records.read_steps(folder / 'steps.jsonl')
  drawn = [record for record in records if record['id'] in steps]
  chart = next(record for record in drawn if record['method'] == 'isgd')
  task = Task(**chart['task_config'])
  label = f'{task.title.lower()}, seed {chart["seed"]}'
  demo_figures.draw_control_chart(
    folder / f'control_chart.{figure_format}',
    steps[chart['id']],
    task.change_points,
    f'Control chart: ISGD over {chart["base"]}, {label}',
  )
  accuracies: dict[str, dict[str, Any]] = {}
  for record in sorted(
    drawn, key=lambda r: list(summary_lib.METHOD_TITLES).index(r['method'])
  ):
    of_base = accuracies.setdefault(record['base'], {})
    of_base[record['method']] = steps[record['id']].accuracy
  demo_figures.draw_accuracy(
    folder / f'accuracy_over_stream.{figure_format}',
    accuracies,
    task.change_points,
    f'Prequential accuracy, mean of 20 batches: {label}',
  )
