"""Batches that a user wants left out: `isgd-jax train --skip-batches FILE`."""

from collections.abc import Callable, Sequence
import json
import os
import pathlib
from typing import Any, NamedTuple

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.files import write_records

# In the folder of a run: what it was told, for when it is carried on.
LEFT_OUT = 'skip_batches.jsonl'
_NO_REASON = ('verdict', 'well-trained')


class LeftOut(NamedTuple):
  """The batches that get no update.

  Attributes:
    steps: training steps, from 1.
    batches: positions in the cycle, from 0, of batches left out each epoch.
  """

  steps: frozenset[int] = frozenset()
  batches: frozenset[int] = frozenset()

  def has(self, step: int, batch: int) -> bool:
    """Whether the batch of a step is left out.

    Args:
      step: from 1.
      batch: its position in the cycle, from 0.

    Returns:
      Whether it is named by either.

    Example:
      >>> LeftOut(batches=frozenset({3})).has(step=16, batch=3)
      True
    """
    return step in self.steps or batch in self.batches

  def lines(self) -> list[dict[str, int]]:
    """Itself as lines of a file, in order.

    Example:
      >>> LeftOut(frozenset({9, 4}), frozenset({3})).lines()
      [{'batch': 3}, {'step': 4}, {'step': 9}]
    """
    return [
      *({'batch': batch} for batch in sorted(self.batches)),
      *({'step': step} for step in sorted(self.steps)),
    ]


def read_left_out(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  r"""Reads a file of batches to leave out.

  Args:
    path: JSON lines with a `step` or a `batch`: an `events.jsonl`, or lines of
      one's own. Events that are no reason to leave a batch out (verdicts, which
      are about the chase of another step, and well-trained batches) are left
      aside.

  Returns:
    The lines.

  Raises:
    InputError: naming the file, the line, and what a line must be.

  Example:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'bad.jsonl')
    >>> _ = path.write_text('{"step": 4}\n{"batch": 3}\n')
    >>> read_left_out(path)
    [{'step': 4}, {'batch': 3}]
  """
  path = pathlib.Path(path)
  try:
    text = path.read_text()
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, 'strerror', None) or 'it is not a text'
    raise InputError(
      f"--skip-batches '{path}' cannot be read: {reason}; name a file of JSON "
      'lines, such as the events.jsonl of a run'
    ) from error
  lines = []
  for number, line in enumerate(text.splitlines(), 1):
    if not line.strip():
      continue
    try:
      record = json.loads(line)
    except ValueError:
      record = None
    if not isinstance(record, dict) or not _names_a_batch(record):
      raise InputError(
        f"line {number} of --skip-batches '{path}' names no batch: "
        f'{line[:60]!r}; give {{"step": N}}, from 1, or {{"batch": J}}, the '
        'position in the cycle from 0'
      )
    if record.get('event') not in _NO_REASON:
      lines.append(record)
  if not lines:
    raise InputError(
      f"--skip-batches '{path}' names no batch; leave it out, or give lines "
      'such as {"step": 12} or {"batch": 3}'
    )
  return lines


def fitting(
  lines: Sequence[dict[str, Any]],
  num_steps: int,
  batches_per_cycle: int,
  *,
  is_cycle: bool,
  record_numbers: Callable[[int], list[int]],
) -> LeftOut:
  """The batches that lines name, which must be batches of the run.

  A line names its `step` where it has one, and else its `batch` in each epoch.

  Args:
    lines: from `read_left_out`.
    num_steps: training steps of the run.
    batches_per_cycle: batches in an epoch.
    is_cycle: whether they are the same in each epoch.
    record_numbers: of a step, the records in its batch.

  Returns:
    A `LeftOut`.

  Raises:
    InputError: naming what does not fit, and the remedy.

  Example:
    >>> lines = [{'step': 2}]
    >>> fitting(lines, 10, 5, is_cycle=True, record_numbers=lambda step: [])
    LeftOut(steps=frozenset({2}), batches=frozenset())
  """
  for line in lines:
    step, batch = line.get('step'), line.get('batch')
    if step is not None:
      if step > num_steps:
        raise InputError(
          f'--skip-batches names step {step:,}, and the run has {num_steps:,}; '
          'take the line out, or train for longer'
        )
      if 'records' in line and line['records'] != record_numbers(step):
        raise InputError(
          f'--skip-batches has other records at step {step:,} than this run: '
          'it was made with other data, another seed or another batch size; '
          'name the batches of this run'
        )
    elif not is_cycle:
      raise InputError(
        f'--skip-batches names batch {batch} of the cycle, and with --sampling '
        'reshuffle each epoch has other batches; name steps'
      )
    elif batch is not None and batch >= batches_per_cycle:
      raise InputError(
        f'--skip-batches names batch {batch}, and a cycle has '
        f'{batches_per_cycle:,}, counted from 0; take the line out'
      )
  steps = frozenset(line['step'] for line in lines if 'step' in line)
  batches = frozenset(line['batch'] for line in lines if 'step' not in line)
  if len(batches) == batches_per_cycle or len(steps) == num_steps:
    raise InputError(
      '--skip-batches names every batch, and leaves none to train on; name '
      'fewer'
    )
  return LeftOut(steps, batches)


def check_ahead(left_out: LeftOut, start: int) -> None:
  """Raises where a run that is carried on has all of it behind itself.

  Args:
    left_out: given anew.
    start: training steps done.

  Raises:
    InputError: with the remedy.

  Example:
    >>> check_ahead(LeftOut(steps=frozenset({7})), start=6)
  """
  if left_out.batches or any(step > start for step in left_out.steps):
    return
  raise InputError(
    f'--skip-batches names steps up to {max(left_out.steps):,}, and the run is '
    f'carried on after step {start:,}; to leave the same batches of a fixed '
    'cycle out from now on, name them by {"batch": J} alone'
  )


def load(out: pathlib.Path) -> LeftOut:
  """What the run in a folder was told to leave out.

  Args:
    out: the folder.

  Returns:
    A `LeftOut`; an empty one where there is no such file.

  Raises:
    InputError: the file is damaged.

  Example:
    >>> load(pathlib.Path('nowhere'))
    LeftOut(steps=frozenset(), batches=frozenset())
  """
  path = out / LEFT_OUT
  lines = read_left_out(path) if path.exists() else []
  return LeftOut(
    frozenset(line['step'] for line in lines if 'step' in line),
    frozenset(line['batch'] for line in lines if 'step' not in line),
  )


def save(left_out: LeftOut, out: pathlib.Path) -> None:
  """Writes what a run was told into its folder.

  Args:
    left_out: what it leaves out.
    out: the folder.

  Raises:
    OutputError: it cannot be written.

  Example:
    >>> import tempfile
    >>> out = pathlib.Path(tempfile.mkdtemp())
    >>> save(LeftOut(steps=frozenset({7})), out)
    >>> load(out).steps
    frozenset({7})
  """
  write_records(out / LEFT_OUT, left_out.lines())


def _names_a_batch(record: dict[str, Any]) -> bool:
  """Whether a line has a step or a batch, as numbers that can be."""
  name, least = ('step', 1) if 'step' in record else ('batch', 0)
  value = record.get(name)
  return (
    isinstance(value, int) and not isinstance(value, bool) and value >= least
  )
