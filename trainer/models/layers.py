"""Layers on `tf.nn` and `get_variable`, since `tf.layers` does not exist beside Keras 3.

The names of their variables, `SCOPE/weights` and `SCOPE/biases`, are public: checkpoints hold them. They are TF-Slim's.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated

import numpy as np

from trainer.errors import UsageError, unknown_name
from trainer.settings.fields import FRACTION, Legal
from trainer.tf1 import tf

CHANNELS_FIRST, CHANNELS_LAST = "channels_first", "channels_last"
ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "none": lambda x: x,
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "leaky_relu": tf.nn.leaky_relu,
    "elu": tf.nn.elu,
    "swish": tf.nn.swish,
    "sigmoid": tf.sigmoid,
    "tanh": tf.tanh,
}
RECTIFIERS = ("relu", "relu6", "leaky_relu", "elu", "swish")  # which halve the variance of what they get
ACTIVATION = Legal(lambda name: name in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
Fraction = Annotated[float, FRACTION]  # of what is dropped
Normalizer = Callable[..., tf.Tensor]  # (x, channels_first=) -> x, as `functools.partial(batch_norm, training=...)`
SAME, VALID, SAME_SLIM = "SAME", "VALID", "SAME_SLIM"


def dense(x: tf.Tensor, units: int, name: str, *, activation: str = "relu") -> tf.Tensor:
    """Multiplies x, [batch, n], with NAME/weights and adds NAME/biases: [batch, units], of the type of x.

    `activation` is one of ACTIVATIONS.
    """
    act = _activation(activation)
    with tf.variable_scope(name):
        weights = _weights("weights", [int(x.shape[1]), units], x.dtype, activation)
        return act(tf.nn.bias_add(tf.matmul(x, weights), _biases(units, x.dtype)))


def conv2d(
    x: tf.Tensor,
    filters: int,
    size: int | tuple[int, int],
    name: str,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: str = SAME,
    activation: str = "relu",
    normalizer: Normalizer | None = None,
    channels_first: bool = False,
) -> tf.Tensor:
    """Convolves x, [batch, height, width, n], with NAME/weights: [batch, height, width, filters], of the type of x.

    Args:
      x: with `channels_first`, [batch, n, height, width], and so is the result.
      filters: of the result.
      size: of the kernel, or its height and width.
      name: of the variables' scope.
      stride: in both directions.
      dilation: distance of the kernel's elements.
      groups: of channels, each convolved by itself.
      padding: SAME, as TensorFlow pads; VALID, not at all; SAME_SLIM, as TF-Slim's `conv2d_same` does where the stride
        is above 1: the effective size of the kernel less one in all, the smaller half in front.
      activation: one of ACTIVATIONS.
      normalizer: in the place of NAME/biases.
      channels_first: see x.
    """
    act = _activation(activation)
    order, height_width = _order(channels_first), (size, size) if isinstance(size, int) else size
    with tf.variable_scope(name):
        depth = int(x.shape[order.index("C")])
        weights = _weights("weights", [*height_width, depth // groups, filters], x.dtype, activation)
        x, kind = _padded(x, height_width, stride, dilation, padding, order)
        y = tf.nn.conv2d(x, weights, strides=stride, padding=kind, data_format=order, dilations=dilation)
        return act(_normalized(y, filters, normalizer, order))


def depthwise_conv2d(
    x: tf.Tensor,
    size: int,
    name: str,
    *,
    multiplier: int = 1,
    stride: int = 1,
    padding: str = SAME,
    activation: str = "relu",
    normalizer: Normalizer | None = None,
    channels_first: bool = False,
) -> tf.Tensor:
    """Convolves each channel of x by itself with NAME/depthwise_weights: n * multiplier channels; see `conv2d`."""
    act, order = _activation(activation), _order(channels_first)
    with tf.variable_scope(name):
        depth = int(x.shape[order.index("C")])
        weights = _weights("depthwise_weights", [size, size, depth, multiplier], x.dtype, activation)
        x, kind = _padded(x, (size, size), stride, 1, padding, order)
        strides = [1, 1, stride, stride] if channels_first else [1, stride, stride, 1]
        y = tf.nn.depthwise_conv2d(x, weights, strides, kind, data_format=order)
        return act(_normalized(y, depth * multiplier, normalizer, order))


def max_pool(
    x: tf.Tensor, *, size: int = 2, stride: int = 2, padding: str = SAME, channels_first: bool = False
) -> tf.Tensor:
    """Takes the largest of `size` x `size`; the default halves height and width, rounded up."""
    return tf.nn.max_pool2d(x, ksize=size, strides=stride, padding=padding, data_format=_order(channels_first))


def avg_pool(
    x: tf.Tensor, *, size: int = 2, stride: int = 2, padding: str = SAME, channels_first: bool = False
) -> tf.Tensor:
    """Takes the mean of those of `size` x `size` that are in the picture."""
    return tf.nn.avg_pool2d(x, ksize=size, strides=stride, padding=padding, data_format=_order(channels_first))


def global_avg_pool(x: tf.Tensor, *, channels_first: bool = False) -> tf.Tensor:
    """Takes the mean over height and width, which stay as dimensions of 1."""
    return tf.reduce_mean(x, [2, 3] if channels_first else [1, 2], keepdims=True)


def _order(channels_first: bool) -> str:
    return "NCHW" if channels_first else "NHWC"


def _activation(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def _padded(
    x: tf.Tensor, size: tuple[int, int], stride: int, dilation: int, padding: str, order: str
) -> tuple[tf.Tensor, str]:
    """Pads x as SAME_SLIM wants it; returns it with the padding that TensorFlow is to do."""
    if padding != SAME_SLIM:
        return x, padding
    if stride == 1:
        return x, SAME
    sides = [(total // 2, total - total // 2) for total in ((extent - 1) * dilation for extent in size)]
    return tf.pad(x, [(0, 0), (0, 0), *sides] if order == "NCHW" else [(0, 0), *sides, (0, 0)]), VALID


def _normalized(y: tf.Tensor, depth: int, normalizer: Normalizer | None, order: str) -> tf.Tensor:
    if normalizer:
        return normalizer(y, channels_first=order == "NCHW")
    return tf.nn.bias_add(y, _biases(depth, y.dtype), data_format=order)


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


def _weights(name: str, shape: list[int], dtype: tf.DType, activation: str) -> tf.Tensor:
    """Makes float32 weights; returns them as the type of the layer's input.

    They are drawn from a truncated normal of variance 2/fan_in before a rectifier (He et al. 2015), else 1/fan_in.
    """
    # The seed comes from the name: with TensorFlow's counter of operations, a second tower would change the weights.
    seed = zlib.crc32(tf.get_variable_scope().name.encode()) & 0x7FFFFFFF
    scale = 2.0 if activation in RECTIFIERS else 1.0
    initializer = tf.variance_scaling_initializer(scale=scale, mode="fan_in", seed=seed)
    return tf.cast(tf.get_variable(name, shape, initializer=initializer), dtype)


def _biases(depth: int, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(tf.get_variable("biases", [depth], initializer=tf.zeros_initializer()), dtype)
