"""Layers on `tf.nn` and `get_variable`, since `tf.layers` does not exist beside Keras 3.

The names of their variables, `SCOPE/weights` and `SCOPE/biases`, are public: checkpoints hold them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from trainer.tf1 import tf

Dropout = Callable[[tf.Tensor, float], tf.Tensor]  # (x, fraction to drop) -> x of the same shape


def dense(
    x: tf.Tensor, units: int, name: str, *, activation: Callable[[tf.Tensor], tf.Tensor] | None = tf.nn.relu
) -> tf.Tensor:
    """Multiplies x, [batch, n], with weights and adds biases: [batch, units], of the type of x."""
    with tf.variable_scope(name):
        weights, biases = _parameters([int(x.shape[1]), units], x.dtype, relu=activation is not None)
        y = tf.nn.bias_add(tf.matmul(x, weights), biases)
        return activation(y) if activation else y


def conv2d(x: tf.Tensor, filters: int, size: int, name: str, *, channels_first: bool = False) -> tf.Tensor:
    """Convolves x, [batch, height, width, n], with padding, then ReLU: [batch, height, width, filters], type of x.

    With `channels_first`, [batch, n, height, width] to [batch, filters, height, width].
    """
    order = "NCHW" if channels_first else "NHWC"
    with tf.variable_scope(name):
        depth = int(x.shape[order.index("C")])
        weights, biases = _parameters([size, size, depth, filters], x.dtype, relu=True)
        y = tf.nn.conv2d(x, weights, strides=1, padding="SAME", data_format=order)
        return tf.nn.relu(tf.nn.bias_add(y, biases, data_format=order))


def max_pool(x: tf.Tensor, *, channels_first: bool = False) -> tf.Tensor:
    """Halves height and width, rounded up, by the largest of 2x2."""
    order = "NCHW" if channels_first else "NHWC"
    return tf.nn.max_pool2d(x, ksize=2, strides=2, padding="SAME", data_format=order)


def to_channels_first(x: tf.Tensor) -> tf.Tensor:
    """Moves the channels of [batch, height, width, n] before height and width."""
    return tf.transpose(x, [0, 3, 1, 2])


def to_channels_last(x: tf.Tensor) -> tf.Tensor:
    """Moves the channels of [batch, n, height, width] behind height and width."""
    return tf.transpose(x, [0, 2, 3, 1])


def flatten(x: tf.Tensor) -> tf.Tensor:
    """Reshapes [batch, ...] to [batch, n]."""
    return tf.reshape(x, [-1, int(np.prod(x.shape[1:].as_list()))])


def no_dropout(x: tf.Tensor, fraction: float) -> tf.Tensor:
    """Is dropout outside training: nothing is dropped, nothing scaled."""
    return x


def make_dropout(seed: int, step: tf.Tensor) -> Dropout:
    """Makes a dropout whose masks follow from seed, step (int64 []) and the order of its calls alone."""
    calls = 0

    def dropout(x: tf.Tensor, fraction: float) -> tf.Tensor:
        nonlocal calls
        calls += 1
        if not fraction:
            return x
        return tf.nn.experimental.stateless_dropout(x, rate=fraction, seed=tf.stack([np.int64(seed) + calls, step]))

    return dropout


def _parameters(shape: list[int], dtype: tf.DType, *, relu: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Makes float32 weights and biases; returns them as the type of the layer's input."""
    collections = [tf.GraphKeys.GLOBAL_VARIABLES, tf.GraphKeys.MODEL_VARIABLES]
    weights = tf.get_variable("weights", shape, initializer=_initializer(relu), collections=collections)
    biases = tf.get_variable(
        "biases",
        shape[-1:],
        initializer=tf.zeros_initializer(),
        regularizer=tf.no_regularizer,
        collections=collections,
    )
    return tf.cast(weights, dtype), tf.cast(biases, dtype)


def _initializer(relu: bool) -> tf.keras.initializers.Initializer:
    """Draws from a truncated normal of variance 2/fan_in before a ReLU (He et al. 2015), else 1/fan_in."""
    # The seed comes from the name: with TensorFlow's counter of operations, a second tower would change the weights.
    seed = zlib.crc32(tf.get_variable_scope().name.encode()) & 0x7FFFFFFF
    return tf.variance_scaling_initializer(scale=2.0 if relu else 1.0, mode="fan_in", seed=seed)
