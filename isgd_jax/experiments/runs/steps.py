"""The training steps that are compared: ISGD and what it has to beat.

* `base`: the base optimizer alone.
* `twice`: the base optimizer, every batch twice (data echoing, uniform).
* `random`: the base optimizer, with as many extra steps as an ISGD run took,
  but on randomly chosen batches: shows whether the control chart matters.
* `isgd`: `isgd_jax.isgd` around the base optimizer.
* `paper-isgd`: `isgd_jax.paper_isgd` around it, chasing at its learning rate.
* `skip`: the base optimizer, but a flagged batch is dropped.
* `reset`: the base optimizer, but its state is forgotten at a flagged batch.
* `react`: the base optimizer, with another reaction to a flagged batch.

The learning rate and its decay are arguments of every program, so that a whole
tuning grid shares one compilation. Extra base steps are no loop inside the
program: what XLA does worse in a loop (the convolutions of `jax.lax` on a CPU,
say) would make the baselines look slower than they are. `twice` is one program
of two steps; `random` calls the program of one step as often as it has to.
"""

from collections.abc import Callable
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import isgd_jax
from isgd_jax.experiments.models import Batch
from isgd_jax.experiments.models import Model
from isgd_jax.experiments.models import Params
from isgd_jax.experiments.optimizers.algorithms import Algorithm
from isgd_jax.experiments.optimizers.given_flags import set_flag
from isgd_jax.experiments.optimizers.rival_reactions import RivalState
from isgd_jax.experiments.runs import step_report

_OF_CHART = ('mean', 'sigma', 'control_limit', 'is_undertrained', 'final_loss')
STEP_KINDS = (
  *('base', 'twice', 'random', 'isgd', 'paper-isgd', 'skip', 'reset', 'react'),
)


class Carry(NamedTuple):
  """What a training step hands to the next one.

  Attributes:
    params: the parameters.
    opt_state: the optimizer's state.
    num_evaluations: gradient evaluations so far, int32 scalar.
  """

  params: Params
  opt_state: Any
  num_evaluations: jax.Array


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
    step: `step(carry, learning_rate, decay, inputs, labels) -> (carry,
      metrics)`. The carry is donated. The rate falls from `learning_rate` to
      zero, as half a cosine, over 1 / `decay` gradient evaluations; it is
      constant where `decay` is 0. The metrics are one float32 vector, in the
      order of `StepMetrics`: one transfer instead of nine.
    compile_seconds: what tracing and compiling took.
  """

  init: Callable[[Params], Carry]
  step: Callable[..., tuple[Carry, jax.Array]]
  compile_seconds: float


@functools.cache
def compile_step(
  model: Model,
  base_optimizer: str,
  algorithm: Algorithm,
  inputs: jax.ShapeDtypeStruct,
  labels: jax.ShapeDtypeStruct,
) -> CompiledStep:
  """Compiles the step of one program, once a process.

  Args:
    model: the network.
    base_optimizer: name of the base optimizer.
    algorithm: what is around it.
    inputs: shape and dtype of a batch's inputs.
    labels: shape and dtype of its labels.

  Returns:
    A `CompiledStep`; the same object for the same arguments.

  Raises:
    ValueError: a name is unknown.

  Example:
    >>> import numpy as np
    >>> from isgd_jax.experiments.models import build_model
    >>> model = build_model('mlp', (8, 8, 1), 10)
    >>> batch = np.zeros((4, 8, 8, 1), np.float32), np.zeros(4, np.int32)
    >>> program = compile_step(
    ...   model, 'sgd', Algorithm(), *map(jax.typeof, batch))
    >>> carry, metrics = program.step(
    ...   program.init(model.init(0)), np.float32(0.1), np.float32(0), *batch)
  """
  start = time.perf_counter()
  init = jax.jit(functools.partial(initial_carry, base_optimizer, algorithm))
  scalar = jax.ShapeDtypeStruct((), jnp.float32)
  compiled = (
    jax.jit(
      functools.partial(training_step, model, base_optimizer, algorithm),
      donate_argnums=0,
    )
    .lower(jax.eval_shape(init, model.init(0)), scalar, scalar, inputs, labels)
    .compile()
  )
  return CompiledStep(init, compiled, time.perf_counter() - start)


def initial_carry(
  base_optimizer: str, algorithm: Algorithm, params: Params
) -> Carry:
  """What the first `training_step` takes."""
  # The rate is no part of the state, so any has done.
  opt_state = algorithm.build(base_optimizer, 0.1).init(params)
  return Carry(params, opt_state, jnp.zeros((), jnp.int32))


def training_step(
  model: Model,
  base_optimizer: str,
  algorithm: Algorithm,
  carry: Carry,
  learning_rate: jax.Array,
  decay: jax.Array,
  inputs: jax.Array,
  labels: jax.Array,
  is_flagged: jax.Array | None = None,
) -> tuple[Carry, jax.Array]:
  """The step that `compile_step` compiles.

  Args:
    model: the network.
    base_optimizer: name of the base optimizer.
    algorithm: what is around it.
    carry: from the step before.
    learning_rate: as in `CompiledStep`.
    decay: as in `CompiledStep`.
    inputs: of the batch.
    labels: of the batch.
    is_flagged: whether the batch is, where the chart has that from outside.

  Returns:
    The new carry, and the metrics of the first of its steps on the batch.
  """
  batch: Batch = inputs, labels
  if is_flagged is not None:
    carry = carry._replace(opt_state=set_flag(carry.opt_state, is_flagged))
  found = []
  evaluations_before = carry.num_evaluations
  for _ in range(algorithm.num_base_steps):
    spent = carry.num_evaluations.astype(jnp.float32)
    progress = jnp.minimum(spent * decay, 1.0)
    rate = learning_rate * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    (loss, accuracy), grads = jax.value_and_grad(model.loss_fn, has_aux=True)(
      carry.params, batch
    )
    updates, opt_state = algorithm.build(base_optimizer, rate).update(
      grads,
      carry.opt_state,
      carry.params,
      value=loss,
      value_fn=lambda params: model.loss_fn(params, batch)[0],
    )
    found.append((loss, accuracy))
    carry = Carry(
      optax.apply_updates(carry.params, updates),
      opt_state,
      carry.num_evaluations + _spent(algorithm, carry.opt_state, opt_state),
    )
  loss, accuracy = found[0]
  metrics = StepMetrics(
    loss=loss,
    accuracy=accuracy,
    num_extra_steps=algorithm.num_base_steps - 1,
    num_gradient_evaluations=carry.num_evaluations - evaluations_before,
    **step_report.of_chart(loss, carry.opt_state, _OF_CHART),
  )
  if algorithm.kind != 'base':
    info = isgd_jax.get_info(carry.opt_state)
    num_extra = info.num_chase_steps + _num_extra(carry.opt_state)
    metrics = metrics._replace(num_extra_steps=num_extra)
  return carry, step_report.pack(metrics)


def _spent(algorithm: Algorithm, before: Any, after: Any) -> jax.Array | int:
  """Gradient evaluations of one update, as the optimizer's state counts them.

  The state of a base optimizer counts none; its update is one.
  """
  if algorithm.kind == 'base':
    return 1
  return (
    isgd_jax.get_info(after).num_gradient_evaluations
    - isgd_jax.get_info(before).num_gradient_evaluations
    + _num_extra(after)
  )


def _num_extra(opt_state: Any) -> jax.Array | int:
  """Evaluations of a rival's reaction, which no chart's state counts."""
  return opt_state.num_extra if isinstance(opt_state, RivalState) else 0
