"""The kinds of data a reader may have, and the tasks that stand for them."""

from typing import NamedTuple


class Kind(NamedTuple):
  """A kind of data, and the tasks that stand for it.

  Attributes:
    title: as a reader would say it.
    is_real: whether the streams were not made by us.
    prefixes: of the names of its tasks.
    suffixes: likewise; any where there is none.
    rival_prefixes: likewise, of the tasks that rivals were run on; None where
      they are the same.
    measure: of the summaries.
  """

  title: str
  is_real: bool
  prefixes: tuple[str, ...]
  suffixes: tuple[str, ...] = ('',)
  rival_prefixes: tuple[str, ...] | None = None
  measure: str = 'loss'

  def has(self, task: str) -> bool:
    """Whether a task stands for it."""
    return task.startswith(self.prefixes) and task.endswith(self.suffixes)

  def has_rivals_on(self, task: str) -> bool:
    """Whether a task stands for it where rivals are compared."""
    prefixes = self.rival_prefixes or self.prefixes
    return task.startswith(prefixes) and task.endswith(self.suffixes)


KINDS = (
  Kind(
    'meaning changes abruptly',
    False,
    ('drift-labels/', 'drift-pixels/'),
    rival_prefixes=('made-rivals/',),
  ),
  Kind('meaning changes gradually', False, ('drift-gradual/',)),
  Kind('text, two sources in turn', False, ('drift-text/',)),
  Kind(
    'real, in time order, batches of 1 or 4',
    True,
    ('real-streams/',),
    ('-1', '-4'),
  ),
  Kind(
    'real, in time order, batches of 16 or 64',
    True,
    ('real-streams/',),
    ('-16', '-64'),
  ),
  Kind('real, shuffled', True, ('real-streams/',), ('-shuffled',)),
  Kind(
    'real, in real time: an evaluation more costs a batch',
    True,
    ('real-time/',),
  ),
  Kind(
    'batches of random labels in a stream, loss on the others',
    False,
    ('wrong-labels/',),
    measure='right_loss',
  ),
  Kind('wrong labels, in a fixed cycle, test loss', False, ('label-noise/',)),
)
