"""The console script `isgd-jax`: runs a subcommand, explains what fails."""

from collections.abc import Sequence
import os
import sys
import time
import traceback
from typing import NoReturn

import jax

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import OutputError
from isgd_jax.experiments.errors import ProcessLost
from isgd_jax.experiments.errors import RunStopped
from isgd_jax.experiments.errors import missing_extra

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_BAD_INPUT = 2
_FAILED = 1
_NO_READER = 141  # 128 + SIGPIPE
# JAX ends the others when it loses process 0: first they may say what they have
# to say. (Which process this is cannot be asked here: JAX might wait for them.)
_SECONDS_TO_LAST_WORDS = 2.0


def main(args: Sequence[str] | None = None) -> None:
  """Entry point of the console script `isgd-jax`.

  Ends the process: with 0 when all went well, 2 on input that is not valid
  (unknown names, folders that cannot be written), 130 on Ctrl-C, 75 after a
  SIGTERM on which a run was saved, 76 where a run lost one of its processes, 1
  on a missing package.

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
    from isgd_jax.experiments import commands
    from isgd_jax.experiments import progress
    from isgd_jax.experiments.train import supervisor

    supervisor.start()
    command = command_line.parse(args)
    if (
      args is None
      and isinstance(command, commands.Train)
      and command.devices.has_peers
      and not supervisor.is_supervised()
    ):
      raise SystemExit(supervisor.supervise())
    with progress.lines_elsewhere():
      command()
  except KeyboardInterrupt as error:
    _exit(
      _INTERRUPTED, f'interrupted: {error}' if error.args else 'interrupted'
    )
  except BrokenPipeError:
    # Whoever read this has gone, as `head` does. Nothing is to be flushed.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(_NO_READER) from None
  except RunStopped as error:
    _exit(error.exit_code, str(error))
  except ProcessLost as error:
    _exit(error.exit_code, f'error: {error}')
  except ModuleNotFoundError as error:
    _exit(_FAILED, f'error: {missing_extra(str(error.name))}')
  except ImportError as error:
    _exit(_FAILED, f'error: {error}')
  except (InputError, OutputError) as error:
    _exit(_BAD_INPUT, f'error: {error}')
  except Exception:
    if not jax.distributed.is_initialized():
      raise
    traceback.print_exc()
    _leave_the_others(_FAILED, 'error: the process failed, as above')


def _exit(code: int, message: str) -> NoReturn:
  """Ends the process with one line on stderr."""
  print(f'isgd-jax: {message}', file=sys.stderr)
  if jax.distributed.is_initialized():
    _leave_the_others(code, message)
  raise SystemExit(code)


def _leave_the_others(code: int, message: str) -> NoReturn:
  """Ends a process of several that fails alone, without waiting for them."""
  from isgd_jax.experiments.train import supervisor

  # A stack trace may come in between; what was said is said again after it.
  supervisor.say_on_abort(code, message)
  sys.stdout.flush()
  sys.stderr.flush()
  time.sleep(_SECONDS_TO_LAST_WORDS)
  os._exit(code)
