"""Encoded images in a graph: PNG, JPEG, GIF and BMP bytes to pictures of one shape, upright."""

from __future__ import annotations

import functools

import numpy as np

from trainer.preprocessing.crops import cut
from trainer.tf1 import tf

DECODABLE_DEPTHS = (1, 3)
RATIOS = (1, 2, 4, 8)  # by which libjpeg makes a picture smaller
BLOCK = 16  # pixels, of a JPEG with colours of half the resolution
AS_PILLOW = "INTEGER_ACCURATE"  # decodes a JPEG to the very pixels of pillow; the default is up to 4 of 255 off
GREY = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R 601-2), as pillow weighs them
HEAD_BYTES = 1 << 16  # in which EXIF's data stand: a segment of a JPEG is no longer
# An entry of EXIF's directory for the tag 0x0112, Orientation: one number of 16 bits, behind its tag, type and count.
LITTLE_ENDIAN, BIG_ENDIAN = b"\x12\x01\x03\x00\x01\x00\x00\x00", b"\x01\x12\x00\x03\x00\x00\x00\x01"
PNG_HEAD = 26  # bytes, to the number of bits and the kind of colours
MARKERS = (b"Exif\0\0", b"eXIf")  # before it, in a JPEG and in a PNG


def decode_images(encoded: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    """Decodes images, string [n], to uint8 [n, height, width, depth].

    They are turned as EXIF says. What is transparent lies on white; another size is resized as pillow does it, by a
    triangle over the area.

    Args:
      encoded: of any sizes.
      shape: height, width, and a depth of DECODABLE_DEPTHS.
    """
    return tf.map_fn(lambda data: _decode(data, shape), encoded, fn_output_signature=tf.uint8)


def decode_picture(data: tf.Tensor, orientation: tf.Tensor, shape: tuple[int | None, int | None, int]) -> tf.Tensor:
    """Decodes a JPEG or PNG that a record holds: uint8 [height, width, depth], upright.

    Args:
      data: string [].
      orientation: int64 [], as EXIF numbers it.
      shape: that is known.
    """
    # In spite of its name it takes PNG too.
    image = tf.io.decode_jpeg(data, channels=shape[2], dct_method=AS_PILLOW)
    upright = _turn(image, tf.cast(orientation, tf.int32))
    upright.set_shape(shape)
    return upright


def decode_window(
    data: tf.Tensor,
    orientation: tf.Tensor,
    sides: tf.Tensor,
    depth: int,
    window: tf.Tensor,
    wanted: tuple[int, int] | None = None,
) -> tf.Tensor:
    """Decodes a window of an upright picture, as `decode_picture` and a cut do: uint8 [height, width, depth].

    Of a JPEG that needs no turning nothing else is decoded; and, where the window is to be resized and has twice the
    height and width or more, it is decoded at a half, a quarter or an eighth of its size, as libjpeg scales it.

    Args:
      data: string [], JPEG or PNG.
      orientation: int64 [], as EXIF numbers it.
      sides: int32 [2], height and width of the picture.
      depth: of the picture.
      window: int32 [4 or more], first row, first column, height, width.
      wanted: height and width to which the window is resized afterwards; None: it stays as it is.
    """

    def decode_at(ratio: int) -> tf.Tensor:
        begin, end = window[:2] // ratio, (window[:2] + window[2:4] + (ratio - 1)) // ratio
        # The decoder smooths colours over the edges of its blocks, and so needs what lies beside the window.
        left = tf.maximum(begin[1] - BLOCK, 0)
        right = tf.minimum(end[1] + BLOCK, (sides[1] + (ratio - 1)) // ratio)
        wider = tf.stack([begin[0], left, end[0] - begin[0], right - left])
        decoded = tf.io.decode_and_crop_jpeg(data, wider, channels=depth, ratio=ratio, dct_method=AS_PILLOW)
        return decoded[:, begin[1] - left : end[1] - left]

    def decode_jpeg() -> tf.Tensor:
        if wanted is None:
            return decode_at(1)
        times = tf.reduce_min(window[2:4] // wanted)
        index = tf.reduce_sum(tf.cast(times >= RATIOS[1:], tf.int32))
        return tf.switch_case(index, [functools.partial(decode_at, ratio) for ratio in RATIOS])

    return tf.cond(
        tf.io.is_jpeg(data) & tf.equal(orientation, 1),
        decode_jpeg,
        lambda: cut(decode_picture(data, orientation, (None, None, depth))[tf.newaxis], window)[0],
    )


def decode_any(data: tf.Tensor, depth: int) -> tf.Tensor:
    """Decodes one image of any kind that TensorFlow knows, upright, on white: uint8 [height, width, depth]."""
    decoded = tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, dct_method=AS_PILLOW),
        lambda: tf.cond(
            _is_deep_grey(data),
            lambda: _decode_deep(data),
            lambda: tf.io.decode_image(data, expand_animations=False),
        ),
    )
    image = tf.cast(decoded, tf.float32)
    image.set_shape([None, None, None])
    image = _turn(image, read_orientation(data))
    channels = tf.shape(image)[2]
    colours = channels - (1 - channels % 2)  # Of two and four channels the last is how opaque it is.
    alpha = tf.cond(tf.equal(colours, channels), lambda: tf.ones_like(image[..., :1]), lambda: image[..., -1:] / 255)
    flat = tf.round(image[..., :colours] * alpha + 255 * (1 - alpha))
    grey = tf.cond(
        tf.equal(colours, 3), lambda: tf.reduce_sum(flat * tf.constant(GREY), axis=2, keepdims=True), lambda: flat
    )
    right = grey if depth == 1 else tf.cond(tf.equal(colours, 3), lambda: flat, lambda: tf.tile(flat, [1, 1, 3]))
    found = tf.cast(tf.round(right), tf.uint8)
    found.set_shape([None, None, depth])
    return found


def _is_deep_grey(data: tf.Tensor) -> tf.Tensor:
    """Is an image a gray PNG of 16 bits? Both stand in its first chunk (PNG specification, 11.2.2): bool []."""
    head = tf.io.decode_raw(tf.strings.substr(data, 0, tf.minimum(tf.strings.length(data), PNG_HEAD)), tf.uint8)
    head = tf.concat([head, tf.zeros([PNG_HEAD], tf.uint8)], 0)
    return tf.reduce_all(tf.equal(head[:4], list(b"\x89PNG"))) & tf.equal(head[24], 16) & tf.equal(head[25], 0)


def _decode_deep(data: tf.Tensor) -> tf.Tensor:
    """Decodes a gray PNG of 16 bits, to the upper 8 of those that are used: uint8 [height, width, 1]."""
    pixels = tf.cast(tf.io.decode_png(data, channels=1, dtype=tf.uint16), tf.int32)
    unused = tf.reduce_sum(tf.cast(tf.reduce_max(pixels) >= 2 ** np.arange(8, 16), tf.int32))
    return tf.cast(tf.bitwise.right_shift(pixels, unused), tf.uint8)


def _decode(data: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    height, width, depth = shape
    image = tf.cast(decode_any(data, depth), tf.float32)
    resized = tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis],
        size=[height, width],
        scale=tf.cast([height, width], tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32),
        translation=[0.0, 0.0],
        kernel_type="triangle",
        antialias=True,
    )[0]
    resized.set_shape(shape)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def read_orientation(data: tf.Tensor) -> tf.Tensor:
    """Reads EXIF's Orientation out of the bytes of an image, string []: int32 [], 1 to 8; 1 where there is none."""
    head = tf.io.decode_raw(tf.strings.substr(data, 0, HEAD_BYTES), tf.uint8)
    # Behind them so many zeros that a pattern at the end has its number.
    head = tf.concat([head, tf.zeros([len(BIG_ENDIAN) + 2], tf.uint8)], 0)
    none = tf.constant(HEAD_BYTES, tf.int64)
    begin = tf.reduce_min([_find(head, marker, tf.zeros([], tf.int64)) for marker in MARKERS])
    little, big = (_find(head, pattern, begin) for pattern in (LITTLE_ENDIAN, BIG_ENDIAN))
    found = tf.minimum(little, big)
    place = found + len(BIG_ENDIAN) + tf.cast(big < little, tf.int64)  # The higher byte, which is 0, may come first.
    value = tf.cond(found < none, lambda: tf.cast(head[place], tf.int32), lambda: tf.ones([], tf.int32))
    return tf.where((value >= 1) & (value <= 8), value, tf.ones_like(value))


def read_sides(data: tf.Tensor) -> tf.Tensor:
    """Reads height and width out of the bytes of a JPEG or PNG, string [], as they lie there: int32 [2]."""

    def of_png() -> tf.Tensor:  # Width and height stand behind the signature and the head of the first chunk.
        sides = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
        return tf.ensure_shape(tf.reverse(sides, [0]), [2])

    return tf.cond(tf.io.is_jpeg(data), lambda: tf.io.extract_jpeg_shape(data)[:2], of_png)


def _find(head: tf.Tensor, pattern: bytes, begin: tf.Tensor) -> tf.Tensor:
    """Finds the first place of a pattern, from `begin` on: int64 []; HEAD_BYTES where there is none."""
    count = tf.size(head, out_type=tf.int64) - len(pattern)
    same = [tf.equal(head[index : index + count], byte) for index, byte in enumerate(pattern)]
    places = tf.where(tf.reduce_all(tf.stack(same), axis=0))[:, 0]
    return tf.reduce_min(tf.concat([places[places >= begin], [HEAD_BYTES]], 0))


def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image, [height, width, channels], upright: JEITA CP-3451 (EXIF 2.3), 4.6.4, as pillow does it."""

    def among(*values: int) -> tf.Tensor:
        return tf.reduce_any([tf.equal(orientation, value) for value in values])

    image = tf.cond(among(5, 6, 7, 8), lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = tf.cond(among(2, 3, 6, 7), lambda: tf.reverse(image, [1]), lambda: image)
    return tf.cond(among(3, 4, 7, 8), lambda: tf.reverse(image, [0]), lambda: image)
