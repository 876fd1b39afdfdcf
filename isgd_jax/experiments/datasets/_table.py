"""A table whose rows came in time order."""

from typing import Literal, NamedTuple

import numpy as np

Kind = Literal['classification', 'regression']


class Table(NamedTuple):
  """Rows in the order in which they came; nothing is scaled.

  Scaling by the moments of the whole table would see the future: an order
  (`streams.table_batches`) does it by what came before.

  Attributes:
    name: the name that `load_table` knows it by.
    inputs: [n, d] float64; what was known before the target was.
    targets: [n], int32 labels in [0, num_classes) or float64 numbers.
    kind: `'classification'` or `'regression'`.
    num_classes: the number of classes; 1 for regression.
    feature_names: of the d columns.

  Example:
    >>> table = Table('t', np.zeros((5, 2)), np.zeros(5, np.int32),
    ...               'classification', 2, ('a', 'b'))
    >>> len(table.targets), table.example_shape
    (5, (1, 2, 1))
  """

  name: str
  inputs: np.ndarray
  targets: np.ndarray
  kind: Kind
  num_classes: int
  feature_names: tuple[str, ...]

  @property
  def example_shape(self) -> tuple[int, int, int]:
    """Of a row as a network for images takes it: [1, d, 1]."""
    return 1, self.inputs.shape[1], 1
