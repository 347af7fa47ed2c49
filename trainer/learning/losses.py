"""Losses: cross entropy of the labels, and L2 on the weights through TensorFlow's collection."""

from __future__ import annotations

from collections.abc import Callable

from trainer.tf1 import tf


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Means the sparse softmax cross entropy of logits, float32 [batch, classes], and labels, int32 [batch]: []."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def l2_regularizer(weight_decay: float) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """Makes a regularizer for `variable_scope`: weight_decay * sum(w^2) / 2."""
    return (lambda weights: weight_decay * tf.nn.l2_loss(weights)) if weight_decay else None


def regularization_loss() -> tf.Tensor | None:
    """Adds up what the variables of this graph put into REGULARIZATION_LOSSES: [], or None without any."""
    terms = tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)
    return tf.add_n(terms, name="regularization") if terms else None
