"""Every data set by its name."""

import os
from typing import Any

from isgd_jax.experiments.datasets._cifar import load_cifar10
from isgd_jax.experiments.datasets._cifar_jpeg import load_cifar10_jpeg
from isgd_jax.experiments.datasets._dataset import Dataset
from isgd_jax.experiments.datasets._digits import load_digits
from isgd_jax.experiments.datasets._hugging_face import load_hugging_face
from isgd_jax.experiments.datasets._image_folder import load_image_folder
from isgd_jax.experiments.datasets._mnist import load_fashion_mnist
from isgd_jax.experiments.datasets._mnist import load_mnist
from isgd_jax.experiments.datasets._shuttle import load_shuttle
from isgd_jax.experiments.datasets._text import load_text
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import check_name

_HUB_PREFIX = 'hf:'
_HUB_NAME = 'hf:NAME'

# Of each data set, the options that mean something to it; `seed` and
# `sequence_length` have defaults that no one need know, and are let through.
_OPTIONS = {
  'digits': (),
  'fashion-mnist': ('data_dir',),
  'mnist': ('data_dir',),
  'cifar10': ('data_dir', 'augment'),
  'cifar10-jpeg': ('data_dir', 'augment'),
  'shuttle': ('data_dir',),
  'imagefolder': ('data_dir', 'image_size', 'augment', 'skip_undecodable'),
  'text': ('data_dir',),
  _HUB_NAME: ('image_size', 'augment', 'skip_undecodable'),
}


def load_dataset(
  name: str,
  *,
  seed: int = 0,
  data_dir: str | os.PathLike[str] | None = None,
  image_size: int | None = None,
  augment: bool | None = None,
  skip_undecodable: bool = False,
  sequence_length: int = 128,
) -> Dataset[Any]:
  """Loads a data set.

  | name            | in memory | from                                        |
  |-----------------|-----------|---------------------------------------------|
  | `digits`        | yes       | scikit-learn, which ships it                |
  | `fashion-mnist` | yes       | `data_dir`, or Debian's package             |
  | `mnist`         | yes       | `data_dir`                                  |
  | `cifar10`       | yes       | `data_dir`, the binary version              |
  | `cifar10-jpeg`  | yes       | `data_dir`, an archive of JPEGs (lossy)     |
  | `imagefolder`   | no        | `data_dir/{train,val}/CLASS/*`, as ImageNet |
  | `text`          | yes       | `data_dir`, files ending in .txt or .gz     |
  | `hf:NAME`       | no        | Hugging Face's hub, or a folder             |

  Args:
    name: one of these; `NAME` is a name on the hub or a folder of Parquet files
      or images.
    seed: of the split, where a data set is not published with one: stratified
      by class, 80 % train and 20 % test of `digits` and `shuttle`, 90 % and
      10 % otherwise.
    data_dir: the folder of the files.
    image_size: height and width that a model sees, pixels, of `imagefolder`
      (None takes 224) and `hf:NAME` (None takes images as they are).
    augment: whether `train_transform` draws at random: padded crops and flips
      of `cifar10` and `cifar10-jpeg`, resized crops and flips of `imagefolder`
      and `hf:NAME`. None augments `imagefolder` alone.
    skip_undecodable: whether, of `imagefolder` and `hf:NAME`, an image that
      cannot be decoded is zeros with the label -1, instead of an error.
    sequence_length: of `text`, the inputs of a window, bytes.

  Returns:
    A `Dataset`. In-memory images have `train.images`, `train.labels` and so on,
    see `ArraySource`. The images of `shuttle` are standardised features, [1, 9,
    1] float32 in [-10, 10].

  Raises:
    ValueError: the name is unknown (the message gives the nearest valid names),
      an option means nothing to the data set or is out of range, or files are
      missing or malformed (the message names them and the remedy).
    ImportError: a package is missing; the message names the extra.

  Example:
    >>> dataset = load_dataset('digits')
    >>> dataset.train.images.shape, dataset.test.images.shape
    ((1437, 8, 8, 1), (360, 8, 8, 1))
  """
  is_hub = name.startswith(_HUB_PREFIX) and name != _HUB_PREFIX
  kind = _HUB_NAME if is_hub else check_name('data set', name, _OPTIONS)
  _check_options(
    name,
    kind,
    {
      'data_dir': data_dir,
      'image_size': image_size,
      'augment': augment or None,
      'skip_undecodable': skip_undecodable or None,
    },
  )
  if image_size is not None and image_size < 1:
    raise InputError(f'image_size must be positive, got {image_size}')
  match kind:
    case 'digits':
      return load_digits(seed)
    case 'fashion-mnist':
      return load_fashion_mnist(data_dir)
    case 'mnist':
      return load_mnist(data_dir)
    case 'cifar10':
      return load_cifar10(data_dir, augment=bool(augment))
    case 'cifar10-jpeg':
      return load_cifar10_jpeg(data_dir, augment=bool(augment))
    case 'shuttle':
      return load_shuttle(seed, data_dir)
    case 'imagefolder':
      return load_image_folder(
        data_dir,
        seed=seed,
        image_size=image_size,
        augment=augment is None or augment,
        skip_undecodable=skip_undecodable,
      )
    case 'text':
      return load_text(data_dir, sequence_length=sequence_length)
    case _:
      return load_hugging_face(
        name.removeprefix(_HUB_PREFIX),
        seed=seed,
        image_size=image_size,
        augment=bool(augment),
        skip_undecodable=skip_undecodable,
      )


def dataset_names() -> tuple[str, ...]:
  """The names that `load_dataset` knows.

  Returns:
    The names, sorted; `'hf:NAME'` stands for any name on the hub or folder.

  Example:
    >>> 'digits' in dataset_names()
    True
  """
  return tuple(sorted(_OPTIONS))


def _check_options(name: str, kind: str, given: dict[str, Any]) -> None:
  """Refuses options that would be passed over in silence."""
  for option, value in given.items():
    if value is not None and option not in _OPTIONS[kind]:
      takers = [n for n, options in _OPTIONS.items() if option in options]
      raise InputError(
        f'data set {name!r} takes no {option} (got {value!r}); leave it out, '
        f'or choose one of {", ".join(takers)}'
      )
