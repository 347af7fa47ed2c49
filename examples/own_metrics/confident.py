"""Metrics of your own: how often the network is right where it is sure.

python -m trainer --metrics=examples/own_metrics/confident.py --best=confident_and_right:max --keep_best
"""

import tensorflow.compat.v1 as tf


def metrics(logits, labels):
    """Computes metrics of each example, [batch]; the trainer averages them over a split, each example once."""
    probabilities = tf.nn.softmax(logits)
    confident = tf.cast(tf.reduce_max(probabilities, 1) > 0.9, tf.float32)
    right = tf.cast(tf.equal(tf.argmax(logits, 1, output_type=tf.int32), labels), tf.float32)
    return {"confident": confident, "confident_and_right": confident * right}
