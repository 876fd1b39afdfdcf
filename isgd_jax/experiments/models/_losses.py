"""How a network's logits are judged, in training and in evaluation."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(
  logits: jax.Array, labels: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """Of every prediction its loss in nats, and whether it is right.

  Args:
    logits: [..., num_classes].
    labels: [...] integers.

  Returns:
    [...] float32 and [...] bool.

  Example:
    >>> logits, labels = jnp.array([[0.0, 9.0]]), jnp.array([1])
    >>> losses, is_right = cross_entropy(logits, labels)
    >>> bool(losses[0] < 1e-3), bool(is_right[0])
    (True, True)
  """
  labels = jnp.asarray(labels)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses, logits.argmax(-1) == labels
