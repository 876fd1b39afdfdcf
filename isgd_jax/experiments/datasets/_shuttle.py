"""Statlog Shuttle: a table whose seven classes are very unequal."""

import os
from typing import Any

import numpy as np

from isgd_jax.experiments.datasets._dataset import ArraySource
from isgd_jax.experiments.datasets._dataset import Dataset
from isgd_jax.experiments.datasets._split import split_arrays
from isgd_jax.experiments.errors import data_error
from isgd_jax.experiments.errors import missing_extra

_FILE = 'Shuttle.rda'
_TABLE = 'Shuttle'
_NUM_FEATURES = 9
_NUM_CLASSES = 7
# A few sensor values lie 100 standard deviations out: unclipped, one of them
# would decide its batch's loss.
_CLIP = 10.0
# Where Debian's package r-cran-mlbench puts the file.
_MLBENCH_FOLDER = '/usr/lib/R/site-library/mlbench/data'


def load_shuttle(
  seed: int, data_dir: str | os.PathLike[str] | None = None
) -> Dataset[ArraySource]:
  """Loads Statlog Shuttle: 58,000 rows of nine sensor values, seven classes.

  The largest class has 45,586 rows, the smallest 10; in the order of the labels
  they have 45586, 50, 171, 8903, 3267, 10 and 13.

  Args:
    seed: of the split, which is stratified by class.
    data_dir: the folder of `Shuttle.rda`, as R's package mlbench has it; None
      takes the one where Debian's package `r-cran-mlbench` puts it.

  Returns:
    A `Dataset` whose train and test parts are 80 % and 20 %. Its images, each
    [1, 9, 1] float32, are not pixels in [0, 1] but standardised features: each
    minus its mean and divided by its standard deviation, both of the train
    part, and clipped to [-10, 10].

  Raises:
    DataError: (a `ValueError`) the file is missing or is not that table; the
      message names it and the remedy.
    ImportError: rdata or scikit-learn is missing; the message names the extra.

  Example:
    >>> try:
    ...   load_shuttle(0, 'no/such/folder')
    ... except ValueError as error:
    ...   print(str(error).partition(';')[0])
    no/such/folder: found no Shuttle.rda

  References:
    J. Catlett, Statlog (Shuttle), UCI Machine Learning Repository,
    doi:10.24432/C5WS31.
  """
  features, labels = _read(_MLBENCH_FOLDER if data_dir is None else data_dir)
  train, test = split_arrays(features, labels, seed)
  mean = train.images.mean(axis=0)
  std = train.images.std(axis=0)
  std = np.where(std > 0, std, 1.0)

  def standardise(part: ArraySource) -> ArraySource:
    """The part as [n, 1, 9, 1] float32."""
    scaled = np.clip((part.images - mean) / std, -_CLIP, _CLIP)
    return ArraySource(
      scaled.astype(np.float32)[:, np.newaxis, :, np.newaxis], part.labels
    )

  return Dataset(
    'shuttle',
    standardise(train),
    standardise(test),
    num_classes=_NUM_CLASSES,
    example_shape=(1, _NUM_FEATURES, 1),
  )


def _read(data_dir: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
  """Features [n, 9] float64 and labels [n] int32."""
  path = os.path.join(data_dir, _FILE)
  if not os.path.isfile(path):
    raise data_error(
      data_dir,
      f'no {_FILE}',
      "the file of R's package mlbench",
      'install it (on Debian: apt install r-cran-mlbench) or name its folder '
      'by data_dir (from https://cran.r-project.org/package=mlbench)',
    )
  try:
    import rdata
  except ImportError as error:
    raise missing_extra('rdata') from error
  try:
    # Such old files name no encoding; without one here, rdata warns.
    tables = rdata.read_rda(path, default_encoding='ascii')
  # A broken file raises whatever its bytes lead the parser into.
  except Exception as error:
    raise data_error(
      path,
      f'what cannot be read as R data ({type(error).__name__}: {error})',
      'a file as R saves it',
      'fetch the file again from where it came from',
    ) from error
  return _to_arrays(path, tables)


def _to_arrays(
  path: str, tables: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
  """The table as arrays, checked to be the one that is meant."""

  def refuse(found: str) -> ValueError:
    return data_error(
      path,
      found,
      f'a table {_TABLE} of {_NUM_FEATURES} numeric columns, then Class, a '
      f'factor of {_NUM_CLASSES} levels',
      'check that this is the right file',
    )

  table = tables.get(_TABLE)
  columns = list(getattr(table, 'columns', ()))
  if table is None or not columns:
    raise refuse(f'no table {_TABLE}')
  if len(columns) != _NUM_FEATURES + 1 or columns[-1] != 'Class':
    raise refuse(f'the columns {", ".join(map(str, columns))}')
  categories = getattr(table['Class'].dtype, 'categories', ())
  if len(categories) != _NUM_CLASSES:
    raise refuse(f'{len(categories)} levels of Class')
  try:
    features = table[columns[:-1]].to_numpy(np.float64)
  except (TypeError, ValueError) as error:
    raise refuse('a feature that is no number') from error
  labels = table['Class'].cat.codes.to_numpy(np.int32)
  # pandas codes a missing label as -1.
  if not np.isfinite(features).all() or labels.min(initial=0) < 0:
    raise refuse('missing values')
  return features, labels
