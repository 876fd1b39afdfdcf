"""A map says of each cell what the seeds say, infinities too."""

import math
import pathlib
import shutil

import pytest

from isgd_jax.experiments.report import command
from isgd_jax.experiments.report import gain_map as map_lib
from isgd_jax.experiments.report import paper_map

INF = math.inf
RESULTS = pathlib.Path(__file__).resolve().parents[3] / 'results'
CONFIG = {
  'title': 'i.i.d.',
  'num_train': 6000,
  'batch_size': 60,
  'model': 'mlp-32',
  'num_test': 1000,
  'num_epochs': 50,
}
ENVIRONMENT = {
  'hardware': {'num_devices': 1, 'device': 'cpu', 'num_cpus': 2},
  'versions': {'jax': '1', 'python': '3', 'commit': 'abc'},
}


def records(costs, rate=0.1, task='paper-map/iid', title='i.i.d.'):
  """Of each method, the evaluations of its seeds; None where missed."""
  for method, spent in costs.items():
    for seed, evaluations in enumerate(spent):
      yield {
        'task': task,
        'task_config': CONFIG | {'title': title},
        'method': method,
        'learning_rate': rate,
        'seed': seed,
        'summary': {'held_90': evaluations},
        'environment': ENVIRONMENT,
      }


def found(costs, **kwargs):
  return map_lib.gain_map(records(costs, **kwargs))


def test_gains_are_paired_by_seed():
  cell = found({'base': [100, 200, 300], 'isgd': [50, 250, 240]}).cells[
    'isgd', 0.1, 'paper-map/iid'
  ]
  assert cell.gains == pytest.approx({0: 0.5, 1: -0.25, 2: 0.2})
  assert cell.gain == pytest.approx(0.2)
  assert not cell.is_gain
  assert not cell.is_loss


def test_seeds_that_the_base_lacks_do_not_count():
  cells = found({'base': [100], 'isgd': [50, 60]}).cells
  assert list(cells['isgd', 0.1, 'paper-map/iid'].gains) == [0]
  assert map_lib.gain_map(records({'isgd': [50]})) is None


@pytest.mark.parametrize(
  ('base', 'ours', 'gain'),
  [
    ([100, 100, 100], [None, None, 50], -INF),
    ([None, None, 100], [50, 50, 50], INF),
    ([None, None, 100], [None, None, 50], math.nan),
    # In one both missed, and neither gains.
    ([None, 100, 100], [None, 50, 40], 0.5),
    ([None, 100, 100], [None, 50, 150], 0.0),
  ],
)
def test_a_run_that_missed_is_infinite(base, ours, gain):
  cell = found({'base': base, 'isgd': ours}).cells['isgd', 0.1, 'paper-map/iid']
  assert cell.gain == pytest.approx(gain, nan_ok=True)


def test_the_best_chase_rate_is_that_of_the_highest_median_gain():
  result = found(
    {
      'base': [100, 100, 100],
      'paper-isgd': [90, 90, 90],
      'paper-isgd-10': [80, 80, 300],
      'paper-isgd-100': [None, None, 10],
    }
  )
  best = result.best_of_paper(0.1, 'paper-map/iid')
  assert best.method == 'paper-isgd-10'
  assert 'by the chase' not in paper_map.describe_cells(result)
  assert '+20 % [-200 %, +20 %] | 10 |' in paper_map.map_table(result)


def test_a_gain_in_every_seed_is_bold_and_named_with_its_place():
  result = found({'base': [100, 100], 'isgd-probation': [70, 60]})
  assert '**+35 % [+30 %, +40 %]**' in paper_map.map_table(result)
  assert '21 % or more in 1 (i.i.d. at 0.1 (+35 %))' in (
    paper_map.describe_cells(result)
  )


def test_each_method_has_its_own_best_rate():
  costs = {'base': [100, 100, 100], 'isgd': [90, 90, 90]}
  slow = {'base': [400, 400, 400], 'isgd': [200, 200, 200]}
  result = map_lib.gain_map([*records(costs), *records(slow, rate=0.01)])
  assert '100 at 0.1 | +10 % (90 at 0.1)' in paper_map.tuned_table(result)
  # The rate that is best for one is diverging for the other.
  other = {'base': [400, 400, 400], 'isgd': [50, 50, 50]}
  result = map_lib.gain_map([*records(costs), *records(other, rate=0.01)])
  assert '+50 % (50 at 0.01)' in paper_map.tuned_table(result)


def test_what_was_never_reached_is_missed_at_any_rate():
  result = found({'base': [None], 'isgd': [None]})
  assert '| missed | missed |' in paper_map.tuned_table(result)
  assert 'both missed' in paper_map.map_table(result)


def test_a_folder_without_a_map_says_nothing(tmp_path):
  assert command._paper_map(tmp_path, tmp_path / 'RESULTS.md', 'png') == []


def test_the_figure_is_of_the_format_that_was_asked_for(tmp_path):
  shutil.copy(RESULTS / 'paper-map.jsonl', tmp_path)
  told = command._paper_map(tmp_path, tmp_path / 'RESULTS.md', 'svg')
  assert any('(paper-map.svg)' in part for part in told)
  assert [p.name for p in tmp_path.glob('paper-map.*g')] == ['paper-map.svg']
