"""What `isgd-jax plan-batch-size` does, prints and writes."""

import contextlib
import os
import pathlib

import jax

from isgd_jax import batch_size
from isgd_jax.experiments import files
from isgd_jax.experiments.environment import environment
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.figures import FigureFormat
from isgd_jax.experiments.plan_batch_size import figures
from isgd_jax.experiments.plan_batch_size import measure
from isgd_jax.experiments.plan_batch_size.bench import Bench
from isgd_jax.experiments.plan_batch_size.bench import use_devices
from isgd_jax.experiments.plan_batch_size.config import PlanConfig
from isgd_jax.experiments.plan_batch_size.config import check_config
from isgd_jax.experiments.plan_batch_size.config import check_data
from isgd_jax.experiments.plan_batch_size.plan import as_record
from isgd_jax.experiments.plan_batch_size.plan import make_plan
from isgd_jax.experiments.plan_batch_size.report import report
from isgd_jax.experiments.train.inputs import load_run_dataset

PLAN = 'plan.json'
STEP_TIME = 'step_time.png'
TIME_TO_TARGET = 'time_to_target.png'


def run(
  config: PlanConfig,
  out: str | os.PathLike[str],
  *,
  show_progress: bool | None = None,
  figure_format: FigureFormat = 'png',
) -> str:
  """Measures, plans, and writes the plan and its figures.

  Args:
    config: what to plan for.
    out: folder for `plan.json`, `step_time.png` and `time_to_target.png`; made
      if missing. Those of an earlier plan are replaced.
    show_progress: whether to show bars on stderr; None: on a terminal only.
    figure_format: of the figures.

  Returns:
    The plan in words.

  Raises:
    InputError: an option that cannot be, or measurements that no plan can be
      made of. Nothing has been written then.
    OutputError: the folder cannot be written to.

  Example:
    >>> try:
    ...   run(PlanConfig(target_loss=0.0), 'plan')
    ... except InputError as error:
    ...   print(error)
    --target-loss must be above 0, got 0.0
  """
  check_config(config)
  folder = pathlib.Path(out)
  made = [path for path in (folder, *folder.parents) if not path.exists()]
  files.prepare_output_folder(folder)
  is_written = False
  try:
    use_devices(config.num_devices)
    bench = _build(config)
    times = measure.time_steps(bench, show_progress)
    pilot = measure.run_pilot(bench, show_progress)
    plan = make_plan(config, times, pilot)
    size = plan.recommended.batch_size
    rows: list[batch_size.ScalingRow] | None = None
    if config.num_devices > 1:
      rows = measure.scaling(bench, size, show_progress)
    record = {
      **as_record(config, times, pilot, plan, rows),
      'num_parameters': bench.num_parameters,
      'num_examples': len(bench.dataset.train),
      **environment(),
    }
    title = f'{config.model} on {config.dataset}, {config.base}'
    is_written = True
    step_time, time_to_target = (
      (folder / name).with_suffix(f'.{figure_format}')
      for name in (STEP_TIME, TIME_TO_TARGET)
    )
    figures.draw_step_time(step_time, times, plan, title)
    figures.draw_time_to_target(time_to_target, config, plan, title)
    # Last: where it is, the rest is.
    files.replace_file(
      folder / PLAN,
      lambda new: new.write_text(files.to_json(record) + '\n'),
    )
  finally:
    if not is_written:
      for path in made:
        with contextlib.suppress(OSError):
          path.rmdir()
  device = jax.devices()[0]
  heading = (
    f'{title} at learning rate {config.learning_rate:g}; '
    f'{bench.num_parameters:,} parameters; on {config.num_devices} x '
    f'{device.device_kind}'
  )
  return f'{heading}\n\n{report(config, times, pilot, plan, rows)}'


def _build(config: PlanConfig) -> Bench:
  """The data set and the programs, if all goes together."""
  try:
    dataset = load_run_dataset(config.train_config())
    check_data(config, len(dataset.train))
    return Bench(config, dataset)
  except InputError:
    raise
  except (ValueError, OverflowError) as error:
    raise InputError(str(error)) from error
