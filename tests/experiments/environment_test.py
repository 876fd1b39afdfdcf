"""What a result was made with is told."""

import isgd_jax
from isgd_jax.experiments import files
from isgd_jax.experiments.environment import environment
from tests.experiments.files_test import strict_loads


def test_environment_is_strict_json_and_names_the_library_s_version():
  made_with = strict_loads(files.to_json(environment()))
  assert made_with['versions']['isgd_jax'] == isgd_jax.__version__
  assert made_with['hardware']['platform'] == 'cpu'
