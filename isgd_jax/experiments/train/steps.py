"""The jitted training and evaluation steps of a Flax NNX network."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from isgd_jax.experiments.datasets import Dataset
from isgd_jax.experiments.models import cross_entropy
from isgd_jax.experiments.train.reports import report_of_left_out
from isgd_jax.experiments.train.reports import report_of_step

Record = dict[str, jax.Array]


class RunState(NamedTuple):
  """Everything that a training step changes.

  Attributes:
    params: the parameters, an `nnx.State` of arrays.
    model_state: BatchNorm statistics, dropout keys and counts, likewise.
    opt_state: the optimizer's state, with the control chart.
  """

  params: Any
  model_state: Any
  opt_state: Any


class Sums(NamedTuple):
  """Sums over examples; divided by `num_examples` they are means.

  Attributes:
    loss: nats.
    accuracy: right answers. Of text, both are means over an example's bytes.
    num_examples: sum of the weights.
    num_undecodable: sum of the weights of what has no label.
  """

  loss: jax.Array
  accuracy: jax.Array
  num_examples: jax.Array
  num_undecodable: jax.Array


class Steps(NamedTuple):
  """A run's compiled programs.

  Attributes:
    init: `init() -> RunState`, from the run's seed.
    train: `train(state, record, weight) -> (state, report)`; the state is
      donated; the report is one float32 vector in the order of `StepReport`,
      one transfer instead of a dozen. `reports.unpack` takes it apart.
    leave_out: `leave_out(state, record, weight) -> report`, of a batch that
      gets no update: its loss, and the chart as it stands.
    evaluate: `evaluate(state, record, weight) -> Sums`, without dropout and on
      running BatchNorm statistics.
  """

  init: Callable[[], RunState]
  train: Callable[..., tuple[RunState, jax.Array]]
  leave_out: Callable[..., jax.Array]
  evaluate: Callable[..., Sums]


def build_loss(
  create_network: Callable[[nnx.Rngs], nnx.Module], dataset: Dataset
) -> Callable[..., tuple[jax.Array, tuple[Sums, Any]]]:
  """The training loss as a pure function.

  Args:
    create_network: as for `build_steps`.
    dataset: likewise.

  Returns:
    `loss_fn(params, model_state, record, weight) -> (loss, (Sums,
    model_state))`, the weighted mean over the batch in nats, and the model
    state that the evaluation has moved on.

  Example:
    >>> from isgd_jax.experiments import datasets, models
    >>> digits = datasets.load_dataset('digits')
    >>> create = lambda rngs: models.create_model(
    ...   'mlp', digits.example_shape, 10, rngs=rngs)
    >>> loss_fn = build_loss(create, digits)
    >>> state = build_steps(create, digits, optax.sgd(0.1), seed=0).init()
    >>> record = digits.train.__getitems__(range(32))
    >>> loss, _ = loss_fn(
    ...   state.params, state.model_state, record, np.ones(32))
    >>> bool(1.0 < loss < 5.0)
    True
  """
  network = nnx.eval_shape(lambda: create_network(nnx.Rngs(0)))
  return _pure_loss(nnx.graphdef(network), dataset)


def build_steps(
  create_network: Callable[[nnx.Rngs], nnx.Module],
  dataset: Dataset,
  optimizer: optax.GradientTransformationExtraArgs,
  seed: int,
  replicated: jax.sharding.Sharding | None = None,
) -> Steps:
  """The programs of a run; nothing is compiled before they are called.

  Args:
    create_network: makes the network from its random streams; it is called as
      `network(x, train=...)`.
    dataset: gives the pixels' mean and standard deviation.
    optimizer: takes `value` and `value_fn`, or ignores them.
    seed: of the initial parameters and dropout keys.
    replicated: where state, reports and sums lie, for life; None for JAX's
      default device. Batches may lie by their rows on the same devices.

  Returns:
    A `Steps`.

  Example:
    >>> import isgd_jax
    >>> from isgd_jax.experiments import datasets, models
    >>> digits = datasets.load_dataset('digits')
    >>> steps = build_steps(
    ...   lambda rngs: models.create_model(
    ...     'mlp', digits.example_shape, 10, rngs=rngs),
    ...   digits, isgd_jax.isgd(optax.sgd(0.1), isgd_jax.shewhart(20)), seed=0)
    >>> record = digits.train.__getitems__(range(32))
    >>> state, report = steps.train(steps.init(), record, np.ones(32))
    >>> from isgd_jax.experiments.train import reports
    >>> int(reports.unpack(report[None]).num_examples[0])
    32
  """

  def create():
    return create_network(nnx.Rngs(seed))

  graphdef = nnx.graphdef(nnx.eval_shape(create))

  def init():
    _, params, model_state = nnx.split(create(), nnx.Param, ...)
    params = nnx.as_pure(params)
    return RunState(params, nnx.as_pure(model_state), optimizer.init(params))

  loss_fn = _pure_loss(graphdef, dataset)

  def train(state, record, weight):
    def value_fn(params):
      # Model state and keys as the first evaluation found them.
      return loss_fn(params, state.model_state, record, weight)[0]

    (loss, (sums, model_state)), grads = jax.value_and_grad(
      loss_fn, has_aux=True
    )(state.params, state.model_state, record, weight)
    updates, opt_state = optimizer.update(
      grads, state.opt_state, state.params, value=loss, value_fn=value_fn
    )
    params = optax.apply_updates(state.params, updates)
    report = report_of_step(*_means(loss, sums), state.opt_state, opt_state)
    return RunState(params, model_state, opt_state), report

  def leave_out(state, record, weight):
    loss, (sums, _) = loss_fn(state.params, state.model_state, record, weight)
    return report_of_left_out(*_means(loss, sums), state.opt_state)

  def evaluate(state, record, weight):
    network = nnx.merge(graphdef, state.params, state.model_state)
    return _sums(network, dataset, record, weight, train=False)

  return Steps(
    jax.jit(init, out_shardings=replicated),
    jax.jit(train, donate_argnums=0, out_shardings=replicated),
    jax.jit(leave_out, out_shardings=replicated),
    jax.jit(evaluate, out_shardings=replicated),
  )


def _pure_loss(
  graphdef: Any, dataset: Dataset
) -> Callable[..., tuple[jax.Array, tuple[Sums, Any]]]:
  """As `build_loss`, for a network that is known."""

  def loss_fn(params, model_state, record, weight):
    network = nnx.merge(graphdef, params, model_state)
    sums = _sums(network, dataset, record, weight, train=True)
    _, _, moved = nnx.split(network, nnx.Param, ...)
    loss = sums.loss / jnp.maximum(sums.num_examples, 1.0)
    return loss, (sums, nnx.as_pure(moved))

  return loss_fn


def _sums(
  network: Any,
  dataset: Dataset,
  record: Record,
  weight: jax.Array,
  *,
  train: bool,
) -> Sums:
  """Loss and right answers of a batch, each example by its weight."""
  weight = given = jnp.asarray(weight, jnp.float32)
  if 'tokens' in record:
    tokens = record['tokens'].astype(jnp.int32)
    logits = network(tokens[:, :-1], train=train)
    labels = tokens[:, 1:]
  else:
    logits = network(_scaled(record['image'], dataset), train=train)
    labels = record['label'].astype(jnp.int32)
    # A label of -1 marks an example without one, an undecodable image say.
    weight = jnp.where(labels >= 0, weight, 0.0)
    labels = jnp.maximum(labels, 0)
  losses, is_right = (
    x.astype(jnp.float32).reshape(len(x), -1).mean(axis=1)
    for x in cross_entropy(logits, labels)
  )
  return Sums(
    jnp.sum(weight * losses),
    jnp.sum(weight * is_right),
    jnp.sum(weight),
    jnp.sum(given - weight),
  )


def _means(
  loss: jax.Array, sums: Sums
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Loss, accuracy and numbers of examples, as reports take them."""
  accuracy = sums.accuracy / jnp.maximum(sums.num_examples, 1.0)
  return loss, accuracy, sums.num_examples, sums.num_undecodable


def _scaled(images: jax.Array, dataset: Dataset) -> jax.Array:
  """Images as the network takes them: float32, standardised by channel."""
  if images.dtype == jnp.uint8:
    images = images.astype(jnp.float32) / 255
  mean = np.asarray(dataset.pixel_mean, np.float32)
  std = np.asarray(dataset.pixel_std, np.float32)
  return (images.astype(jnp.float32) - mean) / std
