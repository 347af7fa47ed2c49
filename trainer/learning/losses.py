"""Losses: cross entropy of the labels, and L2 on the weights."""

from __future__ import annotations

from collections.abc import Iterable

from trainer.tf1 import tf


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes the softmax cross entropy of each example: float32 [batch].

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch].
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def l2_losses(variables: Iterable[tf.Variable], weight_decay: float) -> list[tf.Tensor]:
    """Builds weight_decay * sum(w^2) / 2 of each weight: [].

    Weights are variables of two dimensions or more: biases, and scales of normalizations, are not regularized.
    """
    return [weight_decay * tf.nn.l2_loss(variable) for variable in variables if variable.shape.rank >= 2]
