"""A network whose first layer is computed from pictures of the training set: it removes their mean."""

import numpy as np
import tensorflow.compat.v1 as tf


def build(images, num_classes, training, sample):
    mean = sample.mean(axis=0)
    offset = tf.get_variable("offset", initializer=mean, trainable=False)
    count = tf.get_variable("count", initializer=np.int32(len(sample)), trainable=False)
    x = tf.reshape(images - offset, [-1, 64]) + 0.0 * tf.cast(count, tf.float32)
    return tf.matmul(x, tf.get_variable("logits", [64, num_classes]))


def mirrored(images, num_classes, training):
    return tf.matmul(tf.reshape(images, [-1, 64]), tf.get_variable("logits", [64, num_classes]))


mirrored.eval_views = "mirror"


def backwards(images, num_classes, training):
    return mirrored(images, num_classes, training)


backwards.eval_views = "backwards"
