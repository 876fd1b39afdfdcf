"""The subcommands of `isgd-jax`: the options of each, and what it runs.

The strings below the fields are what `--help` prints.
"""

import dataclasses
import pathlib

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import missing_extra
from isgd_jax.experiments.figures import FigureFormat
from isgd_jax.experiments.plan_batch_size.config import PlanConfig
from isgd_jax.experiments.train.config import TrainConfig
from isgd_jax.experiments.train.devices import DevicesConfig

try:
  import tyro
except ImportError as error:
  raise missing_extra('tyro') from error


@dataclasses.dataclass(frozen=True)
class Demo:
  """Compare ISGD with its baselines on real handwritten digits.

  Trains on ordinary shuffled epochs, for as many gradient evaluations with each
  method, and on a one-pass stream that drifts: with the base optimizer alone,
  with every batch twice, with ISGD's number of extra steps on random batches,
  and with ISGD. Prints one table and what it
  shows; draws a control chart and the accuracy over the stream. With
  the defaults it takes up to three minutes on two CPU cores, and under 40
  seconds with --quick.
  """

  out: str = 'isgd-demo'
  """Folder for results and figures; made if missing. Runs that are there are
  kept under another name, figures are replaced."""

  seed: int = 0
  """Seed that all tuning and reporting seeds are counted from."""

  quick: bool = False
  """Fewer seeds, fewer learning rates, shorter runs: a look, no measurement."""

  dataset: str = 'digits'
  """Data set: digits."""

  model: str = 'mlp'
  """Network: mlp or cnn."""

  bases: tuple[str, ...] = ('momentum', 'adam')
  """Base optimizers, one or more of: sgd, momentum, nesterov, adam."""

  figures: FigureFormat = 'png'
  """Format of the figures."""

  def __call__(self) -> None:
    """Runs the demo and prints its table."""
    from isgd_jax.experiments.demo import command as command_lib

    summary = command_lib.run_demo(
      command_lib.DemoConfig(
        seed=self.seed,
        quick=self.quick,
        dataset=self.dataset,
        model=self.model,
        base_optimizers=self.bases,
      ),
      self.out,
      figure_format=self.figures,
    )
    print(summary)
    print(f'\nResults and figures: {self.out}')


@dataclasses.dataclass(frozen=True)
class Train:
  """Train a network on a data set, with a control chart of its batch losses.

  Writes to the folder --out: the options (config.json), a line of JSON for each
  step (metrics.jsonl) and evaluation (evaluations.jsonl), TensorBoard event
  files, checkpoints, and at the end a picture of the control chart. SIGTERM and
  Ctrl-C save a checkpoint and end with the exit codes 75 and 130. `isgd-jax
  train --resume --out RUN` carries a run on, after them or after any other
  death, as if it had never stopped. On several devices each has its share of
  every batch; in several processes, start this command once for each.
  """

  config: tyro.conf.OmitArgPrefixes[TrainConfig] = dataclasses.field(
    default_factory=TrainConfig
  )

  devices: tyro.conf.OmitArgPrefixes[DevicesConfig] = dataclasses.field(
    default_factory=DevicesConfig
  )

  out: str = 'isgd-run'
  """Folder of the run; made if missing."""

  resume: bool = False
  """Carry on the run in --out from its last checkpoint, with its own options.
  Only how long to train, how often to log, evaluate and save, and where the
  data lie may be given anew."""

  skip_batches: str | None = None
  """File of batches that get no update, neither of the network nor of the
  chart: JSON lines with the "step" of one batch, or without it the "batch" of a
  fixed cycle, in each epoch. An events.jsonl will do. Kept with the run."""

  figures: FigureFormat = 'png'
  """Format of the control chart."""

  def __call__(self) -> None:
    """Trains, and prints what came of it."""
    from isgd_jax.experiments.train import command

    command.run(
      self.config,
      self.out,
      resume=self.resume,
      devices=self.devices,
      skip_batches=self.skip_batches,
      figure_format=self.figures,
    )


@dataclasses.dataclass(frozen=True)
class Chart:
  """Draw the control chart of a run, or its cycle, also while it trains."""

  run: tyro.conf.Positional[str]
  """Folder of the run."""

  first_step: int | None = None
  """First step to draw; by default the last 2000 are drawn."""

  last_step: int | None = None
  """Last step to draw."""

  cycle: bool = False
  """Draw the batch losses by their position in the cycle instead."""

  out: str | None = None
  """Picture to write, .png, .pdf or .svg; by default control_chart.png or
  cycle.png in the run's folder."""

  def __call__(self) -> None:
    """Draws, and prints where the picture is."""
    from isgd_jax.experiments.train import command

    if self.cycle and (self.first_step, self.last_step) != (None, None):
      raise InputError(
        '--cycle draws whole epochs, and takes neither --first-step nor '
        '--last-step; leave them out'
      )
    if self.cycle:
      print(command.draw_cycle(self.run, self.out))
    else:
      print(
        command.draw_chart(self.run, self.out, self.first_step, self.last_step)
      )


@dataclasses.dataclass(frozen=True)
class PlanBatchSize:
  """Find the batch size of the least training time on this machine.

  Times the training step at several batch sizes, makes a short pilot run with
  measurements of the gradient noise scale, and predicts from these the seconds
  to a training loss for every size between. Prints the plan, and writes to
  the folder --out: all that was measured and fitted (plan.json), the step time
  (step_time.png) and the predictions (time_to_target.png). On several devices
  it also reports how they scale. Nothing else should run meanwhile.
  """

  config: tyro.conf.OmitArgPrefixes[PlanConfig] = dataclasses.field(
    default_factory=PlanConfig
  )

  out: str = 'isgd-plan'
  """Folder for the plan and its figures; made if missing. Those of an earlier
  plan are replaced."""

  figures: FigureFormat = 'png'
  """Format of the figures."""

  def __call__(self) -> None:
    """Measures, and prints the plan."""
    from isgd_jax.experiments.plan_batch_size import command

    print(command.run(self.config, self.out, figure_format=self.figures))
    print(f'\nPlan and figures: {self.out}')


@dataclasses.dataclass(frozen=True)
class Compare:
  """Compare ISGD with what it has to beat on one workload.

  Tunes and trains every method over every base optimizer, and appends a line of
  JSON for each run to the folder --out. Runs that are there are not repeated,
  so the same command carries an interrupted comparison on. `isgd-jax report`
  makes the tables and figures. The small forms take up to 20 minutes on two CPU
  cores; nothing else should run meanwhile, for seconds are measured.

  Workloads: stationary-digits, stationary-fashion, sampling-bias, imbalance,
  label-noise, drift-labels, drift-pixels, drift-gradual, drift-text,
  input-bound, ablation; paper-mnist, paper-cifar10 and paper-map, which need
  --data-dir (MNIST's folder, of CIFAR-10 the binary version's or the archive of
  JPEGs), the first two about an hour; real-streams (the extra streams; Elec2
  with --data-dir FILE, a CSV or CSV.gz; what is missing is said first, and left
  out; all of it takes hours, and --tasks picks some). Likewise, of the same
  tables: real-rivals, always-on, rivals-over-sgd and strengths (beside
  real-streams in a report), over-no-momentum, wrong-labels, real-time, doses;
  on digits: made-rivals, made-always-on. A published protocol at its published
  settings: permuted-inputs, permuted-labels, permuted-inputs-alone (MNIST, with
  --data-dir).
  """

  workload: tyro.conf.Positional[str]
  """Name of the workload."""

  tasks: tuple[str, ...] | None = None
  """Tasks of the workload, by their whole names, as real-streams/elec2-16, run
  in this order; a wrong name is answered with the list; by default all."""

  methods: tuple[str, ...] | None = None
  """Methods, some of: base, base-constant, base-decayed, twice, random, isgd
  (without probation), isgd-probation (the library's default), isgd-constant,
  paper-isgd, paper-isgd-10 and paper-isgd-100 (its chase at so many times the
  base's rate), skip, reset, reshuffled, isgd-reshuffled,
  paper-isgd-reshuffled; of what is scanned,
  reset-moments, reset-count, rewarm-3, rewarm-10, shrink, echo, and on other
  flags than the chart's random-isgd, random-reset, random-reset-count,
  random-echo, random-shrink, random-rewarm-3, adwin-isgd, adwin-reset-count,
  oracle-reset-count,
  adwin-reset, adwin-echo, page-hinkley-isgd, page-hinkley-reset,
  page-hinkley-echo, oracle-isgd, oracle-reset, oracle-echo, oracle-rewarm-10;
  judged-by-1, judged-by-2, judged-by-8, forgetting-95, forgetting-99,
  starts-trusting; by default the workload's."""

  bases: tuple[str, ...] | None = None
  """Base optimizers, some of: sgd, momentum, nesterov, adam, polyak, momo (the
  last two, alone, come together), adam-b1-0, adam-b1-b2, l2-to-start,
  shrink-and-perturb, upgd, prodigy, dog, dowg, cocob; at a tenth and ten times
  the strength l2-to-start-weak, l2-to-start-strong, shrink-and-perturb-weak,
  shrink-and-perturb-strong, upgd-weak, upgd-strong; of permuted-inputs
  inputs-sgdw, inputs-adamw, inputs-s-and-p, inputs-s-and-p-table,
  inputs-upgd-w, and of permuted-labels the same of labels; by default the
  workload's."""

  seeds: int = 5
  """Seeds of the runs that are reported."""

  budget: int | None = None
  """Gradient evaluations of a run, or on a stream its batches; by default each
  task's own."""

  large: bool = False
  """The large form, for an accelerator."""

  data_dir: str | None = None
  """Folder of the data set's files, where they are not found by themselves:
  Debian's packages of Fashion-MNIST, Shuttle and the texts are."""

  out: str = 'results'
  """Folder of the results; made if missing."""

  def __call__(self) -> None:
    """Makes the runs, and prints where they are."""
    from isgd_jax.experiments.compare import command as command_lib

    config = command_lib.CompareConfig(
      workload=self.workload,
      tasks=self.tasks,
      methods=self.methods,
      base_optimizers=self.bases,
      seeds=self.seeds,
      budget=self.budget,
      large=self.large,
      data_dir=self.data_dir,
    )
    print(f'Results: {command_lib.compare(config, self.out)}')


@dataclasses.dataclass(frozen=True)
class Report:
  """Make the tables and figures of the comparisons in a folder."""

  results: tyro.conf.Positional[str] = 'results'
  """Folder that `isgd-jax compare` wrote to; the figures go there too."""

  out: str = 'RESULTS.md'
  """Markdown file to write."""

  figures: FigureFormat = 'png'
  """Format of the figures."""

  def __call__(self) -> None:
    """Makes them, and prints where they are."""
    from isgd_jax.experiments.report import command as command_lib

    command_lib.report(
      pathlib.Path(self.results), pathlib.Path(self.out), self.figures
    )
    print(f'Tables: {self.out}, figures: {self.results}')


@dataclasses.dataclass(frozen=True)
class Demonstrate:
  """Show what makes batches differ, and what ISGD does about it, as the paper.

  Trains LeNet on Fashion-MNIST in a fixed cycle: losses of batches of one class
  and of i.i.d. batches along a run; losses by place in the cycle; losses by
  epoch with SGD, Momentum and Nesterov, alone, with ISGD and with the paper's
  ISGD. One learning rate, not tuned, serves all methods of a base optimizer:
  this shows what the control chart sees and does not compare the methods.
  Prints what was measured. Writes to the folder --out a line of JSON for each
  run (demonstrations.jsonl, of MNIST demonstrations-mnist.jsonl) and figures
  drawn from them (demonstrations-*.png). The defaults take up to four minutes
  on two CPU cores.
  Runs that are on record are not repeated: a command that was stopped goes on
  where it was when it is given again.
  """

  out: str = 'results'
  """Folder for records and figures; made if missing. Figures are replaced."""

  large: bool = False
  """All images, 15 epochs: for an accelerator."""

  mnist: str | None = None
  """Folder of MNIST's four IDX files, which take the place of Fashion-MNIST's.
  Records and figures of both can lie in one folder."""

  figures: FigureFormat = 'png'
  """Format of the figures."""

  def __call__(self) -> None:
    """Makes the runs, draws them, and prints what was measured."""
    from isgd_jax import plotting
    from isgd_jax.experiments.demonstrate import demonstrations

    plotting.new_figure()  # A missing matplotlib shows now, not after the runs.
    task = demonstrations.demonstration_task(self.large, mnist=self.mnist)
    records = demonstrations.run_demonstrations(task, self.out)
    demonstrations.draw_demonstrations(self.out, self.figures, task.dataset)
    print(demonstrations.describe_demonstrations(records))
    print(f'\nRecords and figures: {self.out}')


Command = Demo | Train | Chart | PlanBatchSize | Compare | Report | Demonstrate

COMMANDS: dict[str, type] = {
  'demo': Demo,
  'train': Train,
  'chart': Chart,
  'plan-batch-size': PlanBatchSize,
  'compare': Compare,
  'report': Report,
  'demonstrate': Demonstrate,
}
