"""Timing in turn, and what a compiled program says of itself."""

from collections.abc import Callable, Mapping
import datetime
import json
import os
import pathlib
import re
import time
from typing import Any

import jax
import numpy as np
import tqdm

from isgd_jax.experiments import files
from isgd_jax.experiments.environment import environment

FOLDER = pathlib.Path(__file__).resolve().parent
_MAX_ROUNDS = 3000
_MIN_ROUNDS = 5
# By default glibc hands temporaries of more than 32 MiB back to the system
# after each step, and gets them anew, page by page, in the next.
KEEPING_MEMORY = {
  'MALLOC_MMAP_THRESHOLD_': str(2**30),
  'MALLOC_TRIM_THRESHOLD_': str(2**32),
}


def keeps_memory() -> bool:
  """Whether this process was started with `KEEPING_MEMORY`."""
  return all(os.environ.get(k) == v for k, v in KEEPING_MEMORY.items())


def in_turn(
  steps: Mapping[str, Callable[[], Any]], seconds: float, description: str
) -> dict[str, np.ndarray]:
  """Times several functions A B A B ..., so that drift slows all of them.

  Args:
    steps: name -> a function that does one step and returns its result.
    seconds: to spend, about; between 5 and 3000 rounds are made.
    description: for the progress bar.

  Returns:
    name -> seconds of each round [num_rounds]; a first one is thrown away.
  """
  for step in steps.values():
    jax.block_until_ready(step())
  start = time.perf_counter()
  for step in steps.values():
    jax.block_until_ready(step())
  num_rounds = round(seconds / (time.perf_counter() - start))
  num_rounds = min(max(num_rounds, _MIN_ROUNDS), _MAX_ROUNDS)
  found = {name: np.zeros(num_rounds) for name in steps}
  for i in tqdm.trange(num_rounds, desc=description, leave=False, disable=None):
    for name, step in steps.items():
      start = time.perf_counter()
      jax.block_until_ready(step())
      found[name][i] = time.perf_counter() - start
  return found


def ratio(seconds: Mapping[str, np.ndarray], name: str, base: str) -> Any:
  """One time over another: of the medians, and quartiles over the rounds."""
  low, high = np.quantile(seconds[name] / seconds[base], (0.25, 0.75))
  return {
    'ratio': float(np.median(seconds[name]) / np.median(seconds[base])),
    'quartiles': [float(low), float(high)],
    'base_ms': 1e3 * float(np.median(seconds[base])),
    'num_rounds': len(seconds[base]),
  }


def stepper(compiled: Any, carry: Any, *args: Any) -> Callable[[], Any]:
  """A function that takes the next step of a program with a donated carry."""
  state = [carry]

  def step():
    state[0] = compiled(*state[0], *args)
    return state[0]

  return step


def compile_seconds(lower: Callable[[], Any]) -> tuple[Any, float]:
  """Compiles what `lower` lowers; the least time of three, or of a long one.

  `lower` is to trace a new function each time. Of one that was compiled before
  JAX would hand out the program that it has, in no time.
  """
  seconds: list[float] = []
  while len(seconds) < 3 and sum(seconds) < 10:
    lowered = lower()
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds.append(time.perf_counter() - start)
  return compiled, min(seconds)


def live_bytes(compiled: Any) -> int:
  """Temporaries and fresh outputs of a compiled step."""
  memory = compiled.memory_analysis()
  return (
    memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
  )


def entry_counts(compiled: Any, params: Any) -> dict[str, int]:
  """What is on the path of a step without a chase, in the optimized program.

  Args:
    compiled: the program; its entry computation is that path.
    params: the parameters. A copy counts if its shape is that of one of them
      with more than a thousand elements.

  Returns:
    Numbers of data-dependent branches (loops, conditionals), of copies of
    parameters and of all-reduces.
  """
  text = compiled.as_text()
  entry = text[text.index('\nENTRY') :].splitlines()
  shapes = {
    f'[{",".join(map(str, leaf.shape))}]'
    for leaf in jax.tree.leaves(params)
    if leaf.size > 1000
  }
  copies = [re.search(r'= \w+(\[[\d,]*\])\S* copy\(', line) for line in entry]
  return {
    'branches': sum(
      bool(re.search(r' (while|conditional)\(', line)) for line in entry
    ),
    'copies': sum(found is not None and found[1] in shapes for found in copies),
    'all_reduces': sum(
      bool(re.search(r' all-reduce(-start)?\(', line)) for line in entry
    ),
  }


def append(part: str, rows: list[dict[str, Any]], **more: Any) -> None:
  """Adds a line with rows, date, hardware and versions to the part's file."""
  record = {
    'date': datetime.date.today().isoformat(),
    **environment(),
    'keeps_memory': keeps_memory(),
    **more,
    'rows': rows,
  }
  files.append_record(FOLDER / f'{part}.jsonl', record)


def newest(part: str) -> list[dict[str, Any]]:
  """The newest line of a part of each kind of device and allocator."""
  path = FOLDER / f'{part}.jsonl'
  if not path.exists():
    return []
  of_place: dict[Any, dict[str, Any]] = {}
  for line in path.read_text().splitlines():
    record = json.loads(line)
    keeps = record.get('keeps_memory', False)
    of_place[record['hardware']['device'], keeps] = record
  return [of_place[place] for place in sorted(of_place)]
