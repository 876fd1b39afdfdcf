"""`python -m benchmarks [PART ...] [--seconds N]`: all parts, or some."""

import argparse
import importlib
import os
import subprocess
import sys

import jax

from benchmarks import measuring
from benchmarks import report

# In this order; each is a module with `main(seconds)`.
PARTS = (
  'step_cost',
  'step_parts',
  'peer_cost',
  'reaction_cost',
  'data_parallel_cost',
  'loop_trial',
  'scan_cost',
  'stream_speed',
  'chart_cost',
  'training_run',
  'many_seeds',
)
# What is measured once more with `--keep-memory`, if all parts are.
_ONCE_MORE = ('step_cost', 'step_parts')
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
  parser.add_argument(
    '--keep-memory',
    action='store_true',
    help='with an allocator that hands no memory back to the system',
  )
  options = parser.parse_args()
  unknown = set(options.parts) - set(PARTS)
  if unknown:
    parser.error(f'no part {sorted(unknown)}: choose from {", ".join(PARTS)}')
  if options.keep_memory and not measuring.keeps_memory():
    # The allocator reads its settings when a process starts.
    os.environ.update(measuring.KEEPING_MEMORY)
    os.execv(
      sys.executable, [sys.executable, '-m', 'benchmarks', *sys.argv[1:]]
    )
  if len(options.parts) == 1:
    (part,) = options.parts
    if part == 'data_parallel_cost':
      jax.config.update('jax_num_cpu_devices', _NUM_CPU_DEVICES)
    importlib.import_module(f'benchmarks.{part}').main(options.seconds)
  else:
    parts = [[part] for part in options.parts or PARTS]
    if not options.parts and not options.keep_memory:
      parts += [[part, '--keep-memory'] for part in _ONCE_MORE]
    for part in parts:
      print('==', *part, flush=True)
      subprocess.run(
        [
          *(sys.executable, '-m', 'benchmarks', *part),
          *('--seconds', str(options.seconds)),
        ],
        check=True,
      )
  report.write()


if __name__ == '__main__':
  main()
