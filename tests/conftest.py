"""Settings of every test: CPU, strict dtype promotion, one fixed draw."""

import os

import hypothesis
import jax

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
