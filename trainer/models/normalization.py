"""Normalizations of a layer's outputs, with the variables' names of TF-Slim."""

from __future__ import annotations

from trainer.errors import UsageError
from trainer.tf1 import tf


def batch_norm(
    x: tf.Tensor,
    *,
    training: bool,
    decay: float = 0.999,
    epsilon: float = 0.001,
    scale: bool = False,
    name: str = "BatchNorm",
    channels_first: bool = False,
) -> tf.Tensor:
    """Normalizes x, [batch, height, width, n], by means and variances of its channels (Ioffe and Szegedy 2015).

    y = gamma * (x - mean) / sqrt(variance + epsilon) + beta. In training they are those of the tower's part of the
    batch, and the moving ones take a part 1 - decay of their mean over towers and workers; else, and where the scope is
    frozen, they are the moving ones.

    Args:
      x: with `channels_first`, [batch, n, height, width].
      training: of the network.
      decay: of the moving mean and variance.
      epsilon: see above.
      scale: is there a gamma; else it is 1.
      name: of the scope of beta, gamma, moving_mean and moving_variance.
      channels_first: see x.
    """
    order = "NCHW" if channels_first else "NHWC"
    shape = [int(x.shape[order.index("C")])]
    with tf.variable_scope(name):
        beta = tf.get_variable("beta", shape, initializer=tf.zeros_initializer())
        gamma = tf.get_variable("gamma", shape, initializer=tf.ones_initializer()) if scale else tf.ones(shape)
        mean, variance = (
            tf.get_variable(f"moving_{what}", shape, initializer=initializer, trainable=False)
            for what, initializer in (("mean", tf.zeros_initializer()), ("variance", tf.ones_initializer()))
        )
        if not training or _is_frozen():
            y, _, _ = tf.nn.fused_batch_norm(
                x, gamma, beta, mean, variance, epsilon=epsilon, data_format=order, is_training=False
            )
            return y
        y, found_mean, found_variance = tf.nn.fused_batch_norm(x, gamma, beta, epsilon=epsilon, data_format=order)
        for moving, found in ((mean, found_mean), (variance, found_variance)):
            update = moving.assign_sub((moving.read_value() - found) * (1 - decay))
            tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, update)
        return y


def _is_frozen() -> bool:
    """Is nothing of the current scope trained? A replica's variables are named as those of the first tower."""
    names = {f"{tf.get_variable_scope().name}/{name}" for name in ("beta", "gamma")}
    return not any(variable.op.name in names for variable in tf.trainable_variables())


def group_norm(
    x: tf.Tensor, *, groups: int = 32, epsilon: float = 1e-5, name: str = "GroupNorm", channels_first: bool = False
) -> tf.Tensor:
    """Normalizes each picture of x by means and variances of groups of its channels (Wu and He 2018).

    y = gamma * (x - mean) / sqrt(variance + epsilon) + beta, in training and else.

    Raises:
      UsageError: the channels do not split into so many groups.
    """
    depth = int(x.shape[1 if channels_first else 3])
    if depth % groups:
        raise UsageError(f"{depth} channels do not split into {groups} groups")
    first = x if channels_first else tf.transpose(x, [0, 3, 1, 2])
    shape = tf.shape(first)
    grouped = tf.cast(tf.reshape(first, [shape[0], groups, depth // groups, shape[2], shape[3]]), tf.float32)
    mean, variance = tf.nn.moments(grouped, [2, 3, 4], keepdims=True)
    with tf.variable_scope(name):
        beta = tf.get_variable("beta", [depth], initializer=tf.zeros_initializer())
        gamma = tf.get_variable("gamma", [depth], initializer=tf.ones_initializer())
    normal = tf.reshape((grouped - mean) * tf.math.rsqrt(variance + epsilon), shape)
    y = tf.cast(normal * tf.reshape(gamma, [1, depth, 1, 1]) + tf.reshape(beta, [1, depth, 1, 1]), x.dtype)
    y.set_shape(first.shape)
    return y if channels_first else tf.transpose(y, [0, 2, 3, 1])
