"""Networks of tf.layers."""

import tensorflow.compat.v1 as tf


def build(images, num_classes, training, rate=0.0):
    def decay(weights):
        return 0.001 * tf.nn.l2_loss(weights)

    net = tf.layers.conv2d(images, 8, 3, activation=tf.nn.relu, kernel_regularizer=decay)
    net = tf.layers.max_pooling2d(net, 2, 2)
    net = tf.layers.flatten(net)
    if rate:
        net = tf.layers.dropout(net, rate, training=training)
    return tf.layers.dense(net, num_classes, kernel_regularizer=decay)


def normalized(images, num_classes, training):
    net = tf.layers.conv2d(images, 8, 3)
    net = tf.nn.relu(tf.layers.batch_normalization(net, training=training, momentum=0.9))
    return tf.layers.dense(tf.layers.flatten(net), num_classes)
