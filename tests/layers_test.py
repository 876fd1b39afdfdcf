"""Nothing imports upwards, and nothing in a circle."""

import ast
import pathlib

import pytest

import isgd_jax

ROOT = pathlib.Path(isgd_jax.__file__).parent

# Top to bottom. A folder may import what is in the lines below its own.
EXPERIMENTS = (
  ('__main__',),
  ('main',),
  ('command_line',),
  ('commands',),
  ('demo', 'compare', 'report', 'demonstrate', 'plan_batch_size'),
  ('train',),
  ('runs', 'figures'),
  ('optimizers', 'streams'),
  ('datasets', 'models'),
  (
    *('statistics', 'files', 'environment', 'errors', 'progress', 'arguments'),
    'ignored_options',
  ),
  # The package itself, which has no code.
  ('',),
)
CORE = (
  # The public names.
  ('',),
  ('training', 'plotting', 'sampling', 'batch_size', 'testing'),
  (
    *('_isgd', '_actions', '_presets'),
    *('_mean_loss', '_describe', '_nnx_microbatched'),
  ),
  ('_reactions',),
  ('_chase',),
  ('_info',),
  ('_charts',),
  ('_devices', '_frozen_update', '_convolution'),
  ('_checks', '_extras'),
)
LAYERS = tuple(
  tuple(f'isgd_jax.{prefix}{name}'.rstrip('.') for name in layer)
  for prefix, layers in (('experiments.', EXPERIMENTS), ('', CORE))
  for layer in layers
)
# Within a line, in one direction only.
BESIDE = {
  # RESULTS.md tells what `isgd-jax demonstrate` found.
  ('isgd_jax.experiments.report', 'isgd_jax.experiments.demonstrate'),
  ('isgd_jax.experiments.files', 'isgd_jax.experiments.errors'),
  ('isgd_jax.experiments.statistics', 'isgd_jax.experiments.errors'),
  ('isgd_jax.experiments.progress', 'isgd_jax.experiments.errors'),
  ('isgd_jax.experiments.arguments', 'isgd_jax.experiments.errors'),
  ('isgd_jax.experiments.ignored_options', 'isgd_jax.experiments.errors'),
  # A convolution is told apart by whether it runs on several devices.
  ('isgd_jax._convolution', 'isgd_jax._devices'),
}


def module_name(path):
  parts = path.relative_to(ROOT.parent).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob('*.py'))}


def imports_of(name):
  """Modules of ours that a module imports, at once or when it gets there."""
  found = set()
  for node in ast.walk(ast.parse(MODULES[name].read_text())):
    if isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{name}: relative import'
      for alias in node.names:
        full = f'{node.module}.{alias.name}'
        found.add(full if full in MODULES else node.module)
    elif isinstance(node, ast.Import):
      found.update(alias.name for alias in node.names)
  return {other for other in found if other in MODULES} - {name}


def folder_of(name):
  """The name in `LAYERS` under which a module stands."""
  parts = name.split('.')
  depth = 3 if parts[1:2] == ['experiments'] else 2
  return '.'.join(parts[:depth])


HEIGHT = {
  name: -number for number, layer in enumerate(LAYERS) for name in layer
}


@pytest.mark.parametrize('name', MODULES)
def test_a_module_imports_only_what_lies_below(name):
  assert folder_of(name) in HEIGHT, f'{folder_of(name)} has no place in LAYERS'
  ours = folder_of(name)
  for other in imports_of(name):
    theirs = folder_of(other)
    is_allowed = (
      ours == theirs
      or HEIGHT[theirs] < HEIGHT[ours]
      or (ours, theirs) in BESIDE
    )
    assert is_allowed, f'{name} imports {other}, which does not lie below it'


def test_every_exception_is_in_use_and_beside():
  edges = {
    (folder_of(name), folder_of(other))
    for name in MODULES
    for other in imports_of(name)
  }
  assert edges >= BESIDE
  assert all(HEIGHT[ours] == HEIGHT[theirs] for ours, theirs in BESIDE)


def test_no_module_imports_itself_by_way_of_others():
  done = set()

  def visit(name, path):
    assert name not in path, ' > '.join([*path[path.index(name) :], name])
    if name not in done:
      for other in sorted(imports_of(name)):
        visit(other, [*path, name])
      done.add(name)

  for name in MODULES:
    visit(name, [])


def test_few_modules_lie_in_the_package_itself():
  assert len(list(ROOT.glob('*.py'))) <= 14


def test_an_import_upwards_would_be_seen(monkeypatch, tmp_path):
  """Inside a function too."""
  path = tmp_path / 'shewhart.py'
  path.write_text('def f():\n  from isgd_jax import _isgd\n')
  monkeypatch.setitem(MODULES, 'isgd_jax._charts.shewhart', path)
  with pytest.raises(AssertionError, match='_isgd, which does not lie below'):
    test_a_module_imports_only_what_lies_below('isgd_jax._charts.shewhart')
  with pytest.raises(AssertionError, match='shewhart > '):
    test_no_module_imports_itself_by_way_of_others()


@pytest.mark.parametrize(
  'name',
  [
    *('METHODS', 'Plan', 'describe', 'TrainConfig', 'TrainResult'),
    *('load_dataset', 'prefetch'),
  ],
)
def test_a_name_means_one_thing(name):
  def defines(path):
    return any(
      getattr(node, 'name', None) == name
      or any(
        getattr(t, 'id', None) == name for t in getattr(node, 'targets', ())
      )
      for node in ast.parse(path.read_text()).body
    )

  assert sum(defines(path) for path in MODULES.values()) == 1
