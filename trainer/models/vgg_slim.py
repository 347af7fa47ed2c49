"""VGG (Simonyan and Zisserman 2015) and AlexNet (Krizhevsky 2014) as TF-Slim has them: dense layers as convolutions."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from trainer.errors import UsageError
from trainer.models import layers
from trainer.tf1 import tf

FILTERS = (64, 128, 256, 512, 512)  # of the blocks
HIDDEN = 4096


def _vgg(
    images: tf.Tensor,
    num_classes: int,
    training: bool,
    dropout: layers.Fraction = 0.5,
    data_format: str = layers.CHANNELS_LAST,
    *,
    name: str,
    repeats: Sequence[int],
) -> tf.Tensor:
    """Computes logits, [batch, classes], of images, [batch, 224, 224, 3], of RGB less its means.

    Args:
      images: of 224 x 224; the published weights are for `--preprocess=vgg` and 1000 classes.
      num_classes: width of the logits.
      training: of dropout.
      dropout: fraction of the hidden units that is dropped in training.
      data_format: of the convolutions.
      name: of the scope.
      repeats: convolutions of each block.
    """
    first = data_format == layers.CHANNELS_FIRST
    conv = functools.partial(layers.conv2d, channels_first=first)
    x = layers.to_channels_first(images) if first else images
    with tf.variable_scope(name):
        for block, (filters, count) in enumerate(zip(FILTERS, repeats, strict=True), 1):
            for number in range(1, count + 1):
                x = conv(x, filters, 3, f"conv{block}/conv{block}_{number}")
            x = layers.max_pool(x, padding="VALID", channels_first=first)
        return _dense_layers(x, images, 7, num_classes, training, dropout, first, name)


def alexnet_v2(
    images: tf.Tensor,
    num_classes: int,
    training: bool,
    dropout: layers.Fraction = 0.5,
    data_format: str = layers.CHANNELS_LAST,
) -> tf.Tensor:
    """Computes logits, [batch, classes], of images, [batch, 224, 224, 3], without local response normalization.

    Args:
      images: of 224 x 224.
      num_classes: width of the logits.
      training: of dropout.
      dropout: fraction of the hidden units that is dropped in training.
      data_format: of the convolutions.
    """
    first = data_format == layers.CHANNELS_FIRST
    conv = functools.partial(layers.conv2d, channels_first=first)
    pool = functools.partial(layers.max_pool, size=3, padding="VALID", channels_first=first)
    x = layers.to_channels_first(images) if first else images
    with tf.variable_scope("alexnet_v2"):
        x = pool(conv(x, 64, 11, "conv1", stride=4, padding="VALID"))
        x = pool(conv(x, 192, 5, "conv2"))
        for number, filters in ((3, 384), (4, 384), (5, 256)):
            x = conv(x, filters, 3, f"conv{number}")
        return _dense_layers(pool(x), images, 5, num_classes, training, dropout, first, "alexnet_v2")


def _dense_layers(
    x: tf.Tensor,
    images: tf.Tensor,
    size: int,
    num_classes: int,
    training: bool,
    dropout: float,
    first: bool,
    name: str,
) -> tf.Tensor:
    """Builds the layers fc6, fc7 and fc8 on x, [batch, size, size, n]: [batch, classes]."""
    sides = [int(side) for side in (x.shape[2:4] if first else x.shape[1:3])]
    if sides != [size, size]:
        height, width = images.shape[1:3]
        raise UsageError(
            f"{name} is for pictures of 224 x 224, not {height} x {width}: end --preprocess with such a crop"
        )
    conv = functools.partial(layers.conv2d, padding="VALID", channels_first=first)
    x = layers.dropout(conv(x, HIDDEN, size, "fc6"), dropout, training=training)
    x = layers.dropout(conv(x, HIDDEN, 1, "fc7"), dropout, training=training)
    return tf.reshape(conv(x, num_classes, 1, "fc8", activation="none"), [-1, num_classes])


vgg_a = functools.partial(_vgg, name="vgg_a", repeats=(1, 1, 2, 2, 2))
vgg_16 = functools.partial(_vgg, name="vgg_16", repeats=(2, 2, 3, 3, 3))
vgg_19 = functools.partial(_vgg, name="vgg_19", repeats=(2, 2, 4, 4, 4))
