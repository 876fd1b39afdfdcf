"""The demonstrations: runs that go on, figures from the file, fair numbers."""

import dataclasses
import math
import shutil

import jax
import numpy as np
import pytest

from isgd_jax.experiments import main
from isgd_jax.experiments.demonstrate import demonstrations
from isgd_jax.experiments.demonstrate import numbers
from isgd_jax.experiments.demonstrate import runs
from isgd_jax.experiments.runs import tasks
from isgd_jax.experiments.runs import training as run_training
from isgd_jax.experiments.runs.methods import METHODS

pytestmark = [pytest.mark.one_version, pytest.mark.whole_runs]

TASK = tasks.Task(
  *('tiny', 'MLP on digits', 'digits', 'mlp', 'cycle'),
  batch_size=32,
  window_size=20,
  num_train=640,
  num_epochs=8,
)
RATES = {'sgd': 0.1, 'momentum': 0.02}
RUNS = [
  *(('sgd', 'base'), ('sgd', 'isgd'), ('sgd', 'paper-isgd')),
  ('sgd', 'reshuffled'),
  *(('momentum', 'base'), ('momentum', 'isgd'), ('momentum', 'paper-isgd')),
]
FILE = 'demonstrations.jsonl'


def run(folder, task=TASK, **kwargs):
  return demonstrations.run_demonstrations(
    task, folder, learning_rates=RATES, **kwargs
  )


def which(records):
  return [(r['base'], r['method']) for r in records]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('demonstrations')
  # As every test has it; that fixture comes after this one.
  with jax.numpy_dtype_promotion('standard'):
    run(path)
  return path


@pytest.fixture
def records(folder):
  return demonstrations.read_demonstrations(folder)


@pytest.fixture
def quick_runs(monkeypatch):
  """Runs that take no time; the list of those that were made."""
  made = []

  def outcome(task, model, configuration):
    made.append((configuration['base'], configuration['method']))
    return {'summary': {}, 'losses': [[float(len(made))]]}

  monkeypatch.setattr(demonstrations, 'run_outcome', outcome)
  return made


# What is recorded


def test_every_run_is_recorded_with_all_that_made_it(records):
  assert which(records) == RUNS
  for record in records:
    assert record['learning_rate'] == RATES[record['base']]
    assert record['task_config']['batch_size'] == 32
    assert record['algorithm']['decay_evaluations'] == 0
    assert record['environment']['versions']['jax']
    losses = record.get('losses') or record['sorted_losses']
    assert np.shape(losses) == (8, 20)


def test_looking_at_batches_does_not_change_the_run(records):
  record = records[RUNS.index(('momentum', 'base'))]
  result = run_training.train(
    METHODS['base'].run_config(TASK, 'momentum', 0.02, 0),
    tasks.build_task_model(TASK),
    tasks.build_stream(TASK, 0),
  )
  losses = np.sort(result.metrics.loss.reshape(8, 20), axis=1)
  np.testing.assert_allclose(record['sorted_losses'], losses, rtol=1e-3)


def test_batches_of_both_kinds_are_looked_at_from_start_to_end(records):
  kinds = records[RUNS.index(('momentum', 'base'))]['batch_kinds']
  steps = kinds['steps']
  assert (steps[0], steps[-1]) == (0, 160)
  assert 40 <= len(steps) <= 43
  assert kinds['classes'] == list(range(10))
  single_class, iid = np.array(kinds['single_class']), np.array(kinds['iid'])
  assert single_class.shape == iid.shape == (10, len(steps))
  # An untrained network knows no class; a trained one knows some better.
  np.testing.assert_allclose(iid[:, 0], math.log(10), atol=0.5)
  assert iid[:, -1].max() < iid[:, 0].min()
  assert numbers.spread_ratios(single_class, iid)[len(steps) // 4] > 1


def test_batches_to_look_at_are_of_one_class_and_of_many():
  model = tasks.build_task_model(TASK)
  kinds = runs._BatchKinds(TASK, model, 0)
  labels = [np.unique(y).tolist() for _, y in kinds._batches]
  assert labels[:10] == [[label] for label in range(10)]
  assert all(len(present) > 5 for present in labels[10:])
  assert all(len(y) == 32 for _, y in kinds._batches)


def test_only_a_fixed_cycle_has_losses_that_depend_on_the_place(records):
  base, control = (
    numbers.position_share(
      numbers.epoch_losses(records[RUNS.index(('sgd', method))])[-4:]
    )
    for method in ('base', 'reshuffled')
  )
  assert base > 0.3 > control


def test_mnist_takes_the_place_of_fashion_mnist_and_nothing_else():
  fashion = demonstrations.demonstration_task()
  mnist = demonstrations.demonstration_task(mnist='a/folder')
  assert mnist.dataset == 'mnist'
  assert mnist == dataclasses.replace(
    fashion,
    name=mnist.name,
    title='LeNet on MNIST',
    dataset='mnist',
    data_dir='a/folder',
  )
  # Else the one's runs would be taken for the other's.
  assert mnist.name != fashion.name


def test_the_large_form_is_kept_in_300_kb(tmp_path, monkeypatch):
  task = demonstrations.demonstration_task(large=True)
  rng = np.random.default_rng(0)
  num_steps = task.num_batches

  class Kinds:
    classes = tuple(range(10))

    def __init__(self, *_):
      pass

    def losses(self, params):
      return rng.gamma(4.0, 0.1, 20).tolist()

  def train(config, model, stream, *, evaluate, **_):
    loss = rng.gamma(4.0, 0.1, num_steps)
    columns = {name: np.zeros(num_steps) for name in Metrics._fields}
    metrics = Metrics(**columns | {'loss': loss})
    steps = range(175, num_steps, 175) if evaluate else ()
    evaluations = [
      run_training.Evaluation(step, step, 1.0, evaluate(None)) for step in steps
    ]
    return run_training.RunResult(
      None, metrics, 1.0, 1.0, False, tuple(evaluations)
    )

  class Network:
    init = staticmethod(lambda seed: None)

  Metrics = run_training.StepMetrics
  monkeypatch.setattr(runs, '_BatchKinds', Kinds)
  monkeypatch.setattr(runs, 'train', train)
  monkeypatch.setattr(tasks, 'build_stream', lambda *_, **__: None)
  monkeypatch.setattr(tasks, 'build_task_model', lambda _: Network)
  found = demonstrations.run_demonstrations(task, tmp_path)
  assert len(found) == 10
  assert (tmp_path / FILE).stat().st_size < 300_000


def test_thinned_epochs_have_the_percentiles_of_whole_ones():
  losses = np.random.default_rng(0).gamma(2.0, size=(3, 468))
  losses[1, :100] = np.nan
  thinned = runs._sorted(losses)
  assert thinned.shape == (3, 41)
  shares = [0.05, 0.25, 0.5, 0.75, 0.95]
  whole = np.where(np.isnan(losses), np.inf, losses)
  np.testing.assert_array_equal(
    np.quantile(thinned, shares, axis=1, method='nearest'),
    np.quantile(whole, shares, axis=1, method='nearest'),
  )


# Going on


def test_runs_on_record_are_not_repeated(folder, records, quick_runs):
  before = (folder / FILE).read_bytes()
  assert run(folder) == records
  assert not quick_runs
  assert (folder / FILE).read_bytes() == before


def test_an_interrupted_command_goes_on_with_the_next_run(
  tmp_path, quick_runs, monkeypatch
):
  quick = demonstrations.run_outcome

  def interrupted(*args):
    if len(quick_runs) == 3:
      raise KeyboardInterrupt
    return quick(*args)

  monkeypatch.setattr(demonstrations, 'run_outcome', interrupted)
  with pytest.raises(
    KeyboardInterrupt, match=r'3 of 7 runs are kept in .*json'
  ):
    run(tmp_path)
  assert which(demonstrations.read_demonstrations(tmp_path)) == RUNS[:3]
  monkeypatch.setattr(demonstrations, 'run_outcome', quick)
  assert which(run(tmp_path)) == RUNS
  assert quick_runs == RUNS


def test_a_run_whose_line_is_torn_is_made_again(tmp_path, quick_runs):
  run(tmp_path)
  whole = (tmp_path / FILE).read_bytes()
  (tmp_path / FILE).write_bytes(whole[:-40])
  assert which(run(tmp_path)) == RUNS
  assert quick_runs == [*RUNS, RUNS[-1]]


def test_the_configuration_asked_for_last_counts(tmp_path, quick_runs):
  first = run(tmp_path)
  other = run(tmp_path, dataclasses.replace(TASK, num_epochs=3))
  assert {r['task_config']['num_epochs'] for r in other} == {3}
  assert demonstrations.read_demonstrations(tmp_path) == other
  assert run(tmp_path) == first
  assert demonstrations.read_demonstrations(tmp_path) == first
  assert len(quick_runs) == 14
  assert len((tmp_path / FILE).read_text().splitlines()) == 14


def test_mnist_stands_beside_fashion_mnist(tmp_path, quick_runs, monkeypatch):
  monkeypatch.setattr(tasks, 'build_task_model', lambda task: None)
  task = dataclasses.replace(TASK, dataset='mnist', data_dir='a/folder')
  fashion, mnist = run(tmp_path), run(tmp_path, task)
  assert which(fashion) == which(mnist) == RUNS
  assert demonstrations.read_demonstrations(tmp_path) == fashion
  assert demonstrations.read_demonstrations(tmp_path, 'mnist') == mnist
  assert {r['task_config']['dataset'] for r in mnist} == {'mnist'}
  assert 'a/folder' not in (tmp_path / 'demonstrations-mnist.jsonl').read_text()


def test_another_seed_or_rate_is_another_run(tmp_path, quick_runs):
  run(tmp_path)
  run(tmp_path, seed=1)
  demonstrations.run_demonstrations(
    TASK, tmp_path, learning_rates={'sgd': 0.2, 'momentum': 0.02}
  )
  assert len(quick_runs) == 21


# Figures


def test_figures_are_drawn_from_the_file_alone(folder, tmp_path, monkeypatch):
  def forbidden(*_, **__):
    raise AssertionError('the figures need more than the file')

  for module, name in (
    (tasks, 'load_dataset'),
    (tasks, 'build_stream'),
    (runs, 'train'),
  ):
    monkeypatch.setattr(module, name, forbidden)
  shutil.copy(folder / FILE, tmp_path)
  drawn = demonstrations.draw_demonstrations(tmp_path)
  assert [path.name for path in drawn] == [
    'demonstrations-batch-kinds.png',
    'demonstrations-positions.png',
    'demonstrations-distributions-sgd.png',
    'demonstrations-distributions-momentum.png',
  ]
  assert all(path.stat().st_size > 10_000 for path in drawn)
  assert {path.name for path in tmp_path.iterdir()} == {
    FILE,
    *(path.name for path in drawn),
  }


def test_figures_of_mnist_have_names_of_their_own(folder, tmp_path):
  shutil.copy(folder / FILE, tmp_path / 'demonstrations-mnist.jsonl')
  drawn = demonstrations.draw_demonstrations(tmp_path, dataset='mnist')
  assert [path.name for path in drawn] == [
    'demonstrations-mnist-batch-kinds.png',
    'demonstrations-mnist-positions.png',
    'demonstrations-mnist-distributions-sgd.png',
    'demonstrations-mnist-distributions-momentum.png',
  ]


def test_an_svg_is_drawn_where_one_is_asked_for(folder, tmp_path):
  shutil.copy(folder / FILE, tmp_path)
  drawn = demonstrations.draw_demonstrations(tmp_path, 'svg')
  assert len(drawn) == 4
  for path in drawn:
    assert path.suffix == '.svg'
    assert path.read_text().startswith('<?xml')


def test_positions_show_the_cycle_and_the_control(folder, records, monkeypatch):
  panels = {}

  def draw(path, losses, *, title):
    panels.update(losses)

  monkeypatch.setattr(demonstrations.figures, 'draw_positions', draw)
  demonstrations.draw_demonstrations(folder)
  assert list(panels) == [
    'SGD alone',
    *(numbers.panel_title(record) for record in records[1:3]),
    'SGD, reshuffled in each epoch',
  ]
  assert {losses.shape for losses in panels.values()} == {(8, 20)}


def test_a_run_that_diverged_is_drawn_and_described(folder, tmp_path):
  rows = [
    {**record, 'plan': 'diverged'}
    for record in demonstrations.read_demonstrations(folder)
  ]
  for record in rows:
    losses = 'losses' if 'losses' in record else 'sorted_losses'
    record[losses] = [*record[losses][:1], *[[None] * 20] * 7]
  kinds = rows[RUNS.index(('momentum', 'base'))]['batch_kinds']
  for losses in (*kinds['single_class'], *kinds['iid']):
    losses[5:] = [None] * len(losses[5:])
  demonstrations.files.write_records(tmp_path / FILE, rows)
  assert len(demonstrations.draw_demonstrations(tmp_path)) == 4
  text = demonstrations.describe_demonstrations(
    demonstrations.read_demonstrations(tmp_path)
  )
  assert text.count('not finite') >= 7
  assert 'nan' not in text


# Numbers


@pytest.mark.parametrize(
  ('num_epochs', 'signal', 'expected'),
  [(2, 0.0, 0.0), (3, 0.0, 0.0), (3, 1.0, 0.5), (7, 2.0, 0.8)],
)
def test_position_share_is_unbiased(num_epochs, signal, expected):
  """Of places' effects and noise of unit variance, whatever the epochs."""
  rng = np.random.default_rng(0)
  shares = []
  for _ in range(300):
    places = signal * rng.normal(size=50)
    losses = places + rng.normal(size=(num_epochs, 50))
    # That the loss falls from epoch to epoch is not explained by the place.
    shares.append(
      numbers.position_share(losses - np.arange(num_epochs)[:, None])
    )
  assert np.mean(shares) == pytest.approx(expected, abs=0.02)


def test_position_share_agrees_with_one_way_analysis_of_variance():
  losses = np.random.default_rng(0).gamma(2.0, size=(4, 9))
  centred = losses - losses.mean(1, keepdims=True)
  between = 4 * np.square(centred.mean(0)).sum()
  within = np.square(centred - centred.mean(0)).sum()
  eta_squared = between / (between + within)
  # Ezekiel's correction, with the epochs' means taken out.
  expected = 1 - (1 - eta_squared) * (4 * 8) / (3 * 8)
  assert numbers.position_share(losses) == pytest.approx(expected)


def test_the_text_has_the_numbers_of_the_records(records):
  text = demonstrations.describe_demonstrations(records)
  base, isgd = (
    numbers.loss_width(numbers.epoch_losses(records[i])[-1]) for i in (0, 1)
  )
  assert f'alone {base:.3g} nats' in text
  assert f'with ISGD {isgd:.3g} nats ({isgd / base:.3g} times' in text
  share = numbers.position_share(numbers.epoch_losses(records[0])[-4:])
  assert f'SGD alone {share:.0%}' in text
  assert 'SGD 0.1, Momentum 0.02' in text
  assert 'not tuned' in text
  assert 'Over epochs 5 to 8' in text
  for record in records:
    if record['method'] in ('isgd', 'paper-isgd'):
      summary = record['summary']
      num_flagged = summary['num_undertrained']
      assert f'{num_flagged} of 160 batches flagged' in text
      assert f'; {summary["num_gradient_evaluations"]:,} gradient' in text


@pytest.mark.parametrize(('num_flagged', 'is_alike'), [(0, True), (2, False)])
def test_the_text_says_where_only_rounding_sets_runs_apart(
  records, num_flagged, is_alike
):
  flagged = {**records[1]['summary'], 'num_undertrained': num_flagged}
  text = demonstrations.describe_demonstrations(
    [records[0], {**records[1], 'summary': flagged}]
  )
  assert f'{num_flagged} of 160 batches flagged' in text
  assert ('only rounding sets it apart' in text) == is_alike


def test_the_text_leaves_out_what_is_missing(records):
  text = demonstrations.describe_demonstrations(records[4:5])
  assert 'place in the cycle' not in text
  assert 'Momentum, last epoch' in text
  assert 'SGD' not in text.replace('ISGD', '')


# Errors


@pytest.mark.parametrize(
  'change',
  [
    {'order': 'reshuffled'},
    {'order': 'drift'},
    {'num_epochs': 1},
    {'window_size': 10},
  ],
)
def test_an_unsuitable_task_is_refused_before_any_run(tmp_path, change):
  with pytest.raises(ValueError, match="task must have order='cycle'"):
    run(tmp_path / 'new', dataclasses.replace(TASK, **change))
  assert not (tmp_path / 'new').exists()


def test_an_unknown_base_optimizer_is_refused_before_any_run(tmp_path):
  with pytest.raises(ValueError, match="'sdg'; did you mean 'sgd'"):
    demonstrations.run_demonstrations(
      TASK, tmp_path / 'new', learning_rates={'sdg': 0.1}
    )
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('text', [None, '', '{"torn', '{"kind": "other"}\n'])
def test_a_folder_without_runs_says_how_to_make_them(tmp_path, text):
  if text is not None:
    (tmp_path / FILE).write_text(text)
  for function in (
    demonstrations.read_demonstrations,
    demonstrations.draw_demonstrations,
  ):
    with pytest.raises(ValueError, match='isgd-jax demonstrate --out') as error:
      function(tmp_path)
    assert FILE in str(error.value)


def test_where_mnist_is_missing_its_option_is_named(tmp_path):
  with pytest.raises(ValueError, match='--mnist DIR'):
    demonstrations.read_demonstrations(tmp_path, 'mnist')


# The command


def test_the_command_runs_draws_and_describes(
  folder, tmp_path, capsys, monkeypatch
):
  shutil.copy(folder / FILE, tmp_path)
  asked = []

  def small_task(large, *, mnist):
    asked.append((large, mnist))
    return TASK

  def forbidden(*_):
    raise AssertionError('this run is on record')

  # With the rates of the records, so that none of them is made again.
  monkeypatch.setattr(demonstrations, 'demonstration_task', small_task)
  monkeypatch.setattr(demonstrations, 'run_outcome', forbidden)
  monkeypatch.setitem(
    demonstrations.run_demonstrations.__kwdefaults__, 'learning_rates', RATES
  )
  main.main(['demonstrate', '--out', str(tmp_path), '--large'])
  assert asked == [(True, None)]
  out = capsys.readouterr().out
  assert 'place in the cycle' in out
  assert str(tmp_path) in out
  assert len(list(tmp_path.glob('demonstrations-*.png'))) == 4


def test_the_commands_help_names_its_options(capsys):
  with pytest.raises(SystemExit) as exit_info:
    main.main(['demonstrate', '--help'])
  assert exit_info.value.code == 0
  out = capsys.readouterr().out
  for word in ('--out', '--large', 'not tuned', 'four minutes'):
    assert word in ' '.join(out.replace('│', ' ').split())
