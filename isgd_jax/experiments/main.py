"""The command line: `isgd-jax demo` and whatever follows it."""

from collections.abc import Sequence
import dataclasses
import sys
from typing import NoReturn

from isgd_jax.experiments._errors import InputError
from isgd_jax.experiments._errors import OutputError
from isgd_jax.experiments._errors import missing_extra

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_BAD_INPUT = 2
_FAILED = 1


@dataclasses.dataclass(frozen=True)
class Demo:
  """Compare ISGD with its baselines on real handwritten digits.

  Trains on ordinary shuffled epochs and on a one-pass stream that drifts, each
  with the base optimizer alone, with every batch twice, with ISGD's number of
  extra steps on random batches, and with ISGD. Prints one table and what it
  shows; draws a control chart and the accuracy over the stream. With
  the defaults it takes up to three minutes on two CPU cores, and under 40
  seconds with --quick.
  """

  out: str = 'isgd-demo'
  """Folder for results and figures; made if missing. Results are appended to
  those that are there, figures are replaced."""

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

  def __call__(self) -> None:
    """Runs the demo and prints its table."""
    from isgd_jax.experiments import demo

    summary = demo.run_demo(
      demo.DemoConfig(
        seed=self.seed,
        quick=self.quick,
        dataset=self.dataset,
        model=self.model,
        base_optimizers=self.bases,
      ),
      self.out,
    )
    print(summary)
    print(f'\nResults and figures: {self.out}')


_SUBCOMMANDS = {'demo': Demo}


def main(args: Sequence[str] | None = None) -> None:
  """Entry point of the console script `isgd-jax`.

  Ends the process: with 0 when all went well, 2 on input that is not valid
  (unknown names, folders that cannot be written), 130 on Ctrl-C, 1 on a missing
  package.

  Args:
    args: the command line without the program's name; None takes `sys.argv`.

  Example:
    >>> main(['demo', '--model', 'mpl'])
    Traceback (most recent call last):
    ...
    SystemExit: 2
  """
  try:
    _parse(args)()
  except KeyboardInterrupt as error:
    _exit(
      _INTERRUPTED, f'interrupted: {error}' if error.args else 'interrupted'
    )
  except ModuleNotFoundError as error:
    _exit(_FAILED, f'error: {missing_extra(str(error.name))}')
  except ImportError as error:
    _exit(_FAILED, f'error: {error}')
  except (InputError, OutputError) as error:
    _exit(_BAD_INPUT, f'error: {error}')


def _parse(args: Sequence[str] | None) -> Demo:
  """The subcommand that the command line asks for, not yet run."""
  import tyro

  return tyro.extras.subcommand_cli_from_dict(
    _SUBCOMMANDS,
    prog='isgd-jax',
    description='Experiments with inconsistent SGD (ISGD) in JAX.',
    args=args,
  )


def _exit(code: int, message: str) -> NoReturn:
  """Ends the process with one line on stderr."""
  print(f'isgd-jax: {message}', file=sys.stderr)
  raise SystemExit(code)
