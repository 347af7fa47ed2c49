"""A network of your own: python -m trainer --model=examples/own_model/my_net.py --model_args=width=32 --num_gpus=2."""

import tensorflow.compat.v1 as tf

from trainer.models import layers


def build(images, num_classes, training, width=16, dropout=0.2):
    """Computes logits, [batch, classes], of images, [batch, height, width, depth]."""
    depth = int(images.shape[3])
    kernel = tf.get_variable("conv/weights", [3, 3, depth, width], initializer=tf.glorot_uniform_initializer())
    x = tf.nn.relu(tf.nn.conv2d(images, kernel, strides=1, padding="SAME"))
    x = tf.reduce_mean(tf.nn.max_pool2d(x, 2, 2, "SAME"), [1, 2])
    x = layers.dropout(x, dropout, training=training)  # Masks that a resumed run draws again.
    weights = tf.get_variable("logits/weights", [width, num_classes], initializer=tf.glorot_uniform_initializer())
    return tf.matmul(x, weights) + tf.get_variable("logits/biases", [num_classes], initializer=tf.zeros_initializer())
