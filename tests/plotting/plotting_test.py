"""The control chart shows what the arrays say, and can be read."""

import io
import json
import sys

import jax
import jax.numpy as jnp
import matplotlib
from matplotlib import colors
from matplotlib import image
from matplotlib.backends.backend_agg import FigureCanvasAgg
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax import plotting
from isgd_jax.plotting import _chart_figure

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


def all_arrays():
  """Every optional array too, each with something to see."""
  data = arrays()
  steps = np.arange(NUM_STEPS)
  data['loss'][50] = data['final_loss'][50] = np.nan
  data['loss'][40] = data['final_loss'][40] = 0.1
  rules = np.zeros(NUM_STEPS, np.int32)
  rules[[31, 35, 36]] = [0b1, 0b10, 0b1010]  # at 31 beyond the limit as well
  return data | {
    'statistic': np.where(steps < 20, 1.0, 0.5 * data['loss'] + 0.5),
    'lower_limit': np.where(steps < 20, -np.inf, 0.7),
    'is_well_trained': steps == 40,
    'violated_rules': rules,
    'is_skipped': steps == 45,
  }


def lines(ax):
  return {line.get_label(): line for line in ax.get_lines()}


def legend(ax):
  return [text.get_text() for text in ax.get_legend().get_texts()]


def render(figure):
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3]


def assert_text_keeps_clear(ax):
  """By pixels: no text over the data area, none cut off at the edge."""
  pixels = render(ax.figure)
  for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
    assert (edge == 255).all(), 'something runs over the edge'
  box = ax.get_window_extent()
  for artist in (
    *(*ax.lines, *ax.collections, *ax.patches),
    *(ax.xaxis, ax.yaxis),
  ):
    if artist in (ax.xaxis, ax.yaxis):
      artist.set_tick_params(which='both', length=0)
    else:
      artist.set_visible(False)
  ax.figure.set_layout_engine('none')  # What is invisible keeps its room.
  ax.spines[:].set_visible(False)
  pixels = render(ax.figure)
  height = len(pixels)
  inside = pixels[
    height - int(box.y1) + 1 : height - int(np.ceil(box.y0)) - 1,
    int(np.ceil(box.x0)) + 1 : int(box.x1) - 1,
  ]
  assert inside.size
  assert (inside == 255).all(), 'text lies over the data area'
  assert (pixels != 255).any(), 'there is no text at all'


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
    'Phase I: no limits yet',
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


def test_phase_one_is_shaded_as_often_as_it_comes():
  data = arrays()
  limit = np.where(np.arange(NUM_STEPS) < 20, np.inf, data['control_limit'])
  limit[50:55] = np.inf  # As after a restart.
  ax = plotting.plot_control_chart(
    **(data | {'control_limit': limit}), first_step=100
  )
  spans = [(patch.get_x(), patch.get_width()) for patch in ax.patches]
  assert spans == [(99.5, 20.0), (149.5, 5.0)]
  assert legend(ax).count('Phase I: no limits yet') == 1
  later = {name: column[20:40] for name, column in data.items()}
  ax = plotting.plot_control_chart(**later)
  assert not ax.patches
  assert 'Phase I: no limits yet' not in legend(ax)


def test_on_a_log_scale_the_legend_has_what_there_is_to_see():
  ax = plotting.plot_control_chart(
    **arrays(), lower_limit=np.full(NUM_STEPS, -0.5)
  )
  assert 'lower control limit' in legend(ax)
  ax.set_yscale('log')
  _chart_figure.draw_legend(ax)
  assert 'lower control limit' not in legend(ax)
  assert 'upper control limit' in legend(ax)
  ax.axvline(3, label='a shift')  # Its ydata are a list.
  _chart_figure.draw_legend(ax)
  assert 'a shift' in legend(ax)


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
  with pytest.raises(ImportError, match=r'pip install .*\[plot\]'):
    plotting.plot_control_chart(**arrays())


def test_every_passed_array_is_drawn_where_it_belongs():
  data = all_arrays()
  ax = plotting.plot_control_chart(**data, first_step=100)
  drawn = lines(ax)
  steps, held = 100 + np.arange(NUM_STEPS), data['statistic']
  is_monitoring = np.isfinite(data['control_limit'])
  for label, values in {
    'loss': data['loss'],
    'statistic': np.where(is_monitoring, held, np.nan),
    'centre line (mean)': np.where(is_monitoring, data['mean'], np.nan),
    'upper control limit': np.where(is_monitoring, 1.4, np.nan),
    'lower control limit': np.where(is_monitoring, 0.7, np.nan),
  }.items():
    np.testing.assert_array_equal(drawn[label].get_xdata(), steps)
    np.testing.assert_array_equal(drawn[label].get_ydata(), values)
  for label, at, values in (
    ('under-trained batch', FLAGGED, held),
    ('well-trained batch', [40], held),
    ('skipped batch', [45], data['loss']),
    ('run rule 2', [35, 36], held),
    ('run rule 4', [36], held),
  ):
    np.testing.assert_array_equal(drawn[label].get_xdata(), steps[at])
    np.testing.assert_array_equal(drawn[label].get_ydata(), values[at])
  assert drawn['loss not finite'].get_xdata().tolist() == [150]
  assert (
    len(ax.get_lines()) + len(ax.collections) + len(ax.patches)
    == len(legend(ax))
    == 13
  )
  assert 'run rule 1' not in legend(ax)  # That loss is beyond the limit.
  (chases,) = ax.collections
  assert [s[0][0] for s in chases.get_segments()] == [130, 131]


def test_rings_of_two_rules_around_one_point_have_two_sizes():
  data = all_arrays()
  rings = [
    (line.get_marker(), line.get_markersize())
    for line in plotting.plot_control_chart(**data).get_lines()
    if 36 in line.get_xdata() and len(line.get_xdata()) < NUM_STEPS
  ]
  assert len({marker for marker, _ in rings}) == 2
  assert len({size for _, size in rings}) == 2


def test_the_limits_of_the_axes_enclose_all_that_is_finite():
  data = all_arrays()
  ax = plotting.plot_control_chart(**data, first_step=7)
  low, high = ax.get_ylim()
  assert low < 0.1
  assert 9.0 < high < 12
  low, high = ax.get_xlim()
  assert low < 7
  assert high > 7 + NUM_STEPS - 1


def test_shapes_differ_where_colours_cannot_be_seen():
  drawn = lines(plotting.plot_control_chart(**all_arrays()))
  markers = [
    line.get_marker() for line in drawn.values() if line.get_marker() != 'None'
  ]
  assert len(markers) == len(set(markers)) == 7
  dashes = {
    drawn[f'{name} control limit'].get_linestyle()
    for name in ('upper', 'lower')
  }
  assert len(dashes) == 2


def test_optional_arrays_without_anything_to_see_leave_no_trace():
  data = arrays()
  plain = plotting.plot_control_chart(**data)
  nothing = np.zeros(NUM_STEPS, bool)
  full = plotting.plot_control_chart(
    **data,
    statistic=data['loss'],
    lower_limit=np.full(NUM_STEPS, -np.inf),
    is_well_trained=nothing,
    violated_rules=np.zeros(NUM_STEPS, np.int32),
    is_skipped=nothing,
  )
  assert legend(full) == legend(plain)
  assert (render(full.figure) == render(plain.figure)).all()


def test_a_flag_by_a_rule_is_both_flag_and_ring():
  data = arrays()
  data['is_undertrained'][35] = True
  rules = np.where(np.arange(NUM_STEPS) == 35, 4, 0)
  drawn = lines(plotting.plot_control_chart(**data, violated_rules=rules))
  assert 35 in drawn['under-trained batch'].get_xdata()
  assert drawn['run rule 3'].get_xdata().tolist() == [35]


def test_rules_that_are_no_integers_are_refused():
  with pytest.raises(ValueError, match='violated_rules must be integers'):
    plotting.plot_control_chart(
      **arrays(), violated_rules=np.zeros(NUM_STEPS, np.float32)
    )


def test_limits_that_jump_with_each_batch_are_dashes_not_lines():
  data = arrays()
  ups = np.where(np.arange(NUM_STEPS) % 2, 3.0, 0.0)
  for name in ('loss', 'mean', 'control_limit', 'final_loss'):
    data[name] += ups
  drawn = lines(plotting.plot_control_chart(**data))
  for label in ('centre line (mean)', 'upper control limit'):
    assert drawn[label].get_linestyle() == 'None'
    assert drawn[label].get_marker() == '_'


@pytest.mark.parametrize('draw', ['plain', 'full', 'wide_row', 'run', 'cycle'])
def test_text_keeps_clear_of_data_and_edges(draw):
  if draw == 'cycle':
    ax = plotting.plot_cycle(np.arange(2000.0) % 37, 37)
  elif draw == 'run':
    _, readings = cusum_of(np.full(NUM_STEPS, 1.0))
    ax = plotting.plot_run(readings)
  elif draw == 'wide_row':
    data = all_arrays()
    for name in ('statistic', 'violated_rules', 'is_skipped'):
      del data[name]
    ax = plotting.plot_control_chart(**data)
  else:
    data = arrays() if draw == 'plain' else all_arrays()
    if draw == 'full':  # Eight rules, as Nelson has.
      data['violated_rules'] = np.full(NUM_STEPS, 255)
    ax = plotting.plot_control_chart(**data, change_points=[30])
  ax.figure.suptitle('A title')
  assert_text_keeps_clear(ax)


def cusum_of(losses):
  chart = isgd_jax.cusum(reference=isgd_jax.fixed_limits(0.0, 1.0))
  return jax.lax.scan(chart.update, chart.init(), jnp.asarray(losses))


def records(**others):
  data = all_arrays() | others
  data = {name: column for name, column in data.items() if column is not None}
  return [
    {'step': i + 1, 'sigma': 0.1}
    | {
      name: None if not np.isfinite(column[i]) else np.asarray(column)[i].item()
      for name, column in data.items()
    }
    for i in range(NUM_STEPS)
  ]


def write(path, steps):
  path.write_text(''.join(json.dumps(record) + '\n' for record in steps))
  return path


def test_a_run_is_drawn_from_its_lines_as_from_arrays(tmp_path):
  path = write(tmp_path / 'metrics.jsonl', records())
  expected = plotting.plot_control_chart(**all_arrays(), first_step=1)
  pixels = render(expected.figure)
  for source in (path, str(path)):
    ax = plotting.plot_run(source)
    assert legend(ax) == legend(expected)
    assert (render(ax.figure) == pixels).all()


def test_fields_that_a_run_does_not_have_are_left_out(tmp_path):
  optional = set(all_arrays()) - set(arrays())
  steps = records(**dict.fromkeys(optional))
  ax = plotting.plot_run(write(tmp_path / 'metrics.jsonl', steps))
  assert not {'statistic', 'well-trained batch', 'skipped batch'} & set(
    legend(ax)
  )
  assert 'upper control limit' in legend(ax)


def test_a_part_of_a_run_is_drawn_on_the_given_axes(tmp_path):
  path = write(tmp_path / 'metrics.jsonl', records())
  first, second = plotting.new_figure().subplots(2)
  ax = plotting.plot_run(path, first_step=25, last_step=40, ax=second)
  assert ax is second
  assert not first.get_lines()
  assert lines(ax)['loss'].get_xdata().tolist() == list(range(25, 41))


def test_a_line_that_is_still_being_written_is_left_out(tmp_path):
  path = write(tmp_path / 'metrics.jsonl', records()[:9])
  path.write_text(path.read_text() + '{"step": 10, "lo')
  assert len(lines(plotting.plot_run(path))['loss'].get_xdata()) == 9


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda s: [], r'metrics\.jsonl. has no steps yet: train'),
    (lambda s: [s[0], s[1] | {'mean': 'x'}], r"'mean' in line 2 .*'x'.*remove"),
    (lambda s: [s[0], s[1] | {'is_skipped': None}], r"'is_skipped' in line 2"),
    (lambda s: [s[0], [1], s[1]], r'line 2 of .*damaged.*remove it'),
    (
      lambda s: [s[1], s[0]],
      r'steps of .* must rise, but 1 follows 2.*one run',
    ),
    (lambda s: [s[0], {'step': 2}], r"line 2 of .*no field 'loss'.*pass the"),
    (
      lambda s: [{k: v for k, v in s[0].items() if k != 'statistic'}, s[1]],
      r"line 1 of .*no field 'statistic': other lines have it",
    ),
  ],
)
def test_damaged_files_are_refused_by_name_and_with_a_remedy(
  tmp_path, damage, message
):
  path = write(tmp_path / 'metrics.jsonl', damage(records()))
  with pytest.raises(ValueError, match=message):
    plotting.plot_run(path)


def test_a_torn_line_in_the_middle_is_refused(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(b'{"step": 1, "lo\n{"step": 2}\n')
  with pytest.raises(
    ValueError, match=r'line 1 of .*metrics\.jsonl. is damaged'
  ):
    plotting.plot_run(path)


def test_no_steps_in_the_part_names_those_that_there_are(tmp_path):
  path = write(tmp_path / 'metrics.jsonl', records())
  with pytest.raises(ValueError, match=r'first_step=90 .* it has 1 to 60'):
    plotting.plot_run(path, first_step=90)


def test_missing_files_and_folders_are_refused_with_a_remedy(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no file .*none\.jsonl.*pass'):
    plotting.plot_run(tmp_path / 'none.jsonl')
  with pytest.raises(IsADirectoryError, match=r'is a folder: pass the file'):
    plotting.plot_run(tmp_path)


def test_a_stacked_info_is_drawn_with_its_own_step_numbers():
  losses = jnp.asarray(arrays()['loss']).at[50].set(0.2)
  optimizer = isgd_jax.skip_out_of_control(
    optax.sgd(0.1), isgd_jax.shewhart(window_size=10)
  )
  params = jnp.zeros(1)

  def step(state, loss):
    _, state = optimizer.update(jnp.ones(1), state, params, value=loss)
    return state, isgd_jax.get_info(state)

  _, infos = jax.lax.scan(step, optimizer.init(params), losses)
  drawn = lines(plotting.plot_run(infos))
  assert drawn['loss'].get_xdata().tolist() == list(range(1, NUM_STEPS + 1))
  assert 'statistic' not in drawn
  assert 31 in drawn['skipped batch'].get_xdata()
  np.testing.assert_array_equal(
    drawn['under-trained batch'].get_xdata(),
    1 + np.flatnonzero(infos.is_undertrained),
  )


def test_a_stacked_reading_has_a_statistic_and_no_loss():
  _, readings = cusum_of(np.full(NUM_STEPS, 1.0))
  ax = plotting.plot_run(readings)
  drawn = lines(ax)
  np.testing.assert_array_equal(
    drawn['statistic'].get_ydata(), readings.statistic
  )
  assert 'loss' not in drawn
  assert ax.get_ylabel() == 'statistic (nats)'
  assert drawn['under-trained batch'].get_xdata()[0] == 10


def test_objects_that_are_no_run_are_refused_with_a_remedy():
  with pytest.raises(ValueError, match=r"a dict, lacks 'mean'.*pass the path"):
    plotting.plot_run({})
  chart = isgd_jax.shewhart(5)
  _, reading = chart.update(chart.init(), 1.0)
  with pytest.raises(ValueError, match=r'mean of shape \(\): stack the steps'):
    plotting.plot_run(reading)
  empty = jax.tree.map(lambda x: x[:0], cusum_of(np.ones(2))[1])
  with pytest.raises(ValueError, match='ChartReading has no steps yet'):
    plotting.plot_run(empty)


def test_cycles_are_lines_with_gaps_and_a_partial_last_epoch():
  loss = np.arange(11.0)
  loss[[5, 6]] = [np.nan, np.inf]
  first, second, third = plotting.plot_cycle(loss, 4).get_lines()
  np.testing.assert_array_equal(first.get_xydata().T, [range(4), range(4)])
  np.testing.assert_array_equal(second.get_ydata(), [4, np.nan, np.nan, 7])
  np.testing.assert_array_equal(third.get_xydata().T, [range(3), [8, 9, 10]])


@pytest.mark.parametrize(
  ('num_epochs', 'max_epochs', 'expected'),
  [(3, 8, [0, 1, 2]), (21, 5, [0, 5, 10, 15, 20]), (7, 1, [0]), (9, 2, [0, 8])],
)
def test_epochs_are_chosen_evenly_and_named_at_the_bar(
  num_epochs, max_epochs, expected
):
  loss = np.repeat(np.arange(num_epochs), 3)
  ax = plotting.plot_cycle(loss, 3, max_epochs=max_epochs)
  assert [line.get_ydata()[0] for line in ax.get_lines()] == expected
  (bar,) = (other for other in ax.figure.axes if other is not ax)
  names = [text.get_text() for text in bar.get_yticklabels()]
  assert names == [str(epoch) for epoch in expected]
  assert bar.get_ylabel() == 'epoch'


def test_epochs_go_from_dark_to_light_and_stay_off_the_paper():
  loss = np.repeat(np.arange(8.0), 5)
  ax = plotting.plot_cycle(loss, 5)
  rgb = np.array([colors.to_rgb(line.get_color()) for line in ax.get_lines()])
  luminance = rgb @ [0.2126, 0.7152, 0.0722]
  assert (np.diff(luminance) > 0.02).all()
  assert luminance[-1] < 0.85
  # The bar shows the very colours of the lines.
  pixels = render(ax.figure) / 255
  (bar,) = (other for other in ax.figure.axes if other is not ax)
  box = bar.get_window_extent()
  x, heights = int((box.x0 + box.x1) / 2), (np.arange(8) + 0.5) / 8
  rows = len(pixels) - (box.y0 + heights * box.height).astype(int)
  np.testing.assert_allclose(pixels[rows, x], rgb, atol=0.01)


def test_the_scale_of_cycles_is_up_to_the_axes():
  ax = plotting.new_figure().add_subplot()
  ax.set_yscale('log')
  assert plotting.plot_cycle(np.geomspace(9, 0.1, 20), 5, ax=ax) is ax
  render(ax.figure)
  assert ax.get_yscale() == 'log'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((np.ones(3), 0), 'cycle_length must be an integer of at least 1, got 0'),
    ((np.ones(3), 1.5), 'cycle_length must be an integer'),
    ((np.ones((3, 2)), 3), r'loss must be a vector .* got shape \(3, 2\)'),
    (([], 3), r'loss must be a vector of at least one loss'),
  ],
)
def test_bad_cycles_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    plotting.plot_cycle(*arguments)


def test_at_least_one_epoch_must_be_drawn():
  with pytest.raises(ValueError, match=r'max_epochs must be .* 1, got 0'):
    plotting.plot_cycle(np.ones(3), 3, max_epochs=0)


@pytest.mark.parametrize('ending', ['svg', 'pdf', 'png'])
def test_the_same_figure_is_the_same_file(tmp_path, ending):
  """No date is in it, and nothing that is drawn by chance."""
  files = []
  for name in ('first', 'second'):
    path = tmp_path / f'{name}.{ending}'
    plotting.save_figure(plotting.plot_control_chart(**arrays()).figure, path)
    files.append(path.read_bytes())
  assert files[0] == files[1]
  starts = {'svg': b'<?xml', 'pdf': b'%PDF', 'png': b'\x89PNG'}
  assert files[0].startswith(starts[ending])
  assert b'dc:date' not in files[0]
  assert b'CreationDate' not in files[0]
  other = tmp_path / f'other.{ending}'
  changed = arrays()
  changed['loss'] *= 1.1
  plotting.save_figure(plotting.plot_control_chart(**changed).figure, other)
  assert other.read_bytes() != files[0]


def test_matplotlib_s_own_settings_are_as_before(tmp_path):
  before = dict(matplotlib.rcParams)
  plotting.save_figure(plotting.new_figure(), tmp_path / 'x.svg')
  assert dict(matplotlib.rcParams) == before


def test_dots_an_inch_are_those_asked_for_or_the_figure_s(tmp_path):
  for dpi, width in ((None, 400), (50, 200)):
    path = tmp_path / f'{width}.png'
    plotting.save_figure(plotting.new_figure(4, 3), path, dpi=dpi)
    assert image.imread(path).shape[1] == width
