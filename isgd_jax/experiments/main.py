"""The console script `isgd-jax`: runs a subcommand, explains what fails."""

from collections.abc import Sequence
import sys
from typing import NoReturn

from isgd_jax.experiments._errors import InputError
from isgd_jax.experiments._errors import OutputError
from isgd_jax.experiments._errors import RunStopped
from isgd_jax.experiments._errors import missing_extra

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_BAD_INPUT = 2
_FAILED = 1


def main(args: Sequence[str] | None = None) -> None:
  """Entry point of the console script `isgd-jax`.

  Ends the process: with 0 when all went well, 2 on input that is not valid
  (unknown names, folders that cannot be written), 130 on Ctrl-C, 75 after a
  SIGTERM on which a run was saved, 1 on a missing package.

  Args:
    args: the command line without the program's name; None takes `sys.argv`.

  Example:
    >>> main(['demo', '--model', 'mpl'])
    Traceback (most recent call last):
    ...
    SystemExit: 2
  """
  try:
    from isgd_jax.experiments import command_line

    command_line.parse(args)()
  except KeyboardInterrupt as error:
    _exit(
      _INTERRUPTED, f'interrupted: {error}' if error.args else 'interrupted'
    )
  except RunStopped as error:
    _exit(error.exit_code, str(error))
  except ModuleNotFoundError as error:
    _exit(_FAILED, f'error: {missing_extra(str(error.name))}')
  except ImportError as error:
    _exit(_FAILED, f'error: {error}')
  except (InputError, OutputError) as error:
    _exit(_BAD_INPUT, f'error: {error}')


def _exit(code: int, message: str) -> NoReturn:
  """Ends the process with one line on stderr."""
  print(f'isgd-jax: {message}', file=sys.stderr)
  raise SystemExit(code)
