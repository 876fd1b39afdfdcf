"""The figures of the comparison show what the arrays say, infinities too."""

import itertools
import math

from matplotlib import image
import numpy as np
import pytest

from isgd_jax import plotting
from isgd_jax.experiments import figures
from isgd_jax.experiments import statistics
from isgd_jax.experiments.figures import _styles

pytestmark = pytest.mark.one_version

INF = math.inf
Interval = statistics.Interval
Row = figures.IntervalRow


def test_a_gain_map_has_a_number_and_a_colour_a_cell(path):
  gains = np.array([[0.21, -0.5, math.nan], [INF, -INF, 0.0]])
  figure = figures.draw_gain_map(
    *(path, {'paper': gains, 'ours': -gains}, ['0.1', '1'], ['a', 'b', 'c']),
    row_axis='rate',
    column_axis='cycle',
    title='Gain',
  )
  first, second = figure.axes
  assert [text.get_text() for text in first.texts] == [
    *('+21 %', '-50 %', 'both\nmissed'),
    *('base\nmissed', 'missed', '+0 %'),
  ]
  (mesh,) = first.collections
  shown = mesh.get_array().reshape(2, 3)
  np.testing.assert_array_equal(shown.mask, np.isnan(gains))
  assert shown.compressed().tolist() == [0.21, -0.4, 0.4, -0.4, 0.0]
  assert second.texts[0].get_text() == '-21 %'
  assert image.imread(path).shape[2] == 4


def test_an_empty_gain_map_is_refused(path):
  with pytest.raises(ValueError, match='panels must not be empty'):
    figures.draw_gain_map(
      path, {}, [], [], row_axis='', column_axis='', title=''
    )


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'figure.png'


def lines(ax):
  """Lines by label, those without one left out."""
  return {
    line.get_label(): line
    for line in ax.get_lines()
    if not line.get_label().startswith('_')
  }


def legend(figure):
  (found,) = figure.legends
  return [text.get_text() for text in found.get_texts()]


def words(ax):
  return [text.get_text() for text in ax.texts]


def assert_nothing_is_cut_off(path):
  pixels = image.imread(path)[..., :3]
  for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
    assert (edge == 1).all(), 'something runs over the edge'


# Styles


def test_no_two_methods_look_alike():
  styles = figures.method_styles([*figures.METHOD_STYLES, 'u', 'v', 'w'])
  assert len({(style.color, style.line) for style in styles.values()}) == 17
  for attribute in ('marker', 'title'):
    assert len({getattr(s, attribute) for s in styles.values()}) == 17


def test_a_method_looks_the_same_whatever_stands_beside_it():
  alone = figures.method_styles(['isgd'])['isgd']
  beside = figures.method_styles(['variant', 'base', 'isgd'])['isgd']
  assert alone == beside == figures.METHOD_STYLES['isgd']


# Scores


def test_a_profile_is_drawn_in_exact_steps_and_ranked(path):
  costs = {
    'a': {'base': 2.0, 'isgd': 1.0, 'mine': INF},
    'b': {'base': 3.0, 'isgd': 1.0, 'mine': 1.0},
    'c': {'base': INF, 'isgd': INF, 'mine': INF},
  }
  profile = statistics.performance_profile(costs, num_points=2)
  figure = figures.draw_profile(path, profile, {'mine': 'a variant'})
  (ax,) = figure.axes
  assert legend(figure) == [
    'ISGD (1.00)',
    'a variant (0.50)',
    'base (0.50)',
  ] or (legend(figure) == ['ISGD (1.00)', 'base (0.50)', 'a variant (0.50)'])
  base = lines(ax)['base (0.50)']
  assert base.get_xdata().tolist() == [1, 2, 3, 4]
  assert base.get_ydata().tolist() == [0, 0.5, 1, 1]
  assert base.get_drawstyle() == 'steps-post'
  heading = figure.legends[0].get_title().get_text()
  assert '2 problems\n1 more that none solved' in heading
  assert_nothing_is_cut_off(path)


def test_rows_stand_under_their_groups_and_say_what_is_infinite(path):
  rows = [
    Row('one', 'base', Interval(2, 1, 3)),
    Row('two', 'base', Interval(1, 0, INF), 'diverged'),
    Row('one', 'isgd', Interval(INF, 2, INF)),
    Row('two', 'isgd', Interval(-INF, -INF, -1)),
    Row('two', 'base-decayed', Interval(-1, -INF, 0)),
  ]
  figure = figures.draw_intervals(
    path, rows, axis_title='seconds', title='t', reference=0.0
  )
  (ax,) = figure.axes
  labels = [text.get_text() for text in ax.get_yticklabels()]
  assert labels[:-1] == ['one', 'base', 'ISGD', 'two', 'base', 'ISGD']
  said = {text.xy[1]: text.get_text() for text in ax.texts}
  assert said == {
    2: 'not reached',
    4: 'some diverged',
    5: 'other missed',
    6: 'some other missed',
  }
  figure.draw_without_rendering()
  panel = ax.get_window_extent()
  for text in ax.texts:
    box = text.get_window_extent()
    assert panel.x0 < box.x0 < box.x1 < panel.x1, 'words over the titles'
  low, high = ax.get_xlim()
  assert low < -1 < 3 < high < 10  # Finite, and around what is.
  drawn = np.concatenate([line.get_xdata() for line in ax.get_lines()])
  assert np.isfinite(drawn).all()
  assert ax.get_xticks().max() <= 3.3, 'numbers where infinity is drawn'
  assert ax.get_xlabel() == 'seconds'
  assert_nothing_is_cut_off(path)


def test_a_tall_forest_has_room_for_every_row(path):
  rows = [
    Row(f'workload {g}, base', m, Interval(g + 2.0, g + 1.0, g + 3.0))
    for g in range(12)
    for m in ('base-decayed', 'twice', 'random', 'isgd', 'skip', 'momo')
  ]
  figure = figures.draw_intervals(path, rows, axis_title='s', title='t')
  figure.draw_without_rendering()
  boxes = [
    text.get_window_extent() for text in figure.axes[0].get_yticklabels()
  ]
  assert len(boxes) == 84
  assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize('log', [False, True])
def test_rows_that_are_all_infinite_are_drawn(path, log):
  rows = [Row('one', 'base', Interval(INF, INF, INF))]
  figure = figures.draw_intervals(
    path, rows, axis_title='s', title='t', log=log
  )
  assert words(figure.axes[0]) == ['not reached']
  assert not figure.axes[0].get_xticks().size


def test_logarithms_of_what_has_none_are_refused(path):
  rows = [Row('one', 'base', Interval(1, -1, 2))]
  with pytest.raises(ValueError, match='above 0 for log=True, got -1'):
    figures.draw_intervals(path, rows, axis_title='s', title='t', log=True)
  assert not path.exists()


# Curves


def test_a_stream_is_the_median_of_rolling_means(path):
  rng = np.random.default_rng(0)
  accuracies = rng.random((5, 60))
  figure = figures.draw_stream(
    path,
    {'SGD': {'base': accuracies}, 'Adam': {'isgd': accuracies[:1]}},
    [30],
    'title',
    num_averaged=10,
  )
  first, second = figure.axes
  drawn = lines(first)['base']
  assert drawn.get_xdata()[[0, -1]].tolist() == [9, 59]
  expected = np.median(accuracies[:, 20:30].mean(axis=1))
  np.testing.assert_allclose(drawn.get_ydata()[20], 100 * expected)
  assert lines(first)['drift'].get_xdata() == [30, 30]
  assert len(first.collections) == 1
  assert not second.collections, 'the range of one seed'
  assert legend(figure) == ['drift', 'base', 'ISGD']
  assert second.get_xlabel() == 'step'
  assert_nothing_is_cut_off(path)


def test_a_stream_shorter_than_its_average_is_refused(path):
  curves = {'SGD': {'base': np.ones((5, 9))}}
  with pytest.raises(ValueError, match=r"\['SGD'\]\['base'\].*\(5, 9\)"):
    figures.draw_stream(path, curves, [], 't', num_averaged=10)


def training(path, runs, **options):
  figure = figures.draw_training(
    path, {'SGD': {'base': runs}}, axis='seconds', title='t', **options
  )
  return figure.axes[0]


def test_seeds_with_one_grid_are_drawn_as_they_are(path):
  x = np.array([1.0, 2.0, 4.0])
  runs = [figures.Curve(x, np.array([3.0, 2.0, s])) for s in (1.0, 0.2, 0.5)]
  ax = training(path, runs, target=0.4, y_title='loss')
  drawn = lines(ax)['base']
  assert drawn.get_xdata().tolist() == [1, 2, 4]
  assert drawn.get_ydata().tolist() == [3, 2, 0.5]
  assert lines(ax)['target'].get_ydata() == [0.4, 0.4]
  assert (ax.get_xlabel(), ax.get_ylabel()) == ('seconds', 'loss')
  assert_nothing_is_cut_off(path)


def test_seeds_with_grids_of_their_own_are_read_off_where_all_have_been(path):
  runs = [
    figures.Curve(np.array([0.0, 4.0]), np.array([4.0, 0.0])),
    figures.Curve(np.array([1.0, 3.0, 7.0]), np.array([3.0, 1.0, -3.0])),
  ]
  drawn = lines(training(path, runs))['base']
  x = drawn.get_xdata()
  assert x[[0, -1]].tolist() == [1, 4]
  np.testing.assert_allclose(drawn.get_ydata(), 4 - x)


@pytest.mark.parametrize('log_y', [False, True])
@pytest.mark.parametrize('higher_is_better', [False, True])
def test_a_diverged_run_is_worse_than_all_and_outside(
  path, log_y, higher_is_better
):
  x = np.arange(10.0)
  y = 1 + x / 10
  runs = [
    figures.Curve(x + 0.1, y),
    figures.Curve(x, y),
    # It stopped early, and must not end the others' line.
    figures.Curve(x[:6], np.where(x < 4, y, np.nan)[:6]),
  ]
  ax = training(path, runs, log_y=log_y, higher_is_better=higher_is_better)
  drawn = lines(ax)['base']
  assert drawn.get_xdata()[-1] == 9
  # The median of two that go on and one that is worst is one of the two.
  near = np.abs(drawn.get_ydata() - 1 - drawn.get_xdata() / 10)
  assert near.max() < 0.011
  low, high = ax.get_ylim()
  assert 0.5 < low < 1 < 1.9 < high < 2.5
  band = ax.collections[0].get_paths()[0].vertices[:, 1]
  assert band.min() < low if higher_is_better else band.max() > high


def test_runs_that_all_diverged_leave_a_gap(path):
  run = figures.Curve(np.arange(3.0), np.array([1.0, np.nan, np.inf]))
  drawn = lines(training(path, [run, run]))['base']
  np.testing.assert_array_equal(drawn.get_ydata(), [1, np.nan, np.nan])


def test_curves_of_two_lengths_are_refused(path):
  run = figures.Curve(np.arange(3.0), np.arange(2.0))
  with pytest.raises(ValueError, match=r"\['SGD'\]\['base'\].*\(3,\) and"):
    training(path, [run])


# Losses of batches


def test_bands_are_percentiles_of_each_epoch_on_a_shared_axis(path):
  losses = np.tile(np.arange(1.0, 102.0), (3, 1))
  with_spikes = losses.copy()
  with_spikes[1, -10:] = [np.nan, np.inf] * 5
  figure = figures.draw_loss_distributions(
    path, {'base': losses, 'isgd': with_spikes}, title='t', log_y=False
  )
  left, right = figure.axes
  assert [ax.get_title(loc='left') for ax in figure.axes] == ['base', 'ISGD']
  assert lines(left)['median'].get_ydata().tolist() == [51] * 3
  wide, narrow = (c.get_paths()[0].vertices[:, 1] for c in left.collections)
  assert (wide.min(), wide.max()) == (6, 96)
  assert (narrow.min(), narrow.max()) == (26, 76)
  spiked = right.collections[0].get_paths()[0].vertices[:, 1]
  assert spiked.max() > right.get_ylim()[1], 'a spike is above the panel'
  assert left.get_ylim() == right.get_ylim()
  assert right.get_ylim()[1] < 110
  assert legend(figure) == ['5th to 95th percentile', 'quartiles', 'median']
  assert_nothing_is_cut_off(path)


def test_every_class_has_a_named_line_beside_the_band(path):
  steps = np.arange(0, 50, 10)
  single = np.outer(1 + 0.01 * np.arange(10), np.ones(5))
  single[3, 2:] = np.inf
  figure = figures.draw_batch_kinds(
    path, steps, single, np.full((20, 5), 2.0), title='t'
  )
  (ax,) = figure.axes
  of_classes = [
    line
    for line in ax.get_lines()
    if line.get_xdata().size == 5 and line.get_linewidth() < 1.5
  ]
  assert len(of_classes) == 10
  assert len({(x.get_color(), x.get_linestyle()) for x in of_classes}) == 10
  # The one that leads to a name has its colour, and ends beside it.
  by_name = dict(zip(map(str, range(10)), of_classes, strict=True))
  for text in ax.texts:
    line = by_name[text.get_text().partition(':')[0]]
    assert text.get_color() == line.get_color()
    assert any(
      other.get_color() == text.get_color()
      and np.isclose(other.get_ydata()[-1], text.xy[1])
      for other in ax.get_lines()
      if other.get_transform() == ax.transAxes
    )
  expected = [str(i) for i in range(10) if i != 3] + ['3: not finite']
  assert words(ax) == expected, 'in the order of the ends'
  figure.draw_without_rendering()
  boxes = [text.get_window_extent() for text in ax.texts]
  assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
  assert 'batches of one class' in legend(figure)
  assert_nothing_is_cut_off(path)


def test_classes_that_end_side_by_side_differ_in_colour(path):
  rng = np.random.default_rng(0)
  single = np.exp(rng.normal(size=(10, 5)))
  figure = figures.draw_batch_kinds(
    *(path, np.arange(5), single, np.ones((20, 5))), title='t', log_y=True
  )
  colors = [text.get_color() for text in figure.axes[0].texts]
  assert not any(a == b for a, b in itertools.pairwise(colors))


def test_a_legend_has_what_a_logarithmic_axis_can_show():
  figure = plotting.new_figure()
  ax = figure.add_subplot()
  ax.plot([1, 2], [1, 2], label='above')
  ax.plot([1, 2], [-1, 0], label='below')
  for scale, labels in (('linear', ['above', 'below']), ('log', ['above'])):
    figure.legends.clear()
    ax.set_yscale(scale)
    _styles.legend_below(figure, [ax])
    assert legend(figure) == labels


def test_kinds_of_batches_at_other_steps_are_refused(path):
  with pytest.raises(ValueError, match=r'iid must have 5 entries.*got 4'):
    figures.draw_batch_kinds(
      path, np.arange(5), np.ones((10, 5)), np.ones((20, 4)), title='t'
    )


def test_positions_are_relative_to_their_epoch(path):
  peculiar = np.ones(31)
  peculiar[7] = 2.0
  losses = np.outer([8.0, 1.0, 0.25], peculiar)
  losses[1, 3] = np.nan
  figure = figures.draw_positions(
    path, {'fixed': losses, 'other': losses[:, ::-1]}, title='t'
  )
  drawn = figure.axes[0].get_images()[0].get_array()
  assert drawn[:, 7].tolist() == [1, 1, 1]  # log2 of twice the median
  assert np.argwhere(drawn.mask).tolist() == [[1, 3]]
  assert figure.axes[0].get_ylabel() == 'epoch'
  assert figure.axes[1].get_xlabel() == 'position in the cycle (batch)'
  limits = {ax.get_images()[0].get_clim() for ax in figure.axes[:2]}
  assert len(limits) == 1
  assert_nothing_is_cut_off(path)


# Files


def test_a_figure_that_cannot_be_written_leaves_the_old_one(path, monkeypatch):
  losses = {'fixed': np.ones((2, 3))}
  figure = figures.draw_positions(path, losses, title='t')
  before = path.read_bytes()

  def fail(self, new, **options):
    new.write_bytes(b'half')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(type(figure), 'savefig', fail)
  with pytest.raises(OSError, match='No space left'):
    figures.draw_positions(path, losses, title='t')
  assert path.read_bytes() == before
  assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
  'draw',
  [
    lambda path: figures.draw_stream(path, {}, [], 't'),
    lambda path: figures.draw_training(path, {}, axis='s', title='t'),
    lambda path: figures.draw_intervals(path, [], axis_title='s', title='t'),
    lambda path: figures.draw_loss_distributions(path, {}, title='t'),
    lambda path: figures.draw_positions(path, {}, title='t'),
  ],
)
def test_nothing_to_draw_is_an_error_and_no_file(path, draw):
  with pytest.raises(ValueError, match='must not be empty'):
    draw(path)
  assert not path.exists()
