"""The notebooks run anywhere, and are fit to be read without being run."""

import importlib.util
import itertools
import os
import pathlib
import re
import subprocess
import sys
from unittest import mock

import nbformat
import pytest

import isgd_jax
from isgd_jax.experiments import datasets

pytestmark = [pytest.mark.cheap_compile, pytest.mark.one_version]

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'notebooks'
# Of one notebook, compilation included; alone on two cores each takes a tenth.
LIMIT_SECONDS = 240
PATHS = sorted(FOLDER.glob('*.ipynb'))
each = pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)


def script(name):
  spec = importlib.util.spec_from_file_location(
    f'{name}_of_notebooks', FOLDER / f'{name}.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def execute():
  return script('execute')


@pytest.fixture(scope='module')
def setup_cell():
  return script('setup_cell')


def read(path):
  return nbformat.read(path, as_version=4)


def code_cells(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def code_cell_with(notebook, text):
  (cell,) = (cell for cell in code_cells(notebook) if text in cell.source)
  return cell.source


def has_fashion_mnist():
  try:
    datasets.load_dataset('fashion-mnist')
  except ValueError:
    return False
  return True


@pytest.mark.processes
@each
def test_it_runs_in_a_small_size_in_an_empty_folder(path):
  """In a process of its own: a kernel's clients warn of what is not ours."""
  if 'fashion-mnist' in path.read_text() and not has_fashion_mnist():
    pytest.skip('Fashion-MNIST is not installed')
  # The library as this process has it, also where it is not installed.
  import_path = os.pathsep.join(
    [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
  )
  found = subprocess.run(
    [sys.executable, FOLDER / 'execute.py', '--smoke', path.stem],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': import_path},
    capture_output=True,
    text=True,
    timeout=LIMIT_SECONDS,
  )
  assert found.returncode == 0, found.stdout + found.stderr[-4000:]


def test_there_are_six():
  assert [path.stem[:2] for path in PATHS] == [
    '01',
    '02',
    '03',
    '04',
    '05',
    '06',
  ]


@each
def test_it_says_what_it_is_for_and_what_comes_next(path):
  notebook = read(path)
  nbformat.validate(notebook)
  first, last = notebook.cells[0].source, notebook.cells[-1].source
  assert first.startswith('# ')
  assert '\n**Goal.** ' in first
  assert '\n**What you will see**\n\n- ' in first
  assert last.startswith('## What to read next\n\n- ')


@each
def test_markdown_stands_before_each_code_cell(path):
  cells = read(path).cells
  for before, cell in itertools.pairwise(cells):
    if cell.cell_type == 'code':
      assert before.cell_type == 'markdown', cell.source


@each
def test_its_links_lead_somewhere(path):
  for cell in read(path).cells:
    if cell.cell_type == 'markdown':
      for link in re.findall(r'\]\(([^)#]+)', cell.source):
        if not link.startswith('https://') and link != '../RESULTS.md':
          assert (FOLDER / link).is_file(), link


@each
def test_its_sizes_can_be_set(path, execute):
  notebook = read(path)
  for line in execute.parameters_cell(notebook).source.splitlines():
    assert re.fullmatch(r'[A-Z_]+ = [^#]+  # @param [\[{].+[\]}]', line), line
  names = execute.parameter_names(notebook)
  sizes = notebook.metadata['isgd_jax']['smoke']
  assert sizes
  small = {}
  exec(
    execute.parameters_cell(execute.with_smoke_sizes(notebook)).source, small
  )
  assert {name: small[name] for name in sizes} == sizes
  # The original is left as it was.
  assert execute.parameter_names(notebook) == names
  notebook.metadata['isgd_jax']['smoke']['NO_SUCH_SIZE'] = 1
  with pytest.raises(ValueError, match='NO_SUCH_SIZE; name one of'):
    execute.with_smoke_sizes(notebook)


@each
def test_its_outputs_are_there_and_of_no_machine(path, execute):
  notebook = read(path)
  counts = [cell.execution_count for cell in code_cells(notebook)]
  assert counts == list(range(1, len(counts) + 1))
  assert any(
    'image/png' in output.get('data', {})
    for cell in code_cells(notebook)
    for output in cell.outputs
  )
  assert execute.complaints(notebook) == []
  assert execute.clean(notebook) == notebook
  for cell in notebook.cells:
    assert not re.search(r'/(tmp|home|root|Users|work)/', cell.source)


def test_outputs_that_are_not_fit_to_keep_are_found(execute):
  def complaints(output):
    cell = nbformat.v4.new_code_cell('', outputs=[output])
    return execute.complaints(nbformat.v4.new_notebook(cells=[cell]))

  def stream(name, text):
    return nbformat.v4.new_output('stream', name=name, text=text)

  assert complaints(stream('stdout', 'loss 0.5')) == []
  assert complaints(stream('stderr', 'a warning'))
  assert complaints(stream('stdout', 'wrote /home/me/plan.json'))
  assert complaints(nbformat.v4.new_output('error', ename='E', evalue='e'))


def test_together_they_are_small():
  assert sum(path.stat().st_size for path in PATHS) < 3_000_000


@each
def test_every_notebook_has_the_one_set_up(path, setup_cell):
  notebook = read(path)
  assert notebook.cells[1].source == setup_cell.MARKDOWN
  assert code_cells(notebook)[0].source == setup_cell.CODE


def run_setup(code, monkeypatch, is_installed, returncode=0):
  """The command that the set-up gives to pip, or None."""
  commands = []

  def install(command):
    commands.append(command)
    sys.modules['isgd_jax'] = isgd_jax
    return subprocess.CompletedProcess(command, returncode)

  with (
    mock.patch('subprocess.run', side_effect=install),
    mock.patch.dict(sys.modules),
  ):
    if not is_installed:
      sys.modules['isgd_jax'] = None
    exec(code, {})
  return commands[0] if commands else None


def test_pip_is_not_asked_where_the_library_is_there(setup_cell, monkeypatch):
  assert run_setup(setup_cell.CODE, monkeypatch, is_installed=True) is None


@pytest.mark.parametrize(
  ('lies', 'source', 'expected'),
  [
    ('checkout', '', '{root}[experiments]'),
    ('wheel', '', '{here}/isgd_jax-0.2.0-py3-none-any.whl[experiments]'),
    ('nothing', '/a/checkout', '/a/checkout[experiments]'),
    ('wheel', 'x.whl', 'x.whl[experiments]'),
    (
      'nothing',
      'git+https://host/x',
      'isgd_jax[experiments] @ git+https://host/x',
    ),
  ],
)
def test_pip_installs_what_lies_around(
  setup_cell, monkeypatch, tmp_path, lies, source, expected
):
  here = FOLDER if lies == 'checkout' else tmp_path
  if lies == 'wheel':
    for version in ('0.1.0', '0.2.0'):
      (here / f'isgd_jax-{version}-py3-none-any.whl').touch()
  monkeypatch.chdir(here)
  code = setup_cell.CODE.replace("SOURCE = ''", f'SOURCE = {source!r}')
  command = run_setup(code, monkeypatch, is_installed=False)
  # On a GPU or a TPU, JAX's plugin for it comes last.
  *pip, requirement = command[1:6]
  assert pip == ['-m', 'pip', 'install', '-q']
  assert requirement == expected.format(root=ROOT, here=here)


def test_where_nothing_lies_around_one_sentence_says_what_to_do(
  setup_cell, monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit, match='put the wheel that `make wheel` makes'):
    run_setup(setup_cell.CODE, monkeypatch, is_installed=False)


def test_a_pip_that_fails_is_said_without_a_traceback(setup_cell, monkeypatch):
  monkeypatch.chdir(FOLDER)
  with pytest.raises(SystemExit, match='pip could not install'):
    run_setup(setup_cell.CODE, monkeypatch, is_installed=False, returncode=1)


@each
def test_fashion_mnist_is_installed_only_where_it_is_missing(path):
  if 'apt-get' not in path.read_text():
    return
  source = code_cell_with(read(path), 'apt-get')
  tiny = datasets.Dataset(
    'fashion-mnist', range(3), range(2), num_classes=10, example_shape=(28, 28)
  )
  with (
    mock.patch('subprocess.run') as run,
    mock.patch.object(datasets, 'load_dataset', return_value=tiny) as load,
  ):
    exec(source, {})
    run.assert_not_called()
    load.side_effect = [ValueError('missing'), tiny]
    exec(source, {})
  commands = [call.args[0] for call in run.call_args_list]
  assert [command[:2] for command in commands] == [
    ['apt-get', 'update'],
    ['apt-get', 'install'],
  ]
  assert commands[1][-1] == 'dataset-fashion-mnist'
