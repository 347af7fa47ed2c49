"""Layers on `tf.nn` and `get_variable`, since `tf.layers` does not exist beside Keras 3.

The names of their variables, `SCOPE/weights` and `SCOPE/biases`, are public: checkpoints hold them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated

import numpy as np

from trainer.errors import UsageError, unknown_name
from trainer.settings.fields import FRACTION, Legal
from trainer.tf1 import tf

CHANNELS_FIRST, CHANNELS_LAST = "channels_first", "channels_last"
ACTIVATIONS = {"none": tf.identity, "relu": tf.nn.relu, "sigmoid": tf.sigmoid, "tanh": tf.tanh}
ACTIVATION = Legal(lambda name: name in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
Fraction = Annotated[float, FRACTION]  # of what is dropped


def dense(x: tf.Tensor, units: int, name: str, *, activation: str = "relu") -> tf.Tensor:
    """Multiplies x, [batch, n], with weights and adds biases: [batch, units], of the type of x.

    `activation` is one of ACTIVATIONS.
    """
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    with tf.variable_scope(name):
        weights, biases = _parameters([int(x.shape[1]), units], x.dtype, relu=activation == "relu")
        y = tf.nn.bias_add(tf.matmul(x, weights), biases)
        return y if activation == "none" else ACTIVATIONS[activation](y)


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


def layout(data_format: str, device: str) -> str:
    """Reads --data_format for a device: CHANNELS_FIRST or CHANNELS_LAST."""
    first = data_format == CHANNELS_FIRST or (data_format == "auto" and device.startswith("/gpu"))
    return CHANNELS_FIRST if first else CHANNELS_LAST


def to_channels_first(x: tf.Tensor) -> tf.Tensor:
    """Moves the channels of [batch, height, width, n] before height and width."""
    return tf.transpose(x, [0, 3, 1, 2])


def to_channels_last(x: tf.Tensor) -> tf.Tensor:
    """Moves the channels of [batch, n, height, width] behind height and width."""
    return tf.transpose(x, [0, 2, 3, 1])


def flatten(x: tf.Tensor) -> tf.Tensor:
    """Reshapes [batch, ...] to [batch, n]."""
    return tf.reshape(x, [-1, int(np.prod(x.shape[1:].as_list()))])


class _Masks:
    """Where the masks of a model come from, which is being built."""

    def __init__(self, seed: int, draw: tf.Tensor) -> None:
        self._seed, self._draw, self._calls = seed, draw, 0

    def next_seed(self) -> tf.Tensor:
        """Returns the seed of the next mask: int64 [2]."""
        self._calls += 1
        return tf.stack([np.int64(self._seed) + self._calls, self._draw])


_MASKS: ContextVar[_Masks | None] = ContextVar("masks", default=None)


@contextmanager
def masks_from(seed: int, draw: tf.Tensor | None) -> Iterator[None]:
    """Lets masks of the model that is built inside follow from seed, draw and the order of its layers alone.

    Args:
      seed: of the run.
      draw: int64 [], another number for each step and tower; None: nothing may be dropped.
    """
    before = _MASKS.set(None if draw is None else _Masks(seed, draw))
    try:
        yield
    finally:
        _MASKS.reset(before)


def dropout(x: tf.Tensor, rate: float, *, training: bool) -> tf.Tensor:
    """Sets a fraction `rate` of x to 0 in training, and scales the rest by 1 / (1 - rate) (Srivastava et al. 2014).

    The masks follow from the seed of the run, the step and the tower: a run that is resumed draws what it would have
    drawn.

    Raises:
      UsageError: the rate is no fraction, or nobody has said where masks come from.
    """
    if not FRACTION.holds(rate):
        raise UsageError(f"dropout of {rate} is out of range: {FRACTION.text}")
    if not training:
        return x
    masks = _MASKS.get()
    if masks is None:
        raise UsageError("layers.dropout in training is of models that the trainer builds")
    seed = masks.next_seed()
    return tf.nn.experimental.stateless_dropout(x, rate=rate, seed=seed) if rate else x


def _parameters(shape: list[int], dtype: tf.DType, *, relu: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Makes float32 weights and biases; returns them as the type of the layer's input."""
    weights = tf.get_variable("weights", shape, initializer=_initializer(relu))
    biases = tf.get_variable("biases", shape[-1:], initializer=tf.zeros_initializer())
    return tf.cast(weights, dtype), tf.cast(biases, dtype)


def _initializer(relu: bool) -> tf.keras.initializers.Initializer:
    """Draws from a truncated normal of variance 2/fan_in before a ReLU (He et al. 2015), else 1/fan_in."""
    # The seed comes from the name: with TensorFlow's counter of operations, a second tower would change the weights.
    seed = zlib.crc32(tf.get_variable_scope().name.encode()) & 0x7FFFFFFF
    return tf.variance_scaling_initializer(scale=2.0 if relu else 1.0, mode="fan_in", seed=seed)
