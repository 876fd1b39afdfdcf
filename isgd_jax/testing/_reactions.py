"""The rules that every reaction keeps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from isgd_jax import _info
from isgd_jax._charts import joined
from isgd_jax._charts import shewhart as shewhart_lib
from isgd_jax._charts import statistics
from isgd_jax._reactions import react as react_lib
from isgd_jax._reactions.reaction import Reaction
from isgd_jax.testing import _trees

_NUM_STEPS = 12
_FLAGGED = (7, 8, 10)
_RTOL = 1e-4


def check_reaction(
  reaction: Reaction,
  *,
  base_optimizer: optax.GradientTransformation | None = None,
) -> None:
  """Puts a reaction through the rules that every reaction keeps.

  * its state is a pytree of arrays, whose structure, shapes and dtypes never
    change, and so are those of the base state and the updates, in float32 and
    bfloat16: nothing is compiled twice;
  * until a batch is flagged, steps are those of the base optimizer, bit for bit
    op by op;
  * finite gradients make finite updates, flagged or not, also where the loss is
    not finite;
  * it is a pure function: under `jax.jit`, in `jax.lax.scan` and under
    `jax.vmap` it does what it does op by op, and from a copy of the state it
    goes on as from the state itself;
  * it can be inside `optax.masked`.

  Args:
    reaction: the reaction.
    base_optimizer: what it is around in the trials; by default Adam.

  Raises:
    AssertionError: on the first rule that it breaks; the message says which.
    ValueError: on something else than a reaction.

  Examples:
    >>> import isgd_jax, isgd_jax.testing
    >>> isgd_jax.testing.check_reaction(isgd_jax.skip())
  """
  if not isinstance(reaction, Reaction):
    raise ValueError(f'reaction must be a Reaction, got {reaction!r}.')
  base = _relaxed(
    optax.adam(0.05) if base_optimizer is None else base_optimizer
  )
  optimizer = react_lib.react(base, _chart(reaction), reaction)
  params = _params('float32')
  _trees.check_arrays(reaction.init(params), 'the state of init is of arrays')
  rows = _run(optimizer, reaction, params)
  _check_quiet(base, rows)
  for dtype in ('float32', 'bfloat16'):
    _run(optimizer, reaction, _params(dtype), update=jax.jit(optimizer.update))
  _check_finite(optimizer, reaction, rows)
  _check_pure(optimizer, reaction, rows)
  masked = optax.masked(optimizer, {'w': True, 'b': False})
  update, state = jax.jit(masked.update), masked.init(params)
  for t in range(_NUM_STEPS):
    _, state = update(_grads(params, t), state, params, **_given(reaction, t))


def _relaxed(
  base: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """`base` where not all of Optax traces in strict dtype promotion."""
  base = optax.with_extra_args_support(base)

  def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    with jax.numpy_dtype_promotion('standard'):
      return base.update(updates, state, params, **extra)

  return optax.GradientTransformationExtraArgs(base.init, update)


def _chart(reaction: Reaction) -> Any:
  """Of the loss, both norms, and all else that the reaction needs."""
  window = shewhart_lib.shewhart(6, flagged_losses='leave_out')
  names = dict.fromkeys((statistics.LOSS, *statistics.NORMS, *reaction.needs))
  return joined.any_of(*(joined.chart_of(name, window) for name in names))


def _params(dtype: str) -> Any:
  rng = np.random.default_rng(0)
  return {
    'w': jnp.asarray(rng.normal(size=(3, 2)), dtype),
    'b': jnp.asarray(rng.normal(size=2), dtype),
  }


def _size(t: int, bad: Any = None) -> float:
  """Of the loss and the gradient: large in steps that are flagged."""
  if bad is not None and t % 3 == 1:
    return bad
  wobble = 1.0 + 0.1 * np.sin(3.0 * t)
  return 30.0 if t in _FLAGGED else wobble


def _grads(params: Any, t: Any, size: Any = None) -> Any:
  """Of that norm, in the dtypes of the parameters."""
  size = _size(t) if size is None else size
  key = jax.random.fold_in(jax.random.key(3), t)
  noise = {
    name: jax.random.normal(jax.random.fold_in(key, i), p.shape)
    for i, (name, p) in enumerate(sorted(params.items()))
  }
  scale = size / statistics.global_norm(noise)
  return jax.tree.map(lambda x, p: (scale * x).astype(p.dtype), noise, params)


def _given(reaction: Reaction, t: int, bad: Any = None) -> dict[str, Any]:
  """What `update` is given besides: all of them large at once."""
  size = jnp.float32(_size(t, bad))
  others = set(reaction.needs) - {statistics.LOSS, *statistics.NORMS}
  return {'value': size} | dict.fromkeys(sorted(others), size)


def _run(
  optimizer: Any,
  reaction: Reaction,
  params: Any,
  *,
  update: Any = None,
  start: tuple[int, Any, Any] | None = None,
) -> list[Any]:
  """Parameters and state before, updates and state after, of each step."""
  update = update or optimizer.update
  first, params, state = start or (0, params, optimizer.init(params))
  rows = []
  for t in range(first, _NUM_STEPS):
    updates, after = update(
      _grads(params, t), state, params, **_given(reaction, t)
    )
    dtype = params['w'].dtype
    _trees.check_alike(params, updates, f'updates keep their types, in {dtype}')
    _trees.check_alike(state, after, f'the state keeps its types, in {dtype}')
    _trees.check_arrays(
      after.reaction_states, f'the state is of arrays, in {dtype}'
    )
    rows.append((params, state, updates, after))
    params, state = optax.apply_updates(params, updates), after
  return rows


def _check_quiet(base: Any, rows: list[Any]) -> None:
  """The trial is one, and the steps before the first flag are the base's."""
  for t, (params, before, updates, after) in enumerate(rows):
    is_flagged = bool(_info.get_info(after).is_undertrained)
    if t <= _FLAGGED[0]:
      assert is_flagged == (t in _FLAGGED), 'the trial has changed'
    if t < _FLAGGED[0]:
      expected, base_state = base.update(
        _grads(params, t), before.base_state, params
      )
      rule = 'a step before any flag is that of the base optimizer, bit for bit'
      _trees.check_equal(expected, updates, f'{rule}: its updates')
      _trees.check_equal(base_state, after.base_state, f'{rule}: its state')


def _check_finite(optimizer: Any, reaction: Reaction, rows: list[Any]) -> None:
  def check(updates: Any, what: str) -> None:
    for leaf in jax.tree.leaves(updates):
      _trees.check(
        np.isfinite(leaf).all(), f'finite gradients make finite updates{what}'
      )

  for _, _, updates, _ in rows:
    check(updates, '')
  update = jax.jit(optimizer.update)
  for bad in (np.nan, np.inf):
    params = _params('float32')
    state = optimizer.init(params)
    for t in range(_NUM_STEPS):
      updates, state = update(
        _grads(params, t), state, params, **_given(reaction, t, bad)
      )
      check(updates, f', where a loss is {bad}')


def _check_pure(optimizer: Any, reaction: Reaction, rows: list[Any]) -> None:
  params = rows[0][0]
  middle = _FLAGGED[0] + 1
  start = middle, *map(_trees.copied, rows[middle][:2])
  for expected, got in zip(
    rows[middle:],
    _run(optimizer, reaction, params, start=start),
    strict=True,
  ):
    _trees.check_equal(
      expected, got, 'from a copy of its state it goes on as before'
    )
  traces = []

  @jax.jit
  def update(*args: Any, **given: Any) -> Any:
    traces.append(None)
    return optimizer.update(*args, **given)

  jitted = _run(optimizer, reaction, params, update=update)
  _trees.check_equal(rows, jitted, 'under jax.jit it does the same', rtol=_RTOL)
  _trees.check_compiled_once(traces)

  def scan(params: Any, sizes: jax.Array) -> Any:
    def step(carry: Any, row: Any) -> Any:
      params, state = carry
      t, size = row
      given = dict.fromkeys(_given(reaction, 0), size)
      updates, state = optimizer.update(
        _grads(params, t, size), state, params, **given
      )
      return (optax.apply_updates(params, updates), state), updates

    steps = jnp.arange(_NUM_STEPS, dtype=jnp.int32)
    return jax.lax.scan(step, (params, optimizer.init(params)), (steps, sizes))

  sizes = jnp.asarray([_size(t) for t in range(_NUM_STEPS)], jnp.float32)
  (_, state), _ = jax.jit(scan)(params, sizes)
  _trees.check_equal(
    rows[-1][3], state, 'in jax.lax.scan it does the same', rtol=_RTOL
  )
  both = jnp.stack([sizes, jnp.roll(sizes, 2)])
  lanes = jax.jit(jax.vmap(scan, in_axes=(None, 0)))(params, both)
  single = [jax.jit(scan)(params, lane) for lane in both]
  _trees.check_equal(
    jax.tree.map(lambda *xs: jnp.stack(xs), *single),
    lanes,
    'under jax.vmap it does the same',
    rtol=_RTOL,
  )
