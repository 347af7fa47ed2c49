"""LeNet in the form that TensorFlow's tutorials gave it: two convolutions with pooling, one hidden layer, logits."""

from __future__ import annotations

import functools

from trainer.models import layers
from trainer.tf1 import tf


def build(
    images: tf.Tensor,
    *,
    num_classes: int,
    dropout: layers.Dropout,
    hidden_dropout: float,
    channels_first: bool = False,
    **_: object,
) -> tf.Tensor:
    """Computes logits, [batch, classes], of images of the same type, [batch, height, width, depth] of any size."""
    conv, pool = (functools.partial(layer, channels_first=channels_first) for layer in (layers.conv2d, layers.max_pool))
    x = layers.to_channels_first(images) if channels_first else images
    x = pool(conv(x, 32, 5, "conv1"))
    x = pool(conv(x, 64, 5, "conv2"))
    x = layers.to_channels_last(x) if channels_first else x  # The weights of fc1 are the same in both.
    x = dropout(layers.dense(layers.flatten(x), 512, "fc1"), hidden_dropout)
    return layers.dense(x, num_classes, "logits", activation=None)
