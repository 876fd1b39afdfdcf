"""Runs every method on every job, tuned, and records each run at once.

The rules: every method sees the same batches, from the same initial parameters;
each has its learning rate tuned on the same grid, with seeds apart from those
that are reported; cost is counted in seconds and in gradient evaluations.
"""

from collections.abc import Sequence
import dataclasses
import datetime
import pathlib
from typing import Any

import numpy as np

from isgd_jax.experiments import results
from isgd_jax.experiments.base_optimizers import best_rate
from isgd_jax.experiments.datasets import load_dataset
from isgd_jax.experiments.jobs import Job
from isgd_jax.experiments.methods import IsgdSettings
from isgd_jax.experiments.models import build_model
from isgd_jax.experiments.stream_training import TrainConfig
from isgd_jax.experiments.stream_training import TrainResult
from isgd_jax.experiments.stream_training import train

try:
  import tqdm
except ImportError as error:
  from isgd_jax.experiments._errors import missing_extra

  raise missing_extra('tqdm') from error

# ISGD runs before the random trigger, which repeats its number of extra steps.
_RUN_ORDER = ('base', 'twice', 'isgd', 'random')


@dataclasses.dataclass(frozen=True)
class Plan:
  """What an experiment runs.

  Attributes:
    dataset: name of the data set.
    model: name of the network.
    jobs: what the methods are compared on.
    grids: of each base optimizer, the learning rates to choose from.
    isgd: one control chart for all jobs and base optimizers.
    tuning_seeds: seeds of the runs that choose the learning rate.
    reporting_seeds: seeds of the runs that are reported.
    drawn_job: name of the job whose runs are drawn, with the first of the
      reporting seeds.
  """

  dataset: str
  model: str
  jobs: tuple[Job, ...]
  grids: dict[str, tuple[float, ...]]
  isgd: IsgdSettings
  tuning_seeds: Sequence[int]
  reporting_seeds: Sequence[int]
  drawn_job: str

  @property
  def num_runs(self) -> int:
    """How many runs there are in all."""
    tuning = sum(map(len, self.grids.values())) * len(self.tuning_seeds)
    reporting = len(self.grids) * len(self.reporting_seeds)
    return len(self.jobs) * len(_RUN_ORDER) * (tuning + reporting)


class Runner:
  """Runs a plan; what is done is on disk before the next run starts.

  Attributes:
    experiment: names this experiment in its records: when it started.
    steps: the step records of the runs that are drawn.
  """

  def __init__(self, plan: Plan, path: pathlib.Path):
    """Loads the data.

    Args:
      plan: what to run.
      path: of the JSON lines that the runs are appended to.
    """
    self.experiment = datetime.datetime.now(datetime.UTC).isoformat()
    self.steps: list[dict[str, Any]] = []
    self._plan = plan
    self._path = path
    self._dataset = load_dataset(plan.dataset)
    self._model = build_model(
      plan.model,
      self._dataset.example_shape,
      self._dataset.num_classes,
    )
    self._environment = results.environment()

  def run_all(self, bar: tqdm.tqdm) -> None:
    """Tunes and reports every method over every base optimizer, on every job.

    Args:
      bar: advanced by one a run.
    """
    plan = self._plan
    for job in plan.jobs:
      for base_optimizer in plan.grids:
        # Of ISGD as tuned, by seed: what the random trigger is to match.
        extra_steps: dict[int, np.ndarray] = {}
        rates = {
          method: self._tune(job, base_optimizer, method, extra_steps, bar)
          for method in _RUN_ORDER
        }
        # Seed by seed, so that other load on the machine slows all methods.
        for seed in plan.reporting_seeds:
          for method, rate in rates.items():
            config = TrainConfig(method, base_optimizer, rate, seed, plan.isgd)
            result, _ = self._run(job, 'reporting', config, extra_steps, bar)
            if method == 'isgd':
              extra_steps[seed] = result.extra_evaluations()

  def _tune(
    self,
    job: Job,
    base_optimizer: str,
    method: str,
    extra_steps: dict[int, np.ndarray],
    bar: tqdm.tqdm,
  ) -> float:
    """The best rate; ISGD leaves the `extra_steps` that it took with it."""
    plan = self._plan
    losses: dict[float, list[float]] = {}
    extra: dict[float, dict[int, np.ndarray]] = {}
    for rate in plan.grids[base_optimizer]:
      losses[rate], extra[rate] = [], {}
      for seed in plan.tuning_seeds:
        config = TrainConfig(method, base_optimizer, rate, seed, plan.isgd)
        result, loss = self._run(job, 'tuning', config, extra_steps, bar)
        losses[rate].append(loss)
        extra[rate][seed] = result.extra_evaluations()
    best = best_rate(losses)
    if method == 'isgd':
      extra_steps.update(extra[best])
    return best

  def _run(
    self,
    job: Job,
    purpose: str,
    config: TrainConfig,
    extra_steps: dict[int, np.ndarray],
    bar: tqdm.tqdm,
  ) -> tuple[TrainResult, float]:
    """One run, recorded, and the loss that it is tuned by."""
    plan, dataset, seed = self._plan, self._dataset, config.seed
    if purpose == 'tuning':
      dataset = job.tuning_data(dataset, seed)
    stream = job.stream(dataset, seed)
    result = train(
      config,
      self._model,
      stream,
      isgd_extra_steps=extra_steps.get(seed),
      show_progress=False,
    )
    measures = job.measure(self._model, dataset, result)
    summary = {**measures._asdict(), **result.summary()}
    name = (
      f'{job.name}/{config.base_optimizer}/{config.method}/{purpose}/'
      f'{config.learning_rate:g}/{seed}'
    )
    is_drawn = (
      purpose == 'reporting'
      and job.name == plan.drawn_job
      and seed == plan.reporting_seeds[0]
    )
    results.append_record(
      self._path,
      {
        'experiment': self.experiment,
        'run': name,
        'purpose': purpose,
        'is_drawn': is_drawn,
        'job': job.title,
        'job_details': job.details,
        'job_config': {'name': job.name, **job.sizes},
        'change_points': stream.change_points,
        'dataset': plan.dataset,
        'model': plan.model,
        'config': dataclasses.asdict(config),
        'learning_rate_grid': plan.grids[config.base_optimizer],
        'summary': summary,
        **self._environment,
      },
    )
    if is_drawn:
      self.steps.extend(results.step_records(name, result.metrics))
    bar.set_description(f'{job.name} {config.base_optimizer} {config.method}')
    bar.set_postfix(
      loss=f'{measures.loss:.3f}',
      accuracy=f'{measures.accuracy:.1%}',
      flagged=f'{summary["share_undertrained"]:.1%}',
      refresh=False,
    )
    bar.update()
    return result, measures.tuning_loss
