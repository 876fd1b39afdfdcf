"""The kinds of data a reader may have, and the tasks that stand for them."""

from typing import NamedTuple


class Kind(NamedTuple):
  """A kind of data, and the tasks that stand for it.

  Attributes:
    title: as a reader would say it.
    is_real: whether neither a stream nor its batches were made by us.
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


_CLASSES = ('elec2', 'phishing', 'shuttle-stream', 'flights')
_NUMBERS = ('sp500', 'water-flow', 'trump-approval')


def _real(
  names: tuple[str, ...], workload: str = 'real-streams'
) -> tuple[str, ...]:
  return tuple(f'{workload}/{name}-' for name in names)


KINDS = (
  Kind(
    'images whose meaning changes abruptly',
    False,
    ('drift-labels/', 'drift-pixels/'),
    rival_prefixes=('made-rivals/',),
  ),
  Kind('images whose meaning changes gradually', False, ('drift-gradual/',)),
  Kind(
    'images in epochs, test loss',
    True,
    ('stationary-digits/', 'stationary-fashion/', 'sampling-bias/iid'),
  ),
  Kind(
    'images in epochs, batches of uneven classes, test loss',
    False,
    ('sampling-bias/dirichlet', 'sampling-bias/single-class'),
  ),
  Kind('language model, two texts in turn', False, ('drift-text/',)),
  Kind(
    'tables in time order, classification, batches of 1 or 4',
    True,
    _real(_CLASSES),
    ('-1', '-4'),
  ),
  Kind(
    'tables in time order, regression, batches of 1 or 4',
    True,
    _real(_NUMBERS),
    ('-1', '-4'),
  ),
  Kind(
    'tables in time order, batches of 16 or 64',
    True,
    ('real-streams/',),
    ('-16', '-64'),
  ),
  Kind('tables, shuffled', True, ('real-streams/',), ('-shuffled',)),
  Kind(
    'tables in real time: an evaluation more costs a batch',
    True,
    ('real-time/',),
  ),
  Kind(
    'batches of random labels in a stream, loss on the others',
    False,
    ('wrong-labels/',),
    measure='right_loss',
  ),
  Kind('images in epochs, wrong labels, test loss', False, ('label-noise/',)),
)
