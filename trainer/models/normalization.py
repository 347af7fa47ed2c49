"""Normalizations of a layer's outputs, with the variables' names of TF-Slim."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np

from trainer.errors import UsageError
from trainer.tf1 import tf


class CrossMean(NamedTuple):
    """What averages a tower's statistics over all towers."""

    mean: Callable[[tf.Tensor], tf.Tensor]  # float32 [...] of this tower -> the mean, on all towers
    towers: int


_CROSS_MEAN: ContextVar[CrossMean | None] = ContextVar("cross_mean", default=None)


@contextmanager
def statistics_over(cross_mean: CrossMean | None) -> Iterator[None]:
    """Lets `batch_norm` inside normalize by the statistics of all towers; None: by those of this one."""
    before = _CROSS_MEAN.set(cross_mean)
    try:
        yield
    finally:
        _CROSS_MEAN.reset(before)


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
    """Normalizes x by means and variances of its channels (Ioffe and Szegedy 2015).

    y = gamma * (x - mean) / sqrt(variance + epsilon) + beta. In training they are those of the tower's part of the
    batch, or with --batch_norm=sync those of the whole batch, and the moving ones take a part 1 - decay of their mean
    over towers and workers; else, and where the scope is frozen, they are the moving ones.

    Args:
      x: [batch, height, width, n], with `channels_first` [batch, n, height, width]; or [batch, n].
      training: of the network.
      decay: of the moving mean and variance.
      epsilon: see above.
      scale: is there a gamma; else it is 1.
      name: of the scope of beta, gamma, moving_mean and moving_variance.
      channels_first: see x.
    """
    if x.shape.rank == 2:
        pixels = x[:, tf.newaxis, tf.newaxis, :]
        y = batch_norm(pixels, training=training, decay=decay, epsilon=epsilon, scale=scale, name=name)
        return y[:, 0, 0, :]
    order = "NCHW" if channels_first else "NHWC"
    shape = [int(x.shape[order.index("C")])]
    with tf.variable_scope(name):
        beta, gamma, mean, variance = _variables(shape, scale=scale)
        if not training or _is_frozen():
            y, _, _ = tf.nn.fused_batch_norm(
                x, gamma, beta, mean, variance, epsilon=epsilon, data_format=order, is_training=False
            )
            return y
        cross_mean = _CROSS_MEAN.get()
        if cross_mean:
            y, found_mean, found_variance = _synchronized(x, gamma, beta, mean, epsilon, order, cross_mean)
        else:
            y, found_mean, found_variance = tf.nn.fused_batch_norm(x, gamma, beta, epsilon=epsilon, data_format=order)
        for moving, found in ((mean, found_mean), (variance, found_variance)):
            update = moving.assign_sub((moving.read_value() - found) * (1 - decay))
            tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, update)
        return y


def _variables(shape: list[int], *, scale: bool) -> tuple[tf.Variable, ...]:
    """Makes beta, gamma (without `scale` ones), moving mean and variance, in the current scope."""
    zeros, ones = tf.zeros_initializer(), tf.ones_initializer()
    # As an array, because `tf.ones` of a thousand or more is no constant.
    gamma = tf.get_variable("gamma", shape, initializer=ones) if scale else tf.constant(np.ones(shape, np.float32))
    return (
        tf.get_variable("beta", shape, initializer=zeros),
        gamma,
        tf.get_variable("moving_mean", shape, initializer=zeros, trainable=False),
        tf.get_variable("moving_variance", shape, initializer=ones, trainable=False),
    )


def _synchronized(
    x: tf.Tensor,
    gamma: tf.Tensor | tf.Variable,
    beta: tf.Variable,
    moving_mean: tf.Variable,
    epsilon: float,
    order: str,
    cross_mean: CrossMean,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalizes by the means and variances of all towers; returns them too, the latter without bias.

    With dx' = gamma / sigma * dy, what the fused operation gives for given statistics, and means over the whole batch,
    dx = dx' - gamma / sigma * (mean(dy) + y' * mean(dy * y')), where y' = (x - mean) / sigma (Ioffe and Szegedy 2015).
    """
    axes = [axis for axis, name in enumerate(order) if name != "C"]
    along = [-1 if name == "C" else 1 for name in order]
    count = tf.cast(tf.size(x) // int(x.shape[order.index("C")]), tf.float32)  # of this tower

    def forward(
        x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, reference: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable[..., tuple[tf.Tensor | None, ...]]]:
        own_mean = tf.reduce_mean(tf.cast(x, tf.float32), axes)
        centered = tf.cast(x, tf.float32) - tf.reshape(own_mean, along)
        own_variance = tf.reduce_mean(tf.square(centered), axes)
        # Against a number near the mean, which all towers share: squares of large means would take the digits.
        distance = own_mean - reference
        shift, square = tf.unstack(cross_mean.mean(tf.stack([distance, own_variance + tf.square(distance)])))
        mean, variance = reference + shift, tf.maximum(square - tf.square(shift), 0.0)
        given = [tf.stop_gradient(mean), tf.stop_gradient(variance)]
        y, _, _ = tf.nn.fused_batch_norm(x, gamma, beta, *given, epsilon=epsilon, data_format=order, is_training=False)

        def gradient(dy: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
            dx, d_gamma, d_beta = tf.gradients(y, [x, gamma, beta], dy)
            mean_dy, mean_dy_y = tf.unstack(cross_mean.mean(tf.stack([d_beta, d_gamma]) / count))
            inverse = tf.math.rsqrt(variance + epsilon)
            slope = gamma * tf.square(inverse) * mean_dy_y
            offset = gamma * inverse * mean_dy - mean * slope
            change = tf.cast(x, tf.float32) * tf.reshape(slope, along) + tf.reshape(offset, along)
            return dx - tf.cast(change, dx.dtype), d_gamma, d_beta, None

        return (y, mean, variance), gradient

    y, mean, variance = tf.custom_gradient(forward)(
        *(tf.convert_to_tensor(each) for each in (x, gamma, beta, moving_mean))
    )
    every = count * cross_mean.towers
    return y, mean, variance * every / tf.maximum(every - 1, 1.0)


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
