"""Puts the measured tables into README.md, from the files that were measured.

make demo OUT=docs/demo && make bench && python docs/update_readme.py
"""

import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def demo_section() -> str:
  """What the demo printed, and its figures."""
  summary = (ROOT / 'docs/demo/summary.txt').read_text().rstrip()
  return (
    f'`make demo` printed this:\n\n```text\n{summary}\n```\n\n'
    '![Control chart of ISGD on the drifting stream]'
    '(docs/demo/control_chart.png)\n'
    '![Accuracy over the drifting stream](docs/demo/accuracy_over_stream.png)'
  )


def bench_section() -> str:
  """The newest line of the benchmark as a table."""
  lines = (ROOT / 'benchmarks/step_cost.jsonl').read_text().splitlines()
  run = json.loads(lines[-1])
  steps = run['num_chase_steps']
  table = [
    f'| training step | base, ms | no chase (quartiles) | chase of {steps}, '
    f'/ (1 + {steps}) | compile | memory, copies |',
    '| --- | --- | --- | --- | --- | --- |',
  ]
  for row in run['rows']:
    low, high = row['untriggered_quartiles']
    table.append(
      f'| {row["workload"]}, {row["base"]}, window {row["window_size"]:,} '
      f'| {row["base_ms"]:.2f} | {row["untriggered"]:.3f} '
      f'({low:.3f} to {high:.3f}) | {row["chase"]:.2f} '
      f'| {row["compile"]:.1f} | {row["memory_copies"]:+.2f} |'
    )
  return (
    '`make bench`, ratios to the base optimizer, side by side in one process '
    f'({run["device"]}, {run["num_cpus"]} cores, jax {run["jax"]}, Python '
    f'{run["python"]}, {run["date"]}); memory is live bytes above the base '
    'step, in copies of the parameters:\n\n' + '\n'.join(table)
  )


def render(text: str) -> str:
  """`text` with every marked section made anew."""
  for name, section in {
    'demo': demo_section(),
    'bench': bench_section(),
  }.items():
    begin, end = (f'<!-- {name} table: {mark} -->' for mark in ('begin', 'end'))
    before, rest = text.split(begin)
    _, after = rest.split(end)
    text = f'{before}{begin}\n\n{section}\n\n{end}{after}'
  return text


if __name__ == '__main__':
  readme = ROOT / 'README.md'
  readme.write_text(render(readme.read_text()))
