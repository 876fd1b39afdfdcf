"""A run put together from its options, before anything is computed."""

import dataclasses
import functools
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from isgd_jax import sampling
from isgd_jax.experiments import datasets
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.train import checks
from isgd_jax.experiments.train import folder
from isgd_jax.experiments.train import ignored
from isgd_jax.experiments.train.config import TrainConfig
from isgd_jax.experiments.train.devices import DevicesConfig
from isgd_jax.experiments.train.devices import Placement
from isgd_jax.experiments.train.devices import check_last_batch
from isgd_jax.experiments.train.devices import place
from isgd_jax.experiments.train.inputs import create_network
from isgd_jax.experiments.train.inputs import facts_of
from isgd_jax.experiments.train.inputs import load_run_dataset
from isgd_jax.experiments.train.inputs import train_cycle
from isgd_jax.experiments.train.optimizers import build_optimizer
from isgd_jax.experiments.train.optimizers import phase_one_length
from isgd_jax.experiments.train.steps import RunState
from isgd_jax.experiments.train.steps import Steps
from isgd_jax.experiments.train.steps import build_steps

if TYPE_CHECKING:
  import grain

# Below some 20 losses the chart's sigma is little more than a guess.
_SHORTEST_USEFUL_WINDOW = 20


class Plan(NamedTuple):
  """What a run is made of; nothing has been computed or written yet.

  Attributes:
    dataset: its data set.
    facts: what tells that from others.
    cycle: the training batches by step.
    batches_per_cycle: batches in a cycle through the data.
    num_steps: training steps in the whole run.
    steps: its programs.
    template: shapes and dtypes of its state.
    placement: where it computes.
    phase_one: batches before the chart has limits; None without a chart.
  """

  dataset: datasets.Dataset
  facts: dict[str, Any]
  cycle: 'grain.MapDataset[sampling.CycleBatch]'
  batches_per_cycle: int
  num_steps: int
  steps: Steps
  template: RunState
  placement: Placement
  phase_one: int | None = None


def make_plan(
  config: TrainConfig,
  out: str | os.PathLike[str],
  resume: bool = False,
  devices: DevicesConfig | None = None,
) -> Plan:
  """Puts a run together; fails on whatever does not fit.

  Args:
    config: the run.
    out: its folder, which is left as it is.
    resume: whether the run in the folder is to be carried on.
    devices: where it is to compute; all devices by default.

  Returns:
    A `Plan`.

  Raises:
    InputError: an option cannot be, or does not go with the folder, the data
      or the devices.
    DataError: a data set that cannot be read.

  Example:
    >>> make_plan(TrainConfig(epochs=3), 'run').num_steps
    36
  """
  checks.check_config(config)
  folder.check_folder(out, resume)
  if resume:
    saved = folder.load_config(out)
    checks.check_same_run(config, dataclasses.asdict(saved), f"'{out}'")
  else:
    # A run of before may have been begun with some.
    ignored.check_ignored(config)
  placement = place(devices or DevicesConfig(), config.data.batch_size)
  try:
    dataset = load_run_dataset(config)
    check_last_batch(placement, config.data, len(dataset.train))
    cycle = train_cycle(config, dataset)
    batches_per_cycle = sampling.batches_per_cycle(
      len(dataset.train), config.data.batch_size, config.data.last_batch
    )
    steps = build_steps(
      functools.partial(create_network, config, dataset),
      dataset,
      build_optimizer(config, batches_per_cycle),
      config.seed,
      placement.replicated,
    )
    # Compiles nothing yet, but fails on what does not fit together.
    template = jax.eval_shape(steps.init)
  except InputError:
    raise
  except (ValueError, OverflowError) as error:
    raise InputError(str(error)) from error
  return Plan(
    dataset=dataset,
    facts=facts_of(dataset),
    cycle=cycle,
    batches_per_cycle=batches_per_cycle,
    num_steps=config.num_steps(batches_per_cycle),
    steps=steps,
    template=template,
    placement=placement,
    phase_one=phase_one_length(config.isgd, batches_per_cycle),
  )


def describe(config: TrainConfig, plan: Plan) -> str:
  """A run in words, before it begins.

  Args:
    config: the run.
    plan: what it is made of.

  Returns:
    Its options, and its sizes.

  Example:
    >>> config = TrainConfig()
    >>> print(describe(config, make_plan(config, 'run')).splitlines()[0])
    model                          "mlp"
  """
  dataset = plan.dataset
  sizes = [leaf.size for leaf in jax.tree.leaves(plan.template.params)]
  return (
    f'{checks.describe_options(config)}\n\n'
    f'{len(dataset.train):,} examples to train on and {len(dataset.test):,} to '
    f'test on; {plan.batches_per_cycle:,} batches an epoch, '
    f'{plan.num_steps:,} steps in all; {sum(sizes):,} parameters; on '
    f'{plan.placement.describe()}\n'
  )


def phase_one_warning(config: TrainConfig, plan: Plan) -> str:
  """What to say of a run that ends before its chart has limits.

  Args:
    config: the run.
    plan: what it is made of.

  Returns:
    A warning with its remedies; empty where batches will be judged.

  Example:
    >>> config = TrainConfig(epochs=1)
    >>> plan = make_plan(config, 'run')
    >>> plan.phase_one, plan.num_steps
    (20, 12)
    >>> phase_one_warning(config, plan).startswith('Warning: no batch will be')
    True
    >>> config = TrainConfig(epochs=2)
    >>> phase_one_warning(config, make_plan(config, 'run'))
    ''
  """
  if plan.phase_one is None or plan.num_steps > plan.phase_one:
    return ''
  enough = -(-2 * plan.phase_one // plan.batches_per_cycle)
  remedy = f'train for longer (--epochs {enough}, say)'
  shorter = plan.num_steps // 4
  if shorter >= _SHORTEST_USEFUL_WINDOW and config.isgd.chart != 'difference':
    remedy += f', or take a shorter window (--window-size {shorter}, say)'
  return (
    'Warning: no batch will be judged. The control chart has limits after '
    f'{plan.phase_one:,} batches, when its window is full, and the run ends '
    f'after {plan.num_steps:,}: {remedy}.\n'
  )
