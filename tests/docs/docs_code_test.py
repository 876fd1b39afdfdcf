"""The code of README.md and of each page of docs/ runs, and does what it says.

The blocks of a page run in order in one namespace. docs/devices.md needs eight
devices: devices/many_devices/docs_test.py. docs/batch_size.md times steps:
docs/batch_size_docs_test.py.
"""

import ast
import contextlib
import json
import pathlib
import re
import shlex
import sys
import tomllib
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax.experiments import command_line

pytestmark = [pytest.mark.cheap_compile, pytest.mark.one_version]

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = {
  path.relative_to(ROOT).as_posix(): path.read_text()
  for path in (
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md')),
    *sorted((ROOT / 'docs').glob('*.md')),
  )
}
ELSEWHERE = ('docs/batch_size.md', 'docs/devices.md')
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.DOTALL | re.MULTILINE)
WITH_CODE = [
  name
  for name, text in PAGES.items()
  if name not in ELSEWHERE and '```python' in text
]
# What the README takes for granted: "a loss, parameters, batches of your own".
X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
README_NAMES = {
  'params': jnp.zeros(3),
  'batch': (X, X.sum(axis=1)),
  'loss_fn': lambda params, batch: jnp.mean(
    (batch[0] @ params - batch[1]) ** 2
  ),
}


@pytest.mark.parametrize('page', WITH_CODE)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  # Loggers that nobody has to have.
  monkeypatch.setitem(sys.modules, 'wandb', stub_of_wandb())
  monkeypatch.setitem(sys.modules, 'mlflow', stub_of_mlflow())
  names = dict(README_NAMES) if page == 'README.md' else {}
  # As a user's JAX has it; Optax's Adam mixes dtypes.
  with jax.numpy_dtype_promotion('standard'):
    for language, code in FENCE.findall(PAGES[page]):
      if language == 'python':
        exec(compile(code, page, 'exec'), names)
    CHECKS[page](names)


def check_readme(names):
  assert int(isgd_jax.get_info(names['opt_state']).num_steps) == 1
  assert jnp.all(names['params'] != 0)


def check_getting_started(names):
  info = names['info']
  flagged = np.flatnonzero(info.is_undertrained)
  assert flagged.min() >= 50
  assert 300 in flagged
  assert info.num_chase_steps.max() <= 5
  assert info.final_loss[300] == info.loss[300]  # In the shadow.
  assert names['of_step'].final_loss < 0.5 * names['of_step'].loss
  assert info.num_chases_paid[-1] == info.num_chases_judged[-1] >= 2
  # "Once the network has caught up, the chart falls silent."
  assert np.mean(info.is_undertrained[320:]) < 0.05
  assert pathlib.Path('control_chart.png').stat().st_size > 10_000
  assert names['mean_loss'](names['optimizer']) < names['mean_loss'](
    optax.adam(1e-3)
  )


def check_charts(names):
  update, state = names['chart'].update, names['chart'].init()
  flags = []
  for loss in (1.0, 1.5, 4.0, float('nan'), 7.0, 15.0):
    state, reading = update(state, jnp.float32(loss))
    flags.append(bool(reading.is_above))
  assert flags == [False, False, True, False, False, True]


def check_streams(names):
  accuracies, info = names['accuracies'], names['info']
  assert len(accuracies) == 400
  # It has learned each concept again by the end of its segment.
  for end in (100, 200, 300, 400):
    assert sum(accuracies[end - 20 : end]) / 20 > 0.7
  assert 0 < int(info.num_undertrained) < 80
  assert int(info.num_gradient_evaluations) < 1.5 * 400


def check_flax_equinox(names):
  for opt_state in (
    names['nnx_optimizer'].opt_state,
    names['state'].opt_state,
    names['normed_state'].opt_state,
    names['eqx_state'],
  ):
    assert int(isgd_jax.get_info(opt_state).num_steps) == 1
  assert jax.tree.map(
    lambda old, new: bool(jnp.any(old != new)),
    names['variables']['batch_stats'],
    names['normed_state'].batch_stats,
  ) == {'BatchNorm_0': {'mean': True, 'var': True}}


def check_checkpoints(names):
  state, restored = names['state'], names['restored']
  jax.tree.map(np.testing.assert_array_equal, state, restored)
  info = isgd_jax.get_info(state[1])
  assert int(info.num_steps) == 60
  assert int(info.num_undertrained) > 0
  new_state = names['new_state']
  jax.tree.map(
    np.testing.assert_array_equal, new_state.base_state, state[1].base_state
  )
  assert jax.tree.structure(new_state) == jax.tree.structure(
    names['wider'].init(names['params'])
  )


def check_your_own_loop(names):
  infos = names['of_all_steps']
  assert infos.num_steps.tolist() == list(range(1, 301))
  flagged = np.flatnonzero(infos.is_undertrained)
  assert 150 in flagged
  assert infos.num_chases_judged[-1] > 0
  assert infos.num_gradient_evaluations[-1] > 300
  assert pathlib.Path('chart.png').stat().st_size > 10_000
  # It has learned, both meanings.
  assert infos.loss[140:150].mean() < 0.5 * infos.loss[:10].mean()
  assert infos.loss[-10:].mean() < 0.5 * infos.loss[150]
  assert int(names['info'].num_steps) == 60
  assert 0.0 <= float(names['rate']) <= 3e-3
  rows = pathlib.Path('isgd.csv').read_text().splitlines()
  assert rows[0] == ','.join(isgd_jax.ISGDInfo._fields)
  assert len(rows) == 6
  for logged in (names['wandb'].logged, names['mlflow'].logged):
    assert logged == {100: names['numbers']}
  assert names['accuracy'] > 0.7
  assert names['numbers']['isgd/num_steps'] == 401


def stub_of_wandb():
  """As much of W&B as a page uses, with its signatures.

  Run against wandb 0.31.0 itself, offline: all 26 numbers are in its file.
  """
  module = types.ModuleType('wandb')
  module.logged = {}

  class Run:
    def __enter__(self):
      return self

    def __exit__(self, *exception):
      pass

    def log(self, data, step=None, commit=None):
      json.dumps(data, allow_nan=False)
      module.logged[step] = data

  module.init = lambda project=None, **options: Run()
  return module


def stub_of_mlflow():
  """As much of MLflow as a page uses, with its signatures.

  Run against mlflow 3.17.2 itself, over SQLite: it gives back what it got.
  """
  module = types.ModuleType('mlflow')
  module.logged = {}

  def log_metrics(metrics: dict[str, float], step: int | None = None):
    assert all(type(value) is float for value in metrics.values())
    module.logged[step] = metrics

  module.start_run = contextlib.nullcontext
  module.log_metrics = log_metrics
  return module


def check_migrating(names):
  assert names['skipped_before'] == names['skipped_after'] == [200, 240, 280]
  np.testing.assert_allclose(
    names['params_before'], names['params_after'], rtol=1e-5
  )
  assert int(names['num_flagged']) >= 3
  assert int(names['extra_after']) > 0


def check_from_other_frameworks(names):
  for name in ('olmo_core', 'maxtext', 'levanter', 'spelled_out'):
    assert names[f'{name}_skipped'] == [200], name
  assert names['of_loss'].upper_limit < np.inf
  assert names['of_norm'].upper_limit < np.inf
  assert names['zclip_norms'] == names['spelled_out_norms']
  assert int(names['num_clipped']) >= 1
  assert names['zclip_norms'][200] < 0.05
  params = {'w': jnp.ones((2, 2)), 'b': jnp.ones(2)}
  state = names['adagc_like'].init(params)
  names['adagc_like'].update(params, state, params)


def check_troubleshooting(names):
  assert names['still_filling']
  assert names['share_for_ever'] > 0.7
  assert names['share_with_restart'] < 0.2
  assert np.all(np.isfinite(names['params_after_nan']))
  assert np.isnan(names['infos'][22].loss)
  assert int(names['infos'][-1].num_steps) == 25
  value, params = names['value'], names['params']
  assert value == names['right'](params)
  assert value != names['wrong'](params)
  assert (names['num_compiled'], names['num_compiled_with_short_batch']) == (
    1,
    2,
  )
  assert int(isgd_jax.get_info(names['state'][1]).num_undertrained) > 0
  assert names['new'][0].is_deleted()
  assert float(names['kept'].loss) > 0
  assert names['optimizer'].init(params)


def check_contributing(names):
  chart = names['record_chart'](3)
  state = chart.init()
  flags = []
  for loss in (1.0, 3.0, 2.0, 2.5, 3.5, 1.0):
    state, reading = chart.update(state, loss)
    flags.append(bool(reading.is_above))
  assert flags == [False, False, False, False, True, False]


CHECKS = {
  'CONTRIBUTING.md': check_contributing,
  'README.md': check_readme,
  'docs/charts.md': check_charts,
  'docs/checkpoints.md': check_checkpoints,
  'docs/flax_equinox.md': check_flax_equinox,
  'docs/from_other_frameworks.md': check_from_other_frameworks,
  'docs/getting_started.md': check_getting_started,
  'docs/migrating.md': check_migrating,
  'docs/streams.md': check_streams,
  'docs/troubleshooting.md': check_troubleshooting,
  'docs/your_own_loop.md': check_your_own_loop,
}


def test_blocks_are_of_a_kind_that_is_run():
  for page, text in PAGES.items():
    languages = {language for language, _ in FENCE.findall(text)}
    assert languages <= {'python', 'text'}, page


def shell_lines(text):
  """The lines of indented blocks, those that go on in the next joined."""
  text = FENCE.sub('', text)
  # An indented line in a list is prose, not code.
  blocks = re.findall(r'(?:\A|\n\n)((?: {4}.*\n?(?:\n(?= {4}))*)+)', text)
  lines = ''.join(f'{block.rstrip()}\n' for block in blocks)
  return re.sub(r'\\\n\s*', '', lines).splitlines()


COMMANDS = sorted(
  {
    command.strip()
    for text in PAGES.values()
    for line in shell_lines(text)
    for command in re.findall(
      r"\bisgd-jax [a-z][^;&']*",
      re.sub(r' #.*|\$resume|\$i\b', '', line),
    )
  }
)


@pytest.mark.parametrize('command', COMMANDS)
def test_the_command_line_is_one_that_isgd_jax_takes(command):
  words = shlex.split(command)[1:]
  if '--process-id' in words and words[-1] == '--process-id':
    words.append('0')  # In the place of a shell variable.
  # To resume it would look for the run.
  command_line.parse([word for word in words if word != '--resume'])


def test_there_are_commands():
  assert len(COMMANDS) > 10


def test_make_targets_and_extras_exist():
  makefile = (ROOT / 'Makefile').read_text()
  extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project'][
    'optional-dependencies'
  ]
  for page, text in PAGES.items():
    for target in re.findall(r'(?:`| {4})make ([a-z-]+)', text):
      assert re.search(rf'^{target}:', makefile, re.MULTILINE), (page, target)
    for names in re.findall(r"pip install '\.\[([\w,]+)\]'", text):
      assert set(names.split(',')) <= extras.keys(), (page, names)


# What a page imports -> the package that has it, where that is named otherwise.
DISTRIBUTIONS = {
  'isgd_jax.plotting': 'matplotlib',
  'isgd_jax.sampling': 'grain',
  'isgd_jax.training': 'flax',
  'orbax': 'orbax-checkpoint',
}


@pytest.mark.parametrize('page', WITH_CODE)
def test_what_a_page_imports_it_says_how_to_install(page):
  """By an extra that has it, or by its name, before the code."""
  extras = packages_of_extras()
  text = PAGES[page]
  for match in FENCE.finditer(text):
    language, code = match.groups()
    if language != 'python':
      continue
    before = text[: match.start()]
    said = set(re.findall(r'pip install ([a-zA-Z]\w+)|or `(\w+)`;', before))
    said = {name for pair in said for name in pair if name}
    for names in re.findall(r"pip install '\.\[([\w,]+)\]'", before):
      said |= set().union(*(extras[name] for name in names.split(',')))
    for package in imported_packages(code):
      assert package in said, (page, package)


def packages_of_extras():
  """Extra -> the packages that it brings, through other extras too."""
  extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project'][
    'optional-dependencies'
  ]

  def packages(name):
    found = set()
    for requirement in extras[name]:
      inner = re.fullmatch(r'isgd_jax\[([\w,]+)\]', requirement)
      if inner:
        found |= set().union(*map(packages, inner[1].split(',')))
      else:
        found.add(re.match(r'[\w-]+', requirement)[0])
    return found

  return {name: packages(name) for name in extras}


def imported_packages(code):
  """The packages that some code needs beyond jax and optax."""
  names = set()
  for node in ast.walk(ast.parse(code)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {node.module, *(f'{node.module}.{a.name}' for a in node.names)}
  found = set()
  for name in names:
    top = name.partition('.')[0]
    named = DISTRIBUTIONS.get(name) or DISTRIBUTIONS.get(top) or top
    if named not in {'isgd_jax', 'jax', 'optax', 'numpy'}:
      found.add(named)
  return found - sys.stdlib_module_names
