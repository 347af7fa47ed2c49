"""A network in the style of the classic MNIST tutorials, as it was written for TF1."""

import tensorflow.compat.v1 as tf

LAYER1_NODE = 50


def inference(input_tensor, num_classes, regularizer=None, reuse=None):
    with tf.name_scope("layer1"):
        shape = [input_tensor.shape[1] * input_tensor.shape[2] * input_tensor.shape[3], LAYER1_NODE]
        weights = tf.Variable(tf.random_normal(shape, stddev=0.1), name="weights")
        biases = tf.Variable(tf.constant(0.1, shape=[LAYER1_NODE]))
        if regularizer is not None:
            tf.add_to_collection("losses", regularizer(weights))
        layer1 = tf.nn.relu(tf.matmul(tf.reshape(input_tensor, [-1, shape[0]]), weights) + biases)
    weights = tf.Variable(tf.truncated_normal([LAYER1_NODE, num_classes], stddev=0.1, seed=7))
    biases = tf.Variable(tf.zeros([num_classes]))
    if regularizer is not None:
        tf.add_to_collection("losses", regularizer(weights))
    return tf.matmul(layer1, weights) + biases


def averaging(input_tensor, num_classes):
    """The same, with variables that no gradient trains."""
    logits = inference(input_tensor, num_classes)
    mean = tf.Variable(tf.zeros([num_classes]), trainable=False, name="mean")
    steps = tf.Variable(0, trainable=False, name="steps")
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign(mean, 0.9 * mean + 0.1 * tf.reduce_mean(logits, 0)))
    with tf.control_dependencies([tf.assign_add(steps, 1)]):
        return tf.identity(logits)
