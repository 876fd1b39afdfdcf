"""Rivals that are always on: methods of continual learning, as optimizers."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Of all noise: seeds of a comparison differ in parameters and orders.
_SEED = 0
# Strengths by default: of the decay to the start, of weight decay, of noise.
DECAY_TO_START, WEIGHT_DECAY, NOISE = 0.01, 0.001, 0.001


class UPGDState(NamedTuple):
  """State of `upgd`.

  Attributes:
    num_steps: int32 scalar, so far.
    utility: moving average of minus gradient times parameter, like the
      parameters.
    key: of the noise.
  """

  num_steps: jax.Array
  utility: optax.Updates
  key: jax.Array


def upgd(
  learning_rate: float | jax.Array,
  *,
  weight_decay: float = WEIGHT_DECAY,
  utility_decay: float = 0.999,
  noise: float = NOISE,
  seed: int = _SEED,
  num_drawn: int | None = None,
) -> optax.GradientTransformation:
  r"""Utility-based perturbed gradient descent, first order, global (UPGD-W).

  Of each parameter w with gradient g the utility u is the moving average of
  -g w, corrected for its bias and scaled by the greatest average of all:

  .. math::
    w \leftarrow (1 - \eta \lambda) w - \eta (g + \sigma \xi)
    (1 - \operatorname{sigmoid}(u / u_{\max})), \quad \xi \sim N(0, 1).

  Args:
    learning_rate: :math:`\eta`, may be traced.
    weight_decay: :math:`\lambda`.
    utility_decay: of the moving average.
    noise: :math:`\sigma`.
    seed: of the noise.
    num_drawn: normal numbers that are drawn once; each step takes as many in a
      row as there are parameters, from a random place on. None draws all of
      them anew at each step, which takes ten times as long as a small network's
      step itself.

  Returns:
    The optimizer; the defaults are those of its authors' package.

  References:
    Elsayed and Mahmood, `Addressing Loss of Plasticity and Catastrophic
    Forgetting in Continual Learning <https://arxiv.org/abs/2404.00781>`_, ICLR
    2024.

  Example:
    >>> optimizer = upgd(0.01)
  """

  def init_fn(params: optax.Params) -> UPGDState:
    return UPGDState(
      jnp.zeros((), jnp.int32),
      optax.tree.zeros_like(params),
      jax.random.key(seed),
    )

  def update_fn(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, UPGDState]:
    assert isinstance(state, UPGDState)
    assert params is not None
    num_steps = state.num_steps + 1
    utility = jax.tree.map(
      lambda u, g, w: utility_decay * u - (1 - utility_decay) * g * w,
      state.utility,
      updates,
      params,
    )
    # As its authors have it: the greatest average is not corrected.
    greatest = jnp.stack([u.max() for u in jax.tree.leaves(utility)]).max()
    correction = 1 - utility_decay**num_steps
    key, drawn = jax.random.split(state.key)
    new_updates = jax.tree.map(
      lambda g, w, u, xi: (
        -learning_rate
        * (
          weight_decay * w
          + (g + noise * xi) * (1 - jax.nn.sigmoid(u / correction / greatest))
        )
      ),
      updates,
      params,
      utility,
      _normal_like(drawn, params, num_drawn),
    )
    return new_updates, UPGDState(num_steps, utility, key)

  return optax.GradientTransformation(init_fn, update_fn)


def _normal_like(
  key: jax.Array, params: optax.Params, num_drawn: int | None
) -> optax.Updates:
  """Standard normal numbers, a tree like the parameters."""
  if num_drawn is None:
    return optax.tree.random_like(key, params, jax.random.normal)
  leaves, treedef = jax.tree.flatten(params)
  num_params = sum(leaf.size for leaf in leaves)
  if num_drawn < num_params:
    raise ValueError(
      f'num_drawn must be at least the number of parameters, {num_params}, got '
      f'{num_drawn}; raise it, or leave it out'
    )
  start = jax.random.randint(key, (), 0, num_drawn - num_params + 1)
  stretch = jax.lax.dynamic_slice(
    jnp.asarray(_drawn(num_drawn)), (start,), (num_params,)
  )
  ends = np.cumsum([leaf.size for leaf in leaves])[:-1].tolist()
  return jax.tree.unflatten(
    treedef,
    [
      part.reshape(leaf.shape).astype(leaf.dtype)
      for part, leaf in zip(jnp.split(stretch, ends), leaves, strict=True)
    ],
  )


@functools.lru_cache(maxsize=2)
def _drawn(num_drawn: int) -> np.ndarray:
  """[num_drawn] float32, standard normal."""
  rng = np.random.default_rng(_SEED)
  return rng.standard_normal(num_drawn, np.float32)


class NoiseState(NamedTuple):
  """State of `shrink_and_perturb`.

  Attributes:
    key: of the noise.
  """

  key: jax.Array


def shrink_and_perturb(
  learning_rate: float | jax.Array,
  *,
  weight_decay: float = WEIGHT_DECAY,
  noise: float = NOISE,
  seed: int = _SEED,
  num_drawn: int | None = None,
) -> optax.GradientTransformation:
  r"""SGD that shrinks and perturbs at every step.

  .. math::
    w \leftarrow (1 - \eta \lambda) w - \eta (g + \sigma \xi), \quad
    \xi \sim N(0, 1)

  Args:
    learning_rate: :math:`\eta`, may be traced.
    weight_decay: :math:`\lambda`.
    noise: :math:`\sigma`.
    seed: of the noise.
    num_drawn: normal numbers that are drawn once; each step takes as many in a
      row as there are parameters, from a random place on. None draws all of
      them anew at each step, which takes ten times as long as a small network's
      step itself.

  Returns:
    The optimizer.

  References:
    Ash and Adams, 2020, in the form of Elsayed and Mahmood, ICLR 2024.

  Example:
    >>> optimizer = shrink_and_perturb(0.01)
  """

  def init_fn(params: optax.Params) -> NoiseState:
    del params
    return NoiseState(jax.random.key(seed))

  def update_fn(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, NoiseState]:
    assert isinstance(state, NoiseState)
    assert params is not None
    key, drawn = jax.random.split(state.key)
    new_updates = jax.tree.map(
      lambda g, w, xi: -learning_rate * (weight_decay * w + g + noise * xi),
      updates,
      params,
      _normal_like(drawn, params, num_drawn),
    )
    return new_updates, NoiseState(key)

  return optax.GradientTransformation(init_fn, update_fn)


class InitialParamsState(NamedTuple):
  """State of `add_decay_to_start`.

  Attributes:
    initial_params: what the parameters were at first.
  """

  initial_params: optax.Params


def add_decay_to_start(
  strength: float = DECAY_TO_START,
) -> optax.GradientTransformation:
  r"""Adds the gradient of :math:`\lambda \|w - w_0\|^2`, w_0 the start.

  Args:
    strength: :math:`\lambda` >= 0.

  Returns:
    A transformation of gradients, to stand before an optimizer.

  References:
    Kumar, Marklund and Van Roy, `Maintaining Plasticity in Continual Learning
    via Regenerative Regularization <https://arxiv.org/abs/2308.11958>`_, 2023.

  Example:
    >>> optimizer = optax.chain(add_decay_to_start(), optax.adam(0.01))
  """

  def init_fn(params: optax.Params) -> InitialParamsState:
    return InitialParamsState(jax.tree.map(jnp.array, params))

  def update_fn(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, InitialParamsState]:
    assert isinstance(state, InitialParamsState)
    assert params is not None
    new_updates = jax.tree.map(
      lambda g, w, w_0: g + 2 * strength * (w - w_0),
      updates,
      params,
      state.initial_params,
    )
    return new_updates, state

  return optax.GradientTransformation(init_fn, update_fn)
