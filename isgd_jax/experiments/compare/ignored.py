"""What a comparison would ignore, or could not use once it came to it."""

from collections.abc import Callable, Sequence

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.ignored_options import no_effect
from isgd_jax.experiments.ignored_options import spell
from isgd_jax.experiments.runs.methods import LOSS_ADAPTIVE
from isgd_jax.experiments.runs.methods import METHODS
from isgd_jax.experiments.runs.methods import Method
from isgd_jax.experiments.runs.tasks import Task
from isgd_jax.experiments.runs.tasks import reads_folder
from isgd_jax.experiments.runs.workloads import LARGE_WORKLOADS
from isgd_jax.experiments.runs.workloads import WORKLOADS


def check_ignored(
  workload: str,
  *,
  tasks: Sequence[Task] | None = None,
  methods: tuple[str, ...] | None = None,
  base_optimizers: tuple[str, ...] | None = None,
  large: bool = False,
  data_dir: str | None = None,
) -> None:
  """Raises on what would do nothing on this workload, or fail on it later.

  Args:
    workload: its name, a valid one.
    tasks: of it, those that were asked for; None takes all.
    methods: names, valid ones; None takes the workload's.
    base_optimizers: likewise.
    large: whether to take the form for an accelerator.
    data_dir: where the files of the data set lie.

  Raises:
    InputError: naming the option, its value and the remedy.

  Example:
    >>> try:
    ...   check_ignored('drift-labels', large=True)
    ... except ValueError as error:
    ...   print(str(error).partition(';')[0])
    --large has no effect with drift-labels, which has one form
  """
  chosen = WORKLOADS[workload].tasks if tasks is None else tasks
  if large and LARGE_WORKLOADS[workload] == WORKLOADS[workload]:
    others = [n for n in WORKLOADS if LARGE_WORKLOADS[n] != WORKLOADS[n]]
    raise no_effect(
      '--large', f'{workload}, which has one form', ' or '.join(others)
    )
  if data_dir is not None and not any(map(reads_folder, chosen)):
    beside = [t.name for t in WORKLOADS[workload].tasks if reads_folder(t)]
    others = beside or [
      n for n in WORKLOADS if any(map(reads_folder, WORKLOADS[n].tasks))
    ]
    raise no_effect(
      spell('data-dir', data_dir),
      f'{spell("tasks", tuple(t.name for t in chosen)) if beside else workload}'
      ', whose data come with packages',
      ' or '.join(others),
    )
  bases = set(base_optimizers or ())
  if bases and bases <= set(LOSS_ADAPTIVE) and set(methods or ()) - {'base'}:
    raise no_effect(
      spell('methods', methods),
      f'{spell("bases", base_optimizers)}, compared alone',
      '--bases with another one',
    )
  for name in methods or ():
    _check_method(METHODS[name], workload, chosen)


def _check_method(method: Method, workload: str, tasks: Sequence[Task]) -> None:
  """Raises on a method that some task of the workload cannot show."""
  given = spell('methods', method.name)
  trigger = method.isgd.chart.trigger
  if method.kind == 'random' and any(t.is_scanned for t in tasks):
    raise InputError(
      f'{given}: a run of {workload} is one program, which cannot repeat '
      "ISGD's number of extra steps; leave it out, or use random-isgd"
    )
  if trigger != 'chart' and not all(t.is_scanned for t in tasks):
    raise InputError(
      f'{given}: {trigger} flags from outside, which takes a run that is one '
      f'program, and {workload} has others; leave it out, or use '
      f'{_those(lambda task: task.is_scanned)}'
    )
  if trigger == 'oracle' and not all(t.change_points for t in tasks):
    knows = lambda task: task.is_scanned and bool(task.change_points)
    raise InputError(
      f'{given}: nobody knows when {workload} changes; leave it out, or use '
      f'{_those(knows)}'
    )
  if method.is_reshuffled and any(t.order != 'cycle' for t in tasks):
    raise no_effect(
      given,
      f'{workload}, which goes through no cycle',
      _those(lambda task: task.order == 'cycle'),
    )
  if method.schedule and any(t.schedule == method.schedule for t in tasks):
    same = method.name.removesuffix(f'-{method.schedule}')
    raise no_effect(
      given, f'{workload}, where each rate is {method.schedule}', same
    )


def _those(fits: Callable[[Task], bool]) -> str:
  """The workloads all of whose tasks do."""
  return ' or '.join(n for n, w in WORKLOADS.items() if all(map(fits, w.tasks)))
