"""MobileNet v1 (Howard et al. 2017), with the variables of TF-Slim's."""

from __future__ import annotations

import functools
from typing import Annotated

from trainer.models import layers
from trainer.models.normalization import batch_norm
from trainer.settings.fields import above
from trainer.tf1 import tf

# Of each pair of a depthwise and a pointwise convolution: filters of the second, stride of the first.
PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
MIN_DEPTH = 8


def mobilenet_v1(
    images: tf.Tensor,
    num_classes: int,
    training: bool,
    multiplier: Annotated[float, above(0, 4)] = 1.0,
    dropout: layers.Fraction = 0.001,
    decay: layers.Fraction = 0.9997,
    data_format: str = layers.CHANNELS_LAST,
) -> tf.Tensor:
    """Computes logits, [batch, classes], of images, [batch, height, width, depth] of -1..1.

    Args:
      images: of any size; the published weights are for 224 or 128, `--preprocess=inception`.
      num_classes: width of the logits; 1001 of the published weights, 0 being none.
      training: of batch normalization and dropout.
      multiplier: of the number of filters, never below 8.
      dropout: fraction of the last features that is dropped in training.
      decay: of the moving means and variances; 0.9997 takes some ten thousand steps.
      data_format: of the convolutions.
    """
    first = data_format == layers.CHANNELS_FIRST
    normalizer = functools.partial(batch_norm, training=training, decay=decay, epsilon=0.001, scale=True)
    conv = functools.partial(layers.conv2d, activation="relu6", normalizer=normalizer, channels_first=first)
    depthwise = functools.partial(
        layers.depthwise_conv2d, activation="relu6", normalizer=normalizer, channels_first=first
    )

    def depth(filters: int) -> int:
        return max(int(filters * multiplier), MIN_DEPTH)

    x = layers.to_channels_first(images) if first else images
    with tf.variable_scope("MobilenetV1"):
        x = conv(x, depth(32), 3, "Conv2d_0", stride=2)
        for number, (filters, stride) in enumerate(PAIRS, 1):
            x = depthwise(x, 3, f"Conv2d_{number}_depthwise", stride=stride)
            x = conv(x, depth(filters), 1, f"Conv2d_{number}_pointwise")
        x = layers.dropout(layers.global_avg_pool(x, channels_first=first), dropout, training=training)
        with tf.variable_scope("Logits"):
            x = layers.conv2d(x, num_classes, 1, "Conv2d_1c_1x1", activation="none", channels_first=first)
    return tf.reshape(x, [-1, num_classes])
