"""A slow NumPy oracle in float64, written from the mathematics alone.

Python lists for the window, Python loops for the chase, back-propagation by
hand. It shares no code with the library and is read against METHOD, not
against it.
"""

import copy
import dataclasses

import numpy as np

EPSILON = 0.1
LEAST_SHARE = 0.01


class Mlp:
  """A tanh network with one hidden layer, cross entropy, and its gradient."""

  def __init__(self, num_inputs, num_hidden, num_classes, seed):
    rng = np.random.default_rng(seed)
    self.params = {
      'w1': rng.normal(size=(num_inputs, num_hidden)) / np.sqrt(num_inputs),
      'b1': np.zeros(num_hidden),
      'w2': rng.normal(size=(num_hidden, num_classes)) / np.sqrt(num_hidden),
      'b2': np.zeros(num_classes),
    }

  @staticmethod
  def loss_and_grad(params, batch):
    """Mean cross entropy of a batch and its gradient, by back-propagation."""
    inputs, labels = batch
    rows = np.arange(len(labels))
    hidden = np.tanh(inputs @ params['w1'] + params['b1'])
    logits = hidden @ params['w2'] + params['b2']
    logits = logits - logits.max(axis=1, keepdims=True)
    log_z = np.log(np.exp(logits).sum(axis=1))
    loss = np.mean(log_z - logits[rows, labels])
    delta = np.exp(logits - log_z[:, None])
    delta[rows, labels] -= 1.0
    delta /= len(labels)
    back = (delta @ params['w2'].T) * (1.0 - hidden**2)
    grad = {
      'w1': inputs.T @ back,
      'b1': back.sum(axis=0),
      'w2': hidden.T @ delta,
      'b2': delta.sum(axis=0),
    }
    return loss, grad


def tree_map(f, *trees):
  return {key: f(*(tree[key] for tree in trees)) for key in trees[0]}


def squared_norm(tree):
  return sum(np.sum(leaf**2) for leaf in tree.values())


class Sgd:
  """SGD, with momentum or Nesterov momentum as Optax writes them."""

  def __init__(self, learning_rate, momentum=0.0, nesterov=False):
    self.learning_rate = learning_rate
    self.momentum = momentum
    self.nesterov = nesterov
    self.trace = None

  def update(self, grad):
    if self.trace is None:
      self.trace = tree_map(np.zeros_like, grad)
    self.trace = tree_map(lambda t, g: g + self.momentum * t, self.trace, grad)
    direction = self.trace
    if self.nesterov:
      direction = tree_map(lambda t, g: g + self.momentum * t, self.trace, grad)
    return tree_map(lambda d: -self.learning_rate * d, direction)


class Adam:
  """Adam (Kingma & Ba, 2015)."""

  def __init__(self, learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    self.learning_rate, self.b1, self.b2, self.eps = learning_rate, b1, b2, eps
    self.step = 0
    self.m = self.v = None

  def update(self, grad):
    if self.m is None:
      self.m = tree_map(np.zeros_like, grad)
      self.v = tree_map(np.zeros_like, grad)
    self.step += 1
    self.m = tree_map(
      lambda m, g: self.b1 * m + (1 - self.b1) * g, self.m, grad
    )
    self.v = tree_map(
      lambda v, g: self.b2 * v + (1 - self.b2) * g**2, self.v, grad
    )
    m_scale = 1 / (1 - self.b1**self.step)
    v_scale = 1 / (1 - self.b2**self.step)
    return tree_map(
      lambda m, v: (
        -self.learning_rate * m * m_scale / (np.sqrt(v * v_scale) + self.eps)
      ),
      self.m,
      self.v,
    )


@dataclasses.dataclass
class Record:
  """What one training step saw and did."""

  params: dict
  loss: float
  mean: float
  sigma: float
  limit: float
  flagged: bool
  chase_steps: int
  evaluations: int
  final_loss: float
  reverted: bool = False


def run_isgd(
  network,
  base,
  batches,
  *,
  window_size,
  sigma_multiplier,
  winsorize=False,
  chase_to='mean',
  max_steps=5,
  tolerance=0.01,
):
  """ISGD: Gauss-Newton from the old weights, in place of the base update."""
  params = network.params
  num_params = sum(leaf.size for leaf in params.values())
  window, records = [], []
  for batch in batches:
    found, grad = network.loss_and_grad(params, batch)
    mean = np.mean(window) if window else 0.0
    sigma = np.std(window) if window else 0.0
    full = len(window) == window_size
    limit = mean + sigma_multiplier * sigma if full else np.inf
    lower = mean - sigma_multiplier * sigma if full else -np.inf
    flagged = found > limit
    is_clipped = winsorize and sigma > 0
    window.append(np.clip(found, lower, limit) if is_clipped else found)
    window = window[-window_size:]
    record = Record(
      params, found, mean, sigma, limit, flagged, 0, 1, found, False
    )
    if flagged:
      target = mean if chase_to == 'mean' else limit
      w, loss, w_grad = params, found, grad
      damping = EPSILON / num_params * squared_norm(grad)
      while record.chase_steps < max_steps:
        gap = loss - target
        scale = gap / (squared_norm(w_grad) + damping)
        w = tree_map(lambda p, g, scale=scale: p - scale * g, w, w_grad)
        record.chase_steps += 1
        loss, w_grad = network.loss_and_grad(w, batch)
        record.evaluations += 1
        if loss <= target + tolerance * (found - target):
          break
      record.reverted = not loss <= found - LEAST_SHARE * (found - target)
    if flagged and not record.reverted:
      params = w
      record.final_loss = loss
    else:
      record.evaluations += record.reverted
      params = tree_map(np.add, params, base.update(grad))
    record.params = params
    records.append(record)
  return records


def chase(network, batch, params, found, grad, target, max_steps=5):
  """Gauss-Newton steps: where they led, loss, number, whether they did well."""
  num_params = sum(leaf.size for leaf in params.values())
  damping = EPSILON / num_params * squared_norm(grad)
  w, loss, w_grad, num_steps = params, found, grad, 0
  while num_steps < max_steps:
    num_steps += 1
    scale = (loss - target) / (squared_norm(w_grad) + damping)
    w = tree_map(lambda p, g, scale=scale: p - scale * g, w, w_grad)
    loss, w_grad = network.loss_and_grad(w, batch)
    if loss <= target + 0.01 * (found - target):
      break
  return w, loss, num_steps, loss <= found - LEAST_SHARE * (found - target)


@dataclasses.dataclass
class Trust:
  """The record of chases, and the one on probation, as in how_it_works."""

  s: float = 0.0
  q: float = 0.0
  a: float = 0.0
  pause: int = 0
  next_pause: int = 1
  unjudged: int = 0
  next_unjudged: int = 1
  judged: int = 0
  paid: int = 0
  undone: int = 0
  # What the ablation of probation changes.
  num_batches: int = 4
  forgetting: float = 0.98
  starts_trusting: bool = False

  @property
  def is_trusted(self):
    if self.starts_trusting and self.judged < 2 and self.s >= 0:
      return True
    return self.s > 0 and self.s >= max(1.4 * self.q**0.5, 0.25 * self.a)

  def settle(self, gain, share, own):
    """Takes in a judged chase, and decides the pauses after it."""
    self.s = self.forgetting * self.s + gain
    self.q = self.forgetting * self.q + gain**2
    self.a = self.forgetting * self.a + share * own
    self.judged += 1
    self.paid += gain > 0
    self.pause = self.unjudged = 0
    if self.is_trusted:
      self.next_pause = 1
      self.next_unjudged = min(2 * self.next_unjudged, 8)
      self.unjudged = self.next_unjudged - 1
      return
    self.next_unjudged = 1
    if self.s < max(0.0, 0.25 * self.a):
      self.next_pause = min(2 * self.next_pause, 32)
      self.pause = self.next_pause - 1
    else:
      self.next_pause = 1


def run_isgd_on_probation(
  network,
  base,
  batches,
  *,
  window_size,
  sigma_multiplier,
  max_steps=5,
  **rules,
):
  """ISGD whose chases must prove themselves; returns records and the trust."""

  def peek(grad):
    return copy.deepcopy(base).update(grad)

  add = lambda w, u: tree_map(np.add, w, u)
  params, window, records, trust = network.params, [], [], Trust(**rules)
  rival, leads, gain, own, age = None, False, 0.0, 0.0, 0
  num_extra = 0
  for step, batch in enumerate(batches):
    found, grad = network.loss_and_grad(params, batch)
    mean = np.mean(window) if window else 0.0
    sigma = np.std(window) if window else 0.0
    full = len(window) == window_size
    limit = mean + sigma_multiplier * sigma if full else np.inf
    window = [*window, found][-window_size:]
    flagged = found > limit
    record = Record(params, found, mean, sigma, limit, flagged, 0, 1, found)
    next_params = None
    if rival is not None:
      rival_loss, rival_grad = network.loss_and_grad(rival, batch)
      record.evaluations += 1
      gain += rival_loss - found if leads else found - rival_loss
      age += 1
      if age >= trust.num_batches or flagged or (leads and trust.s + gain < 0):
        trust.settle(gain, age / trust.num_batches, own)
        if leads and trust.s < 0:
          trust.undone += 1
          next_params = add(rival, peek(rival_grad))
        rival = None
    affordable = num_extra + record.evaluations - 1 + max_steps + 1
    if (
      flagged
      and next_params is None
      and rival is None
      and affordable <= 0.2 * (step + 1)
    ):
      if not trust.is_trusted and trust.pause > 0:
        trust.pause -= 1
      else:
        w, loss, record.chase_steps, is_good = chase(
          network, batch, params, found, grad, mean, max_steps
        )
        record.evaluations += record.chase_steps
        record.reverted = not is_good
        if is_good:
          leads, gain, own, age = trust.is_trusted, 0.0, found - loss, 0
          if leads:
            record.final_loss = loss
            rival, next_params = add(params, peek(grad)), w
            if trust.unjudged > 0:
              trust.unjudged -= 1
              rival = None
          else:
            rival = w
            next_params = add(params, base.update(grad))
    if next_params is None:
      update = base.update(grad)
      next_params = add(params, update)
      rival = None if rival is None else add(rival, update)
    num_extra += record.evaluations - 1
    record.params = params = next_params
    records.append(record)
  return records, trust


def run_paper_isgd(
  network, base, batches, *, batches_per_epoch, chase_learning_rate
):
  """The published algorithm: queue with the loss in it, limit, Algorithm 2."""
  params = network.params
  num_params = sum(leaf.size for leaf in params.values())
  queue, records = [], []
  for batch in batches:
    found, grad = network.loss_and_grad(params, batch)
    full = len(queue) == batches_per_epoch
    queue.append(found)
    queue = queue[-batches_per_epoch:]
    mean, sigma = np.mean(queue), np.std(queue)
    limit = mean + 3.0 * sigma if full else np.inf
    flagged = found > limit
    anchor = params
    params = tree_map(np.add, params, base.update(grad))
    record = Record(params, found, mean, sigma, limit, flagged, 0, 1, found)
    if flagged:
      while record.chase_steps < 5:
        loss, w_grad = network.loss_and_grad(params, batch)
        record.evaluations += 1
        record.final_loss = loss
        if loss <= limit:
          break
        gap = loss - limit
        params = tree_map(
          lambda p, g, a, gap=gap: (
            p - chase_learning_rate * (gap * g + EPSILON / num_params * (p - a))
          ),
          params,
          w_grad,
          anchor,
        )
        record.chase_steps += 1
    record.params = params
    records.append(record)
  return records
