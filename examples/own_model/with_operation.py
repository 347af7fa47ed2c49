"""A network with an operation of your own: python -m trainer --model=examples.own_model.with_operation:build."""

import tensorflow.compat.v1 as tf

from examples.own_operation.mish import mish
from trainer.models import layers


def build(images, num_classes, training, width=16):
    """Computes logits, [batch, classes], of images, [batch, height, width, depth]."""
    x = mish(layers.conv2d(images, width, 3, "conv1"))
    x = mish(layers.conv2d(layers.max_pool(x), 2 * width, 3, "conv2"))
    x = layers.flatten(layers.global_avg_pool(x))
    with tf.variable_scope("logits"):
        weights = tf.get_variable("weights", [x.shape[1], num_classes])
        return tf.matmul(x, weights) + tf.get_variable("biases", [num_classes], initializer=tf.zeros_initializer())
