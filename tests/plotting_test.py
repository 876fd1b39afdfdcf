"""The control chart shows what the arrays say, and can be read."""

import io
import sys

import numpy as np
import pytest

from isgd_jax import plotting

NUM_STEPS = 60
FLAGGED = [30, 31, 45]


def arrays():
  rng = np.random.default_rng(0)
  loss = 1.0 + 0.1 * rng.random(NUM_STEPS)
  loss[FLAGGED] = [9.0, 4.0, 2.0]
  final_loss = loss.copy()
  final_loss[FLAGGED] = [1.5, 1.0, 2.0]  # the last chase was undone
  limit = np.where(np.arange(NUM_STEPS) < 20, np.inf, 1.4)
  return {
    'loss': loss,
    'mean': np.full(NUM_STEPS, 1.05),
    'control_limit': limit,
    'is_undertrained': np.isin(np.arange(NUM_STEPS), FLAGGED),
    'final_loss': final_loss,
  }


def lines(ax):
  return {line.get_label(): line for line in ax.get_lines()}


def test_flagged_points_and_chases_are_where_they_happened():
  data = arrays()
  ax = plotting.plot_control_chart(**data, first_step=100)
  flagged = lines(ax)['under-trained batch']
  np.testing.assert_array_equal(flagged.get_xdata(), [130, 131, 145])
  np.testing.assert_array_equal(flagged.get_ydata(), [9.0, 4.0, 2.0])
  (chases,) = ax.collections
  np.testing.assert_array_equal(
    chases.get_segments(), [[[130, 1.5], [130, 9.0]], [[131, 1.0], [131, 4.0]]]
  )


def test_no_lines_in_phase_one_and_all_of_them_in_phase_two():
  drawn = lines(plotting.plot_control_chart(**arrays()))
  for label in ('centre line (mean)', 'upper control limit'):
    is_drawn = np.isfinite(drawn[label].get_ydata())
    np.testing.assert_array_equal(is_drawn, np.arange(NUM_STEPS) >= 20)
  assert np.isfinite(drawn['loss'].get_ydata()).all()


def test_axes_have_names_units_and_a_legend_of_everything():
  ax = plotting.plot_control_chart(**arrays(), change_points=[30, 45])
  assert ax.get_xlabel() == 'step'
  assert ax.get_ylabel() == 'batch loss (nats)'
  assert [text.get_text() for text in ax.get_legend().get_texts()] == [
    'drift',
    'loss',
    'centre line (mean)',
    'upper control limit',
    'chase',
    'under-trained batch',
  ]


@pytest.mark.parametrize('width', [8.0, 10.0])
def test_nothing_overlaps_or_is_cut_off_at_800_pixels(width):
  figure = plotting.new_figure(width)
  ax = plotting.plot_control_chart(
    **arrays(), change_points=[30], ax=figure.add_subplot()
  )
  title = figure.suptitle('A title')
  figure.savefig(io.BytesIO(), format='png')
  legend = ax.get_legend().get_window_extent()
  assert not legend.overlaps(ax.get_window_extent())
  assert not legend.overlaps(title.get_window_extent())
  for artist in (ax.get_legend(), title, ax.xaxis.label, ax.yaxis.label):
    box = artist.get_window_extent()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1
  texts = [*ax.get_legend().get_texts(), *ax.get_xticklabels(), ax.xaxis.label]
  assert min(text.get_fontsize() for text in texts) >= 9


def test_png_is_drawn_without_a_display_or_pyplot(tmp_path, monkeypatch):
  monkeypatch.delenv('DISPLAY', raising=False)
  monkeypatch.setitem(sys.modules, 'matplotlib.pyplot', None)
  path = tmp_path / 'chart.png'
  plotting.plot_control_chart(**arrays()).figure.savefig(path)
  from matplotlib import image

  pixels = image.imread(path)
  assert pixels.shape[:2] == (450, 800)
  for color in ((0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)):  # points, chases
    distance = np.abs(pixels[..., :3] - np.array(color) / 255).max(axis=-1)
    assert (distance < 0.05).sum() > 20


@pytest.mark.parametrize('scale', ['linear', 'log'])
def test_a_run_that_never_left_phase_one_draws_without_a_warning(scale):
  data = arrays() | {
    'control_limit': np.full(NUM_STEPS, np.inf),
    'is_undertrained': np.zeros(NUM_STEPS, bool),
  }
  ax = plotting.plot_control_chart(**data)
  ax.set_yscale(scale)
  ax.figure.savefig(io.BytesIO(), format='png')


def test_the_given_axes_are_drawn_on_and_returned():
  first, second = plotting.new_figure().subplots(2)
  assert plotting.plot_control_chart(**arrays(), ax=second) is second
  assert not first.get_lines()


@pytest.mark.parametrize('name', ['mean', 'final_loss', 'is_undertrained'])
def test_arrays_of_several_lengths_are_refused(name):
  data = arrays()
  data[name] = data[name][:-1]
  with pytest.raises(ValueError, match=r'one length, got shapes .*59'):
    plotting.plot_control_chart(**data)


def test_missing_matplotlib_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  with pytest.raises(ImportError, match=r"pip install 'isgd_jax\[plot\]'"):
    plotting.plot_control_chart(**arrays())
