"""The steps of a run read back as they were."""

import numpy as np

from isgd_jax.experiments import files
from isgd_jax.experiments.runs import step_records
from isgd_jax.experiments.runs.steps import StepMetrics
from tests.experiments.files_test import strict_loads


def test_steps_read_back_as_they_were(tmp_path):
  rng = np.random.default_rng(0)
  metrics = StepMetrics(
    **{
      field: rng.normal(size=4).astype(np.float32)
      for field in StepMetrics._fields
    }
  )
  metrics = metrics._replace(
    control_limit=np.array([np.inf, np.inf, 2.0, 3.0], np.float32),
    is_undertrained=np.array([False, False, True, False]),
    num_extra_steps=np.array([0, 0, 5, 0]),
  )
  other = StepMetrics(*np.zeros((9, 2)))
  path = tmp_path / 'steps.jsonl'
  files.write_records(
    path,
    [
      *step_records.step_records('one', metrics),
      *step_records.step_records('other', other),
    ],
  )
  for line in path.read_text().splitlines():
    strict_loads(line)
  read = step_records.read_steps(path)
  assert list(read) == ['one', 'other']
  np.testing.assert_array_equal(
    read['one'].control_limit, [np.nan, np.nan, 2.0, 3.0]
  )
  assert read['one'].is_undertrained.dtype == bool
  for field in set(StepMetrics._fields) - {'control_limit'}:
    np.testing.assert_array_equal(
      getattr(read['one'], field), getattr(metrics, field)
    )
