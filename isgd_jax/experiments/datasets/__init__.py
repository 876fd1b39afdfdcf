"""Real data sets, read from files; nothing is unpickled, little is imported.

Pillow, rdata, scikit-learn and Hugging Face's `datasets` are imported by the
data sets that need them, when these are loaded.
"""

from isgd_jax.experiments.datasets._cifar_jpeg import is_cifar10_archive
from isgd_jax.experiments.datasets._dataset import ArraySource
from isgd_jax.experiments.datasets._dataset import Dataset
from isgd_jax.experiments.datasets._dataset import Source
from isgd_jax.experiments.datasets._debian_texts import load_texts
from isgd_jax.experiments.datasets._load import dataset_names
from isgd_jax.experiments.datasets._load import load_dataset
from isgd_jax.experiments.datasets._load_table import load_table
from isgd_jax.experiments.datasets._load_table import table_names
from isgd_jax.experiments.datasets._speeches import DatedTexts
from isgd_jax.experiments.datasets._speeches import load_speeches
from isgd_jax.experiments.datasets._split import hold_out
from isgd_jax.experiments.datasets._table import Table

__all__ = [
  'ArraySource',
  'Dataset',
  'Source',
  'dataset_names',
  'hold_out',
  'is_cifar10_archive',
  'load_dataset',
  'load_texts',
  # Real streams
  'DatedTexts',
  'Table',
  'load_speeches',
  'load_table',
  'table_names',
]
