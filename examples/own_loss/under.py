"""A loss of your own: an output that is too small costs more than one that is too large.

python -m trainer --data_dir=data/ages --loss=examples/own_loss/under.py --loss_args=under=9
"""

import tensorflow.compat.v1 as tf


def loss(outputs, targets, under=4.0):
    """Computes the mean cost of each example, [batch], of outputs and targets, [batch, n]."""
    over_by, under_by = outputs - targets, targets - outputs
    return tf.reduce_mean(tf.where(tf.greater(outputs, targets), over_by, under * under_by), 1)
