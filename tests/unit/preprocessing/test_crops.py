"""Windows that are cut out of pictures of any size, against TensorFlow's own sampler and against whole pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from trainer.preprocessing import crops
from trainer.preprocessing.decoding import decode_picture, decode_window
from trainer.preprocessing.draws import make_draws
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)


def windows(sides, count=2000, boxes=None, **how):
    """Draws windows for so many records: first row, first column, height, width, [count, 4]."""
    with tf.Graph().as_default(), tf.Session() as session:
        objects = None if boxes is None else tf.constant(np.float32(boxes)[np.newaxis])

        def one(key):
            draws = make_draws(1, key[tf.newaxis])
            return crops.distorted_windows(tf.constant([sides]), draws, 224, boxes=objects, **how)[0]

        return session.run(tf.map_fn(one, tf.range(count, dtype=tf.int64), fn_output_signature=tf.int32))[:, :4]


def windows_of_tensorflow(
    sides, count=2000, *, area=(0.05, 1.0), aspect=(0.75, 1.33), min_object_covered=0.1, boxes=()
):
    with tf.Graph().as_default(), tf.Session() as session:
        objects = tf.constant(np.reshape(boxes, [1, -1, 4]), tf.float32)

        def one(key):
            begin, size, _ = tf.compat.v2.image.stateless_sample_distorted_bounding_box(
                [*sides, 3], objects, seed=tf.stack([key, 1]), min_object_covered=min_object_covered,
                aspect_ratio_range=aspect, area_range=area, max_attempts=100, use_image_if_no_bounding_boxes=True,
            )  # fmt: skip
            return tf.concat([begin[:2], size[:2]], 0)

        return session.run(tf.map_fn(one, tf.range(count, dtype=tf.int64), fn_output_signature=tf.int32))


@pytest.mark.parametrize(
    ("sides", "how"),
    [
        ((300, 400), {}),
        ((400, 300), {"area": (0.08, 1.0), "aspect": (0.75, 1.3333)}),
        ((60, 500), {"area": (0.3, 0.9)}),
        ((300, 400), {"boxes": [(0.1, 0.6, 0.3, 0.9)], "min_object_covered": 0.5}),
        (
            (300, 400),
            {"boxes": [(0.1, 0.1, 0.3, 0.3), (0.6, 0.5, 0.8, 0.8)], "min_object_covered": 0.9, "area": (0.05, 0.5)},
        ),
    ],
)
def test_windows_are_drawn_as_tensorflow_draws_them(sides, how):
    """Mean and deviation of top, left, height and width, and of the area, over 2,000 windows."""
    mine, wanted = windows(sides, **how), windows_of_tensorflow(sides, **how)
    assert (mine[:, :2] >= 0).all() and (mine[:, :2] + mine[:, 2:] <= sides).all()
    for found, expected in [
        *zip(mine.T, wanted.T, strict=True),
        (mine[:, 2] * mine[:, 3], wanted[:, 2] * wanted[:, 3]),
    ]:
        scale = max(1.0, float(expected.std()))
        assert abs(found.mean() - expected.mean()) < 5 * scale * np.sqrt(2 / 2000), (found.mean(), expected.mean())
        assert abs(found.std() - expected.std()) < 0.1 * scale, (found.std(), expected.std())


def test_a_window_holds_what_is_asked_of_one_of_the_objects():
    """Beside them a box without an area, which is none; and where all are so the picture is the object."""
    boxes = np.array([(0.1, 0.6, 0.3, 0.9), (0.5, 0.5, 0.5, 0.5), (0.7, 0.0, 0.9, 0.2)])
    found = windows((300, 400), count=500, boxes=boxes, min_object_covered=0.75) / [300, 400, 300, 400]
    assert not (found == [0, 0, 1, 1]).all(1).any()
    begin, end = found[:, :2], found[:, :2] + found[:, 2:]
    held = [
        np.prod(np.maximum(np.minimum(end, box[2:]) - np.maximum(begin, box[:2]), 0), 1) / np.prod(box[2:] - box[:2])
        for box in boxes[[0, 2]]
    ]
    assert np.max(held, 0).min() > 0.75 - 1e-5 and np.min(held, 0).min() == 0
    none = windows((300, 400), count=50, boxes=boxes[[1]], min_object_covered=0.75)
    np.testing.assert_array_equal(none, windows((300, 400), count=50, min_object_covered=0.75))


def test_where_no_window_fits_the_whole_picture_is_taken():
    found = windows((10, 1000), count=20, area=(0.9, 1.0))
    assert (found == [0, 0, 10, 1000]).all()


KINDS = [
    ("RGB", "JPEG", 1),
    ("L", "JPEG", 1),
    ("CMYK", "JPEG", 1),
    ("RGB", "JPEG", 6),
    ("RGB", "PNG", 1),
    ("L", "PNG", 8),
]


def pictures():
    """JPEG, colour, grey and of CMYK, turned by EXIF, and PNG, of several sizes."""
    rng = np.random.default_rng(1)
    for number, (mode, kind, orientation) in enumerate(KINDS):
        height, width = 70 + 3 * number, 90 - 5 * number
        pixels = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        file = io.BytesIO()
        Image.fromarray(pixels[:height, :width]).convert(mode).save(file, kind, quality=80)
        yield file.getvalue(), orientation, (width, height) if orientation >= 5 else (height, width)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("random_crop(40)", "40"),
        ("random_crop(50, 30)|flip_lr", "50, 30"),
        ("distorted_crop(46)", "46"),  # So large that nothing is decoded at half its size.
        ("distorted_crop(43, 46, area=0.1..0.5)|flip_lr", "43, 46"),
    ],
)
def test_a_window_that_is_decoded_alone_is_the_window_of_the_whole_picture(text, size):
    data, orientations, sides = zip(*pictures(), strict=True)
    side = make_preprocessing((None, None, 3), text, f"resize({size})", smallest=(60, 60)).training
    assert side.num_alone == 1
    with tf.Graph().as_default(), tf.Session() as session:
        keys, number = tf.placeholder(tf.int64, [6]), tf.placeholder(tf.int32, [])
        turns = tf.constant(orientations, tf.int64)
        alone = side.decode(tf.constant(data), turns, tf.constant(sides), keys)
        whole = decode_picture(tf.constant(data)[number], turns[number], side.stored_shape)
        wanted = side.alone(whole[tf.newaxis], keys[number : number + 1])[0]
        for epoch in range(10):
            fed = np.arange(6) + 6 * epoch
            found = session.run(alone, {keys: fed})
            for place in range(6):
                np.testing.assert_array_equal(found[place], session.run(wanted, {keys: fed, number: place}))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    ("window", "wanted", "ratio"),
    [
        ((13, 22, 150, 170), (76, 85), 1),
        ((13, 22, 150, 170), (75, 85), 2),
        ((0, 0, 203, 301), (50, 75), 4),
        ((101, 3, 102, 298), (12, 20), 8),
        ((200, 300, 3, 1), (1, 1), 1),
    ],
)
def test_a_window_that_becomes_much_smaller_is_decoded_smaller_as_pillow_does_it(mode, window, wanted, ratio):
    """Pillow's `draft` lets libjpeg scale too."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (51, 76, 3), np.uint8).repeat(4, 0).repeat(4, 1)[:203, :301]
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=90)
    top, left, height, width = window
    with Image.open(file) as image:
        image.draft(image.mode, (301 // ratio, 203 // ratio))
        assert image.size == (-(-301 // ratio), -(-203 // ratio))
        drafted = np.asarray(image.convert("RGB"))
    expected = drafted[top // ratio : -(-(top + height) // ratio), left // ratio : -(-(left + width) // ratio)]
    data, orientation, sides = file.getvalue(), np.int64(1), np.int32([203, 301])
    with tf.Graph().as_default(), tf.Session() as session:
        found = session.run(
            decode_window(*map(tf.constant, (data, orientation, sides)), 3, tf.constant(window), wanted)
        )
    np.testing.assert_array_equal(found, expected)
