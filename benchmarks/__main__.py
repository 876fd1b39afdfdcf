"""`python -m benchmarks [PART ...] [--seconds N]`: all parts, or some."""

import argparse
import importlib
import subprocess
import sys

import jax

from benchmarks import report

# In this order; each is a module with `main(seconds)`.
PARTS = (
  'step_cost',
  'peer_cost',
  'data_parallel_cost',
  'loop_trial',
  'chart_cost',
  'training_run',
  'many_seeds',
)
_NUM_CPU_DEVICES = 8


def main() -> None:
  """Each part in a process of its own, then the report."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    'parts', nargs='*', metavar='PART', help=', '.join(PARTS) + '; default all'
  )
  parser.add_argument(
    '--seconds', type=float, default=20.0, help='of timing, about, per figure'
  )
  options = parser.parse_args()
  unknown = set(options.parts) - set(PARTS)
  if unknown:
    parser.error(f'no part {sorted(unknown)}: choose from {", ".join(PARTS)}')
  if len(options.parts) == 1:
    (part,) = options.parts
    if part == 'data_parallel_cost':
      jax.config.update('jax_num_cpu_devices', _NUM_CPU_DEVICES)
    importlib.import_module(f'benchmarks.{part}').main(options.seconds)
  else:
    for part in options.parts or PARTS:
      print(f'== {part}', flush=True)
      subprocess.run(
        [
          *(sys.executable, '-m', 'benchmarks', part),
          *('--seconds', str(options.seconds)),
        ],
        check=True,
      )
  report.write()


if __name__ == '__main__':
  main()
