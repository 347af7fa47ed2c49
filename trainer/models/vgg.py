"""VGG-11 (Simonyan and Zisserman 2015, configuration A): eight convolutions of 3x3, three dense layers."""

from __future__ import annotations

import functools

from trainer.models import layers
from trainer.tf1 import tf

BLOCKS = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # filters; each block ends with pooling
HIDDEN = 4096


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
    number = 0
    for block in BLOCKS:
        for filters in block:
            number += 1
            x = conv(x, filters, 3, f"conv{number}")
        x = pool(x)
    x = layers.flatten(layers.to_channels_last(x) if first else x)
    for name in ("fc1", "fc2"):
        x = layers.dropout(layers.dense(x, HIDDEN, name), dropout, training=training)
    return layers.dense(x, num_classes, "logits", activation="none")
