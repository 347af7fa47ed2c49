"""Operations that cut a random window out of each picture, [n, height, width, depth].

A window that is drawn before a JPEG is decoded spares the decoding of the rest: CUTS names the operations of which the
window is known apart from the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np

from trainer.errors import UsageError
from trainer.preprocessing.draws import Draws
from trainer.preprocessing.geometry import Side, as_type_of, pad, sides_of, size_of
from trainer.settings.fields import Legal, between
from trainer.tf1 import tf

Fractions = Annotated[
    tuple[float, float], Legal(lambda pair: 0 < pair[0] <= pair[1] <= 1, "a range within 0 to 1, as 0.08..1")
]
Ratios = Annotated[
    tuple[float, float], Legal(lambda pair: 0 < pair[0] <= pair[1] <= 100, "a range above 0, as 0.75..1.33")
]


def _windows(images: tf.Tensor, top: tf.Tensor, left: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Cuts a window out of each picture, whose first row and column are int32 [n]."""
    full_height, full_width = size_of(images)
    rows = top[:, tf.newaxis] + np.arange(height, dtype=np.int32)
    columns = left[:, tf.newaxis] + np.arange(width, dtype=np.int32)
    places = rows[:, :, tf.newaxis] * full_width + columns[:, tf.newaxis, :]
    depth = int(images.shape[3])
    flat = tf.reshape(images, [-1, full_height * full_width, depth])
    found = tf.gather(flat, tf.reshape(places, [-1, height * width]), batch_dims=1)
    return tf.reshape(found, [-1, height, width, depth])


def random_crop(images: tf.Tensor, draws: Draws, height: Side, width: Side | None = None) -> tf.Tensor:
    """Cuts a window of this size out, each place as likely; without a width it is square.

    Raises:
      UsageError: the pictures are smaller.
    """
    (full_height, full_width), width = sides_of(images), width or height
    if any(isinstance(full, int) and size > full for full, size in ((full_height, height), (full_width, width))):
        raise UsageError(f"random_crop({height}, {width}) of pictures of {full_height} x {full_width}: pad them before")
    if None in images.shape.as_list()[1:3]:  # One picture.
        found = cut(images, random_window(tf.stack([full_height, full_width]), draws, height, width))
        return tf.reshape(found, [1, height, width, int(images.shape[3])])
    top, left = draws.integers(full_height - height + 1), draws.integers(full_width - width + 1)
    return _windows(images, top, left, height, width)


def random_window(sides: tf.Tensor, draws: Draws, height: int, width: int | None = None) -> tf.Tensor:
    """Draws the window of `random_crop` in one picture: first row, first column, height, width, int32 [4]."""
    width = width or height
    message = f"random_crop({height}, {width}) of a picture that is smaller; pad or resize before. It has"
    with tf.control_dependencies([tf.Assert(tf.reduce_all(sides >= [height, width]), [message, sides])]):
        sides = tf.identity(sides)
    top, left = draws.integers(sides[0] - height + 1), draws.integers(sides[1] - width + 1)
    return tf.stack([top[0], left[0], height, width])


def cut(images: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Cuts a window, int32 [4], out of one picture, [1, height, width, depth]."""
    depth = int(images.shape[3])
    return tf.slice(images, [0, window[0], window[1], 0], [1, window[2], window[3], depth])


def distorted_crop(
    images: tf.Tensor,
    draws: Draws,
    height: Side,
    width: Side | None = None,
    area: Fractions = (0.05, 1.0),
    aspect: Ratios = (0.75, 1.33),
    min_object_covered: Annotated[float, between(0, 1)] = 0.1,
    attempts: Annotated[int, between(1, 1000)] = 100,
) -> tf.Tensor:
    """Cuts a window of any size and shape out, and resizes it: the crop of Inception's training.

    As `tf.image.sample_distorted_bounding_box` draws it with the whole picture as the object, then `tf.image.resize`
    (bilinear); without a width it becomes square.

    Args:
      images: pictures.
      draws: numbers.
      height: of what comes out.
      width: of it.
      area: of the window, as a fraction of the picture's.
      aspect: width by height of the window.
      min_object_covered: the least fraction of the picture in the window.
      attempts: windows that are drawn until one fits; where none does the whole picture is taken.
    """
    uniform = draws.uniform(0, 1, 4 * attempts)
    sides = tf.stack(sides_of(images))

    def one(each: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        window = _fit_window(sides, tf.reshape(each[1], [4, attempts]), area, aspect, min_object_covered)
        return finish_distorted(cut(each[0][tf.newaxis], window), height, width)[0]

    if images.shape[0] == 1:
        return one((images[0], uniform[0]))[tf.newaxis]
    found = tf.map_fn(one, (images, uniform), fn_output_signature=images.dtype)
    return tf.reshape(found, [-1, height, width or height, int(images.shape[3])])


def distorted_window(
    sides: tf.Tensor,
    draws: Draws,
    height: int,
    width: int | None = None,
    area: tuple[float, float] = (0.05, 1.0),
    aspect: tuple[float, float] = (0.75, 1.33),
    min_object_covered: float = 0.1,
    attempts: int = 100,
) -> tf.Tensor:
    """Draws the window of `distorted_crop` in one picture: first row, first column, height, width, int32 [4]."""
    uniform = tf.reshape(draws.uniform(0, 1, 4 * attempts), [4, attempts])
    return _fit_window(sides, uniform, area, aspect, min_object_covered)


def finish_distorted(images: tf.Tensor, height: int, width: int | None = None, *_: object, **__: object) -> tf.Tensor:
    """Resizes a window to the size that `distorted_crop` gives."""
    resized = tf.compat.v2.image.resize(images, [height, width or height])
    return as_type_of(resized, images)


def _fit_window(
    sides: tf.Tensor,
    uniform: tf.Tensor,
    area: tuple[float, float],
    aspect: tuple[float, float],
    min_object_covered: float,
) -> tf.Tensor:
    """Finds the first of several windows that fits, int32 [4]; the whole picture where none does.

    As GenerateRandomCrop of TensorFlow's `sample_distorted_bounding_box_op.cc` draws it: a shape, then one of the
    heights that give a legal area, then a place.

    Args:
      sides: int32 [2], of the picture.
      uniform: float32 [4, attempts], from 0 up to 1.
      area: of the window, as a fraction of the picture's.
      aspect: width by height.
      min_object_covered: the least fraction of the picture.
    """
    full_height, full_width = tf.unstack(tf.cast(sides, tf.float32))
    whole = full_height * full_width
    low, high = max(area[0], min_object_covered) * whole, area[1] * whole
    ratio = aspect[0] + uniform[0] * (aspect[1] - aspect[0])
    most = tf.minimum(tf.minimum(tf.round(tf.sqrt(high / ratio)), tf.floor((full_width + 0.499) / ratio)), full_height)
    least = tf.minimum(tf.round(tf.sqrt(area[0] * whole / ratio)), most)
    height = least + tf.floor(uniform[1] * (most - least + 1))
    width = tf.round(height * ratio)
    found = height * width
    fits = (found >= low) & (found <= high) & (width <= full_width) & (width >= 1) & (height >= 1)
    top = tf.floor(uniform[2] * (full_height - height + 1))
    left = tf.floor(uniform[3] * (full_width - width + 1))
    windows = tf.cast(tf.stack([top, left, height, width], 1), tf.int32)
    first = tf.argmax(tf.cast(fits, tf.int32))
    zero = tf.zeros([2], tf.int32)
    return tf.cond(tf.reduce_any(fits), lambda: windows[first], lambda: tf.concat([zero, sides], 0))


def translate(images: tf.Tensor, draws: Draws, n: Side) -> tf.Tensor:
    """Moves by -n..n rows and columns, each as likely; zeros come in."""
    height, width = size_of(images)
    return random_crop(pad(images, n), draws, height, width)


class Cut(NamedTuple):
    """An operation that cuts a window out, and what it does to the window."""

    window: Callable[..., tf.Tensor]  # (height and width, int32 [2], draws, arguments) -> int32 [4], as `random_window`
    finish: Callable[..., tf.Tensor]  # (the window of the picture, arguments) -> what the operation gives


CUTS = {
    "distorted_crop": Cut(distorted_window, finish_distorted),
    "random_crop": Cut(random_window, lambda images, *_, **__: images),
}
