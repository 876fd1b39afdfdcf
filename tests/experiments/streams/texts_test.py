"""Streams that switch between texts."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from isgd_jax.experiments import streams
from tests.experiments.streams.helpers import segments

LENGTH = 5
# Text k's byte i is 80 k + i, so that a byte says whose it is, and where from.
TEXTS = [80 * k + np.arange(80 - k, dtype=np.uint8) for k in range(3)]


def switching(seed=0, texts=TEXTS, **kwargs):
  sizes = {
    'sequence_length': LENGTH - 1,
    'batch_size': 2,
    'num_segments': 7,
    'batches_per_segment': 2,
  }
  return streams.switching_texts(
    texts, **sizes | kwargs, rng=np.random.default_rng(seed)
  )


@given(seed=st.integers(0, 2**32 - 1), num_segments=st.integers(1, 9))
def test_no_window_comes_twice_or_overlaps_another(seed, num_segments):
  stream = switching(seed, num_segments=num_segments)
  seen = np.concatenate(
    [np.column_stack([x, y[:, -1]]) for x, y in stream.batches]
  )
  assert seen.shape == (num_segments * 4, LENGTH)
  assert len(np.unique(seen)) == seen.size  # Every byte of a text is another.


@given(seed=st.integers(0, 2**32 - 1), num_texts=st.integers(2, 3))
def test_the_texts_come_in_turn_and_change_at_the_change_points(
  seed, num_texts
):
  stream = switching(seed, TEXTS[:num_texts], num_segments=6)
  assert stream.change_points == (2, 4, 6, 8, 10)
  for i, segment in enumerate(segments(stream)):
    for tokens, _ in segment:
      assert set((tokens // 80).ravel()) == {i % num_texts}


@given(seed=st.integers(0, 2**32 - 1))
def test_a_label_is_the_next_byte(seed):
  for tokens, labels in switching(seed).batches:
    assert tokens.shape == labels.shape == (2, LENGTH - 1)
    assert tokens.dtype == labels.dtype == np.int32
    np.testing.assert_array_equal(labels[:, :-1], tokens[:, 1:])
    np.testing.assert_array_equal(labels, tokens + 1)  # As in these texts.


def test_windows_come_in_random_order():
  stream = switching()
  firsts = np.concatenate([x[:, 0] for x, _ in segments(stream)[0]])
  assert not (np.diff(firsts) == LENGTH).all()


def test_all_windows_of_a_text_may_be_asked_for():
  # 80 bytes are 16 windows of 5; one batch more is one too many.
  stream = switching(
    texts=[TEXTS[0], TEXTS[0]], num_segments=2, batches_per_segment=8
  )
  tokens = np.concatenate([x for x, _ in segments(stream)[0]])
  np.testing.assert_array_equal(np.sort(tokens[:, 0]), np.arange(0, 80, 5))
  with pytest.raises(ValueError, match='16 windows of 5 bytes, but 18 are'):
    switching(texts=[TEXTS[0]] * 2, num_segments=2, batches_per_segment=9)


def test_a_text_needs_windows_for_its_own_segments_only():
  # Of three segments in turn the second text has one: 2 windows of 5 bytes.
  stream = switching(
    texts=[TEXTS[0], TEXTS[1][:10]], num_segments=3, batches_per_segment=1
  )
  assert len(list(stream.batches)) == 3


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'texts': TEXTS[:1]}, 'texts must be two or more.* got 1'),
    ({'texts': [TEXTS[0], TEXTS[1][:30]]}, 'text 1 has 6 windows of 5 bytes'),
    ({'batch_size': 0}, 'must be positive, got 4, 0, 7 and 2'),
    ({'num_segments': -1}, 'must be positive'),
    ({'sequence_length': 0}, 'must be positive'),
    ({'batches_per_segment': 0}, 'must be positive'),
  ],
)
def test_bad_switching_texts_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    switching(**kwargs)
