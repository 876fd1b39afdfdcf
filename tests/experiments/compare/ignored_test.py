"""What a comparison would ignore is refused before anything is made."""

import pytest

from isgd_jax.experiments import main
from isgd_jax.experiments.compare.command import CompareConfig
from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.runs.tasks import reads_folder
from isgd_jax.experiments.runs.workloads import LARGE_WORKLOADS
from isgd_jax.experiments.runs.workloads import WORKLOADS


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    (
      'imbalance --large',
      '--large has no effect with imbalance, which has one form; leave it out, '
      'or use stationary-fashion or ',
    ),
    (
      'stationary-digits --data-dir x',
      '--data-dir x has no effect with stationary-digits, whose data come with',
    ),
    ('made-rivals --data-dir x', '--data-dir x has no effect with made-rivals'),
    (
      'over-no-momentum --tasks made-rivals/labels-digits --data-dir x',
      '--data-dir x has no effect with --tasks made-rivals/labels-digits, '
      'whose data come with packages; leave it out, or use real-streams/elec2',
    ),
    (
      'drift-labels --bases polyak momo --methods base isgd',
      '--methods base isgd has no effect with --bases polyak momo, compared al',
    ),
    (
      'drift-labels --methods base reshuffled',
      '--methods reshuffled has no effect with drift-labels, which goes thr',
    ),
    (
      'drift-labels --methods isgd-constant',
      '--methods isgd-constant has no effect with drift-labels, where each '
      'rate is constant; leave it out, or use isgd\n',
    ),
    (
      'label-noise --methods base-decayed',
      '--methods base-decayed has no effect with label-noise, where each rate '
      'is decayed; leave it out, or use base\n',
    ),
    (
      'made-rivals --methods random',
      '--methods random: a run of made-rivals is one program, which cannot re',
    ),
    (
      'drift-text --methods adwin-isgd',
      '--methods adwin-isgd: adwin flags from outside, which takes a run that '
      'is one program, and drift-text has others; leave it out, or use real-st',
    ),
    (
      'real-rivals --methods oracle-reset',
      '--methods oracle-reset: nobody knows when real-rivals changes; leave it '
      'out, or use made-rivals',
    ),
  ],
)
def test_what_does_nothing_is_refused_in_one_line(
  line, message, tmp_path, capsys
):
  out = tmp_path / 'out'
  with pytest.raises(SystemExit) as exit_info:
    main.main(['compare', *line.split(), '--out', str(out)])
  assert exit_info.value.code == 2
  error = capsys.readouterr().err
  assert error.startswith(f'isgd-jax: error: {message}')
  assert len(error.splitlines()) == 1
  assert not out.exists()


@pytest.mark.parametrize('name', WORKLOADS)
def test_the_large_form_is_taken_where_there_is_one(name):
  """It is refused exactly where its plans would be those of the small one."""
  small = CompareConfig(name).plans()
  if LARGE_WORKLOADS[name] == WORKLOADS[name]:
    with pytest.raises(InputError, match='--large has no effect'):
      CompareConfig(name, large=True).plans()
  else:
    assert CompareConfig(name, large=True).plans() != small


@pytest.mark.parametrize('name', WORKLOADS)
def test_a_folder_goes_to_the_tasks_that_read_it_alone(name):
  tasks = WORKLOADS[name].tasks
  if not any(map(reads_folder, tasks)):
    with pytest.raises(InputError, match='--data-dir x has no effect'):
      CompareConfig(name, data_dir='x').plans()
    return
  for plan in CompareConfig(name, data_dir='x').plans():
    # The digits, beside another data set, are refused a folder by their loader.
    assert plan.task.data_dir == ('x' if reads_folder(plan.task) else None)
    assert plan.task.dataset != 'digits' or plan.task.data_dir is None


@pytest.mark.parametrize('name', WORKLOADS)
def test_the_methods_of_a_workload_are_none_that_it_ignores(name):
  methods = WORKLOADS[name].methods
  assert CompareConfig(name, methods).plans()
