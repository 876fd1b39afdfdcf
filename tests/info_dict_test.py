"""The info as plain numbers, and what of a state `optax.tree.get` finds."""

import json
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax


def state_after(losses, **options):
  """The state of a chained optimizer after steps with these losses."""
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    isgd_jax.isgd(
      optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
      isgd_jax.shewhart(window_size=5),
      **options,
    ),
  )
  params = jnp.ones(3)
  state = optimizer.init(params)
  for loss in losses:
    _, state = optimizer.update(
      params,
      state,
      params,
      value=jnp.float32(loss),
      grad=params,
      value_fn=lambda p: jnp.sum(p**2),
    )
  return state


LOSSES = (3.0, 3.1, 2.9, 3.05, 2.95, 9.0)


@pytest.mark.parametrize('losses', [(), LOSSES[:3], LOSSES, (math.nan,)])
def test_it_says_what_get_info_says_in_plain_numbers(losses):
  state = state_after(losses)
  numbers, info = isgd_jax.info_dict(state), isgd_jax.get_info(state)
  assert list(numbers) == list(isgd_jax.ISGDInfo._fields)
  kinds = {'f': float, 'i': int, 'b': bool}
  for name, value in numbers.items():
    expected = np.asarray(getattr(info, name))
    assert type(value) is kinds[expected.dtype.kind], name
    np.testing.assert_array_equal(value, expected, err_msg=name)


def test_a_flag_is_among_them():
  numbers = isgd_jax.info_dict(state_after(LOSSES))
  assert numbers['is_undertrained'] is True
  assert numbers['num_steps'] == 6
  assert numbers['loss'] == 9.0


def test_it_is_one_transfer():
  state = state_after(LOSSES)
  with (
    mock.patch.object(jax, 'device_get', wraps=jax.device_get) as get,
    jax.transfer_guard_host_to_device('disallow'),
  ):
    isgd_jax.info_dict(state)
  assert get.call_count == 1
  (packed,) = get.call_args.args
  assert len(jax.tree.leaves(packed)) == 2


def test_what_is_not_finite_is_a_float_that_json_has_to_be_told_of():
  numbers = isgd_jax.info_dict(state_after(()))
  assert numbers['control_limit'] == math.inf
  assert '"control_limit": Infinity' in json.dumps(numbers)
  with pytest.raises(ValueError, match='JSON compliant'):
    json.dumps(numbers, allow_nan=False)
  finite = {k: v for k, v in numbers.items() if math.isfinite(v)}
  assert json.loads(json.dumps(finite, allow_nan=False)) == finite


@pytest.mark.parametrize('num_found', [0, 2])
def test_it_raises_as_get_info_does(num_found):
  state = [state_after(())] * num_found
  message = f'one isgd .* found {num_found} in a list'
  with pytest.raises(ValueError, match=message) as of_info:
    isgd_jax.get_info(state)
  with pytest.raises(ValueError, match=message) as of_dict:
    isgd_jax.info_dict(state)
  assert str(of_dict.value) == str(of_info.value)


@pytest.mark.parametrize(
  'transform',
  [
    jax.jit,
    lambda f: (
      lambda state: jax.vmap(f)(
        jax.tree.map(lambda x: jnp.stack([x, x]), state)
      )
    ),
    lambda f: (
      lambda state: jax.lax.scan(
        lambda carry, _: (carry, f(carry)), state, length=2
      )
    ),
  ],
  ids=['jit', 'vmap', 'scan'],
)
def test_a_traced_state_is_refused_with_the_remedy(transform):
  with pytest.raises(ValueError, match='Call it on the state that the compile'):
    transform(isgd_jax.info_dict)(state_after(()))


def test_states_of_many_runs_are_refused():
  stacked = jax.tree.map(lambda x: jnp.stack([x, x]), state_after(()))
  with pytest.raises(ValueError, match=r'leading dimensions \(2,\)'):
    isgd_jax.info_dict(stacked)


@pytest.mark.parametrize(
  'optimizer',
  [
    isgd_jax.skip_out_of_control(optax.sgd(0.1), isgd_jax.shewhart(5)),
    isgd_jax.watch(isgd_jax.shewhart(5)),
    isgd_jax.paper_isgd(
      optax.sgd(0.1), batches_per_epoch=12, chase_learning_rate=0.1
    ),
  ],
  ids=['skip', 'watch', 'paper'],
)
def test_every_action_has_one(optimizer):
  assert isgd_jax.info_dict(optimizer.init(jnp.ones(3)))['num_steps'] == 0


@pytest.mark.parametrize(
  'name', ['packed_info', 'chart_state', 'base_state', 'probation_state']
)
def test_optax_finds_the_parts_of_the_state(name):
  state = state_after(LOSSES)
  found = optax.tree.get(state, name)
  assert found is getattr(state[1], name)


def test_optax_finds_the_base_optimizer_s_names_and_the_classes():
  state = state_after(LOSSES)
  rate = optax.tree.get(
    state, 'learning_rate', filtering=lambda _, x: isinstance(x, jax.Array)
  )
  assert float(rate) == np.float32(0.1)
  for name in ('ISGDState', 'packed_info', 'PackedInfo'):
    part = optax.tree.get(state, name)
    assert isgd_jax.info_dict(part) == isgd_jax.info_dict(state)


def test_optax_finds_the_fields_in_what_get_info_unpacks():
  state = state_after(LOSSES)
  assert optax.tree.get(state, 'num_steps') is None
  info = isgd_jax.get_info(state)
  for name in isgd_jax.ISGDInfo._fields:
    assert optax.tree.get(info, name) is getattr(info, name)


@pytest.mark.parametrize('read', [isgd_jax.get_info, isgd_jax.info_dict])
@pytest.mark.parametrize(
  'inner',
  [
    isgd_jax.isgd(optax.sgd(0.1), isgd_jax.shewhart(5)),
    optax.chain(
      optax.clip_by_global_norm(1.0),
      isgd_jax.skip_out_of_control(optax.sgd(0.1), isgd_jax.shewhart(5)),
    ),
  ],
  ids=['isgd', 'chain'],
)
def test_multi_steps_around_a_chart_is_warned_of(inner, read):
  around = optax.MultiSteps(inner, every_k_schedule=2).init(jnp.ones(3))
  with pytest.warns(UserWarning, match=r'loss of the last micro-batch') as said:
    read(around)
  assert [warning.filename for warning in said] == [__file__]


def test_multi_steps_beside_or_within_is_not():
  multi = optax.MultiSteps(optax.sgd(0.1), 2)
  within = isgd_jax.isgd(multi.gradient_transformation(), isgd_jax.shewhart(5))
  beside = (state_after(()), multi.init(jnp.ones(3)))
  for state in (within.init(jnp.ones(3)), beside):
    isgd_jax.info_dict(state)  # Warnings are errors here.
