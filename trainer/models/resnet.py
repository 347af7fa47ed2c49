"""ResNets: of version 1 and 2 for ImageNet, with the variables of TF-Slim's, and those for CIFAR."""

from __future__ import annotations

import functools

from trainer.models import layers
from trainer.models.normalization import batch_norm
from trainer.tf1 import tf

# Bottlenecks of each block, by the number of layers.
UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STRIDES = (2, 2, 2, 1)  # of the last bottleneck of each block


class _Layers:
    """The layers of one network."""

    def __init__(self, training: bool, decay: float, data_format: str) -> None:
        self.first = data_format == layers.CHANNELS_FIRST
        self.norm = functools.partial(batch_norm, training=training, decay=decay, epsilon=1e-5, scale=True)
        self.conv = functools.partial(layers.conv2d, normalizer=self.norm, channels_first=self.first)
        self.plain = functools.partial(layers.conv2d, activation="none", channels_first=self.first)

    def depth(self, x: tf.Tensor) -> int:
        return int(x.shape[1 if self.first else 3])

    def subsample(self, x: tf.Tensor, stride: int) -> tf.Tensor:
        """Takes every stride-th pixel."""
        return x if stride == 1 else layers.max_pool(x, size=1, stride=stride, channels_first=self.first)

    def bottleneck_v1(self, x: tf.Tensor, base: int, stride: int) -> tf.Tensor:
        """Adds three convolutions to x, then ReLU (He et al. 2015; the stride is that of the second of them)."""
        with tf.variable_scope("bottleneck_v1"):
            if self.depth(x) == 4 * base:
                shortcut = self.subsample(x, stride)
            else:
                shortcut = self.conv(x, 4 * base, 1, "shortcut", stride=stride, activation="none")
            y = self.conv(x, base, 1, "conv1")
            y = self.conv(y, base, 3, "conv2", stride=stride, padding=layers.SAME_SLIM)
            return tf.nn.relu(shortcut + self.conv(y, 4 * base, 1, "conv3", activation="none"))

    def bottleneck_v2(self, x: tf.Tensor, base: int, stride: int) -> tf.Tensor:
        """Adds three convolutions of the normalized x to x (He et al. 2016, "Identity mappings")."""
        with tf.variable_scope("bottleneck_v2"):
            before = tf.nn.relu(self.norm(x, name="preact", channels_first=self.first))
            if self.depth(x) == 4 * base:
                shortcut = self.subsample(x, stride)
            else:
                shortcut = self.plain(before, 4 * base, 1, "shortcut", stride=stride)
            y = self.conv(before, base, 1, "conv1")
            y = self.conv(y, base, 3, "conv2", stride=stride, padding=layers.SAME_SLIM)
            return shortcut + self.plain(y, 4 * base, 1, "conv3")


def _resnet(
    images: tf.Tensor,
    num_classes: int,
    training: bool,
    decay: layers.Fraction = 0.997,
    data_format: str = layers.CHANNELS_LAST,
    *,
    version: int,
    depth: int,
) -> tf.Tensor:
    """Computes logits, [batch, classes], of images, [batch, height, width, 3].

    Args:
      images: of any size; the published weights of version 1 are for 224 and `--preprocess=vgg`, 1000 classes; of
        version 2 for 299 and `--preprocess=inception`, 1001 classes, 0 being none.
      num_classes: width of the logits.
      training: of batch normalization.
      decay: of the moving means and variances.
      data_format: of the convolutions.
      version: 1, or 2, with the normalization before the convolutions.
      depth: layers, of UNITS.
    """
    net = _Layers(training, decay, data_format)
    unit = net.bottleneck_v1 if version == 1 else net.bottleneck_v2
    x = layers.to_channels_first(images) if net.first else images
    with tf.variable_scope(f"resnet_v{version}_{depth}"):
        first = net.conv if version == 1 else net.plain
        x = first(x, 64, 7, "conv1", stride=2, padding=layers.SAME_SLIM)
        x = layers.max_pool(x, size=3, stride=2, channels_first=net.first)
        for block, (units, stride) in enumerate(zip(UNITS[depth], STRIDES, strict=True)):
            for number in range(1, units + 1):
                with tf.variable_scope(f"block{block + 1}/unit_{number}"):
                    x = unit(x, 64 << block, stride if number == units else 1)
        if version == 2:
            x = tf.nn.relu(net.norm(x, name="postnorm", channels_first=net.first))
        x = net.plain(layers.global_avg_pool(x, channels_first=net.first), num_classes, 1, "logits")
    return tf.reshape(x, [-1, num_classes])


def _cifar_resnet(
    images: tf.Tensor,
    num_classes: int,
    training: bool,
    decay: layers.Fraction = 0.99,
    data_format: str = layers.CHANNELS_LAST,
    *,
    depth: int,
) -> tf.Tensor:
    """Computes logits, [batch, classes], of small images, as 32 x 32 (He et al. 2015, section 4.2).

    Three stages of (depth - 2) / 6 pairs of 3x3 convolutions, of 16, 32 and 64 filters; where their number grows the
    shortcut is the mean of 2x2, with channels of zeros (option A).

    Args:
      images: of any size.
      num_classes: width of the logits.
      training: of batch normalization.
      decay: of the moving means and variances.
      data_format: of the convolutions.
      depth: layers: 20, 32, 44, 56 or 110.
    """
    net = _Layers(training, decay, data_format)
    x = layers.to_channels_first(images) if net.first else images
    with tf.variable_scope(f"resnet{depth}"):
        x = net.conv(x, 16, 3, "conv1")
        for stage in range(3):
            for number in range(1, (depth - 2) // 6 + 1):
                with tf.variable_scope(f"stage{stage + 1}/unit_{number}"):
                    x = _pair(net, x, 16 << stage, 2 if stage and number == 1 else 1)
        x = layers.flatten(layers.global_avg_pool(x, channels_first=net.first))
        return layers.dense(x, num_classes, "logits", activation="none")


def _pair(net: _Layers, x: tf.Tensor, filters: int, stride: int) -> tf.Tensor:
    y = net.conv(x, filters, 3, "conv1", stride=stride)
    y = net.conv(y, filters, 3, "conv2", activation="none")
    if stride > 1:
        x = layers.avg_pool(x, size=2, stride=2, channels_first=net.first)
        more = filters - net.depth(x)
        channels = (more // 2, more - more // 2)
        x = tf.pad(x, [(0, 0), channels, (0, 0), (0, 0)] if net.first else [(0, 0), (0, 0), (0, 0), channels])
    return tf.nn.relu(x + y)


resnet_v1_50 = functools.partial(_resnet, version=1, depth=50)
resnet_v1_101 = functools.partial(_resnet, version=1, depth=101)
resnet_v1_152 = functools.partial(_resnet, version=1, depth=152)
resnet_v2_50 = functools.partial(_resnet, version=2, depth=50)
resnet_v2_101 = functools.partial(_resnet, version=2, depth=101)
resnet_v2_152 = functools.partial(_resnet, version=2, depth=152)
resnet20 = functools.partial(_cifar_resnet, depth=20)
resnet32 = functools.partial(_cifar_resnet, depth=32)
resnet44 = functools.partial(_cifar_resnet, depth=44)
resnet56 = functools.partial(_cifar_resnet, depth=56)
resnet110 = functools.partial(_cifar_resnet, depth=110)
