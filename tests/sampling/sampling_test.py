"""Fixed-cycle sampling: the cycle itself, and what prefetching keeps of it."""

import json
import pathlib
import socket
import subprocess
import sys
import textwrap
import threading
import time
from typing import NamedTuple

import chex
import grain
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isgd_jax import sampling


class Records:
  """Record i is {'id': i, 'pixels': three numbers made of i}."""

  def __init__(self, num_records):
    self.num_records = num_records

  def __len__(self):
    return self.num_records

  def __getitem__(self, i):
    assert isinstance(i, int)
    return {'id': np.int32(i), 'pixels': np.float32([i, i + 0.5, -i])}


class StackedRecords(Records):
  """The same records, read by the batch."""

  def __getitem__(self, i):
    raise AssertionError('read one by one')

  def __getitems__(self, indices):
    ids = indices.astype(np.float32)
    pixels = np.stack([ids, ids + np.float32(0.5), -ids], axis=1)
    return {'id': indices.astype(np.int32), 'pixels': pixels}


class BrokenRecords(Records):
  """Cannot read record `broken`, while there is one."""

  def __init__(self, num_records, broken):
    super().__init__(num_records)
    self.broken = broken

  def __getitem__(self, i):
    if i == self.broken:
      raise OSError(f'record {i} cannot be read')
    return super().__getitem__(i)


class UnreadRecords(Records):
  """Nothing may be read."""

  def __getitem__(self, i):
    raise AssertionError('read')


def ids(batch):
  return np.asarray(batch.data['id']).tolist()


def add_noise(record, rng):
  return record | {'noise': rng.normal(size=2)}


def make_dataset(num_epochs=3, **kwargs):
  """22 records in 6 batches of 4, 18 steps."""
  source = kwargs.pop('source', StackedRecords(22))
  kwargs = {'seed': 5, 'transform': add_noise} | kwargs
  return sampling.fixed_cycle(source, 4, num_epochs=num_epochs, **kwargs)


def assert_same_batches(got, expected):
  got, expected = list(got), list(expected)
  assert len(got) == len(expected)
  for a, b in zip(got, expected, strict=True):
    chex.assert_trees_all_equal(jax.device_get(a), jax.device_get(b))


def prefetched(dataset, **kwargs):
  with sampling.prefetch(dataset, **kwargs) as batches:
    return list(batches)


# The cycle.


@st.composite
def cycles(draw):
  process_count = draw(st.sampled_from([1, 2, 4]))
  batch_size = process_count * draw(st.integers(1, 6))
  num_records = draw(st.integers(batch_size, 60))
  last_batch = draw(st.sampled_from(['wrap', 'pad', 'short', 'drop']))
  if last_batch == 'short':
    hypothesis.assume(num_records % batch_size % process_count == 0)
  return num_records, batch_size, process_count, last_batch


@hypothesis.given(cycles(), st.booleans(), st.integers(0, 2**70))
def test_an_epoch_is_a_permutation_cut_into_batches(cycle, reshuffle, seed):
  """And what the processes read, put together, is what one process reads."""
  num_records, batch_size, process_count, last_batch = cycle
  num_batches = sampling.batches_per_cycle(num_records, batch_size, last_batch)

  def make(**kwargs):
    return sampling.fixed_cycle(
      StackedRecords(num_records),
      batch_size,
      seed=seed,
      num_epochs=2,
      reshuffle=reshuffle,
      last_batch=last_batch,
      **kwargs,
    )

  whole = make(process_index=0, process_count=1)
  parts = [
    make(process_index=p, process_count=process_count)
    for p in range(process_count)
  ]
  assert len(whole) == 2 * num_batches
  remainder = num_records % batch_size
  for epoch in range(2):
    order, weights = [], []
    for index in range(num_batches):
      step = epoch * num_batches + index
      batch = whole[step]
      assert (batch.epoch, batch.index) == (epoch, index)
      assert batch.epoch.dtype == batch.index.dtype == np.int32
      locals_ = [part[step] for part in parts]
      assert len({len(ids(local)) for local in locals_}) == 1
      stacked = jax.tree.map(
        lambda *x: np.concatenate(x), *[(b.data, b.weight) for b in locals_]
      )
      chex.assert_trees_all_equal(stacked, (batch.data, batch.weight))
      assert batch.weight.dtype == np.float32
      order += ids(batch)
      weights += batch.weight.tolist()
    num_kept = num_records - (remainder if last_batch == 'drop' else 0)
    kept, filled = order[:num_kept], order[num_kept:]
    assert len(set(kept)) == num_kept
    assert set(kept) <= set(range(num_records))
    is_filled_up = remainder > 0 and last_batch in ('wrap', 'pad')
    assert len(filled) == (batch_size - remainder if is_filled_up else 0)
    if last_batch == 'wrap':
      assert filled == order[: len(filled)]
    else:
      assert all(i == kept[-1] for i in filled)
    is_record = 0.0 if last_batch == 'pad' else 1.0
    assert weights == [1.0] * num_kept + [is_record] * len(filled)


@pytest.mark.parametrize('last_batch', ['wrap', 'pad', 'short', 'drop'])
def test_every_epoch_has_the_same_batches(last_batch):
  dataset = make_dataset(last_batch=last_batch, transform=None)
  n = len(dataset) // 3
  assert n == (5 if last_batch == 'drop' else 6)
  for step in range(n, 3 * n):
    chex.assert_trees_all_equal(dataset[step].data, dataset[step % n].data)


def test_reshuffling_permutes_each_epoch_anew():
  """Its first epoch is that of the fixed cycle."""
  fixed = make_dataset(transform=None)
  dataset = make_dataset(transform=None, reshuffle=True)
  order = lambda d, start: [i for j in range(6) for i in ids(d[start + j])]
  epochs = [order(dataset, 0), order(dataset, 6)]
  assert epochs[0] == order(fixed, 0) == order(fixed, 6)
  assert epochs[0] != epochs[1]
  assert all(set(epoch) == set(range(22)) for epoch in epochs)


def test_the_seed_decides():
  order = lambda seed: [ids(b) for b in make_dataset(1, seed=seed)]
  assert order(0) == order(0)
  assert order(0) != order(1)
  assert ids(make_dataset(1)[0]) != [0, 1, 2, 3]


def test_records_read_one_by_one_are_those_read_by_the_batch():
  for transform in (None, add_noise):
    assert_same_batches(
      make_dataset(source=Records(22), transform=transform),
      make_dataset(transform=transform),
    )


def test_an_endless_cycle_has_random_access_at_any_step():
  dataset = make_dataset(num_epochs=None, transform=None)
  assert len(dataset) == 6 * (2**31 - 1)
  batch = dataset[6 * 2_000_000_000 + 4]
  assert (batch.epoch, batch.index) == (2_000_000_000, 4)
  assert ids(batch) == ids(dataset[4])
  with sampling.prefetch(dataset, start=6 * 10**9 + 4) as batches:
    assert ids(next(batches)) == ids(dataset[4])


def test_a_transform_depends_on_seed_epoch_and_record_alone():
  noise = {}
  for last_batch, process_count in (('wrap', 1), ('pad', 2), ('wrap', 4)):
    for p in range(process_count):
      dataset = make_dataset(
        last_batch=last_batch, process_index=p, process_count=process_count
      )
      for batch in dataset:
        for i, x in zip(ids(batch), batch.data['noise'], strict=True):
          expected = np.random.default_rng([5, int(batch.epoch), i])
          np.testing.assert_array_equal(x, expected.normal(size=2))
          noise[int(batch.epoch), i] = tuple(x)
  assert len(set(noise.values())) == len(noise) == 3 * 22


# Reading ahead.


@pytest.mark.parametrize('num_threads', [1, 4])
@pytest.mark.parametrize('start', [0, 1, 7, 17, 18])
def test_resuming_at_any_step_gives_the_very_same_rest(num_threads, start):
  dataset = make_dataset()
  with jax.enable_x64(True):  # The noise is float64.
    rest = prefetched(dataset, start=start, num_threads=num_threads)
  assert_same_batches(rest, [dataset[t] for t in range(start, 18)])
  for batch in rest:
    assert isinstance(batch.data['pixels'], jax.Array)
    assert isinstance(batch.weight, jax.Array)
    assert isinstance(batch.index, np.int32)
    assert isinstance(batch.epoch, np.int32)


@pytest.mark.parametrize('num_threads', [1, 3])
def test_the_state_is_the_position_of_the_consumer(num_threads):
  dataset = make_dataset(transform=None)
  with sampling.prefetch(
    dataset, num_threads=num_threads, buffer_size=4
  ) as batches:
    assert batches.get_state() == {'next_index': 0}
    for _ in range(5):
      next(batches)
    time.sleep(0.05)  # Let it read ahead.
    state = json.loads(json.dumps(batches.get_state()))
    assert state == {'next_index': 5}
    expected = list(batches)
    assert len(expected) == 13
    with pytest.raises(StopIteration):
      next(batches)
    batches.set_state(state)
    assert_same_batches(batches, expected)
    other = sampling.prefetch(dataset)
    other.set_state(state)
    assert_same_batches(other, expected)
    with pytest.raises(ValueError, match=r"state\['next_index'\].* 18 steps"):
      batches.set_state({'next_index': 19})
    with pytest.raises(ValueError, match='integer of at least 0, got None'):
      batches.set_state({})


def test_a_grain_user_can_map_iterate_and_checkpoint_it(tmp_path):
  dataset = make_dataset().map(lambda b: b._replace(data=b.data['id'] * 2))
  assert [b.data.tolist() for b in dataset] == [
    [2 * i for i in ids(b)] for b in make_dataset()
  ]
  assert len(prefetched(dataset)) == 18
  iterator = iter(dataset.to_iter_dataset())
  for _ in range(8):
    next(iterator)
  handler = grain.checkpoint.CheckpointHandler()
  handler.save(pathlib.Path(tmp_path), iterator)
  rest = list(iterator)
  restored = handler.restore(
    pathlib.Path(tmp_path), iter(dataset.to_iter_dataset())
  )
  assert_same_batches(restored, rest)
  assert_same_batches(prefetched(dataset, start=8), rest)


@pytest.mark.processes
@pytest.mark.timeout(120)
def test_worker_processes_give_the_same_batches_and_errors():
  dataset = make_dataset()
  with (
    jax.enable_x64(True),
    sampling.prefetch(dataset, start=3, num_workers=2) as batches,
  ):
    head = [next(batches) for _ in range(4)]
    assert batches.get_state() == {'next_index': 7}
    rest = list(batches)
  assert_same_batches(head + rest, [dataset[t] for t in range(3, 18)])
  broken = make_dataset(source=BrokenRecords(22, broken=ids(dataset[1])[2]))
  with sampling.prefetch(broken, num_workers=2) as batches:
    assert ids(next(batches)) == ids(dataset[0])
    with pytest.raises(OSError, match=r'record .* cannot be read'):
      next(batches)


@pytest.mark.parametrize('num_threads', [1, 3])
def test_an_error_of_the_source_reaches_the_consumer_in_its_place(num_threads):
  """And the batch is read again by the next call."""
  dataset = make_dataset(transform=None)
  source = BrokenRecords(22, broken=ids(dataset[2])[1])
  broken = make_dataset(source=source, transform=None)
  with sampling.prefetch(broken, num_threads=num_threads) as batches:
    assert [ids(next(batches)) for _ in range(2)] == [
      ids(dataset[t]) for t in range(2)
    ]
    for _ in range(2):
      with pytest.raises(OSError, match=r'record .* cannot be read'):
        next(batches)
    source.broken = None
    assert [ids(b) for b in batches] == [ids(dataset[t]) for t in range(2, 18)]


@pytest.mark.parametrize('num_threads', [1, 4])
def test_no_thread_outlives_close_or_the_iterator(num_threads):
  dataset = make_dataset(num_epochs=None, transform=None)

  def num_threads_left():
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
      time.sleep(0.01)
    return threading.active_count() - before

  prefetched(make_dataset(num_epochs=1))  # Whatever JAX starts, it has started.
  before = threading.active_count()
  batches = sampling.prefetch(dataset, num_threads=num_threads)
  next(batches)
  assert threading.active_count() > before
  batches.close()
  batches.close()
  assert num_threads_left() == 0
  with pytest.raises(ValueError, match='closed'):
    next(batches)
  batches = sampling.prefetch(dataset, num_threads=num_threads)
  next(batches)
  del batches
  assert num_threads_left() == 0


def test_batches_are_put_on_the_device_under_the_callers_settings():
  dataset = make_dataset()
  batch = prefetched(dataset)[0]
  assert batch.data['noise'].dtype == np.float32
  with jax.enable_x64(True), jax.default_device(jax.devices()[0]):
    batches = sampling.prefetch(dataset)
  with batches:
    batch = next(batches)
  assert batch.data['noise'].dtype == np.float64
  assert batch.data['noise'].devices() == {jax.devices()[0]}


def run_program(program, *args):
  """Starts a program in a process of its own."""
  return subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(program), *map(str, args)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def output_of(process):
  try:
    stdout, stderr = process.communicate(timeout=120)
  finally:
    process.kill()
  assert process.returncode == 0, stderr[-3000:]
  return stdout


@pytest.mark.processes
def test_eight_devices_and_a_process_left_without_close():
  output = output_of(
    run_program("""
      import jax
      jax.config.update('jax_platforms', 'cpu')
      jax.config.update('jax_num_cpu_devices', 8)
      import numpy as np
      from isgd_jax import sampling
      dataset = sampling.fixed_cycle(
          np.arange(100, dtype=np.float32), 16, seed=0)
      mesh = jax.make_mesh(
          (8,), ('d',), axis_types=(jax.sharding.AxisType.Auto,))
      spec = jax.sharding.PartitionSpec('d')
      sharding = jax.sharding.NamedSharding(mesh, spec)
      left_open = []
      for num_threads in (1, 4):
        batches = sampling.prefetch(
            dataset, sharding=sharding, num_threads=num_threads)
        for t in range(9):
          batch = next(batches)
          for array in (batch.data, batch.weight):
            assert array.sharding.is_equivalent_to(sharding, 1)
            assert {s.data.shape for s in array.addressable_shards} == {(2,)}
          np.testing.assert_array_equal(batch.data, dataset[t].data)
        left_open.append(batches)
      print('sharded')
    """)
  )
  assert 'sharded' in output


@pytest.mark.processes
def test_a_sharding_over_two_processes_makes_the_global_batch():
  with socket.socket() as sock:
    sock.bind(('localhost', 0))
    port = sock.getsockname()[1]
  program = """
    import sys
    import jax
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', 2)
    import numpy as np
    from isgd_jax import sampling
    port, process = map(int, sys.argv[1:])
    jax.distributed.initialize(f'localhost:{port}', 2, process)
    source = np.arange(30, dtype=np.float32).reshape(10, 3)
    dataset = sampling.fixed_cycle(source, 8, seed=0)
    whole = sampling.fixed_cycle(
        source, 8, seed=0, process_index=0, process_count=1)
    mesh = jax.make_mesh((4,), ('d',), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec('d')
    sharding = jax.sharding.NamedSharding(mesh, spec)
    with sampling.prefetch(dataset, sharding=sharding) as batches:
      for t in range(4):
        batch = next(batches)
        assert batch.data.shape == (8, 3) and batch.weight.shape == (8,)
        assert not batch.data.is_fully_addressable
        for shard in batch.data.addressable_shards:
          np.testing.assert_array_equal(shard.data, whole[t].data[shard.index])
    print('global')
  """
  processes = [run_program(program, port, process) for process in (0, 1)]
  try:
    outputs = [output_of(process) for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert all('global' in output for output in outputs)


# Errors.


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'batch_size': 0}, 'batch_size must be an integer of at least 1, got 0'),
    ({'batch_size': 2.0}, 'batch_size must be an integer'),
    ({'batch_size': 11}, 'batch_size must be at most .* 10, got 11'),
    (
      {'batch_size': 6, 'process_count': 4, 'process_index': 0},
      'batch_size must be a multiple of process_count 4, got 6. Use 4 or 8',
    ),
    (
      {'batch_size': 1, 'process_count': 4, 'process_index': 0},
      'got 1. Use 4 or 8',
    ),
    ({'process_count': 0}, 'process_count must be'),
    (
      {'process_count': 2, 'process_index': 2},
      'process_index must be below process_count 2, got 2',
    ),
    ({'process_index': -1}, 'process_index must be .* got -1'),
    ({'num_epochs': 0}, 'num_epochs must be .* got 0'),
    ({'num_epochs': 2**31}, 'num_epochs must be at most'),
    ({'seed': -1}, 'seed must be .* got -1'),
    ({'last_batch': 'keep'}, "last_batch must be 'wrap' or .* got 'keep'"),
    (
      {
        'last_batch': 'short',
        'batch_size': 4,
        'process_count': 4,
        'process_index': 0,
      },
      "last_batch='short' leaves 2 records, .* process_count 4",
    ),
    ({'source': UnreadRecords(0)}, 'source must hold at least 1 record, got 0'),
  ],
)
def test_bad_arguments_are_refused_before_any_read(kwargs, message):
  kwargs = {'source': UnreadRecords(10), 'batch_size': 4, 'seed': 0} | kwargs
  source, batch_size = kwargs.pop('source'), kwargs.pop('batch_size')
  with pytest.raises(ValueError, match=message):
    sampling.fixed_cycle(source, batch_size, **kwargs)


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'start': -1}, 'start must be .* got -1'),
    ({'start': 19}, 'start must be at most .* 18 steps, got 19'),
    ({'num_threads': 0}, 'num_threads must be .* got 0'),
    ({'num_workers': -1}, 'num_workers must be .* got -1'),
    ({'buffer_size': 0}, 'buffer_size must be .* got 0'),
    ({'sharding': 'd'}, "sharding must be a jax.sharding.Sharding, got 'd'"),
  ],
)
def test_bad_arguments_of_prefetch_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    sampling.prefetch(make_dataset(), **kwargs)


def test_elements_that_are_no_batches_are_refused():
  dataset = make_dataset().map(lambda batch: batch.data)
  with (
    sampling.prefetch(dataset) as batches,
    pytest.raises(ValueError, match=r'got a dict.* batch._replace'),
  ):
    next(batches)


def test_records_that_are_not_stacked_are_refused():
  """PyTorch's `__getitems__` returns a list of records."""

  class ListOfRecords(Records):
    def __getitems__(self, indices):
      return [self[i] for i in indices.tolist()]

  dataset = sampling.fixed_cycle(ListOfRecords(10), 4, seed=0)
  with pytest.raises(ValueError, match='stacked arrays with leading dimension'):
    _ = dataset[0]


class Pair(NamedTuple):
  x: np.ndarray
  y: np.ndarray


@pytest.mark.parametrize(
  'pack',
  [
    lambda x, y: (x, y),
    Pair,
    lambda x, y: {'x': x, 'y': {'label': y}},
    lambda x, y: (jnp.asarray(x), jnp.asarray(y)),
  ],
)
def test_a_tuple_or_dict_of_arrays_has_its_records_along_the_first_axis(pack):
  x, y = np.arange(30, dtype=np.float32).reshape(10, 3), np.arange(10)
  source = pack(x, y.astype(np.int32))
  # Of batch size 2, too, at which two arrays could be taken for two records.
  dataset = sampling.fixed_cycle(source, 2, seed=0, num_epochs=1)
  rows = [jax.tree.leaves(dataset[t].data) for t in range(len(dataset))]
  assert len(rows) == 5
  np.testing.assert_array_equal(
    sorted(label for _, labels in rows for label in labels), y
  )
  for pixels, labels in rows:
    np.testing.assert_array_equal(pixels, x[labels])
  assert jax.tree.structure(dataset[0].data) == jax.tree.structure(source)
  assert all(isinstance(leaf, np.ndarray) for leaf in rows[0])


def test_rows_of_arrays_are_transformed_one_by_one():
  dataset = sampling.fixed_cycle(
    (np.arange(6.0), np.arange(6)),
    2,
    seed=0,
    transform=lambda record, rng: (record[0] + 1.0, record[1]),
  )
  values, labels = dataset[1].data
  np.testing.assert_array_equal(values, labels + 1.0)


def test_a_list_and_a_class_that_reads_are_sources_of_records():
  arrays = [np.zeros(3), np.ones(3)]
  assert sampling.fixed_cycle(arrays, 2, seed=0)[0].data.shape == (2, 3)

  class Reading(NamedTuple):
    x: np.ndarray
    y: np.ndarray

    def __len__(self):
      return 4

    def __getitem__(self, i):
      return np.float32(i)

  source = Reading(np.zeros(2), np.zeros(3))
  assert sampling.fixed_cycle(source, 4, seed=0)[0].data.shape == (4,)


@pytest.mark.parametrize(
  ('source', 'found'),
  [
    ((np.zeros((5, 2)), np.zeros(4)), r'tuple.*\(5, 2\), \(4,\)'),
    ({'x': np.zeros(5), 'n': np.array(5)}, r'dict.*\(\), \(5,\)'),
    ((1, 2, 3), 'int, int, int.* as a list'),
    ((), 'got none'),
  ],
)
def test_arrays_that_share_no_first_axis_are_refused(source, found):
  with pytest.raises(ValueError, match=f'source is a .*{found}'):
    sampling.fixed_cycle(source, 1, seed=0)


def test_integer_scalars_of_jax_and_numpy_do_as_python_s():
  expected = make_dataset(
    num_epochs=3, seed=5, process_index=0, process_count=1
  )
  for integer in (jnp.int32, np.int32, np.array):
    dataset = sampling.fixed_cycle(
      StackedRecords(22),
      integer(4),
      seed=integer(5),
      num_epochs=integer(3),
      process_index=integer(0),
      process_count=integer(1),
      reshuffle=False,
      transform=add_noise,
    )
    assert len(dataset) == len(expected)
    chex.assert_trees_all_equal(dataset[7], expected[7])
    with sampling.prefetch(
      dataset, start=integer(17), buffer_size=integer(1)
    ) as batches:
      assert ids(next(batches)) == ids(expected[17])
    assert type(sampling.batches_per_cycle(integer(22), integer(4))) is int
  # NumPy's product of the two would pass 2^31.
  endless = sampling.fixed_cycle(
    StackedRecords(22), np.int32(4), seed=0, num_epochs=np.int32(2**31 - 1)
  )
  assert len(endless) == 6 * (2**31 - 1)


def test_without_grain_the_error_names_the_extra(monkeypatch):
  dataset = make_dataset()
  monkeypatch.setitem(sys.modules, 'grain', None)
  for call in (make_dataset, lambda: sampling.prefetch(dataset)):
    with pytest.raises(ImportError, match=r'pip install .*\[data\]'):
      call()
