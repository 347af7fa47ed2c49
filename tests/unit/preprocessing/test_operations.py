"""Each operation against numpy or `tf.image`, with numbers that are chosen instead of drawn."""

import numpy as np
import pytest

from trainer.errors import UsageError
from trainer.preprocessing import colour, crops, geometry
from trainer.preprocessing.draws import make_draws
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(60)
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (5, 12, 10, 3)).astype(np.uint8)
UNIT = (PICTURES / 255).astype(np.float32)


class Chosen:
    """In the place of draws: fractions of 0..1 in their order, the same for all pictures or one each."""

    def __init__(self, *fractions):
        self._fractions = list(fractions)

    def uniform(self, low, high, count=1):
        found = np.reshape(np.asarray(self._fractions.pop(0), np.float32), [-1, count])
        return low + tf.constant(np.broadcast_to(found, [5, count])) * (high - low)

    def integers(self, limit):
        return tf.cast(self.uniform(0, limit)[:, 0], tf.int32)

    def choices(self):
        return self.uniform(0, 1)[:, 0] < 0.5


def run(operation, images, *args, **kwargs):
    with tf.Graph().as_default(), tf.Session() as session:
        fed = tf.placeholder(images.dtype, images.shape)
        return session.run(operation(fed, *args, **kwargs), {fed: images})


def per_picture(function, images):
    """What a function of `tf.image` makes of each picture: (picture, number) -> picture."""
    with tf.Graph().as_default(), tf.Session() as session:
        return np.stack(session.run([function(tf.constant(image), i) for i, image in enumerate(images)]))


@pytest.mark.parametrize("images", [PICTURES, UNIT])
def test_pixels_that_only_move_are_exact(images):
    assert (run(geometry.pad, images, 3) == np.pad(images, [[0, 0], [3, 3], [3, 3], [0, 0]])).all()
    assert (run(geometry.transpose, images) == images.transpose(0, 2, 1, 3)).all()
    assert (run(geometry.crop_or_pad, images, 8, 10) == images[:, 2:10]).all()
    assert (run(geometry.central_crop, images, 0.5) == images[:, 3:9, 2:8]).all()
    fractions = np.array([0.1, 0.9, 0.4999, 0.5, 0.6])
    expected = np.stack([np.flip(image, 1) if f < 0.5 else image for image, f in zip(images, fractions, strict=True)])
    assert (run(geometry.flip_lr, images, Chosen(fractions)) == expected).all()
    expected = np.stack([np.flip(image, 0) if f < 0.5 else image for image, f in zip(images, fractions, strict=True)])
    assert (run(geometry.flip_ud, images, Chosen(fractions)) == expected).all()


def test_a_random_crop_is_a_window_of_each_place():
    top, left = np.array([0, 1, 2, 3, 4]), np.array([3, 0, 2, 1, 3])
    found = run(crops.random_crop, PICTURES, Chosen((top + 0.5) / 5, (left + 0.5) / 4), 8, 7)
    expected = [image[y : y + 8, x : x + 7] for image, y, x in zip(PICTURES, top, left, strict=True)]
    assert (found == np.stack(expected)).all()
    with pytest.raises(UsageError, match=r"random_crop\(13, 13\) of pictures of 12 x 10"):
        run(crops.random_crop, PICTURES, Chosen(0, 0), 13)


def test_a_translation_lets_zeros_in():
    down, right = np.array([-2, 0, 1, 2, -1]), np.array([2, -2, 0, 1, 1])
    found = run(crops.translate, PICTURES, Chosen((2 - down + 0.5) / 5, (2 - right + 0.5) / 5), 2)
    for image, moved, y, x in zip(PICTURES, found, down, right, strict=True):
        expected = np.zeros_like(image)
        expected[max(y, 0) : 12 + min(y, 0), max(x, 0) : 10 + min(x, 0)] = image[
            max(-y, 0) : 12 - max(y, 0), max(-x, 0) : 10 - max(x, 0)
        ]
        assert (moved == expected).all()


def bilinear(image, rows, columns):
    """Reads a picture between its pixels, pixel by pixel."""
    found = np.zeros([*rows.shape, image.shape[2]])
    for at in np.ndindex(rows.shape):
        y, x = rows[at], columns[at]
        for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                    found[at] += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
    return found


def test_a_quarter_turn_is_exact_and_any_turn_bilinear():
    square = np.ascontiguousarray(UNIT[:, :10])
    quarter = run(geometry.rotate, square, Chosen(0.75), 180)  # 90 degrees
    np.testing.assert_allclose(quarter, np.rot90(square, axes=(1, 2)), atol=1e-5)
    angle = np.deg2rad(-30 + 60 * np.array([0.1, 0.3, 0.5, 0.7, 0.9]))
    found = run(geometry.rotate, UNIT, Chosen([0.1, 0.3, 0.5, 0.7, 0.9]), 30)
    y, x = np.mgrid[:12, :10]
    for image, turned, a in zip(UNIT, found, angle, strict=True):
        rows = np.cos(a) * (y - 5.5) + np.sin(a) * (x - 4.5) + 5.5
        columns = np.cos(a) * (x - 4.5) - np.sin(a) * (y - 5.5) + 4.5
        np.testing.assert_allclose(turned, bilinear(image, rows, columns), atol=1e-4)


def test_an_elastic_field_is_smoothed_noise():
    noise = RNG.uniform(0, 1, (5, 12 * 10 * 2)).astype(np.float32)
    found = run(geometry.elastic, UNIT, Chosen(noise), 8, 1.5)
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    y, x = np.mgrid[:12, :10]
    for image, bent, drawn in zip(UNIT, found, noise, strict=True):
        field = (drawn * 2 - 1).reshape(12, 10, 2).astype(np.float64)
        for axis in (0, 1):
            field = np.apply_along_axis(np.convolve, axis, field, weights, "full")
            field = np.take(field, range(5, 5 + image.shape[axis]), axis)
        np.testing.assert_allclose(bent, bilinear(image, y + 8 * field[..., 0], x + 8 * field[..., 1]), atol=1e-4)


def test_a_cut_out_square_is_zero():
    found = run(geometry.cutout, PICTURES + 1 - (PICTURES == 255), Chosen(0.0, 0.5), 4)  # middle at row 0, column 5
    assert (found[:, :2, 3:7] == 0).all() and (found != 0).sum() == 5 * 3 * (120 - 8)


@pytest.mark.parametrize("method", ["bilinear", "nearest", "bicubic", "area", "lanczos"])
def test_resizing_is_that_of_tensorflow(method):
    name = {"lanczos": "lanczos3"}.get(method, method)
    with tf.Graph().as_default(), tf.Session() as session:
        expected = session.run(tf.compat.v2.image.resize(tf.constant(UNIT), [7, 15], method=name, antialias=True))
    np.testing.assert_array_equal(run(geometry.resize, UNIT, 7, 15, method, antialias=True), expected)
    assert run(geometry.resize, PICTURES, 7, 15, method).dtype == np.uint8


def test_the_bilinear_resize_of_tensorflow_1():
    """As `resize_bilinear` does it; the shorter side as TF-Slim's vgg_preprocessing rounds it."""

    def plain(height, width):
        with tf.Graph().as_default(), tf.Session() as session:
            return session.run(tf.image.resize_bilinear(tf.constant(UNIT), [height, width], align_corners=False))

    np.testing.assert_array_equal(run(geometry.resize, UNIT, 7, 15, "bilinear_tf1"), plain(7, 15))
    assert run(geometry.resize, PICTURES, 7, 15, "bilinear_tf1").dtype == np.uint8
    size = (int(np.rint(12 * np.float32(7) / 10)), 7)
    np.testing.assert_array_equal(run(geometry.resize_short, UNIT, 7, "bilinear_tf1"), plain(*size))
    with tf.Graph().as_default(), tf.Session() as session:
        fed = tf.placeholder(tf.float32, [1, None, None, 3])
        found = session.run(geometry.resize_short(fed, 7, "bilinear_tf1"), {fed: UNIT[:1]})
    np.testing.assert_array_equal(found, plain(*size)[:1])
    with pytest.raises(UsageError, match="bilinear_tf1 has no antialiasing"):
        run(geometry.resize, UNIT, 7, 15, "bilinear_tf1", antialias=True)


@pytest.mark.parametrize("method", ["bilinear", "bilinear_tf1"])
def test_a_shorter_side_that_is_drawn_is_of_the_range(method):
    with tf.Graph().as_default(), tf.Session() as session:
        fed, key = tf.placeholder(tf.uint8, [1, None, None, 3]), tf.placeholder(tf.int64, [1])
        resized = geometry.random_resize_short(fed, make_draws(1, key), (20, 23), method)
        found = [session.run(resized, {fed: PICTURES[:1], key: [number]}) for number in range(60)]
        fixed = {n: session.run(geometry.resize_short(fed, n, method), {fed: PICTURES[:1]}) for n in range(20, 24)}
    sides = [image.shape[2] for image in found]
    assert set(sides) == set(fixed)
    for side, image in zip(sides, found, strict=True):
        np.testing.assert_array_equal(image, fixed[side])
    with pytest.raises(UsageError, match="random_resize_short takes pictures one by one"):
        run(geometry.random_resize_short, PICTURES, make_draws(1, tf.zeros([5], tf.int64)), (20, 23))


FRACTIONS = np.array([0.0, 0.2, 0.5, 0.8, 1.0])


def test_colours_change_as_those_of_tensorflow():
    image = tf.image
    cases = [
        (colour.brightness, (0.3,), lambda picture, i: image.adjust_brightness(picture, -0.3 + 0.6 * FRACTIONS[i])),
        (colour.contrast, ((0.5, 1.5),), lambda picture, i: image.adjust_contrast(picture, 0.5 + FRACTIONS[i])),
        (colour.saturation, ((0.5, 1.5),), lambda picture, i: image.adjust_saturation(picture, 0.5 + FRACTIONS[i])),
        (colour.hue, (0.2,), lambda picture, i: image.adjust_hue(picture, -0.2 + 0.4 * FRACTIONS[i])),
    ]
    for operation, args, oracle in cases:
        found = run(operation, UNIT, Chosen(FRACTIONS), *args)
        np.testing.assert_allclose(found, per_picture(oracle, UNIT), atol=2e-5, err_msg=operation.__name__)
        assert run(operation, PICTURES, Chosen(FRACTIONS), *args).dtype == np.uint8


def color_of_tensorflow(image, i, order):
    """One picture of 0..1 through `tf.image`, by the fractions that each letter has."""
    changes = {
        "b": lambda x: tf.image.adjust_brightness(x, (-1 + 2 * FRACTIONS[i]) * 32 / 255),
        "s": lambda x: tf.image.adjust_saturation(x, 0.5 + FRACTIONS[::-1][i]),
        "h": lambda x: tf.image.adjust_hue(x, -0.2 + 0.4 * FRACTIONS[i]),
        "c": lambda x: tf.image.adjust_contrast(x, 0.5 + FRACTIONS[::-1][i]),
    }
    for letter in order:
        image = changes[letter](image)
    return tf.clip_by_value(image, 0.0, 1.0)


COLOR = (FRACTIONS, FRACTIONS[::-1], FRACTIONS, FRACTIONS[::-1])  # of brightness, saturation, hue, contrast
# Within the range of 0..1 all of them stay, where those of `tf.image` agree with each other.
MIDDLE = (0.4 + 0.2 * UNIT).astype(np.float32)


@pytest.mark.parametrize("order", [*colour.ORDERS, "bs", "c"])
def test_color_changes_in_the_order_asked_for(order):
    found = run(colour.color, MIDDLE, Chosen(*COLOR), order)
    wanted = per_picture(lambda image, i: color_of_tensorflow(image, i, order), MIDDLE)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_color_draws_one_of_four_orders_for_each_picture():
    chosen = np.array([0.9, 0.1, 0.3, 0.6, 0.1])  # of 4 orders
    found = run(colour.color, MIDDLE, Chosen(*COLOR, chosen))
    orders = [colour.ORDERS[int(each * 4)] for each in chosen]
    wanted = per_picture(lambda image, i: color_of_tensorflow(image, i, orders[i]), MIDDLE)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    whole = np.rint(MIDDLE * 255).astype(np.uint8)
    found = run(colour.color, whole, Chosen(*COLOR, chosen))
    unit = per_picture(lambda image, i: color_of_tensorflow(image, i, orders[i]), (whole / 255).astype(np.float32))
    assert found.dtype == np.uint8 and np.abs(found - unit * 255).max() < 0.51


def test_uint8_is_rounded_and_clipped():
    found = run(colour.brightness, PICTURES, Chosen(0.9), 100)  # + 80
    np.testing.assert_array_equal(found, np.clip(PICTURES.astype(int) + 80, 0, 255))


def test_what_the_model_sees_has_its_range():
    np.testing.assert_allclose(run(colour.scale, PICTURES, -1, 1), PICTURES / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(run(colour.scale, UNIT, -1, 1), (UNIT - np.float32(0.5)) * 2)
    np.testing.assert_allclose(run(colour.scale, PICTURES, 0, 1), PICTURES / 255, atol=1e-7)
    with pytest.raises(UsageError, match="the second number must be larger"):
        run(colour.scale, PICTURES, 1, 1)
    pixels = PICTURES.astype(np.float64)
    mean, deviation = pixels.mean((1, 2, 3), keepdims=True), pixels.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(run(colour.standardize, PICTURES), (pixels - mean) / deviation, atol=1e-4)
    means = (123.68, 116.78, 103.94)
    np.testing.assert_allclose(run(colour.subtract_mean, PICTURES, *means), pixels - means, atol=1e-4)
    np.testing.assert_allclose(run(colour.divide, PICTURES, 128), pixels / 128)
    np.testing.assert_array_equal(
        run(colour.grayscale, PICTURES), per_picture(lambda image, _: tf.image.rgb_to_grayscale(image), PICTURES)
    )
    np.testing.assert_array_equal(run(colour.to_float, PICTURES), PICTURES.astype(np.float32))
    np.testing.assert_array_equal(run(colour.unit, PICTURES), PICTURES * np.float32(1 / 255))
    np.testing.assert_array_equal(run(colour.unit, UNIT), UNIT)


@pytest.mark.parametrize("operation", [colour.hue, colour.saturation])
def test_colour_needs_three_channels(operation):
    with pytest.raises(UsageError, match="takes pictures of 3 channels, and here they have 1"):
        run(operation, PICTURES[..., :1], make_draws(0, tf.zeros([5], tf.int64)), 0.1)
    with pytest.raises(UsageError, match="subtract_mean takes 1 number of pictures of 1 channels, got 3"):
        run(colour.subtract_mean, PICTURES[..., :1], 1, 2, 3)
