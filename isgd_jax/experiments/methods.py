"""The training steps that are compared: ISGD and what it has to beat.

* `base`: the base optimizer alone.
* `twice`: the base optimizer, every batch twice (data echoing, uniform).
* `random`: the base optimizer, with as many extra steps as an ISGD run took,
  but on randomly chosen batches: shows whether the control chart matters.
* `isgd`: `isgd_jax.isgd` around the base optimizer.

The learning rate is an argument of every program, so that a whole tuning grid
shares one compilation. Extra base steps are no loop inside the program: on a
CPU, XLA runs a convolution in a loop several times slower than outside, which
would make the baselines look slower than they are. `twice` is one program of
two steps; `random` calls the program of one step as often as it has to.
"""

from collections.abc import Callable
import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import isgd_jax
from isgd_jax.experiments.base_optimizers import build_base_optimizer
from isgd_jax.experiments.models import Batch
from isgd_jax.experiments.models import Model
from isgd_jax.experiments.models import Params

METHODS = ('base', 'twice', 'random', 'isgd')


@dataclasses.dataclass(frozen=True)
class IsgdSettings:
  """The control chart; everything else of ISGD is the library's default.

  Attributes:
    window_size: batches in the chart's window.
    sigma_multiplier: sigmas between the centre line and a control limit.
    flagged_losses: what an out-of-control loss leaves in the window, as in
      `isgd_jax.shewhart`.
  """

  window_size: int = 50
  sigma_multiplier: float = 3.0
  flagged_losses: str = 'keep'


class Carry(NamedTuple):
  """What a training step hands to the next one.

  Attributes:
    params: the parameters.
    opt_state: the optimizer's state.
  """

  params: Params
  opt_state: Any


class StepMetrics(NamedTuple):
  """What one step reports; scalars, or [num_steps] for a whole run.

  Attributes:
    loss: of the batch before training on it (prequential), nats.
    accuracy: of the batch before training on it, share in [0, 1].
    mean: the control chart's centre line; NaN without a chart.
    sigma: the chart's standard deviation; NaN without a chart.
    control_limit: the chart's upper limit, infinite in Phase I; NaN without a
      chart.
    is_undertrained: whether the chart flagged the batch.
    num_extra_steps: chase steps, or base steps beyond the first.
    final_loss: what a chase left; `loss` where there was none.
    num_gradient_evaluations: spent on this step.
  """

  loss: Any
  accuracy: Any
  mean: Any
  sigma: Any
  control_limit: Any
  is_undertrained: Any
  num_extra_steps: Any
  final_loss: Any
  num_gradient_evaluations: Any


class CompiledStep(NamedTuple):
  """A training step, compiled ahead of time.

  Attributes:
    init: `init(params) -> Carry`.
    step: `step(carry, learning_rate, images, labels) -> (carry, metrics)`. The
      carry is donated. The metrics are one float32
      vector, in the order of `StepMetrics`: one transfer instead of nine.
    compile_seconds: what tracing and compiling took.
  """

  init: Callable[[Params], Carry]
  step: Callable[..., tuple[Carry, jax.Array]]
  compile_seconds: float


@functools.cache
def compile_step(
  model: Model,
  base_optimizer: str,
  isgd_settings: IsgdSettings | None,
  batch_shape: tuple[int, int, int, int],
  num_base_steps: int = 1,
) -> CompiledStep:
  """Compiles the step of one program, once a process.

  Args:
    model: the network.
    base_optimizer: name of the base optimizer.
    isgd_settings: for ISGD, or None for the base optimizer.
    batch_shape: (batch size, height, width, channels).
    num_base_steps: without ISGD, base steps on each batch, at least 1.

  Returns:
    A `CompiledStep`; the same object for the same arguments.

  Raises:
    ValueError: the base optimizer's name is unknown.

  Example:
    >>> from isgd_jax.experiments.models import build_model
    >>> model = build_model('mlp', (8, 8, 1), 10)
    >>> program = compile_step(model, 'sgd', None, (4, 8, 8, 1))
    >>> carry, metrics = program.step(
    ...   program.init(model.init(0)), np.float32(0.1),
    ...   np.zeros((4, 8, 8, 1), np.float32), np.zeros(4, np.int32))
  """
  start = time.perf_counter()
  make_base = functools.partial(build_base_optimizer, base_optimizer)
  if isgd_settings is None:
    step = functools.partial(_base_steps, model, make_base, num_base_steps)
    optimizer_init = make_base(0.0).init
  else:
    chart = isgd_jax.shewhart(**dataclasses.asdict(isgd_settings))

    def make_isgd(
      learning_rate: float | jax.Array,
    ) -> optax.GradientTransformationExtraArgs:
      return isgd_jax.isgd(make_base(learning_rate), chart)

    step = functools.partial(_isgd_step, model, make_isgd)
    optimizer_init = make_isgd(0.0).init

  def init(params: Params) -> Carry:
    # The rate is no part of the state, so any has done.
    return Carry(params, optimizer_init(params))

  init = jax.jit(init)
  compiled = (
    jax.jit(step, donate_argnums=0)
    .lower(
      jax.eval_shape(init, model.init(0)),
      jax.ShapeDtypeStruct((), jnp.float32),
      jax.ShapeDtypeStruct(batch_shape, jnp.float32),
      jax.ShapeDtypeStruct(batch_shape[:1], jnp.int32),
    )
    .compile()
  )
  return CompiledStep(init, compiled, time.perf_counter() - start)


def _base_steps(
  model: Model,
  make_base: Callable[[jax.Array], optax.GradientTransformation],
  num_steps: int,
  carry: Carry,
  learning_rate: jax.Array,
  images: jax.Array,
  labels: jax.Array,
) -> tuple[Carry, jax.Array]:
  """`num_steps` base steps on one batch; reports the first one's loss."""
  optimizer = make_base(learning_rate)
  found = []
  for _ in range(num_steps):
    (loss, accuracy), grads = jax.value_and_grad(model.loss_fn, has_aux=True)(
      carry.params, (images, labels)
    )
    updates, opt_state = optimizer.update(grads, carry.opt_state, carry.params)
    carry = Carry(optax.apply_updates(carry.params, updates), opt_state)
    found.append((loss, accuracy))
  loss, accuracy = found[0]
  no_chart = jnp.nan
  metrics = StepMetrics(
    loss=loss,
    accuracy=accuracy,
    mean=no_chart,
    sigma=no_chart,
    control_limit=no_chart,
    is_undertrained=False,
    num_extra_steps=num_steps - 1,
    final_loss=loss,
    num_gradient_evaluations=num_steps,
  )
  return carry, _pack(metrics)


def _isgd_step(
  model: Model,
  make_isgd: Callable[[jax.Array], optax.GradientTransformationExtraArgs],
  carry: Carry,
  learning_rate: jax.Array,
  images: jax.Array,
  labels: jax.Array,
) -> tuple[Carry, jax.Array]:
  """A step of ISGD, which decides for itself on extra steps."""
  optimizer = make_isgd(learning_rate)
  batch: Batch = images, labels
  (loss, accuracy), grads = jax.value_and_grad(model.loss_fn, has_aux=True)(
    carry.params, batch
  )
  updates, opt_state = optimizer.update(
    grads,
    carry.opt_state,
    carry.params,
    value=loss,
    value_fn=lambda params: model.loss_fn(params, batch)[0],
  )
  params = optax.apply_updates(carry.params, updates)
  before = isgd_jax.get_info(carry.opt_state).num_gradient_evaluations
  info = isgd_jax.get_info(opt_state)
  metrics = StepMetrics(
    loss=loss,
    accuracy=accuracy,
    mean=info.mean,
    sigma=info.sigma,
    control_limit=info.control_limit,
    is_undertrained=info.is_undertrained,
    num_extra_steps=info.num_chase_steps,
    final_loss=info.final_loss,
    num_gradient_evaluations=info.num_gradient_evaluations - before,
  )
  return Carry(params, opt_state), _pack(metrics)


def _pack(metrics: StepMetrics) -> jax.Array:
  """The metrics as one float32 vector."""
  return jnp.stack([jnp.asarray(m).astype(jnp.float32) for m in metrics])


def unpack(packed: np.ndarray) -> StepMetrics:
  """Takes apart what a run's steps reported.

  Args:
    packed: [num_steps, number of metrics] float32.

  Returns:
    `StepMetrics` of arrays [num_steps]: float32, the counts int64, the flags
    bool.

  Example:
    >>> unpack(np.zeros((2, len(StepMetrics._fields)))).is_undertrained
    array([False, False])
  """
  metrics = StepMetrics(*np.asarray(packed).T)
  return metrics._replace(
    is_undertrained=metrics.is_undertrained.astype(bool),
    num_extra_steps=metrics.num_extra_steps.astype(np.int64),
    num_gradient_evaluations=metrics.num_gradient_evaluations.astype(np.int64),
  )
