"""Images of every mode become RGB or grey, upright, or an error."""

import io
import pickle

import numpy as np
import pytest

from isgd_jax.experiments.datasets import _decode
from isgd_jax.experiments.errors import DataError

Image = pytest.importorskip('PIL.Image', reason='Pillow is not installed')


def encode(image, kind='png', **kwargs):
  file = io.BytesIO()
  image.save(file, kind, **kwargs)
  return file.getvalue()


def decode(image, kind='png', num_channels=3, **kwargs):
  return _decode.decode_image(encode(image, kind, **kwargs), 'x', num_channels)


def test_every_mode_becomes_rgb():
  red = Image.new('RGB', (5, 4), (250, 10, 20))
  for image, kind in [
    (red, 'png'),
    (red, 'bmp'),
    (red.convert('P', palette=Image.Palette.ADAPTIVE), 'png'),
    (red.convert('P', palette=Image.Palette.ADAPTIVE), 'gif'),
    (red.convert('RGBA'), 'png'),
  ]:
    pixels = decode(image, kind)
    assert pixels.shape == (4, 5, 3)
    np.testing.assert_array_equal(pixels[0, 0], (250, 10, 20))
  # Lossy, or through another gamut.
  for mode in ('CMYK', 'RGB', 'YCbCr'):
    pixels = decode(red.convert(mode), 'jpeg', quality=95)
    np.testing.assert_allclose(pixels[0, 0], (250, 10, 20), atol=6)
  np.testing.assert_array_equal(
    decode(Image.new('L', (5, 4), 9)), np.full((4, 5, 3), 9)
  )
  assert decode(Image.new('1', (5, 4), 1)).min() == 255


def test_transparent_pixels_lie_on_white():
  clear = Image.new('RGBA', (2, 2), (10, 20, 30, 0))
  assert decode(clear).min() == 255
  palette = Image.new('P', (2, 2), 0)
  palette.putpalette([10, 20, 30] * 256)
  assert decode(palette, transparency=b'\0' * 256).min() == 255
  half = Image.new('LA', (2, 2), (0, 128))
  np.testing.assert_allclose(decode(half), 127, atol=1)


def test_sixteen_bits_are_scaled_and_unknown_ranges_refused():
  levels = np.array([[0, 255, 256, 65535]], np.uint16)
  pixels = decode(Image.fromarray(levels), num_channels=1)
  np.testing.assert_array_equal(pixels[0, :, 0], [0, 0, 1, 255])
  with pytest.raises(DataError, match='mode F have no known range'):
    decode(Image.new('F', (2, 2)), 'tiff')


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_is_applied(orientation):
  upright = np.zeros((8, 16, 3), np.uint8)
  upright[:4, :4] = 255  # A mark in the upper left corner.
  stored = {
    1: upright,
    2: upright[:, ::-1],
    3: upright[::-1, ::-1],
    4: upright[::-1],
    5: upright.transpose(1, 0, 2),
    6: np.rot90(upright),
    7: np.rot90(upright.transpose(1, 0, 2), 2),
    8: np.rot90(upright, -1),
  }[orientation]
  exif = Image.Exif()
  exif[0x0112] = orientation
  image = Image.fromarray(np.ascontiguousarray(stored))
  np.testing.assert_array_equal(decode(image, exif=exif), upright)


def test_grey_is_kept_grey_on_demand():
  image = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5))
  pixels = decode(image, num_channels=1)
  np.testing.assert_array_equal(pixels[..., 0].ravel(), np.arange(20))


@pytest.mark.parametrize('kind', ['png', 'jpeg', 'bmp', 'gif', 'webp'])
def test_what_is_not_whole_is_refused(kind):
  rng = np.random.default_rng(0)
  noise = Image.fromarray(rng.integers(256, size=(40, 40, 3), dtype=np.uint8))
  content = encode(noise, kind)
  for broken in (content[: len(content) // 2], content[:10], b'', b'text\n'):
    with pytest.raises(DataError, match=r'^x: found what cannot be decoded'):
      _decode.decode_image(broken, 'x')


def test_any_changed_byte_gives_pixels_or_the_error():
  rng = np.random.default_rng(0)
  noise = Image.fromarray(rng.integers(256, size=(9, 9, 3), dtype=np.uint8))
  for kind in ('png', 'jpeg', 'gif', 'webp', 'bmp'):
    content = encode(noise, kind)
    for _ in range(60):
      broken = bytearray(content)
      broken[rng.integers(len(broken))] = rng.integers(256)
      try:
        pixels = _decode.decode_image(bytes(broken), 'x')
      except DataError:
        continue
      assert pixels.dtype == np.uint8
      assert pixels.shape[2] == 3


def test_pillows_guard_against_bombs_is_on(monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  with pytest.raises(DataError, match='DecompressionBombError'):
    decode(Image.new('L', (20, 20)))


def test_an_error_survives_the_way_from_a_worker_process():
  with pytest.raises(DataError) as caught:
    _decode.decode_image(b'', 'x')
  copy = pickle.loads(pickle.dumps(caught.value))
  assert str(copy) == str(caught.value)
  assert type(copy) is type(caught.value)
