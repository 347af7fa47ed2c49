"""Image files in the graph, turned as EXIF says and of 16 bits, against pillow, which `trainer.predict` uses."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from trainer.data.pictures import flatten
from trainer.preprocessing.decoding import decode_any, decode_images, read_orientation
from trainer.tf1 import tf

SHAPE = (24, 16, 3)


@pytest.fixture(scope="module")
def picture():
    """Smooth, because decoders of JPEG round differently, and alike from no two sides."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return Image.fromarray(np.stack([rows * 10, columns * 15, rows * 4 + columns * 8], axis=2).astype(np.uint8))


def encode(image, orientation, kind, *, big_endian=False):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
        exif[0x010E] = "a description that stands before it"
    exif.endian = ">" if big_endian else "<"
    data = io.BytesIO()
    image.save(
        data,
        kind,
        exif=exif.tobytes() if orientation else b"",
        **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}),
    )
    return data.getvalue()


def run(build):
    with tf.Graph().as_default(), tf.Session() as session:
        return session.run(build())


@pytest.mark.parametrize(
    ("kind", "big_endian"),
    [
        ("JPEG", False),
        ("PNG", True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("JPEG", True), ("PNG", False)]),
    ],
)
def test_every_orientation_is_read_and_turned_as_pillow_does_it(picture, kind, big_endian):
    encoded = [encode(picture, number, kind, big_endian=big_endian) for number in range(9)]
    found = run(lambda: [read_orientation(tf.constant(data)) for data in encoded])
    assert found == [1, *range(1, 9)]
    upright = [ImageOps.exif_transpose(Image.open(io.BytesIO(data))) for data in encoded]
    for shape in {image.size for image in upright}:
        chosen = [number for number, image in enumerate(upright) if image.size == shape]
        turned = run(lambda chosen=chosen, shape=shape: decode_images(
            tf.constant([encoded[number] for number in chosen]), (shape[1], shape[0], 3)
        ))  # fmt: skip
        for number, image in zip(chosen, turned, strict=True):
            difference = np.abs(image.astype(int) - np.asarray(upright[number], int)).max()
            assert difference <= (8 if kind == "JPEG" else 0), number


@pytest.mark.parametrize("data", [b"", b"x", b"Exif\0\0", b"Exif\0\0II*\0" + bytes(50), bytes(70_000)])
def test_other_bytes_have_no_orientation(data):
    assert run(lambda: read_orientation(tf.constant(data))) == 1


def test_a_number_that_is_no_orientation_is_none():
    assert run(lambda: read_orientation(tf.constant(b"Exif\0\0" + b"\x12\x01\x03\x00\x01\x00\x00\x00\x09\x00"))) == 1


@pytest.mark.parametrize(
    ("largest", "shift"),
    [(65_535, 8), (40_000, 8), (4095, 4), (2048, 4), (2047, 3), (256, 1), (255, 0), (7, 0), (0, 0)],
)
def test_gray_of_16_bits_becomes_8_over_the_bits_that_are_used(largest, shift):
    """A camera of 12 bits gives no black picture, neither by pillow nor in the graph."""
    pixels = np.linspace(0, largest, 30).astype(np.uint16).reshape(5, 6)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    wanted = (pixels >> shift).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(flatten(Image.open(file))), wanted)
    with tf.Graph().as_default(), tf.Session() as session:
        found = session.run([decode_any(tf.constant(file.getvalue()), depth) for depth in (1, 3)])
    np.testing.assert_array_equal(found[0], wanted[..., np.newaxis])
    np.testing.assert_array_equal(found[1], np.repeat(wanted[..., np.newaxis], 3, 2))


def test_colours_of_16_bits_become_the_upper_8():
    """As pillow makes them, whatever is used."""
    pixels = np.linspace(0, 4095, 90).astype(np.uint16).reshape(5, 6, 3)
    with tf.Graph().as_default(), tf.Session() as session:
        data = session.run(tf.io.encode_png(tf.constant(pixels)))
        found = session.run(decode_any(tf.constant(data), 3))
    np.testing.assert_array_equal(found, np.asarray(flatten(Image.open(io.BytesIO(data)))))
