"""Metrics as sums over a batch, so that batches of different sizes add up exactly."""

from __future__ import annotations

from typing import NamedTuple

from trainer.tf1 import tf


class Sums(NamedTuple):
    """Sums over the images of a batch."""

    count: tf.Tensor  # int32 []
    correct: tf.Tensor  # int32 [], images whose largest logit is that of their label
    loss: tf.Tensor  # float32 [], cross entropies


def batch_sums(logits: tf.Tensor, labels: tf.Tensor) -> Sums:
    """Sums up logits, float32 [batch, classes], against labels, int32 [batch]."""
    right = tf.equal(tf.argmax(logits, 1, output_type=tf.int32), labels)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return Sums(tf.size(labels), tf.reduce_sum(tf.cast(right, tf.int32)), tf.reduce_sum(losses))


def accuracy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Is the fraction of images whose largest logit is that of their label: float32 []."""
    return tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1, output_type=tf.int32), labels), tf.float32))
