"""Inception v1 (Szegedy et al. 2014) and v3 (2016), with the variables of TF-Slim's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from trainer.errors import UsageError
from trainer.models import layers
from trainer.models.normalization import batch_norm
from trainer.tf1 import tf

# Of v1: module, then filters of its branches: 1x1; 1x1 and 3x3; 1x1 and 3x3; 1x1 behind the pool.
MODULES_V1 = (
    ("3b", 64, 96, 128, 16, 32, 32),
    ("3c", 128, 128, 192, 32, 96, 64),
    ("4b", 192, 96, 208, 16, 48, 64),
    ("4c", 160, 112, 224, 24, 64, 64),
    ("4d", 128, 128, 256, 24, 64, 64),
    ("4e", 112, 144, 288, 32, 64, 64),
    ("4f", 256, 160, 320, 32, 128, 128),
    ("5b", 256, 160, 320, 32, 128, 128),
    ("5c", 384, 192, 384, 48, 128, 128),
)
MIN_SIZE_V3 = 107  # of which the auxiliary head gets a picture of 5 x 5
Step = tuple[Any, ...]  # (name, filters, size) of a convolution, or (name, filters, size, stride)


class _Layers:
    """The layers of one network."""

    def __init__(self, training: bool, decay: float, data_format: str) -> None:
        self.first = data_format == layers.CHANNELS_FIRST
        self.channels = 1 if self.first else 3
        normalizer = functools.partial(batch_norm, training=training, decay=decay, epsilon=0.001)
        self.conv = functools.partial(layers.conv2d, normalizer=normalizer, channels_first=self.first)
        self.plain = functools.partial(layers.conv2d, activation="none", channels_first=self.first)
        self.max_pool = functools.partial(layers.max_pool, size=3, channels_first=self.first)
        self.avg_pool = functools.partial(layers.avg_pool, channels_first=self.first)

    def branch(self, number: int, x: tf.Tensor, *steps: Step) -> tf.Tensor:
        """Convolves x step by step; with a stride, without padding."""
        with tf.variable_scope(f"Branch_{number}"):
            for name, filters, size, *stride in steps:
                x = self.conv(
                    x, filters, size, name, stride=stride[0] if stride else 1, padding="VALID" if stride else "SAME"
                )
            return x

    def split(self, x: tf.Tensor, one: Step, other: Step) -> tf.Tensor:
        """Convolves x by two kernels side by side."""
        return tf.concat([self.conv(x, filters, size, name) for name, filters, size in (one, other)], self.channels)

    def mixed(self, name: str, *branches: Callable[[], tf.Tensor]) -> tf.Tensor:
        with tf.variable_scope(f"Mixed_{name}"):
            return tf.concat([build() for build in branches], self.channels)


def inception_v1(
    images: tf.Tensor,
    num_classes: int,
    training: bool,
    dropout: layers.Fraction = 0.2,
    decay: layers.Fraction = 0.9997,
    data_format: str = layers.CHANNELS_LAST,
) -> tf.Tensor:
    """Computes logits, [batch, classes], of images, [batch, height, width, 3] of -1..1.

    Args:
      images: of any size; the published weights are for 224, `--preprocess=inception`, 1001 classes, 0 being none.
      num_classes: width of the logits.
      training: of batch normalization and dropout.
      dropout: fraction of the last features that is dropped in training.
      decay: of the moving means and variances.
      data_format: of the convolutions.
    """
    net = _Layers(training, decay, data_format)
    x = layers.to_channels_first(images) if net.first else images
    with tf.variable_scope("InceptionV1"):
        x = net.max_pool(net.conv(x, 64, 7, "Conv2d_1a_7x7", stride=2))
        x = net.conv(net.conv(x, 64, 1, "Conv2d_2b_1x1"), 192, 3, "Conv2d_2c_3x3")
        x = net.max_pool(x)
        for name, *filters in MODULES_V1:
            if name == "4b":
                x = net.max_pool(x)
            if name == "5b":
                x = net.max_pool(x, size=2)
            x = _module_v1(net, x, name, filters)
        x = layers.dropout(layers.global_avg_pool(x, channels_first=net.first), dropout, training=training)
        x = net.plain(x, num_classes, 1, "Logits/Conv2d_0c_1x1")
    return tf.reshape(x, [-1, num_classes])


def _module_v1(net: _Layers, x: tf.Tensor, name: str, filters: Sequence[int]) -> tf.Tensor:
    one, three_in, three, five_in, five, pool = filters
    second = "Conv2d_0a_3x3" if name == "5b" else "Conv2d_0b_3x3"  # The published name.
    return net.mixed(
        name,
        lambda: net.branch(0, x, ("Conv2d_0a_1x1", one, 1)),
        lambda: net.branch(1, x, ("Conv2d_0a_1x1", three_in, 1), ("Conv2d_0b_3x3", three, 3)),
        lambda: net.branch(2, x, ("Conv2d_0a_1x1", five_in, 1), (second, five, 3)),
        lambda: net.branch(3, net.max_pool(x, stride=1), ("Conv2d_0b_1x1", pool, 1)),
    )


def inception_v3(
    images: tf.Tensor,
    num_classes: int,
    training: bool,
    dropout: layers.Fraction = 0.2,
    decay: layers.Fraction = 0.9997,
    data_format: str = layers.CHANNELS_LAST,
) -> dict[str, tf.Tensor]:
    """Computes `logits` and `aux_logits`, [batch, classes], of images, [batch, height, width, 3] of -1..1.

    Args:
      images: of at least 107 x 107; the published weights are for 299,
        `--preprocess='inception(299)'`, 1001 classes, 0 being none.
      num_classes: width of the logits.
      training: of batch normalization and dropout.
      dropout: fraction of the last features that is dropped in training.
      decay: of the moving means and variances.
      data_format: of the convolutions.
    """
    height, width = (int(side) for side in images.shape[1:3])
    if min(height, width) < MIN_SIZE_V3:
        raise UsageError(
            f"inception_v3 is for pictures of {MIN_SIZE_V3} x {MIN_SIZE_V3} or more, not {height} x {width}"
        )
    net = _Layers(training, decay, data_format)
    x = layers.to_channels_first(images) if net.first else images
    with tf.variable_scope("InceptionV3"):
        x = _stem_v3(net, x)
        for name, pool in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = _wide_v3(net, x, name, pool)
        x = _first_reduction_v3(net, x)
        for name, filters in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = _long_v3(net, x, name, filters)
        auxiliary = _auxiliary_v3(net, x, num_classes)
        x = _second_reduction_v3(net, x)
        for name, third in (("7b", "Conv2d_0b_3x1"), ("7c", "Conv2d_0c_3x1")):
            x = _split_v3(net, x, name, third)
        x = layers.dropout(layers.global_avg_pool(x, channels_first=net.first), dropout, training=training)
        x = net.plain(x, num_classes, 1, "Logits/Conv2d_1c_1x1")
    return {"logits": tf.reshape(x, [-1, num_classes]), "aux_logits": auxiliary}


def _stem_v3(net: _Layers, x: tf.Tensor) -> tf.Tensor:
    x = net.conv(x, 32, 3, "Conv2d_1a_3x3", stride=2, padding="VALID")
    x = net.conv(x, 32, 3, "Conv2d_2a_3x3", padding="VALID")
    x = net.max_pool(net.conv(x, 64, 3, "Conv2d_2b_3x3"), padding="VALID")
    x = net.conv(x, 80, 1, "Conv2d_3b_1x1", padding="VALID")
    return net.max_pool(net.conv(x, 192, 3, "Conv2d_4a_3x3", padding="VALID"), padding="VALID")


def _wide_v3(net: _Layers, x: tf.Tensor, name: str, pool: int) -> tf.Tensor:
    # The published names of 5c's second branch.
    first, second = ("Conv2d_0b_1x1", "Conv_1_0c_5x5") if name == "5c" else ("Conv2d_0a_1x1", "Conv2d_0b_5x5")
    return net.mixed(
        name,
        lambda: net.branch(0, x, ("Conv2d_0a_1x1", 64, 1)),
        lambda: net.branch(1, x, (first, 48, 1), (second, 64, 5)),
        lambda: net.branch(2, x, ("Conv2d_0a_1x1", 64, 1), ("Conv2d_0b_3x3", 96, 3), ("Conv2d_0c_3x3", 96, 3)),
        lambda: net.branch(3, net.avg_pool(x, size=3, stride=1), ("Conv2d_0b_1x1", pool, 1)),
    )


def _first_reduction_v3(net: _Layers, x: tf.Tensor) -> tf.Tensor:
    # What is called 1x1 is 3x3.
    return net.mixed(
        "6a",
        lambda: net.branch(0, x, ("Conv2d_1a_1x1", 384, 3, 2)),
        lambda: net.branch(1, x, ("Conv2d_0a_1x1", 64, 1), ("Conv2d_0b_3x3", 96, 3), ("Conv2d_1a_1x1", 96, 3, 2)),
        lambda: net.max_pool(x, padding="VALID"),
    )


def _long_v3(net: _Layers, x: tf.Tensor, name: str, n: int) -> tf.Tensor:
    return net.mixed(
        name,
        lambda: net.branch(0, x, ("Conv2d_0a_1x1", 192, 1)),
        lambda: net.branch(1, x, ("Conv2d_0a_1x1", n, 1), ("Conv2d_0b_1x7", n, (1, 7)), ("Conv2d_0c_7x1", 192, (7, 1))),
        lambda: net.branch(
            2,
            x,
            ("Conv2d_0a_1x1", n, 1),
            ("Conv2d_0b_7x1", n, (7, 1)),
            ("Conv2d_0c_1x7", n, (1, 7)),
            ("Conv2d_0d_7x1", n, (7, 1)),
            ("Conv2d_0e_1x7", 192, (1, 7)),
        ),
        lambda: net.branch(3, net.avg_pool(x, size=3, stride=1), ("Conv2d_0b_1x1", 192, 1)),
    )


def _second_reduction_v3(net: _Layers, x: tf.Tensor) -> tf.Tensor:
    return net.mixed(
        "7a",
        lambda: net.branch(0, x, ("Conv2d_0a_1x1", 192, 1), ("Conv2d_1a_3x3", 320, 3, 2)),
        lambda: net.branch(
            1,
            x,
            ("Conv2d_0a_1x1", 192, 1),
            ("Conv2d_0b_1x7", 192, (1, 7)),
            ("Conv2d_0c_7x1", 192, (7, 1)),
            ("Conv2d_1a_3x3", 192, 3, 2),
        ),
        lambda: net.max_pool(x, padding="VALID"),
    )


def _split_v3(net: _Layers, x: tf.Tensor, name: str, third: str) -> tf.Tensor:
    def second() -> tf.Tensor:
        y = net.branch(1, x, ("Conv2d_0a_1x1", 384, 1))
        with tf.variable_scope("Branch_1"):
            return net.split(y, ("Conv2d_0b_1x3", 384, (1, 3)), (third, 384, (3, 1)))

    def deep() -> tf.Tensor:
        y = net.branch(2, x, ("Conv2d_0a_1x1", 448, 1), ("Conv2d_0b_3x3", 384, 3))
        with tf.variable_scope("Branch_2"):
            return net.split(y, ("Conv2d_0c_1x3", 384, (1, 3)), ("Conv2d_0d_3x1", 384, (3, 1)))

    return net.mixed(
        name,
        lambda: net.branch(0, x, ("Conv2d_0a_1x1", 320, 1)),
        second,
        deep,
        lambda: net.branch(3, net.avg_pool(x, size=3, stride=1), ("Conv2d_0b_1x1", 192, 1)),
    )


def _auxiliary_v3(net: _Layers, x: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Computes logits of Mixed_6e; the second kernel is as large as the picture, 5 x 5 of 299."""
    with tf.variable_scope("AuxLogits"):
        x = net.avg_pool(x, size=5, stride=3, padding="VALID")
        x = net.conv(x, 128, 1, "Conv2d_1b_1x1")
        sides = tuple(int(side) for side in (x.shape[2:4] if net.first else x.shape[1:3]))
        size = (min(sides[0], 5), min(sides[1], 5))
        x = net.conv(x, 768, size, f"Conv2d_2a_{size[0]}x{size[1]}", padding="VALID")
        x = net.plain(x, num_classes, 1, "Conv2d_2b_1x1")
    return tf.reduce_mean(x, [2, 3] if net.first else [1, 2])
