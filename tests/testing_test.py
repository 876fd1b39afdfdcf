"""The public battery: ours pass, and what is broken is caught by its rule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isgd_jax
from isgd_jax import testing

pytestmark = [
  pytest.mark.cheap_compile,
  pytest.mark.newest_version,
  pytest.mark.battery,
]

WINDOW = isgd_jax.shewhart(8)
CHARTS = {
  'shewhart': WINDOW,
  'default': isgd_jax.default_chart(8),
  'left out': isgd_jax.shewhart(8, flagged_losses='leave_out'),
  'sample': isgd_jax.shewhart(
    8, sigma_estimator='sample_std', phase_one_size=4, min_sigma=0.1
  ),
  'moving range': isgd_jax.shewhart(8, sigma_estimator='moving_range'),
  'mad': isgd_jax.shewhart(8, sigma_estimator='mad'),
  'fixed': isgd_jax.fixed_limits(3.0, 0.2),
  'ewma': isgd_jax.ewma(reference=WINDOW),
  'cusum': isgd_jax.cusum(reference=WINDOW),
  'difference': isgd_jax.difference_chart(4, window_size=8),
  'rules': isgd_jax.with_run_rules(WINDOW, 'nelson'),
  'restart': isgd_jax.with_restart(WINDOW, 2),
  'joined': isgd_jax.any_of(
    WINDOW, isgd_jax.chart_of('gradient_norm', isgd_jax.fixed_limits(3.0, 0.2))
  ),
  'nested': isgd_jax.all_of(
    WINDOW, isgd_jax.any_of(WINDOW, isgd_jax.chart_of('other', WINDOW))
  ),
}
CHARTS |= {
  f'exponential, {flagged}': isgd_jax.exponential_chart(
    0.9, 3.0, flagged_losses=flagged, phase_one_size=5
  )
  for flagged in ('keep', 'winsorize', 'reciprocal', 'leave_out')
}


@pytest.mark.parametrize('name', CHARTS)
def test_our_charts_pass(name):
  testing.check_control_chart(CHARTS[name], counts_all=name == 'difference')


REACTIONS = {
  'skip': isgd_jax.skip(),
  'skip all': isgd_jax.skip(None, skip_non_finite=True),
  'clip': isgd_jax.clip(),
  'reciprocal': isgd_jax.clip('reciprocal'),
  'mean': isgd_jax.clip('mean'),
  'reset': isgd_jax.reset(),
  'moments': isgd_jax.reset('moments', refractory=2),
  'count': isgd_jax.reset('count'),
  'rewarm': isgd_jax.rewarm(3.0, 2, refractory=1),
}


@pytest.mark.parametrize('name', REACTIONS)
def test_our_reactions_pass(name):
  testing.check_reaction(REACTIONS[name])


def test_a_chart_that_counts_what_is_not_finite_is_one_that_says_so():
  with pytest.raises(AssertionError, match=r'nothing in the state: \.position'):
    testing.check_control_chart(CHARTS['difference'])


def test_another_base_may_be_given():
  testing.check_reaction(
    isgd_jax.reset('moments'), base_optimizer=optax.sgd(0.1, momentum=0.9)
  )
  with pytest.raises(ValueError, match='nothing to reset'):
    testing.check_reaction(
      isgd_jax.reset('moments'), base_optimizer=optax.sgd(0.1)
    )


def broken(**changes):
  """A chart that flags what is above 5, but for what is changed in it."""

  def update(state, loss):
    loss = jnp.asarray(loss).astype(jnp.float32)
    is_finite = jnp.isfinite(loss)
    mean = jnp.where(is_finite, 0.9 * state + 0.1 * loss, state)
    reading = isgd_jax.ChartReading(
      mean=state,
      sigma=jnp.float32(0.5),
      lower_limit=jnp.float32(0.0),
      upper_limit=jnp.float32(5.0),
      is_above=is_finite & (loss > 5),
      is_below=is_finite & (loss < 0),
    )
    return mean, reading

  chart = isgd_jax.ControlChart(
    lambda: jnp.zeros((), jnp.float32), update, 'shewhart'
  )
  return chart._replace(
    **{name: change(chart) for name, change in changes.items()}
  )


def with_reading(**fields):
  """`update` whose reading has these fields, functions of state and loss."""

  def change(chart):
    def update(state, loss):
      new, reading = chart.update(state, loss)
      return new, reading._replace(
        **{name: field(state, loss) for name, field in fields.items()}
      )

    return update

  return change


def with_state(make):
  """`update` whose new state is `make(new, old, loss)`."""

  def change(chart):
    def update(state, loss):
      new, reading = chart.update(state, loss)
      return make(new, state, loss), reading

    return update

  return change


def impure(chart):
  calls = []

  def update(state, loss):
    calls.append(0)
    state, reading = chart.update(state, loss)
    return state, reading._replace(sigma=jnp.float32(len(calls)))

  return update


def branching(chart):
  def update(state, loss):
    if loss > 3:  # Python's if.
      return chart.update(state, loss)
    return chart.update(state, 1.01 * loss)

  return update


def squaring(chart):
  def update(state, loss):
    new, reading = chart.update(state, loss)
    square = jnp.square(jnp.asarray(loss).astype(jnp.float32))
    return (
      jnp.where(jnp.isfinite(loss), new + 0 * square, state),
      reading,
    )

  return update


finite = lambda loss: jnp.isfinite(jnp.asarray(loss).astype(jnp.float32))
BROKEN = {
  'a Python number in the state': (
    {'init': lambda chart: lambda: 0.0},
    'state of init is of arrays',
  ),
  'a state that grows': (
    {'update': with_state(lambda new, old, loss: jnp.stack([new, new]))},
    'keeps structure, shapes and dtypes',
  ),
  'a state in the dtype of the loss': (
    {
      'update': with_state(
        lambda new, old, loss: new.astype(jnp.result_type(loss))
      )
    },
    'keeps structure, shapes and dtypes, with a loss of type',
  ),
  'NaN enters': (
    {
      'update': with_state(
        lambda new, old, loss: 0.9 * old + 0.1 * jnp.float32(loss)
      )
    },
    'changes nothing in the state',
  ),
  'infinity is flagged': (
    {
      'update': with_reading(is_above=lambda state, loss: jnp.asarray(loss) > 5)
    },
    'inf is not flagged',
  ),
  'NaN is flagged': (
    {
      'update': with_reading(
        is_above=lambda state, loss: ~(jnp.asarray(loss) <= 5)
      )
    },
    'nan is not flagged',
  ),
  'Phase I flags': (
    {
      'update': with_reading(
        upper_limit=lambda state, loss: jnp.float32(jnp.inf)
      )
    },
    'limit is infinite',
  ),
  'flags beside the limits': (
    {
      'update': with_reading(
        is_above=lambda state, loss: finite(loss) & (jnp.asarray(loss) > 8)
      )
    },
    'flags what lies beyond its limits',
  ),
  'half-precision statistics': (
    {'update': with_reading(sigma=lambda state, loss: jnp.float16(1))},
    'at least float32',
  ),
  'flags that are numbers': (
    {'update': with_reading(is_above=lambda state, loss: jnp.float32(0))},
    'is_above of a reading is a scalar',
  ),
  'a reading of its own': (
    {'update': lambda chart: lambda state, loss: (state, {'mean': 1.0})},
    'returns a ChartReading',
  ),
  'no pair': (
    {'update': lambda chart: lambda state, loss: state},
    'returns a pair',
  ),
  'a huge loss spoils it': ({'update': squaring}, 'makes the mean NaN'),
  'it counts its calls': ({'update': impure}, 'called twice'),
  'restart that always is': (
    {'restart': lambda chart: lambda state, is_due: chart.init()},
    'does nothing where it is not due',
  ),
}


def test_the_chart_that_is_broken_here_is_whole():
  testing.check_control_chart(broken())


@pytest.mark.parametrize('name', BROKEN)
def test_a_broken_chart_is_caught_by_the_rule_that_it_breaks(name):
  changes, rule = BROKEN[name]
  with pytest.raises(AssertionError, match=rule):
    testing.check_control_chart(broken(**changes))


def test_a_restart_that_forgets_nothing_is_caught():
  chart = isgd_jax.shewhart(8)._replace(restart=lambda state, is_due: state)
  with pytest.raises(AssertionError, match='as it began'):
    testing.check_control_chart(chart)


def test_an_update_that_branches_in_python_is_caught_by_jax():
  with pytest.raises(jax.errors.TracerBoolConversionError):
    testing.check_control_chart(broken(update=branching))


def half_step(**changes):
  """Halves flagged updates, and counts them; but for what is changed."""

  def after(state, step):
    is_above = step.reading.is_above
    updates = jax.tree.map(
      lambda u: jnp.where(is_above, u * jnp.asarray(0.5, u.dtype), u),
      step.updates,
    )
    state = state + is_above.astype(jnp.int32)
    return state, step._replace(updates=updates)

  reaction = isgd_jax.Reaction(
    'half_step', lambda params: jnp.zeros((), jnp.int32), after=after
  )
  return reaction._replace(
    **{name: change(reaction) for name, change in changes.items()}
  )


def after_with(make):
  """`after` whose state and step are `make(state, step)` of what it left."""

  def change(reaction):
    return lambda state, step: make(*reaction.after(state, step))

  return change


def of_updates(fun):
  return after_with(
    lambda state, step: (
      state,
      step._replace(updates=jax.tree.map(lambda u: fun(u, step), step.updates)),
    )
  )


BROKEN_REACTIONS = {
  'a Python number in the state': (
    {'init': lambda reaction: lambda params: 0},
    'state of init is of arrays',
  ),
  'it acts unflagged': (
    {'after': of_updates(lambda u, step: u * jnp.asarray(0.999, u.dtype))},
    'bit for bit: its updates',
  ),
  'it changes the base state unflagged': (
    {
      'after': after_with(
        lambda state, step: (
          state,
          step._replace(
            base_state=jax.tree.map(lambda x: x + 1, step.base_state)
          ),
        )
      )
    },
    'bit for bit: its state',
  ),
  'float32 updates': (
    {'after': of_updates(lambda u, step: u.astype(jnp.float32))},
    'updates keep their types, in bfloat16',
  ),
  'a state that changes its type': (
    {
      'after': after_with(
        lambda state, step: (
          jnp.where(step.reading.is_above, 1.0, state.astype(jnp.float32)),
          step,
        )
      )
    },
    'the state keeps its types',
  ),
  'NaN where the loss is': (
    {
      'after': of_updates(
        lambda u, step: jnp.where(
          step.is_finite, u, jnp.asarray(np.nan, u.dtype)
        )
      )
    },
    'finite updates, where a loss is',
  ),
  'infinite updates where flagged': (
    {
      'after': of_updates(
        lambda u, step: jnp.where(
          step.reading.is_above, jnp.asarray(np.inf, u.dtype), u
        )
      )
    },
    'finite gradients make finite updates',
  ),
}


def test_the_reaction_that_is_broken_here_is_whole():
  testing.check_reaction(half_step())


@pytest.mark.parametrize('name', BROKEN_REACTIONS)
def test_a_broken_reaction_is_caught_by_the_rule_that_it_breaks(name):
  changes, rule = BROKEN_REACTIONS[name]
  with pytest.raises(AssertionError, match=rule):
    testing.check_reaction(half_step(**changes))


def test_a_reaction_with_a_memory_of_its_own_is_caught():
  calls = []

  def after(state, step):
    calls.append(0)
    factor = 1.0 if len(calls) <= 12 else 0.5  # As many as one trial has.
    updates = jax.tree.map(lambda u: u * factor, step.updates)
    return state, step._replace(updates=updates)

  with pytest.raises(AssertionError, match=r'goes on as before|does the same'):
    testing.check_reaction(
      half_step(after=lambda reaction: after), base_optimizer=optax.sgd(0.1)
    )


def test_a_reaction_that_branches_in_python_is_caught_by_jax():
  def after(state, step):
    if step.reading.is_above:  # Python's if.
      state = state + 1
    return state, step

  with pytest.raises(jax.errors.TracerBoolConversionError):
    testing.check_reaction(half_step(after=lambda reaction: after))


def test_a_reaction_finds_the_statistics_that_it_needs():
  seen = []

  def before(state, step):
    seen.append(step.statistics)
    return state, step

  reaction = isgd_jax.Reaction(
    'of_entropy', lambda params: (), before=before, needs=('entropy',)
  )
  testing.check_reaction(reaction)
  assert all('entropy' in names for names in seen)


@pytest.mark.parametrize(
  'wrong',
  [
    lambda: testing.check_control_chart(3.0),
    lambda: testing.check_control_chart(WINDOW, losses=[1.0] * 19),
    lambda: testing.check_control_chart(WINDOW, losses=[np.nan] * 20),
    lambda: testing.check_reaction(isgd_jax.skip),
  ],
)
def test_what_is_neither_is_refused(wrong):
  with pytest.raises(ValueError, match='must be'):
    wrong()
