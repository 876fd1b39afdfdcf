"""Images in a folder a class, as ImageNet lies on disk."""

from collections.abc import Sequence
import os

import numpy as np

from isgd_jax.experiments.datasets import _fingerprint
from isgd_jax.experiments.datasets._dataset import Dataset
from isgd_jax.experiments.datasets._dataset import Record
from isgd_jax.experiments.datasets._decode import UndecodableError
from isgd_jax.experiments.datasets._decode import decode_image
from isgd_jax.experiments.datasets._files import read_file
from isgd_jax.experiments.datasets._split import held_out_tenth
from isgd_jax.experiments.datasets._transforms import CentreCrop
from isgd_jax.experiments.datasets._transforms import RandomResizedCrop
from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.errors import data_error

# Of ImageNet's train images, as torchvision's documentation ("Models and
# pre-trained weights") has them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_DEFAULT_IMAGE_SIZE = 224
_ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.gif')
_TEST_FOLDERS = ('val', 'validation', 'test')
_LAYOUT = 'a folder for each class, with its images inside'


class ImageFolderSource:
  """Images on disk, decoded when they are asked for.

  Attributes:
    root: the folder that the paths start from.
    paths: of the images.
    labels: [n] int32.

  Example:
    >>> ImageFolderSource('train', ['cat/1.jpg'], np.zeros(1), 224)
    ImageFolderSource('train', 1 images)
  """

  root: str
  paths: Sequence[str]
  labels: np.ndarray

  def __init__(
    self,
    root: str,
    paths: Sequence[str],
    labels: np.ndarray,
    image_size: int,
    *,
    skip_undecodable: bool = False,
  ):
    """Reads nothing yet.

    Args:
      root: the folder that the paths start from.
      paths: of the images.
      labels: [n], one a path.
      image_size: of the zeros that stand for what cannot be decoded, pixels.
      skip_undecodable: whether such an image becomes zeros with the label -1,
        instead of an error.
    """
    self.root = root
    self.paths = paths
    self.labels = np.asarray(labels, np.int32)
    self._image_size = image_size
    self._skip_undecodable = skip_undecodable

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int, /) -> Record:
    path = os.path.join(self.root, self.paths[index])
    data = read_file(path)
    try:
      return {'image': decode_image(data, path), 'label': self.labels[index]}
    except UndecodableError:
      if not self._skip_undecodable:
        raise
    return undecodable_record(self._image_size, self._image_size, 3)

  def fingerprint(self) -> str:
    """Of every path below the root, its label and the size of its file."""
    sizes = _fingerprint.file_sizes(self.root, self.paths)
    return _fingerprint.of_files(self.paths, sizes, self.labels)

  def __repr__(self) -> str:
    return f'ImageFolderSource({self.root!r}, {len(self)} images)'


def undecodable_record(height: int, width: int, num_channels: int) -> Record:
  """Zeros with the label -1: a record that a trainer gives the weight 0."""
  image = np.zeros((height, width, num_channels), np.uint8)
  return {'image': image, 'label': np.int32(-1)}


def load_image_folder(
  data_dir: str | os.PathLike[str] | None = None,
  *,
  seed: int = 0,
  image_size: int | None = None,
  augment: bool = True,
  skip_undecodable: bool = False,
) -> Dataset[ImageFolderSource]:
  """Finds the images below `data_dir/train/CLASS` and `data_dir/val/CLASS`.

  Classes are the folders below `train`, sorted by name. Images are the files
  that end in .jpg, .jpeg, .png, .bmp, .webp or .gif, in any case, at any depth
  below a class; names that begin with a dot are passed over. Symbolic links to
  folders are followed for a class, not below it. `validation` and `test` do for
  `val`, in this order; without any, a tenth of each class of `train` is held
  out. Nothing is decoded here.

  Args:
    data_dir: the folder.
    seed: of the tenth that is held out.
    image_size: height and width that a model sees, pixels; None takes 224.
    augment: whether train images are `RandomResizedCrop`; if not, they are
      `CentreCrop` as test images are.
    skip_undecodable: whether an image that cannot be decoded is zeros with the
      label -1, instead of an error.

  Returns:
    A `Dataset` whose sources give [h, w, 3] uint8 images of all sizes (see
    `decode_image`) and whose transforms make them [image_size, image_size, 3].

  Raises:
    DataError: (a `ValueError`) there is no `data_dir`, a folder is missing or
      empty, or `val` has other classes than `train`; when a record is read:
      an image cannot be decoded. The message names the path and the remedy.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   for name in ('cat/1.jpg', 'cat/2.jpg', 'dog/1.JPEG'):
    ...     path = pathlib.Path(folder, 'train', name)
    ...     path.parent.mkdir(parents=True, exist_ok=True)
    ...     path.touch()
    ...   dataset = load_image_folder(folder)
    >>> dataset.num_classes, len(dataset.train), len(dataset.test)
    (2, 2, 1)
  """
  if data_dir is None:
    raise DataError(
      "data set 'imagefolder' needs data_dir: a folder with train/CLASS/*.jpg "
      'and, if there are test images, val/CLASS/*.jpg'
    )
  size = _DEFAULT_IMAGE_SIZE if image_size is None else image_size
  data_dir = os.fspath(data_dir)
  train_root = os.path.join(data_dir, 'train')
  if not os.path.isdir(train_root):
    raise data_error(
      data_dir,
      "no folder 'train'",
      f'train with {_LAYOUT}',
      "move the folders of the classes into a folder 'train'",
    )
  classes = _class_names(train_root)
  paths, labels = _find_images(train_root, classes)
  test_root = next(
    (
      os.path.join(data_dir, name)
      for name in _TEST_FOLDERS
      if os.path.isdir(os.path.join(data_dir, name))
    ),
    None,
  )
  if test_root is not None:
    _check_classes(test_root, _class_names(test_root), classes)
    test_paths, test_labels = _find_images(test_root, classes)
  else:
    test_root = train_root
    train, test = held_out_tenth(labels, seed)
    if not len(test):
      raise data_error(
        data_dir,
        "no folder 'val', and no class of 'train' with two images",
        'images to test with',
        'add val, or more images',
      )
    test_paths, test_labels = [paths[i] for i in test], labels[test]
    paths, labels = [paths[i] for i in train], labels[train]

  def source(root: str, paths: list[str], labels: np.ndarray):
    return ImageFolderSource(
      root, paths, labels, size, skip_undecodable=skip_undecodable
    )

  return Dataset(
    'imagefolder',
    source(train_root, paths, labels),
    source(test_root, test_paths, test_labels),
    num_classes=len(classes),
    example_shape=(size, size, 3),
    pixel_mean=IMAGENET_MEAN,
    pixel_std=IMAGENET_STD,
    train_transform=RandomResizedCrop(size) if augment else CentreCrop(size),
    test_transform=CentreCrop(size),
  )


def _class_names(root: str) -> list[str]:
  """The folders below `root`, sorted."""
  try:
    with os.scandir(root) as entries:
      names = sorted(
        e.name for e in entries if e.is_dir() and not e.name.startswith('.')
      )
  except OSError as error:
    raise data_error(
      root, f'{error.strerror or error}', _LAYOUT, 'check its permissions'
    ) from error
  if not names:
    raise data_error(
      root,
      'no folder inside',
      _LAYOUT,
      'move each image into the folder of its class',
    )
  return names


def _check_classes(root: str, found: list[str], expected: list[str]) -> None:
  """Refuses test folders that do not have the classes of `train`."""
  missing = sorted(set(expected) - set(found))
  unknown = sorted(set(found) - set(expected))
  if missing or unknown:
    differences = [
      f'{kind} {_shorten(names)}'
      for kind, names in (('no', missing), ('the unknown', unknown))
      if names
    ]
    raise data_error(
      root,
      ' and '.join(differences),
      f'the {len(expected)} classes of train',
      'rename, add or remove the folders of classes',
    )


def _shorten(names: list[str]) -> str:
  """The first few names, and how many more there are."""
  listing = ', '.join(map(repr, names[:3]))
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return f'class {listing}{more}'


def _find_images(root: str, classes: list[str]) -> tuple[list[str], np.ndarray]:
  """Paths from `root`, sorted within each class, and labels [n] int32."""
  paths: list[str] = []
  counts = []
  for name in classes:
    found = []
    for folder, folders, files in os.walk(os.path.join(root, name)):
      folders[:] = [f for f in folders if not f.startswith('.')]
      found += [
        os.path.relpath(os.path.join(folder, file), root)
        for file in files
        if file.lower().endswith(_ENDINGS) and not file.startswith('.')
      ]
    if not found:
      raise data_error(
        os.path.join(root, name),
        'no image',
        f'files that end in {", ".join(_ENDINGS)}',
        'add images, or remove the folder',
      )
    paths += sorted(found)
    counts.append(len(found))
  return paths, np.repeat(np.arange(len(classes), dtype=np.int32), counts)
