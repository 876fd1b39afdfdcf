"""Image files to arrays, with Pillow; what cannot be decoded is an error."""

import io

import numpy as np

from isgd_jax.experiments.errors import DataError
from isgd_jax.experiments.errors import data_error
from isgd_jax.experiments.errors import missing_extra

_ORIENTATION_TAG = 0x0112
_GREY_MODES = ('1', 'L', 'I;16', 'I;16B', 'I;16L', 'I;16N')


class UndecodableError(DataError):
  """Bytes that are not an image, or only part of one."""


def decode_image(data: bytes, path: str, num_channels: int = 3) -> np.ndarray:
  """Decodes an image of any mode to RGB or grey, upright.

  Palettes, grey, CMYK and YCbCr become RGB; transparent pixels lie on white; 16
  bits a channel become 8. The orientation in EXIF is applied, so that a network
  sees the photograph as a viewer shows it (of a broken EXIF block it is taken
  as upright). Of an animation the first frame counts. Pillow's guard against
  decompression bombs stays as it is set.

  Args:
    data: the file's content.
    path: names the image in errors.
    num_channels: 3 for RGB, 1 for grey.

  Returns:
    [h, w, num_channels] uint8.

  Raises:
    UndecodableError: (a `ValueError`) `data` is not a whole image; the message
      names the path and the remedy.
    ImportError: Pillow is missing; the message names the extra.

  Example:
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new('L', (5, 4)).save(file, 'png')
    >>> decode_image(file.getvalue(), 'grey.png').shape
    (4, 5, 3)
  """
  try:
    from PIL import Image
  except ImportError as error:
    raise missing_extra('pillow') from error

  try:
    with Image.open(io.BytesIO(data)) as image:
      image.load()
      pixels = _to_array(image, 'RGB' if num_channels == 3 else 'L')
  # Its decoders raise errors of a dozen kinds where the bytes are broken.
  except Exception as error:
    raise _undecodable(path, error) from error
  return pixels.reshape(*pixels.shape[:2], num_channels)


def probe_image(data: bytes, path: str) -> tuple[tuple[int, int], bool]:
  """Size and colour of an image from its header, without decoding it.

  Args:
    data: the file's content.
    path: names the image in errors.

  Returns:
    (height, width), before the orientation in EXIF, and whether it is grey.

  Raises:
    UndecodableError: (a `ValueError`) `data` is not an image.
    ImportError: Pillow is missing; the message names the extra.

  Example:
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new('L', (5, 4)).save(file, 'png')
    >>> probe_image(file.getvalue(), 'grey.png')
    ((4, 5), True)
  """
  try:
    from PIL import Image
  except ImportError as error:
    raise missing_extra('pillow') from error

  try:
    with Image.open(io.BytesIO(data)) as image:
      return (image.height, image.width), image.mode in _GREY_MODES
  except Exception as error:  # As in decode_image.
    raise _undecodable(path, error) from error


def _undecodable(path: str, error: Exception) -> UndecodableError:
  """The error that names the path and the remedy."""
  reason = str(error).replace('\n', ' ')
  return UndecodableError(
    str(
      data_error(
        path,
        f'what cannot be decoded ({type(error).__name__}: {reason})',
        'a whole image',
        'replace or delete it, or have such images left out (skip_undecodable)',
      )
    )
  )


def _to_array(image, mode: str) -> np.ndarray:
  """[h, w] or [h, w, 3] uint8 of a loaded Pillow image."""
  from PIL import Image

  operation = _transposition(image)
  if image.mode.startswith('I;16'):
    # Pillow would clip at 255 where it should scale.
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  elif image.mode in ('I', 'F'):
    raise ValueError(f'pixels of mode {image.mode} have no known range')
  if image.has_transparency_data:
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image.convert('RGBA'))
  image = image.convert(mode)
  return np.asarray(image if operation is None else image.transpose(operation))


def _transposition(image):
  """The transposition that puts an image upright, or None."""
  from PIL import Image

  try:
    orientation = image.getexif().get(_ORIENTATION_TAG)
  except Exception:  # A broken EXIF block spoils no pixel.
    return None
  return {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
  }.get(orientation)
