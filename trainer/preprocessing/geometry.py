"""Operations that move pixels: pictures [n, height, width, depth] in, the same type out.

What takes `draws` is random, and does something else to each picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import numpy as np

from trainer.errors import UsageError
from trainer.preprocessing.draws import Draws
from trainer.settings.fields import Legal, above, between
from trainer.tf1 import tf

Side = Annotated[int, between(1, 100_000)]
TF1 = "bilinear_tf1"  # of TensorFlow 1: a pixel is a point, and its corner the picture's; published weights need it
METHODS = {"bilinear": "bilinear", "nearest": "nearest", "bicubic": "bicubic", "area": "area", "lanczos": "lanczos3"}
Method = Annotated[str, Legal(lambda name: name in (*METHODS, TF1), f"one of {', '.join((*METHODS, TF1))}")]
SideMethod = Annotated[str, Legal(lambda name: name in ("bilinear", TF1), f"bilinear (antialiased) or {TF1}")]
Sides = Annotated[
    tuple[int, int], Legal(lambda pair: 1 <= pair[0] <= pair[1] <= 100_000, "a range within 1 to 100,000, as 256..512")
]


def size_of(images: tf.Tensor) -> tuple[int, int]:
    """Returns height and width.

    Raises:
      UsageError: the pictures have several.
    """
    height, width = images.shape.as_list()[1:3]
    if height is None or width is None:
        raise UsageError(
            "cutmix, cutout, elastic, mixup, rotate and translate take pictures of one size: crop or resize them before"
        )
    return height, width


def sides_of(images: tf.Tensor) -> tuple[tf.Tensor | int, tf.Tensor | int]:
    """Returns height and width: numbers, or int32 [] where the pictures have several."""
    known, found = images.shape.as_list()[1:3], tf.shape(images)
    return tuple(side or found[axis] for axis, side in enumerate(known, 1))


def as_type_of(values: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Gives float32 values the type of pictures: as uint8 they are rounded, and clipped to 0..255."""
    if images.dtype != tf.uint8:
        return values
    return tf.cast(tf.clip_by_value(tf.round(values), 0.0, 255.0), tf.uint8)


def pad(images: tf.Tensor, n: Side) -> tf.Tensor:
    """Puts n rows and columns of zeros on each side."""
    return tf.pad(images, [[0, 0], [n, n], [n, n], [0, 0]])


def crop_or_pad(images: tf.Tensor, height: Side, width: Side | None = None) -> tf.Tensor:
    """Cuts the middle out, or puts zeros around it (`tf.image.resize_with_crop_or_pad`).

    Without a width it is square.
    """
    return tf.image.resize_with_crop_or_pad(images, height, width or height)


def central_crop(images: tf.Tensor, fraction: Annotated[float, above(0, 1)]) -> tf.Tensor:
    """Cuts the middle out: this fraction of each side (`tf.image.central_crop`)."""
    return tf.image.central_crop(images, fraction)


def resize(
    images: tf.Tensor,
    height: Side,
    width: Side | None = None,
    method: Method = "bilinear",
    antialias: bool = False,
) -> tf.Tensor:
    """Resizes, as `tf.image.resize` of TensorFlow 2 (pixels are areas); without a width it becomes square.

    `bilinear_tf1` is `tf.image.resize_bilinear` of TensorFlow 1.

    Raises:
      UsageError: `bilinear_tf1` has no antialiasing.
    """
    if method == TF1:
        if antialias:
            raise UsageError(f"resize: {TF1} has no antialiasing; leave antialias out, or take bilinear")
        return as_type_of(tf.image.resize_bilinear(images, [height, width or height]), images)
    resized = tf.compat.v2.image.resize(images, [height, width or height], method=METHODS[method], antialias=antialias)
    return as_type_of(tf.cast(resized, tf.float32), images) if resized.dtype != images.dtype else resized


def resize_short(images: tf.Tensor, n: Side, method: SideMethod = "bilinear") -> tf.Tensor:
    """Resizes so that the shorter side has n pixels, and the other in proportion; bilinear, antialiased.

    With `bilinear_tf1` as TF-Slim's `vgg_preprocessing`, to the last bit for float32: not antialiased.
    """
    if method == TF1:
        return _resize_short_tf1(images, n)
    return _resize_side(images, n, min, tf.reduce_min)


def random_resize_short(images: tf.Tensor, draws: Draws, n: Sides, method: SideMethod = "bilinear") -> tf.Tensor:
    """Resizes one picture as `resize_short`, to a shorter side that is drawn of a range, both ends in it.

    Raises:
      UsageError: there are several pictures, which would have several sizes behind it.
    """
    if images.shape[0] != 1:
        raise UsageError("random_resize_short takes pictures one by one: store them by --store=encoded")
    side = n[0] + draws.integers(n[1] - n[0] + 1)[0]
    if method == TF1:
        return _resize_short_tf1(images, side)
    return _resize_to(images, side, tf.reduce_min)


def _resize_short_tf1(images: tf.Tensor, side: int | tf.Tensor) -> tf.Tensor:
    height, width = images.shape.as_list()[1:3]
    if height and width and isinstance(side, int):
        scale = np.float32(side) / np.float32(min(height, width))
        size = np.rint(np.array([height, width], np.float32) * scale).astype(np.int32).tolist()
    else:
        sides = tf.cast(tf.shape(images)[1:3], tf.float32)
        size = tf.cast(tf.round(sides * (tf.cast(side, tf.float32) / tf.reduce_min(sides))), tf.int32)
    return as_type_of(tf.image.resize_bilinear(images, size), images)


def resize_long(images: tf.Tensor, n: Side) -> tf.Tensor:
    """Resizes so that the longer side has n pixels, and the other in proportion; bilinear, antialiased."""
    return _resize_side(images, n, max, tf.reduce_max)


def _resize_side(
    images: tf.Tensor, n: int, choose: Callable[[int, int], int], choose_tensor: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    height, width = images.shape.as_list()[1:3]
    if height and width:
        side = choose(height, width)
        size = [max(1, (2 * each * n + side) // (2 * side)) for each in (height, width)]  # Rounded, half up.
        return as_type_of(tf.compat.v2.image.resize(images, size, antialias=True), images)
    return _resize_to(images, n, choose_tensor)


def _resize_to(images: tf.Tensor, n: int | tf.Tensor, choose: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Resizes so that the side that is chosen of two, int64 [2], has n pixels."""
    sides = tf.cast(tf.shape(images)[1:3], tf.int64)
    side = choose(sides)
    size = tf.cast(tf.maximum((2 * sides * tf.cast(n, tf.int64) + side) // (2 * side), 1), tf.int32)
    return as_type_of(tf.compat.v2.image.resize(images, size, antialias=True), images)


def _mirror_some(images: tf.Tensor, chosen: tf.Tensor, mirror: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Mirrors the pictures that are chosen, bool [n].

    On a CPU those alone: choosing between all pictures and all mirrored ones takes three times as long (measured, uint8
    of 224 x 224 x 3), by SelectV2 ten times. A GPU has no kernel for the parts.
    """
    if "GPU" in chosen.device:
        return tf.raw_ops.Select(condition=chosen, x=mirror(images), y=images)
    sides = tf.cast(chosen, tf.int32)
    stay, some = tf.dynamic_partition(images, sides, 2)
    places = tf.dynamic_partition(tf.range(tf.size(chosen)), sides, 2)
    return tf.reshape(tf.dynamic_stitch(places, [stay, mirror(some)]), tf.shape(images))


def flip_lr(images: tf.Tensor, draws: Draws) -> tf.Tensor:
    """Mirrors left and right, every other time (`tf.image.flip_left_right`)."""
    width, depth = sides_of(images)[1], images.shape[3]

    def mirror(some: tf.Tensor) -> tf.Tensor:
        # Reversing the rows of pictures of three channels has a kernel of its own, twice as fast.
        rows = tf.reverse(tf.reshape(some, [-1, width, depth]), [1]) if depth == 3 else tf.reverse(some, [2])
        return tf.reshape(rows, tf.shape(some))

    return _mirror_some(images, draws.choices(), mirror)


def flip_ud(images: tf.Tensor, draws: Draws) -> tf.Tensor:
    """Mirrors up and down, every other time (`tf.image.flip_up_down`)."""
    rows = tf.range(sides_of(images)[0] - 1, -1, -1)
    # Faster than reversing: it copies whole rows.
    return _mirror_some(images, draws.choices(), lambda some: tf.gather(some, rows, axis=1))


def transpose(images: tf.Tensor) -> tf.Tensor:
    """Makes rows of columns (`tf.image.transpose`)."""
    return tf.transpose(images, [0, 2, 1, 3])


def _sample(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Reads each picture between its pixels, bilinearly; zeros lie around it.

    Args:
      images: [n, height, width, depth].
      rows: float32 [n, height, width], where to read.
      columns: the same.
    """
    height, width = size_of(images)
    # One row and column of zeros on each side; what lies farther out is read there.
    framed = tf.cast(pad(images, 1), tf.float32)
    flat = tf.reshape(framed, [-1, (height + 2) * (width + 2), int(images.shape[3])])
    rows = tf.clip_by_value(rows + 1, 0.0, height + 1.0)
    columns = tf.clip_by_value(columns + 1, 0.0, width + 1.0)
    top = tf.minimum(tf.floor(rows), float(height))
    left = tf.minimum(tf.floor(columns), float(width))
    down, right = (rows - top)[..., tf.newaxis], (columns - left)[..., tf.newaxis]
    first = tf.cast(top, tf.int32) * (width + 2) + tf.cast(left, tf.int32)

    def corner(offset: int) -> tf.Tensor:
        places = tf.reshape(first + offset, [-1, height * width])
        return tf.reshape(tf.gather(flat, places, batch_dims=1), [-1, height, width, int(images.shape[3])])

    upper = corner(0) * (1 - right) + corner(1) * right
    lower = corner(width + 2) * (1 - right) + corner(width + 3) * right
    return as_type_of(upper * (1 - down) + lower * down, images)


def _grid(images: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Numbers rows, float32 [height, 1], and columns, float32 [1, width]."""
    height, width = size_of(images)
    return np.arange(height, dtype=np.float32)[:, np.newaxis], np.arange(width, dtype=np.float32)[np.newaxis]


def rotate(images: tf.Tensor, draws: Draws, degrees: Annotated[float, above(0, 180)]) -> tf.Tensor:
    """Turns about the middle by -degrees..degrees, each as likely, bilinearly; zeros come in."""
    angle = draws.uniform(-degrees * math.pi / 180, degrees * math.pi / 180)[:, :, tf.newaxis]
    cosine, sine = tf.cos(angle), tf.sin(angle)
    rows, columns = _grid(images)
    (height, width) = size_of(images)
    y, x = rows - (height - 1) / 2, columns - (width - 1) / 2
    return _sample(images, cosine * y + sine * x + (height - 1) / 2, cosine * x - sine * y + (width - 1) / 2)


def elastic(
    images: tf.Tensor,
    draws: Draws,
    alpha: Annotated[float, above(0, 1000)],
    sigma: Annotated[float, above(0, 100)],
) -> tf.Tensor:
    """Bends: each pixel is read elsewhere, by a field of -1..1 that is smoothed and multiplied by alpha (in pixels).

    Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks Applied to Visual Document
    Analysis", 2003, who write sigma=4, alpha=34 for MNIST.

    Args:
      images: pictures.
      draws: numbers.
      alpha: strength.
      sigma: of the Gaussian, in pixels; it is cut off at 3 sigma, and zeros lie around the field.
    """
    height, width = size_of(images)
    field = tf.reshape(draws.uniform(-1, 1, height * width * 2), [-1, height, width, 2])
    reach = math.ceil(3 * sigma)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    for shape in ([-1, 1, 1, 1], [1, -1, 1, 1]):
        kernel = np.tile(weights.reshape(shape), [1, 1, 2, 1])
        field = tf.nn.depthwise_conv2d(field, kernel, [1, 1, 1, 1], "SAME")
    rows, columns = _grid(images)
    return _sample(images, rows + alpha * field[..., 0], columns + alpha * field[..., 1])


def cutout(images: tf.Tensor, draws: Draws, n: Side) -> tf.Tensor:
    """Sets a square of n x n pixels to zero, its middle anywhere in the picture (DeVries and Taylor, 2017)."""
    height, width = size_of(images)

    def inside(size: int) -> tf.Tensor:
        first = draws.integers(size)[:, tf.newaxis] - n // 2
        places = np.arange(size, dtype=np.int32)
        return (places >= first) & (places < first + n)

    hole = inside(height)[:, :, tf.newaxis, tf.newaxis] & inside(width)[:, tf.newaxis, :, tf.newaxis]
    return tf.raw_ops.SelectV2(condition=hole, t=tf.zeros([], images.dtype), e=images)
