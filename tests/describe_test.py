"""The sentence that says whether chases pay."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax


def info(**fields):
  optimizer = isgd_jax.isgd(optax.sgd(0.1), isgd_jax.shewhart(20))
  found = isgd_jax.get_info(optimizer.init(jnp.zeros(3)))
  found = found._replace(num_steps=100, num_gradient_evaluations=100)
  return found._replace(**fields)


@pytest.mark.parametrize(
  ('num_judged', 'num_paid', 'num_undone', 'gain', 'words'),
  [
    (9, 7, 2, 1.3, ('7 of 9', 'by 1.3 sigma', '2 were undone')),
    (1, 1, 0, 0.5, ('1 of 1 judged chase ', 'after it', 'none was undone')),
    (4, 1, 1, -0.3, ('1 of 4', 'rose by 0.3 sigma', '1 was undone')),
  ],
)
def test_it_counts_what_was_judged(
  num_judged, num_paid, num_undone, gain, words
):
  text = isgd_jax.describe_chases(
    info(
      num_chases_judged=num_judged,
      num_chases_paid=num_paid,
      num_chases_undone=num_undone,
      mean_chase_gain=gain,
    )
  )
  for word in words:
    assert word in text


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({}, 'no limits yet, after 100 steps'),
    ({'control_limit': 1.0}, 'no batch was under-trained'),
    ({'num_undertrained': 2, 'is_on_probation': True}, 'still on probation'),
    ({'num_undertrained': 2, 'num_chases_refused': 2}, 'climbs'),
    ({'num_undertrained': 2}, 'none was chased'),
    (
      {
        'num_undertrained': 2,
        'num_gradient_evaluations': 110,
        'num_chases_reverted': 1,
      },
      'chased in vain',
    ),
    (
      {'num_undertrained': 2, 'num_gradient_evaluations': 110},
      'without probation',
    ),
  ],
)
def test_it_says_why_none_was_judged(fields, words):
  text = isgd_jax.describe_chases(info(**fields))
  assert text.startswith('No chase was judged: ')
  assert words in text


def test_the_info_of_many_steps_is_refused():
  with pytest.raises(ValueError, match='of one step'):
    isgd_jax.describe_chases(info(num_steps=np.zeros(5)))
