"""Networks of TF-Slim."""

import tensorflow.compat.v1 as tf
import tf_slim as slim


def build(images, num_classes, is_training, weight_decay=0.001):
    with slim.arg_scope([slim.conv2d, slim.fully_connected], weights_regularizer=slim.l2_regularizer(weight_decay)):
        net = slim.conv2d(images, 8, [3, 3], scope="conv1")
        net = slim.max_pool2d(net, [2, 2], scope="pool1")
        net = slim.flatten(net)
        net = slim.fully_connected(net, 20, scope="fc1")
        logits = slim.fully_connected(net, num_classes, activation_fn=None, scope="logits")
    return logits, {"fc1": net}


def normalized(images, num_classes, is_training, collected=True, decay=0.9):
    updates = tf.GraphKeys.UPDATE_OPS if collected else None
    parameters = {"is_training": is_training, "decay": decay, "updates_collections": updates, "scale": True}
    with slim.arg_scope([slim.conv2d], normalizer_fn=slim.batch_norm, normalizer_params=parameters):
        net = slim.conv2d(images, 8, [3, 3], scope="conv1")
        net = slim.conv2d(net, 8, [3, 3], stride=2, scope="conv2")
    return slim.fully_connected(slim.flatten(net), num_classes, activation_fn=None, scope="logits")
