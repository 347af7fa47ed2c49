"""LeNet in the form that TensorFlow's tutorials gave it: two convolutions with pooling, one hidden layer, logits."""

from __future__ import annotations

from trainer.models import layers
from trainer.tf1 import tf


def build(
    images: tf.Tensor, *, num_classes: int, dropout: layers.Dropout, hidden_dropout: float, **_: object
) -> tf.Tensor:
    """Computes logits, float32 [batch, classes], of images, float32 [batch, height, width, depth] of any size."""
    x = layers.max_pool(layers.conv2d(images, 32, 5, "conv1"))
    x = layers.max_pool(layers.conv2d(x, 64, 5, "conv2"))
    x = dropout(layers.dense(layers.flatten(x), 512, "fc1"), hidden_dropout)
    return layers.dense(x, num_classes, "logits", activation=None)
