"""Augmentation: pure, of the right size, and distributed as it says."""

import pickle

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from isgd_jax.experiments.datasets import _transforms

Image = pytest.importorskip('PIL.Image', reason='Pillow is not installed')


def record(height=40, width=60, num_channels=3, seed=0):
  rng = np.random.default_rng(seed)
  shape = (height, width, num_channels)
  return {'image': rng.integers(256, size=shape, dtype=np.uint8), 'label': 7}


@pytest.mark.parametrize(
  'transform',
  [
    _transforms.PadCropFlip(4),
    _transforms.RandomResizedCrop(16),
    _transforms.CentreCrop(16),
  ],
)
def test_a_transform_is_a_pure_function_that_pickles(transform):
  given = record()
  before = given['image'].copy()
  given['image'].flags.writeable = False  # As Grain's shared memory may be.
  copy = pickle.loads(pickle.dumps(transform))
  one, again = (f(given, np.random.default_rng(1)) for f in (transform, copy))
  np.testing.assert_array_equal(one['image'], again['image'])
  np.testing.assert_array_equal(given['image'], before)
  assert one['label'] == 7
  assert one['image'].dtype == np.uint8
  assert one['image'].flags.c_contiguous


@hypothesis.settings(max_examples=100)
@hypothesis.given(
  height=st.integers(1, 300),
  width=st.integers(1, 300),
  num_channels=st.sampled_from([1, 3]),
  seed=st.integers(0, 2**32),
)
@hypothesis.example(height=1, width=20_000, num_channels=3, seed=0)
@hypothesis.example(height=20_000, width=1, num_channels=1, seed=0)
def test_any_image_gets_the_size_asked_for(height, width, num_channels, seed):
  given = record(height, width, num_channels)
  rng = np.random.default_rng(seed)
  for transform in (
    _transforms.RandomResizedCrop(8),
    _transforms.CentreCrop(8),
  ):
    assert transform(given, rng)['image'].shape == (8, 8, num_channels)
  left, top, right, bottom = _transforms._random_box(height, width, rng)
  assert 0 <= left < right <= width
  assert 0 <= top < bottom <= height


def test_random_crops_have_inceptions_areas_and_ratios():
  rng = np.random.default_rng(0)
  boxes = np.array(
    [_transforms._random_box(400, 400, rng) for _ in range(3000)]
  )
  widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
  areas, ratios = widths * heights / 400**2, widths / heights
  assert 0.075 < areas.min() < 0.1 < 0.95 < areas.max() <= 1
  assert 0.74 < ratios.min() < 0.76 < 1.32 < ratios.max() < 1.345
  # Of the uniform law, less what does not fit for being wide and large.
  assert 0.45 < areas.mean() < 0.54
  assert abs(np.log(ratios).mean()) < 0.02


def test_pad_crop_flip_moves_by_up_to_the_padding_and_flips_half():
  image = np.zeros((9, 9, 1), np.uint8)
  image[4, 2] = 1
  rng = np.random.default_rng(0)
  places = []
  for _ in range(600):
    out = _transforms.PadCropFlip(4)({'image': image}, rng)['image']
    row, column, _ = np.argwhere(out)[0] if out.any() else (-1, -1, 0)
    places.append((row, column))
  rows = {row for row, _ in places if row >= 0}
  assert rows == set(range(9))
  # Column 2 flips to 6; moved by -2 to 4 it is 0 to 6, or 2 to 8.
  assert {column for _, column in places if column >= 0} == set(range(9))


def test_centre_crop_is_resizing_the_shorter_side_and_cropping():
  """Against the recipe in two steps, on a picture without fine detail."""
  y, x = np.mgrid[:350, :500]
  waves = [127 + 120 * np.sin(x / 40 + i) * np.cos(y / 50) for i in range(3)]
  image = np.stack(waves, axis=-1).astype(np.uint8)
  result = _transforms.CentreCrop(224)({'image': image})['image']
  resized = Image.fromarray(image).resize((366, 256), Image.Resampling.BILINEAR)
  cropped = np.asarray(resized)[16:240, 71:295]
  difference = np.abs(result.astype(int) - cropped)
  assert difference.max() <= 3
  whole = _transforms.CentreCrop(350, share=1.0)({'image': image})['image']
  np.testing.assert_array_equal(whole, image[:, 75:425])
