"""Operations on the values of pixels: pictures [n, height, width, depth] in and out.

Those that give back what the model sees as it is, float32, say so; the others give back the type that they got, uint8
rounded and clipped to 0..255. What takes `draws` is random, and does something else to each picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from trainer.errors import UsageError
from trainer.preprocessing.draws import Draws
from trainer.preprocessing.geometry import as_type_of
from trainer.settings.fields import Legal, above, between
from trainer.tf1 import tf

Factors = Annotated[
    tuple[float, float], Legal(lambda pair: 0 <= pair[0] <= pair[1] <= 100, "a range within 0 to 100, as 0.5..1.5")
]

Number = Annotated[float, between(-1e6, 1e6)]
ANY = "any"
ORDERS = ("bshc", "sbch", "chbs", "hscb")  # of TF-Slim
Order = Annotated[
    str,
    Legal(
        lambda text: text == ANY or (0 < len(text) == len(set(text)) and set(text) <= set("bshc")),
        "any, or some of the letters b, s, h and c in the order wanted, as 'bs'",
    ),
]


def _one_each(values: tf.Tensor) -> tf.Tensor:
    """Gives numbers of each picture, [n, 1], four dimensions."""
    return values[:, :, tf.newaxis, tf.newaxis]


def to_float(images: tf.Tensor) -> tf.Tensor:
    """Makes float32 of 0..255: what follows is not rounded."""
    return tf.cast(images, tf.float32)


def unit(images: tf.Tensor) -> tf.Tensor:
    """Makes float32 of 0..1 (`tf.image.convert_image_dtype`); float32 stays as it is."""
    return tf.image.convert_image_dtype(images, tf.float32)


def scale(
    images: tf.Tensor, low: Annotated[float, between(-1e6, 1e6)], high: Annotated[float, between(-1e6, 1e6)]
) -> tf.Tensor:
    """Maps to low..high, float32: 0..255 of uint8, or 0..1 of float32."""
    unit = tf.cast(images, tf.float32) * (1 / 255) if images.dtype == tf.uint8 else images
    if high <= low:
        raise UsageError(f"scale({low:g}, {high:g}): the second number must be larger")
    return (unit + low / (high - low)) * (high - low)


def standardize(images: tf.Tensor) -> tf.Tensor:
    """Gives each picture mean 0 and deviation 1, float32 (`tf.image.per_image_standardization`)."""
    return tf.image.per_image_standardization(tf.cast(images, tf.float32))


def subtract_mean(images: tf.Tensor, *means: Number) -> tf.Tensor:
    """Subtracts a number, or one from each channel: float32.

    Raises:
      UsageError: there are as many numbers as channels nowhere.
    """
    depth = int(images.shape[3])
    if len(means) not in (1, depth):
        wanted = f"1 or {depth} numbers" if depth > 1 else "1 number"
        raise UsageError(f"subtract_mean takes {wanted} of pictures of {depth} channels, got {len(means)}")
    return tf.cast(images, tf.float32) - tf.constant(means, tf.float32)


def divide(images: tf.Tensor, by: Annotated[float, above(0, 1e6)]) -> tf.Tensor:
    """Divides by a number: float32."""
    return tf.cast(images, tf.float32) / by


def grayscale(images: tf.Tensor) -> tf.Tensor:
    """Makes one channel of three (`tf.image.rgb_to_grayscale`); one channel stays as it is."""
    return tf.image.rgb_to_grayscale(images) if _check_depth("grayscale", images, (1, 3)) == 3 else images


def _check_depth(name: str, images: tf.Tensor, legal: tuple[int, ...]) -> int:
    depth = int(images.shape[3])
    if depth not in legal:
        wanted = " or ".join(str(number) for number in legal)
        raise UsageError(f"{name} takes pictures of {wanted} channels, and here they have {depth}")
    return depth


def brightness(images: tf.Tensor, draws: Draws, delta: Annotated[float, above(0, 255)]) -> tf.Tensor:
    """Adds a number of -delta..delta (`tf.image.random_brightness` of float32), in the units that the pixels have."""
    added = _one_each(draws.uniform(-delta, delta))
    return as_type_of(tf.cast(images, tf.float32) + added, images)


def contrast(images: tf.Tensor, draws: Draws, factor: Factors) -> tf.Tensor:
    """Multiplies each channel's distance from its mean (`tf.image.random_contrast`)."""
    pixels = tf.cast(images, tf.float32)
    mean = tf.reduce_mean(pixels, [1, 2], keepdims=True)
    return as_type_of((pixels - mean) * _one_each(draws.uniform(*factor)) + mean, images)


def _on_hsv(images: tf.Tensor, change: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Adds to the hue of each picture, and multiplies its saturation; [n, 1] each."""
    added, factor = (_one_each(values)[..., 0] for values in change)
    hue, saturation, value = tf.unstack(tf.image.rgb_to_hsv(tf.cast(images, tf.float32)), axis=3)
    changed = [tf.math.floormod(hue + added, 1.0), tf.clip_by_value(saturation * factor, 0.0, 1.0), value]
    return as_type_of(tf.image.hsv_to_rgb(tf.stack(changed, 3)), images)


def saturation(images: tf.Tensor, draws: Draws, factor: Factors) -> tf.Tensor:
    """Multiplies the saturation (`tf.image.random_saturation`)."""
    _check_depth("saturation", images, (3,))
    drawn = draws.uniform(*factor)
    return _on_hsv(images, (tf.zeros_like(drawn), drawn))


def color(
    images: tf.Tensor,
    draws: Draws,
    order: Order = ANY,
    brightness: Annotated[float, between(0, 1)] = 32 / 255,
    saturation: Factors = (0.5, 1.5),
    hue: Annotated[float, between(0, 0.5)] = 0.2,
    contrast: Factors = (0.5, 1.5),
) -> tf.Tensor:
    """Changes brightness, saturation, hue and contrast, one after the other, and clips: as Inception's training.

    Of uint8, or of float32 of 0..1 (`unit`). TF-Slim's `inception_preprocessing.distort_color` draws one of four orders
    for each thread; here it is drawn for each picture.

    Args:
      images: pictures.
      draws: numbers.
      order: letters of what is done, b, s, h and c, each at most once; any: one of ORDERS.
      brightness: the largest number that is added, of the range of 0..1.
      saturation: range of the factor.
      hue: the largest turn, as a fraction of the circle.
      contrast: range of the factor.
    """
    _check_depth("color", images, (3,))
    drawn = {
        "b": draws.uniform(-brightness, brightness),
        "s": draws.uniform(*saturation),
        "h": draws.uniform(-hue, hue),
        "c": draws.uniform(*contrast),
    }
    pixels = unit(images)
    if order != ANY:
        changed = _in_order(pixels, drawn, order)
    else:
        # Each picture goes through its own order alone.
        sides = draws.integers(len(ORDERS))
        places = tf.dynamic_partition(tf.range(tf.size(sides)), sides, len(ORDERS))
        parts = [
            _in_order(
                tf.gather(pixels, mine), {letter: tf.gather(values, mine) for letter, values in drawn.items()}, each
            )
            for mine, each in zip(places, ORDERS, strict=True)
        ]
        changed = tf.reshape(tf.dynamic_stitch(places, parts), tf.shape(pixels))
    changed = tf.clip_by_value(changed, 0.0, 1.0)
    changed.set_shape(images.shape)
    return changed if images.dtype != tf.uint8 else as_type_of(changed * 255, images)


def _in_order(pixels: tf.Tensor, drawn: Mapping[str, tf.Tensor], order: str) -> tf.Tensor:
    """Does the letters of an order, each by what is drawn for it, [n, 1], to pixels of 0..1."""
    for letter in order:
        value = drawn[letter]
        if letter == "b":
            pixels += _one_each(value)
        elif letter == "c":
            mean = tf.reduce_mean(pixels, [1, 2], keepdims=True)
            pixels = (pixels - mean) * _one_each(value) + mean
        else:
            stays = tf.zeros_like(value) if letter == "s" else tf.ones_like(value)
            pixels = _on_hsv(pixels, (stays, value) if letter == "s" else (value, stays))
    return pixels


def hue(images: tf.Tensor, draws: Draws, delta: Annotated[float, above(0, 0.5)]) -> tf.Tensor:
    """Turns the hue by -delta..delta of the circle (`tf.image.random_hue`)."""
    _check_depth("hue", images, (3,))
    drawn = draws.uniform(-delta, delta)
    return _on_hsv(images, (drawn, tf.ones_like(drawn)))
