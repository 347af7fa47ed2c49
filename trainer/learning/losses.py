"""Losses: cross entropy of the labels, and L2 on the weights."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.tf1 import tf


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes the softmax cross entropy of each example: float32 [batch].

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch].
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


class L2:
    """A regularizer for `variable_scope`, which remembers the weights instead of building their loss at once.

    A loss of REGULARIZATION_LOSSES lies outside of the loop over steps: its gradient would stay what it was before.
    """

    def __init__(self, weight_decay: float) -> None:
        self._weight_decay = weight_decay
        self._weights: list[tf.Variable] = []

    def __call__(self, weights: tf.Variable) -> None:
        self._weights.append(weights)

    def loss(self, replica: Mapping[str, tf.Variable] | None = None) -> tf.Tensor | None:
        """Builds weight_decay * sum(w^2) / 2 over all weights: [], or None where nothing is regularized.

        Args:
          replica: variables to take in the place of weights, by the names of these.
        """
        if not self._weight_decay or not self._weights:
            return None
        chosen = [(replica or {}).get(weights.op.name, weights) for weights in self._weights]
        return tf.add_n([self._weight_decay * tf.nn.l2_loss(weights) for weights in chosen])
