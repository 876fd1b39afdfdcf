"""What the networks can take, checked before anything is computed."""

from collections.abc import Sequence
from typing import Any

from isgd_jax.experiments.errors import InputError


def check_image_shape(
  network: str, example_shape: Sequence[int], *, min_pixels: int = 1
) -> tuple[int, int, int]:
  """Returns (height, width, channels), if the network can take such images.

  Args:
    network: its name, for the message.
    example_shape: the shape of one example.
    min_pixels: the least height and width.

  Returns:
    `example_shape`.

  Raises:
    InputError: (a `ValueError`) it is no image, or too small.

  Example:
    >>> check_image_shape('lenet', (28, 28, 1), min_pixels=13)
    (28, 28, 1)
  """
  if not _is_shape(example_shape, 3):
    raise InputError(
      f'example_shape is {example_shape!r}, but {network} takes images: pass '
      '(height, width, channels), each at least 1'
      + (
        ", or choose 'transformer' for token sequences"
        if _is_shape(example_shape, 1)
        else ''
      )
    )
  height, width, channels = example_shape
  if min(height, width) < min_pixels:
    raise InputError(
      f'example_shape is {example_shape!r}, but {network} needs images of at '
      f'least {min_pixels}x{min_pixels} pixels: resize the images or choose '
      'another network'
    )
  return height, width, channels


def check_sequence_shape(network: str, example_shape: Sequence[int]) -> int:
  """Returns the length, if the network can take such token sequences.

  Args:
    network: its name, for the message.
    example_shape: the shape of one example.

  Returns:
    The length of the sequence.

  Raises:
    InputError: (a `ValueError`) it is no sequence.

  Example:
    >>> check_sequence_shape('transformer', (64,))
    64
  """
  if not _is_shape(example_shape, 1):
    raise InputError(
      f'example_shape is {example_shape!r}, but {network} takes token '
      'sequences: pass (length,), at least 1, or choose an image network'
    )
  return example_shape[0]


def _is_shape(shape: Any, num_dimensions: int) -> bool:
  """Whether it is a shape of that many dimensions, none of them empty."""
  return (
    isinstance(shape, Sequence)
    and len(shape) == num_dimensions
    and all(isinstance(size, int) and size >= 1 for size in shape)
  )
