"""LeNet in the form that TensorFlow's tutorials gave it: two convolutions with pooling, one hidden layer, logits."""

from __future__ import annotations

import functools

from trainer.models import layers
from trainer.tf1 import tf


def build(
    images: tf.Tensor,
    num_classes: int,
    training: bool,
    dropout: layers.Fraction = 0.5,
    data_format: str = layers.CHANNELS_LAST,
) -> tf.Tensor:
    """Computes logits, [batch, classes], of images of the same type, [batch, height, width, depth] of any size.

    Args:
      images: of any size.
      num_classes: width of the logits.
      training: are hidden units dropped.
      dropout: fraction of the hidden units that is dropped in training.
      data_format: of the convolutions.
    """
    first = data_format == layers.CHANNELS_FIRST
    conv, pool = (functools.partial(layer, channels_first=first) for layer in (layers.conv2d, layers.max_pool))
    x = layers.to_channels_first(images) if first else images
    x = pool(conv(x, 32, 5, "conv1"))
    x = pool(conv(x, 64, 5, "conv2"))
    x = layers.to_channels_last(x) if first else x  # The weights of fc1 are the same in both.
    x = layers.dropout(layers.dense(layers.flatten(x), 512, "fc1"), dropout, training=training)
    return layers.dense(x, num_classes, "logits", activation="none")
