"""A network with batch normalization by the public layers."""

import functools

import tensorflow.compat.v1 as tf

from trainer.models import layers
from trainer.models.normalization import batch_norm


def build(images, num_classes, training, width=8, rate=0.0):
    normalizer = functools.partial(batch_norm, training=training, decay=0.9, scale=True)
    net = layers.conv2d(images, width, 3, "conv1", normalizer=normalizer)
    net = layers.avg_pool(net)  # Of equal pixels, rounding would choose the largest.
    net = layers.conv2d(net, 2 * width, 3, "conv2", normalizer=normalizer)
    net = layers.dropout(layers.flatten(net), rate, training=training)
    return layers.dense(net, num_classes, "logits", activation="none")


def flat(images, num_classes, training):
    net = batch_norm(layers.flatten(images), training=training, decay=0.9, scale=True)
    return layers.dense(net, num_classes, "logits", activation="none")


def by_moments(images, num_classes, training):
    mean, variance = tf.nn.moments(images, [0])
    return build((images - mean) / tf.sqrt(variance + 0.1), num_classes, training)


def mean_at_the_root(images, num_classes, training):
    """Its variable has the name of an operation that came before."""
    x = images - tf.reduce_mean(images, [1, 2, 3], keepdims=True)
    return build(x * tf.get_variable("mean", [1]) + tf.Variable(tf.ones([1]), name="sub"), num_classes, training)


def unlike(images, num_classes, training):
    """Normalizes in the first tower alone."""
    if "tower_0" in tf.get_default_graph().get_name_scope():
        images = batch_norm(images, training=training)
    with tf.variable_scope("", reuse=tf.AUTO_REUSE):
        for name in ("beta", "moving_mean", "moving_variance"):
            tf.get_variable(f"BatchNorm/{name}", [1], trainable=name == "beta")
    return build(images, num_classes, training, width=1)
