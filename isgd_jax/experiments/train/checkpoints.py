"""Orbax checkpoints of a run: written beside the training, whole or not at all.

A checkpoint holds the run's state as one flat dictionary (the path of each leaf
is its name, so that it can be read without our code), and, as JSON, the step
and the configuration.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import pathlib
from typing import Any, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from isgd_jax.experiments.errors import InputError
from isgd_jax.experiments.errors import OutputError
from isgd_jax.experiments.errors import RunStopped
from isgd_jax.experiments.train.checks import check_same_run
from isgd_jax.experiments.train.config import TrainConfig

# So long may processes wait for one that cannot write its part.
_LONGEST_SAVE_SECONDS = 600


class Checkpoints:
  """The checkpoints of one run, newest last.

  Saving copies the state and returns; the files are written in the background,
  under another name until they are complete. Use it as a context, which waits
  for them. Of several processes all save, together, and all restore, each for
  itself, in the same folder.

  Attributes:
    folder: where they are.

  Example:
    >>> import tempfile
    >>> state = {'w': jnp.arange(3.0)}
    >>> with Checkpoints(tempfile.mkdtemp(), keep=2) as checkpoints:
    ...   checkpoints.save(7, state, TrainConfig())
    ...   checkpoints.wait()
    ...   checkpoints.restore(state, TrainConfig())
    (7, {'w': Array([0., 1., 2.], dtype=float32)})
  """

  folder: pathlib.Path

  def __init__(self, folder: str | pathlib.Path, keep: int):
    """Opens the folder, and removes what an interrupted save left there.

    Args:
      folder: made where it is missing.
      keep: how many of the newest checkpoints are kept.

    Raises:
      OutputError: the folder cannot be made.
    """
    self.folder = pathlib.Path(folder).absolute()
    self._last_good = None
    with self._explained('open', None):
      self._manager = ocp.CheckpointManager(
        self.folder,
        options=ocp.CheckpointManagerOptions(
          max_to_keep=keep,
          enable_async_checkpointing=True,
          cleanup_tmp_directories=True,
          async_options=ocp.AsyncOptions(timeout_secs=_LONGEST_SAVE_SECONDS),
        ),
      )
    self._last_good = self._manager.latest_step()
    # Without the barriers of the manager's own `restore`, in which the others
    # would wait for a process that cannot read.
    here = jax.process_index()
    self._reader = ocp.Checkpointer(
      ocp.CompositeCheckpointHandler(),
      multiprocessing_options=ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}
      ),
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    error = exception[1]
    if (
      error is not None
      and jax.process_count() > 1
      and not isinstance(error, RunStopped)
    ):
      # A save under way may wait in vain, for a process that is gone or failed.
      return
    # What stopped the run is the better message of the two.
    with contextlib.suppress(Exception) if exception[0] else _nothing():
      self.wait()
    with contextlib.suppress(Exception):
      self._manager.close()

  @property
  def latest_step(self) -> int | None:
    """The step of the newest complete checkpoint; None where there is none."""
    return self._manager.latest_step()

  def reload(self) -> None:
    """Lists the folder anew; needs no other process.

    Example:
      >>> import tempfile
      >>> with Checkpoints(tempfile.mkdtemp(), keep=1) as checkpoints:
      ...   checkpoints.reload()
    """
    self._manager.reload()

  def save(
    self,
    step: int,
    state: Any,
    config: TrainConfig,
    data: Mapping[str, Any] | None = None,
  ) -> None:
    """Starts to save; waits only for an earlier save that is not through.

    Args:
      step: training steps done.
      state: a pytree of arrays; typed PRNG keys are stored as their data. It
        may be donated as soon as this returns.
      config: of the run.
      data: what tells its data from others, as plain numbers and strings.

    Raises:
      OutputError: this or an earlier checkpoint cannot be written. The last
        good one, which the message names, is intact.
    """
    self.wait()
    if step == self.latest_step:
      return
    # A copy: a buffer that is still being read cannot be donated.
    tree = _copy(to_flat(state))
    meta = {
      'step': step,
      'config': dataclasses.asdict(config),
      'data': dict(data or {}),
      'state': _kinds(tree),
    }
    with self._explained('save', step):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta)
        ),
        force=True,
      )

  def wait(self) -> None:
    """Waits until everything is written.

    Raises:
      OutputError: a checkpoint cannot be written.
    """
    with self._explained('save', None):
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
    self._last_good = self._manager.latest_step()

  def restore(
    self,
    template: Any,
    config: TrainConfig,
    data: Mapping[str, Any] | None = None,
    sharding: jax.sharding.Sharding | None = None,
    step: int | None = None,
  ) -> tuple[int, Any]:
    """Restores the newest checkpoint; needs no other process.

    Args:
      template: a state of the same structure, shapes and dtypes.
      config: of the run that carries on.
      data: what tells its data from others.
      sharding: of every array of the state; None for JAX's default device.
      step: of another checkpoint than the newest.

    Returns:
      The number of steps done, and the state.

    Raises:
      InputError: there is no checkpoint, it was made with other options or data
        (says which), for another network (says where they differ), or it is
        damaged.
    """
    self.wait()
    step = self.latest_step if step is None else step
    if step is None:
      raise InputError(f"'{self.folder}' has no checkpoint")
    source = f"checkpoint '{self.folder / str(step)}'"
    with _readable(source):
      meta = self._reader.restore(
        self.folder / str(step),
        args=ocp.args.Composite(meta=ocp.args.JsonRestore()),
      )['meta']
    check_same_run(config, meta['config'], source)
    _check_fingerprinted(source, meta['data'])
    _check_same('its data set', source, dict(data or {}), meta['data'])
    target = jax.eval_shape(to_flat, template)
    _check_same(
      'its network or optimizer', source, _kinds(target), meta['state']
    )
    # Here, wherever it was: a checkpoint outlives the device it came from.
    here = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), target
    )
    with _readable(source):
      tree = self._reader.restore(
        self.folder / str(step),
        args=ocp.args.Composite(state=ocp.args.StandardRestore(target)),
      )['state']
    return meta['step'], from_flat(tree, template)

  @contextlib.contextmanager
  def _explained(self, action: str, step: int | None) -> Iterator[None]:
    """Turns whatever the storage raises into an error that says what is left.

    Orbax and TensorStore report a full disk as an OSError or a ValueError, from
    this save or, being asynchronous, from the one before.
    """
    try:
      yield
    except Exception as error:
      which = '' if step is None else f' of step {step}'
      intact = (
        'there is no earlier one'
        if self._last_good is None
        else f'the last good one, of step {self._last_good}, is intact'
      )
      reason = ' '.join(str(error).split())
      raise OutputError(
        f"cannot {action} the checkpoint{which} in '{self.folder}': "
        f'{reason[:300]}; {intact}. Make room and carry on with --resume'
      ) from error


def to_flat(state: Any) -> dict[str, jax.Array]:
  """A pytree as a flat dictionary of plain arrays, by path.

  Args:
    state: a pytree of arrays and typed PRNG keys.

  Returns:
    The arrays by the path of their leaf, keys as their data (uint32).

  Example:
    >>> sorted(to_flat({'a': [jnp.zeros(2), jnp.ones(3)]}))
    ['a.0', 'a.1']
  """
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): (
      jax.random.key_data(leaf) if _is_key(leaf) else leaf
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }


def from_flat(flat: Mapping[str, jax.Array], template: Any) -> Any:
  """Puts the leaves of `to_flat` back into the structure of a template.

  Args:
    flat: what `to_flat` returned.
    template: a pytree of the same structure and dtypes.

  Returns:
    The pytree.

  Example:
    >>> state = (jnp.zeros(2), {'b': jnp.ones(3)})
    >>> from_flat(to_flat(state), state)
    (Array([0., 0.], dtype=float32), {'b': Array([1., 1., 1.], dtype=float32)})
  """

  def restore(path, leaf):
    value = flat[jax.tree_util.keystr(path, simple=True, separator='.')]
    if not _is_key(leaf):
      return value
    return jax.random.wrap_key_data(value, impl=_key_impl(leaf))

  return jax.tree_util.tree_map_with_path(restore, template)


def _kinds(flat: Mapping[str, Any]) -> dict[str, str]:
  """Of each array its dtype and shape, in words."""
  return {
    name: f'{jnp.dtype(leaf.dtype).name}{list(leaf.shape)}'
    for name, leaf in flat.items()
  }


def _check_fingerprinted(source: str, data: Mapping[str, Any]) -> None:
  """Raises on a checkpoint of a version that looked at a few records alone."""
  if 'checksum' in data:
    raise InputError(
      f'cannot carry on {source}: it was made by a version of isgd_jax that '
      'looked at 8 records of each part of the data, so whether the data are '
      'the same cannot be told. Finish it with the version that its '
      'config.json names, or begin another run with another --out'
    )


def _check_same(
  what: str, source: str, here: Mapping[str, Any], there: Mapping[str, Any]
) -> None:
  """Raises where a checkpoint's facts are not those of the run."""
  differences = [
    f'{name} was {there.get(name, "nothing")}, is now '
    f'{here.get(name, "nothing")}'
    for name in sorted(here.keys() | there.keys())
    if here.get(name) != there.get(name)
  ]
  if differences:
    more = len(differences) - 5
    raise InputError(
      f'cannot carry on {source}: {what} is another one: '
      + '; '.join(differences[:5])
      + (f'; and {more} more' if more > 0 else '')
    )


@contextlib.contextmanager
def _readable(source: str) -> Iterator[None]:
  """Turns whatever a damaged checkpoint raises into an error that names it."""
  try:
    yield
  except Exception as error:
    reason = ' '.join(str(error).split())
    raise InputError(
      f'cannot read {source}: {reason[:300]}. If it is damaged, remove its '
      'folder: --resume then takes the one before'
    ) from error


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
  yield


@jax.jit
def _copy(tree):
  return jax.tree.map(jnp.copy, tree)


def _key_impl(leaf: Any) -> Any:
  """The implementation of a typed key, also of its shape alone."""
  impl = []
  jax.eval_shape(lambda key: impl.append(jax.random.key_impl(key)), leaf)
  return impl[0]


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
