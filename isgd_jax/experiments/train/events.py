"""What happened in a run: `events.jsonl`, read off its steps.

An event follows from the steps up to it, and no clock comes into it. So a run
that is carried on has the events of one that was never stopped, and a file
that was lost is made again.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from isgd_jax.experiments.files import plain
from isgd_jax.experiments.train.config import IsgdConfig


class _Chase(NamedTuple):
  """A chase that the batches after it judge.

  Attributes:
    step: at which it was made.
    leads: whether its parameters are in use; else it is in the shadow.
  """

  step: int
  leads: bool


class Events:
  """Finds the events of a run, a step after the other.

  Example:
    >>> events = Events(IsgdConfig(), record_numbers=lambda step: [3, 1])
    >>> record = {
    ...   'step': 8, 'epoch': 1, 'batch': 2, 'loss': 2.0, 'statistic': 2.0,
    ...   'control_limit': 1.5, 'lower_limit': 0.5, 'is_undertrained': True,
    ...   'num_chase_steps': 2, 'final_loss': 1.0, 'is_on_probation': True,
    ...   'num_gradient_evaluations': 3}
    >>> (event,) = events.of([record])
    >>> event['event'], event['reaction'], event['records']
    ('under-trained', 'chase', [3, 1])
    >>> after = record | {
    ...   'step': 9, 'is_undertrained': False, 'num_chase_steps': 0,
    ...   'is_on_probation': False, 'is_chase_undone': True}
    >>> (event,) = events.of([after])
    >>> event['event'], event['of_step'], event['outcome']
    ('verdict', 8, 'undone')
  """

  def __init__(
    self,
    isgd: IsgdConfig,
    record_numbers: Callable[[int], list[int]] | None = None,
  ):
    """Begins with the first step of a run.

    Args:
      isgd: the options of ISGD.
      record_numbers: of a step, the records in its batch; None where they are
        not known.
    """
    self._isgd = isgd
    self._record_numbers = record_numbers
    self._on_probation: _Chase | None = None
    self._num_paid = 0

  def of(self, records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The events of the steps that come next.

    Args:
      records: lines of `metrics.jsonl`, written or still to be written, in
        order and without a gap.

    Yields:
      The events in order, as JSON has them.
    """
    for record in records:
      if is_left_out(record):
        yield self._event(record, 'left-out', 'none')
        continue
      verdict = self._verdict(record)
      if verdict is not None:
        yield verdict
      kind = _kind(record)
      if kind is not None:
        yield self._event(record, kind, self._reaction(record))

  def _verdict(self, record: dict[str, Any]) -> dict[str, Any] | None:
    """What this step says of the chase on probation, if it ends that."""
    chase, num_paid = self._on_probation, record.get('num_chases_paid', 0)
    is_on_probation = record.get('is_on_probation', False)
    begins = is_on_probation and bool(record['num_chase_steps'])
    verdict = None
    if chase is not None and (begins or not is_on_probation):
      if chase.leads:
        is_undone = record.get('is_chase_undone', False)
        outcome = 'undone' if is_undone else 'kept'
      else:
        # It was never in use: whether it would have paid.
        outcome = 'paid' if num_paid > self._num_paid else 'did not pay'
      verdict = _place(record) | {
        'event': 'verdict',
        'of_step': chase.step,
        'outcome': outcome,
      }
      self._on_probation = None
    if begins:
      self._on_probation = _Chase(record['step'], _has_led(record))
    self._num_paid = num_paid
    return verdict

  def _event(
    self, record: dict[str, Any], kind: str, reaction: str
  ) -> dict[str, Any]:
    """A batch that something was done about, or is to be known of."""
    is_below = kind == 'well-trained'
    event = _place(record) | {
      'event': kind,
      'loss': record['loss'],
      'statistic': record.get('statistic'),
      'limit': record.get('lower_limit' if is_below else 'control_limit'),
      'reaction': reaction,
    }
    if reaction in ('chase', 'chase in the shadow', 'chase reverted'):
      event |= {
        'num_chase_steps': record['num_chase_steps'],
        'final_loss': record['final_loss'],
        'is_on_probation': record.get('is_on_probation', False),
      }
    if record.get('violated_rules'):
      event['violated_rules'] = record['violated_rules']
    # Of those there may be many, and nobody has to look into them.
    if self._record_numbers is not None and not is_below:
      event['records'] = self._record_numbers(record['step'])
    return plain(event)

  def _reaction(self, record: dict[str, Any]) -> str:
    """What was done about a batch."""
    if record.get('is_skipped'):
      return 'skip'
    if not record['num_chase_steps']:
      return 'base update'
    if record.get('is_chase_reverted'):
      return 'chase reverted'
    if self._isgd.method == 'paper-isgd' or _has_led(record):
      return 'chase'
    return 'chase in the shadow'


def is_left_out(record: dict[str, Any]) -> bool:
  """Whether a step left its batch out, as the user asked.

  Args:
    record: a line of `metrics.jsonl`.

  Returns:
    Whether it spent no gradient evaluation.

  Example:
    >>> is_left_out({'step': 1, 'num_gradient_evaluations': 0})
    True
  """
  return record.get('num_gradient_evaluations') == 0


def _place(record: dict[str, Any]) -> dict[str, Any]:
  """Where in the run a step is."""
  return {name: record[name] for name in ('step', 'epoch', 'batch')}


def _kind(record: dict[str, Any]) -> str | None:
  """What is the matter with a batch; None of an ordinary one."""
  if record.get('is_undertrained'):
    return 'under-trained'
  if record.get('is_well_trained'):
    return 'well-trained'
  if record.get('violated_rules'):
    return 'run rule'
  if plain(record['loss']) is None:
    return 'not finite'
  return None


def _has_led(record: dict[str, Any]) -> bool:
  """Whether the loss that a chase left is that of the parameters in use."""
  loss, final_loss = plain(record['loss']), plain(record['final_loss'])
  return None not in (loss, final_loss) and final_loss < loss
