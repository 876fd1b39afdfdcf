"""Settings of every test: CPU, strict dtype promotion, one fixed draw."""

import os

import hypothesis
import jax
import pytest

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_numpy_dtype_promotion', 'strict')

# JAX compiles on the first example, so no deadline; CI draws the same examples.
hypothesis.settings.register_profile(
  'isgd_jax', max_examples=300, deadline=None, derandomize=True
)
# For further versions, where the first one has drawn them all.
hypothesis.settings.register_profile(
  'fewer', max_examples=30, deadline=None, derandomize=True
)
hypothesis.settings.load_profile(
  os.environ.get('HYPOTHESIS_PROFILE', 'isgd_jax')
)


def pytest_addoption(parser):
  parser.addoption(
    '--fast-compile',
    action='store_true',
    help="compile without XLA's optimisations of machine code, in this process"
    ' and those it starts: for tests that compile more than they compute',
  )
  parser.addoption(
    '--first-case',
    action='store_true',
    help='of each parametrized test only the first case that -m leaves, but for'
    ' those marked every_case: for further versions, where what can break is a'
    ' call, and the cases are our own arithmetic',
  )


def pytest_configure(config):
  # XLA reads its flags with the first compilation; workers inherit them.
  if config.getoption('--fast-compile') and not hasattr(config, 'workerinput'):
    flags = ['--xla_backend_optimization_level=0']
    # Later versions have one way to emit a fusion, and end on this flag.
    if jax.__version_info__ < (0, 11):
      flags.append('--xla_cpu_use_fusion_emitters=false')
    os.environ['XLA_FLAGS'] = ' '.join(
      [os.environ.get('XLA_FLAGS', ''), *flags]
    ).strip()


# Last, so after -m, and after the markers that folders put on their tests.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
  if not config.getoption('--first-case'):
    return
  seen, kept, left_out = set(), [], []
  for item in items:
    test = item.nodeid.partition('[')[0]
    is_first = test not in seen or item.get_closest_marker('every_case')
    seen.add(test)
    (kept if is_first else left_out).append(item)
  config.hook.pytest_deselected(items=left_out)
  items[:] = kept
