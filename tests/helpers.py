"""What several test modules share."""

import pathlib

import jax
import optax

import isgd_jax


def relaxed(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """`optimizer` under standard promotion: not all of Optax traces in strict.

  Only its own code is relaxed; what wraps it stays strict.
  """
  optimizer = optax.with_extra_args_support(optimizer)

  def init_fn(params):
    with jax.numpy_dtype_promotion('standard'):
      return optimizer.init(params)

  def update_fn(updates, state, params=None, **extra_args):
    with jax.numpy_dtype_promotion('standard'):
      return optimizer.update(updates, state, params, **extra_args)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def mark_folder(items, conftest: str, marker: str) -> None:
  """Puts `marker` on those of `items` that lie in the folder of `conftest`."""
  folder = pathlib.Path(conftest).parent
  for item in items:
    if folder in item.path.parents:
      item.add_marker(marker)


def blind_isgd(*args, **kwargs) -> optax.GradientTransformationExtraArgs:
  """`isgd` whose chases lead at once: what is tested is the chase."""
  return isgd_jax.isgd(*args, probation=False, **kwargs)
