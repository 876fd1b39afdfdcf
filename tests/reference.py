"""A slow NumPy oracle in float64, written from the mathematics alone.

Python lists for the window, Python loops for the chase, back-propagation by
hand. It shares no code with the library and is read against METHOD, not
against it.
"""

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
