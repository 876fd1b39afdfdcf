"""Augmentation and cropping of one record, on the host.

Each transform is a pure function of the record and, where it is random, of the
generator given; it is a frozen dataclass so that Grain can send it to its
worker processes.
"""

import dataclasses
import math

import numpy as np

from isgd_jax.experiments.datasets._dataset import Record
from isgd_jax.experiments.errors import missing_extra

# Inception's crop, as ImageNet's training recipes have used it since.
_AREA = (0.08, 1.0)
_ASPECT_RATIO = (3 / 4, 4 / 3)
_NUM_ATTEMPTS = 10
# What test images keep of the shorter side where train images are cropped at
# random: 224 of 256.
AUGMENTED_SHARE = 224 / 256


@dataclasses.dataclass(frozen=True)
class PadCropFlip:
  """Pads by zeros, crops to the size before at random, flips every other.

  Attributes:
    padding: pixels on each side.

  Example:
    >>> record = {'image': np.ones((32, 32, 3), np.uint8), 'label': 3}
    >>> PadCropFlip(4)(record, np.random.default_rng(0))['image'].shape
    (32, 32, 3)

  References:
    K. He, X. Zhang, S. Ren and J. Sun, Deep residual learning for image
    recognition, CVPR 2016, section 4.2.
  """

  padding: int = 4

  def __call__(self, record: Record, rng: np.random.Generator) -> Record:
    """`record` with `image` [h, w, c] augmented."""
    image, p = record['image'], self.padding
    height, width = image.shape[:2]
    top, left = rng.integers(2 * p + 1, size=2)
    padded = np.pad(image, ((p, p), (p, p), (0, 0)))
    crop = padded[top : top + height, left : left + width]
    return {**record, 'image': _flip(crop, rng)}


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
  """A random part of the image, resized; flipped every other time.

  The part has 8 % to 100 % of the area, uniformly, and an aspect ratio of 3/4
  to 4/3, log-uniformly; after ten draws that do not fit, the largest part in
  the middle whose ratio is allowed. Resized bilinearly, with antialiasing.

  Attributes:
    image_size: height and width after, pixels.

  Example:
    >>> record = {'image': np.ones((40, 60, 3), np.uint8), 'label': 3}
    >>> RandomResizedCrop(16)(record, np.random.default_rng(0))['image'].shape
    (16, 16, 3)

  References:
    C. Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6.
  """

  image_size: int

  def __call__(self, record: Record, rng: np.random.Generator) -> Record:
    """`record` with `image` [h, w, c] uint8 made [size, size, c]."""
    image = record['image']
    height, width = image.shape[:2]
    box = _random_box(height, width, rng)
    crop = resize(image, (self.image_size, self.image_size), box)
    return {**record, 'image': _flip(crop, rng)}


@dataclasses.dataclass(frozen=True)
class CentreCrop:
  """The middle square, resized.

  What resizing the shorter side to image_size / share and cropping the middle
  gives, to rounding, without the pixels that the crop would drop.

  Attributes:
    image_size: height and width after, pixels.
    share: of the shorter side, the width of the square; 224 of 256 by default.

  Example:
    >>> record = {'image': np.ones((40, 60, 3), np.uint8), 'label': 3}
    >>> CentreCrop(16)(record)['image'].shape
    (16, 16, 3)

  References:
    A. Krizhevsky, I. Sutskever and G. Hinton, ImageNet classification with
    deep convolutional neural networks, NeurIPS 2012, section 2.
  """

  image_size: int
  share: float = AUGMENTED_SHARE

  def __call__(
    self, record: Record, rng: np.random.Generator | None = None
  ) -> Record:
    """`record` with `image` [h, w, c] uint8 made [size, size, c]."""
    del rng  # So that it can stand for a train transform, too.
    height, width = record['image'].shape[:2]
    side = min(height, width) * self.share
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    size = (self.image_size, self.image_size)
    return {**record, 'image': resize(record['image'], size, box)}


def resize(
  image: np.ndarray,
  size: tuple[int, int],
  box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
  """Resizes an image, or a box of it, bilinearly and with antialiasing.

  Args:
    image: [h, w, c] uint8, of one channel or three.
    size: (height, width) after, pixels.
    box: (left, top, right, bottom) in pixels of `image`; None takes all of it.

  Returns:
    [height, width, c] uint8.

  Raises:
    ImportError: Pillow is missing; the message names the extra.

  Example:
    >>> resize(np.full((8, 8, 1), 7, np.uint8), (2, 2))[..., 0].tolist()
    [[7, 7], [7, 7]]
  """
  try:
    from PIL import Image
  except ImportError as error:
    raise missing_extra('pillow') from error

  height, width = size
  is_grey = image.shape[2] == 1
  picture = Image.fromarray(image[..., 0] if is_grey else image)
  resized = picture.resize((width, height), Image.Resampling.BILINEAR, box)
  pixels = np.asarray(resized)
  return pixels[..., np.newaxis] if is_grey else pixels


def _random_box(
  height: int, width: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
  """(left, top, right, bottom) of the part that is kept, whole pixels."""
  log_ratios = np.log(_ASPECT_RATIO)
  for _ in range(_NUM_ATTEMPTS):
    area = height * width * rng.uniform(*_AREA)
    ratio = math.exp(rng.uniform(*log_ratios))
    w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if 0 < w <= width and 0 < h <= height:
      left = int(rng.integers(width - w + 1))
      top = int(rng.integers(height - h + 1))
      return left, top, left + w, top + h
  w = min(width, max(1, round(height * _ASPECT_RATIO[1])))
  h = min(height, max(1, round(width / _ASPECT_RATIO[0])))
  left, top = (width - w) // 2, (height - h) // 2
  return left, top, left + w, top + h


def _flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Left for right in half of the cases; contiguous, for a fast batch."""
  if rng.random() < 0.5:
    image = image[:, ::-1]
  return np.ascontiguousarray(image)
