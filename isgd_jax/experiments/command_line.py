"""From the words of the command line to a subcommand with its options."""

from collections.abc import Sequence
import dataclasses
import sys
from typing import Annotated, Any

import jax
import optax

import isgd_jax
from isgd_jax.experiments import arguments
from isgd_jax.experiments.commands import COMMANDS
from isgd_jax.experiments.commands import Chart
from isgd_jax.experiments.commands import Command
from isgd_jax.experiments.commands import Compare
from isgd_jax.experiments.commands import Demo
from isgd_jax.experiments.commands import Demonstrate
from isgd_jax.experiments.commands import PlanBatchSize
from isgd_jax.experiments.commands import Report
from isgd_jax.experiments.commands import Train
from isgd_jax.experiments.errors import missing_extra

try:
  import tyro
except ImportError as error:
  raise missing_extra('tyro') from error

# An option that need not be given takes INT, not {None}|INT (tyro from 1.0 on).
_MARKERS = (
  (tyro.conf.DisallowNone,) if hasattr(tyro.conf, 'DisallowNone') else None
)
# What must follow a command.
_NEEDED = {
  'chart': 'the folder of a run, as in isgd-jax chart isgd-run',
  'compare': 'a workload, as in isgd-jax compare drift-labels; isgd-jax '
  'compare --help names them',
}


def parse(args: Sequence[str] | None) -> Command:
  """The subcommand that the command line asks for, not yet run.

  Args:
    args: the command line without the program's name; None takes `sys.argv`.

  Returns:
    The command; calling it runs it.

  Raises:
    InputError: there is no run to resume.
    SystemExit: the command line is wrong, or asks for help.

  Example:
    >>> parse(['train', '--model', 'lenet']).config.model
    'lenet'
  """
  command = _cli(args, Train())
  if isinstance(command, Train) and command.resume:
    return _resumed(args, command)
  return command


def _resumed(args: Sequence[str] | None, train: Train) -> Train:
  """The run's own options, but for what the command line says otherwise."""
  from isgd_jax.experiments.train import folder

  folder.check_folder(train.out, resume=True)
  saved = folder.load_config(train.out)
  again = _cli(args, Train(config=saved))
  assert isinstance(again, Train)
  config = again.config
  # One of the two, given anew, stands for the other.
  if config.epochs != saved.epochs and config.steps == saved.steps:
    config = dataclasses.replace(config, steps=None)
  elif config.steps != saved.steps and config.epochs == saved.epochs:
    config = dataclasses.replace(config, epochs=None)
  return dataclasses.replace(again, config=config)


def _cli(args: Sequence[str] | None, train: Train) -> Command:
  """Parses the command line; `train` has the defaults of that subcommand."""
  given = sys.argv[1:] if args is None else list(args)
  if given == ['--version']:
    print(_version())
    raise SystemExit(0)
  arguments.check(given, COMMANDS, _NEEDED)
  for command in COMMANDS.values():
    arguments.set_help(command)

  def named(name: str, **options: Any) -> Any:
    return tyro.conf.subcommand(
      name, description=arguments.description(COMMANDS[name]), **options
    )

  commands = (
    Annotated[Demo, named('demo')]
    | Annotated[Train, named('train', default=train)]
    | Annotated[Chart, named('chart')]
    | Annotated[PlanBatchSize, named('plan-batch-size')]
    | Annotated[Compare, named('compare')]
    | Annotated[Report, named('report')]
    | Annotated[Demonstrate, named('demonstrate')]
  )
  with arguments.wrapped_stdout():
    return tyro.cli(
      commands,
      prog='isgd-jax',
      description='Experiments with inconsistent SGD (ISGD) in JAX. '
      'isgd-jax --version says which version this is.',
      args=given,
      config=_MARKERS,
    )


def _version() -> str:
  """This package, and those that decide what it computes."""
  others = ', '.join(f'{m.__name__} {m.__version__}' for m in (jax, optax))
  return f'isgd_jax {isgd_jax.__version__} ({others})'
