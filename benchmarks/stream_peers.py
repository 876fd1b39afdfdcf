"""Examples a second of deep-river and river, in an environment of their own.

Prints a JSON line a row; `stream_speed` runs it. The network is that of
`stream_speed`; each example, or batch, is predicted and then learned.
"""

import json
import time

from deep_river.classification import Classifier
import numpy as np
import pandas as pd
from river import linear_model
from river import tree
import torch

NUM_FEATURES, NUM_HIDDEN, NUM_CLASSES = 8, 32, 2
NUM_EXAMPLES = 2048
NUM_ROUNDS = 3


def make_deep_river() -> Classifier:
  """The network of `stream_speed`, with Adam."""
  network = torch.nn.Sequential(
    torch.nn.Linear(NUM_FEATURES, NUM_HIDDEN),
    torch.nn.ReLU(),
    torch.nn.Linear(NUM_HIDDEN, NUM_CLASSES),
  )
  return Classifier(
    module=network, loss_fn='cross_entropy', optimizer_fn='adam', lr=1e-3
  )


def measure(make, arrivals, unit: str) -> float:
  """Seconds of the fastest round; `unit` is one or many examples at a time."""
  best = np.inf
  for _ in range(NUM_ROUNDS):
    learner = make()
    predict = getattr(learner, f'predict_proba_{unit}')
    learn = getattr(learner, f'learn_{unit}')
    start = time.perf_counter()
    for x, y in arrivals:
      predict(x)
      learn(x, y)
    best = min(best, time.perf_counter() - start)
  return best


def main() -> None:
  """A line a row."""
  torch.set_num_threads(1)
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(NUM_EXAMPLES, NUM_FEATURES)).astype(np.float32)
  labels = (inputs[:, 0] + inputs[:, 1] ** 2 > 1).astype(int)
  names = [f'x{i}' for i in range(NUM_FEATURES)]
  examples = [
    (dict(zip(names, map(float, x), strict=True)), int(y))
    for x, y in zip(inputs, labels, strict=True)
  ]
  rows = {
    ('deep-river, the same network, Adam', 1): measure(
      make_deep_river, examples, 'one'
    ),
    ('river, LogisticRegression', 1): measure(
      linear_model.LogisticRegression, examples, 'one'
    ),
    ('river, HoeffdingTreeClassifier', 1): measure(
      tree.HoeffdingTreeClassifier, examples, 'one'
    ),
  }
  frame = pd.DataFrame(inputs, columns=names)
  batches = [
    (frame.iloc[i : i + 16], pd.Series(labels[i : i + 16]))
    for i in range(0, NUM_EXAMPLES, 16)
  ]
  rows['deep-river, the same network, Adam', 16] = measure(
    make_deep_river, batches, 'many'
  )
  for (name, batch_size), seconds in rows.items():
    row = {
      'learner': name,
      'batch_size': batch_size,
      'examples_per_second': round(NUM_EXAMPLES / seconds),
    }
    print(json.dumps(row))


if __name__ == '__main__':
  main()
