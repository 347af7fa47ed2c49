"""Operations that cut a random window out of each picture, [n, height, width, depth].

A window that is drawn before a JPEG is decoded spares the decoding of the rest: CUTS names the operations of which the
window is known apart from the picture.
"""

from __future__ import annotations

import functools
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
ANY = "any"
DrawnMethod = Annotated[
    str,
    Legal(lambda name: name == ANY or name in RESIZERS, "one of bilinear, nearest, bicubic and area, or any of them"),
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
        sides = tf.stack([full_height, full_width])[tf.newaxis]
        found = cut(images, random_windows(sides, draws, height, width)[0])
        return tf.reshape(found, [1, height, width, int(images.shape[3])])
    top, left = draws.integers(full_height - height + 1), draws.integers(full_width - width + 1)
    return _windows(images, top, left, height, width)


def random_windows(sides: tf.Tensor, draws: Draws, height: int, width: int | None = None) -> tf.Tensor:
    """Draws the windows of `random_crop` in pictures: first row, first column, height, width, int32 [n, 4].

    Args:
      sides: int32 [n, 2], height and width of the pictures.
      draws: numbers.
      height: of the windows.
      width: of them.
    """
    width = width or height
    message = f"random_crop({height}, {width}) of a picture that is smaller; pad or resize before. The least sides are"
    legal = tf.Assert(tf.reduce_all(sides >= [height, width]), [message, tf.reduce_min(sides, 0)])
    with tf.control_dependencies([legal]):
        sides = tf.identity(sides)
    top, left = draws.integers(sides[:, 0] - height + 1), draws.integers(sides[:, 1] - width + 1)
    return tf.stack([top, left, tf.fill(tf.shape(top), height), tf.fill(tf.shape(top), width)], 1)


def cut(images: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Cuts a window, int32 [4 or more], out of one picture, [1, height, width, depth]."""
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
    method: DrawnMethod = "bilinear",
    *,
    boxes: tf.Tensor | None = None,
) -> tf.Tensor:
    """Cuts a window of any size and shape out, and resizes it: the crop of Inception's training.

    As `tf.image.sample_distorted_bounding_box` draws it around the objects of the record, or, where it has none, with
    the whole picture as the object; then `tf.image.resize`. Without a width it becomes square.

    Args:
      images: pictures.
      draws: numbers.
      height: of what comes out.
      width: of it.
      area: of the window, as a fraction of the picture's.
      aspect: width by height of the window.
      min_object_covered: the least fraction of an object that lies in the window.
      attempts: windows that are drawn until one fits; where none does the whole picture is taken.
      method: of the resizing; any: each picture's own of bilinear, nearest, bicubic and area, as TF-Slim has it.
      boxes: of the objects, as `distorted_windows` takes them.
    """
    sides = tf.tile(tf.stack(sides_of(images))[tf.newaxis], [tf.shape(images)[0], 1])
    windows = distorted_windows(
        sides, draws, height, width, area, aspect, min_object_covered, attempts, method, boxes=boxes
    )

    def one(each: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return finish_distorted(cut(each[0][tf.newaxis], each[1]), each[1], height, width, method=method)[0]

    if images.shape[0] == 1:
        return one((images[0], windows[0]))[tf.newaxis]
    found = tf.map_fn(one, (images, windows), fn_output_signature=images.dtype)
    return tf.reshape(found, [-1, height, width or height, int(images.shape[3])])


def distorted_windows(
    sides: tf.Tensor,
    draws: Draws,
    height: int,
    width: int | None = None,
    area: tuple[float, float] = (0.05, 1.0),
    aspect: tuple[float, float] = (0.75, 1.33),
    min_object_covered: float = 0.1,
    attempts: int = 100,
    method: str = "bilinear",
    *,
    boxes: tf.Tensor | None = None,
) -> tf.Tensor:
    """Draws the windows of `distorted_crop` in pictures: int32 [n, 5].

    First row, first column, height, width, and which of RESIZERS resizes it. For each it is the first of several
    windows that fits; the whole picture where none does. As GenerateRandomCrop of TensorFlow's
    `sample_distorted_bounding_box_op.cc` draws it: a shape, then one of the heights that give a legal area, then a
    place (where TensorFlow's never reaches the last row and column). For all pictures at once, because so many small
    operations cost much for each.

    Args:
      sides: int32 [n, 2], height and width of the pictures.
      draws: numbers.
      height: of what comes out.
      width: of it.
      area: of the window, as a fraction of the picture's.
      aspect: width by height.
      min_object_covered: the least fraction of one of the objects, or of the picture that has none.
      attempts: windows that are drawn.
      method: of the resizing.
      boxes: float32 [n, objects, 4], ymin, xmin, ymax, xmax as fractions of the sides; those without an area are none.
    """
    full_height, full_width = tf.split(tf.cast(sides, tf.float32), 2, 1)  # [n, 1]
    top, left, tall, wide = _candidates(full_height, full_width, draws, area, aspect, attempts)
    found, whole = tall * wide, full_height * full_width
    fits = (found >= area[0] * whole) & (found <= area[1] * whole) & (wide <= full_width) & (wide >= 1) & (tall >= 1)
    of_picture = found >= min_object_covered * whole
    if boxes is None:
        fits &= of_picture
    else:
        corners = tf.stack(
            [top / full_height, left / full_width, (top + tall) / full_height, (left + wide) / full_width]
        )
        fits &= _covers(tf.transpose(corners, [1, 2, 0]), boxes, min_object_covered, of_picture)
    windows = tf.cast(tf.stack([top, left, tall, wide], 2), tf.int32)
    first = tf.gather(windows, tf.argmax(tf.cast(fits, tf.int32), 1), batch_dims=1)
    whole_picture = tf.concat([tf.zeros_like(sides), sides], 1)
    chosen = tf.compat.v2.where(tf.reduce_any(fits, 1, keepdims=True), first, whole_picture)
    return tf.concat([chosen, _draw_resizers(draws, tf.shape(sides)[0], method)[:, tf.newaxis]], 1)


def _draw_resizers(draws: Draws, count: tf.Tensor, method: str) -> tf.Tensor:
    """Draws which of RESIZERS each picture gets, or that of a method: int32 [count]."""
    return draws.integers(len(RESIZERS)) if method == ANY else tf.fill([count], tuple(RESIZERS).index(method))


def _candidates(
    full_height: tf.Tensor,
    full_width: tf.Tensor,
    draws: Draws,
    area: tuple[float, float],
    aspect: tuple[float, float],
    attempts: int,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws first row, first column, height and width of windows, of which some may not fit: float32 [n, attempts]."""
    shape_u, height_u, top_u, left_u = tf.split(draws.uniform(0, 1, 4 * attempts), 4, 1)
    whole, ratio = full_height * full_width, aspect[0] + shape_u * (aspect[1] - aspect[0])
    most = tf.minimum(tf.round(tf.sqrt(area[1] * whole / ratio)), tf.floor((full_width + 0.499) / ratio))
    most = tf.minimum(most, full_height)
    least = tf.minimum(tf.round(tf.sqrt(area[0] * whole / ratio)), most)
    tall = least + tf.floor(height_u * (most - least + 1))
    wide = tf.round(tall * ratio)
    return tf.floor(top_u * (full_height - tall + 1)), tf.floor(left_u * (full_width - wide + 1)), tall, wide


def _covers(windows: tf.Tensor, boxes: tf.Tensor, least: float, otherwise: tf.Tensor) -> tf.Tensor:
    """Does each window hold so much of one of the boxes: bool [n, windows].

    Args:
      windows: float32 [n, windows, 4], ymin, xmin, ymax, xmax.
      boxes: float32 [n, objects, 4], the same.
      least: fraction of a box.
      otherwise: bool [n, windows], for pictures of which no box has an area.
    """
    one, other = windows[:, :, tf.newaxis], boxes[:, tf.newaxis]
    overlap = tf.maximum(tf.minimum(one[..., 2:], other[..., 2:]) - tf.maximum(one[..., :2], other[..., :2]), 0.0)
    areas = tf.reduce_prod(tf.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), -1)  # [n, objects]
    real = areas > 0
    held = (tf.reduce_prod(overlap, -1) >= least * areas[:, tf.newaxis]) & real[:, tf.newaxis]
    return tf.compat.v2.where(tf.reduce_any(real, 1, keepdims=True), tf.reduce_any(held, 2), otherwise)


def finish_distorted(
    images: tf.Tensor,
    window: tf.Tensor,
    height: int,
    width: int | None = None,
    *,
    method: str,
    **_: object,
) -> tf.Tensor:
    """Resizes a window, int32 [5], to the size that `distorted_crop` gives."""
    size = [height, width or height]
    resizers = [functools.partial(resizer, images, size) for resizer in RESIZERS.values()]
    if method != ANY:
        return resizers[tuple(RESIZERS).index(method)]()
    return tf.switch_case(window[4], resizers)


def _resize_bilinear(images: tf.Tensor, size: list[int]) -> tf.Tensor:
    resized = tf.raw_ops.ResizeBilinear(images=images, size=size, half_pixel_centers=True)
    # What lies between pixels needs no clipping.
    return tf.cast(tf.round(resized), tf.uint8) if images.dtype == tf.uint8 else resized


def _resizer(method: str) -> Callable[[tf.Tensor, list[int]], tf.Tensor]:
    return lambda images, size: as_type_of(
        tf.cast(tf.compat.v2.image.resize(images, size, method=method), tf.float32), images
    )


RESIZERS: dict[str, Callable[[tf.Tensor, list[int]], tf.Tensor]] = {
    "bilinear": _resize_bilinear,
    "nearest": lambda images, size: tf.compat.v2.image.resize(images, size, method="nearest"),
    "bicubic": _resizer("bicubic"),
    "area": _resizer("area"),
}


def translate(images: tf.Tensor, draws: Draws, n: Side) -> tf.Tensor:
    """Moves by -n..n rows and columns, each as likely; zeros come in."""
    height, width = size_of(images)
    return random_crop(pad(images, n), draws, height, width)


class Cut(NamedTuple):
    """An operation that cuts a window out, and what it does to the window."""

    windows: Callable[..., tf.Tensor]  # (sides, draws, **arguments) -> int32 [n, 4 or more], as `random_windows`
    finish: Callable[..., tf.Tensor]  # (what lies in the window, the window, **arguments) -> what the operation gives
    # (**arguments) -> height and width to which `finish` resizes; None: it does not.
    resized: Callable[..., tuple[int, int] | None]
    takes_boxes: bool  # do `windows` take the boxes of the objects


CUTS = {
    "distorted_crop": Cut(
        distorted_windows, finish_distorted, lambda height, width, **_: (height, width or height), True
    ),
    "random_crop": Cut(random_windows, lambda images, *_, **__: images, lambda **_: None, False),
}
