"""Examples into TFRecord shards: int64 height, width, depth, label, and bytes image_raw or image.

Records with `image`, a JPEG or PNG, also have `orientation`, as EXIF numbers it; height and width are those of the
upright picture, and so are boxes/ymin, boxes/xmin, boxes/ymax and boxes/xmax, float of 0..1, of its objects. A label
that is numbers is float.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.manifest import sha256_of
from trainer.data.spec import FILE_BYTES, Box, Label, Shard
from trainer.tf1 import tf, tf_path


def shard_name(split: str, index: int, count: int) -> str:
    return f"{split}-{index:05d}-of-{count:05d}.tfrecords"


BOXES = "boxes"  # before /ymin and so on


def serialize_example(image: np.ndarray, label: Label) -> bytes:
    """Makes the serialized Example of an image (uint8 [height, width, depth])."""
    if not isinstance(label, int):
        return _serialize(image.shape, label, image.tobytes())
    around = _around_image(image.shape, label)
    return _serialize(image.shape, label, image.tobytes()) if around is None else image.tobytes().join(around)


@functools.cache
def _around_image(shape: tuple[int, int, int], label: int) -> tuple[bytes, bytes] | None:
    """Serializes what stands before and behind the bytes of an image, which is the same for all images of a label.

    Putting an Example together field by field takes five times as long. None where the image is so small that its
    place in the Example is not sure.
    """
    one, other = (bytes([value]) * math.prod(shape) for value in (255, 254))
    before, _, behind = _serialize(shape, label, one).partition(one)
    return (before, behind) if before + other + behind == _serialize(shape, label, other) else None


class Encoded(NamedTuple):
    """A picture as the bytes of a JPEG or PNG, or as the path of such a file."""

    data: bytes
    label: Label
    orientation: int  # 1 to 8, as EXIF numbers it
    shape: tuple[int, int, int]  # height and width, upright, and depth
    path: bytes = b""  # in the place of `data`
    boxes: tuple[Box, ...] = ()  # of its objects, upright, in fractions of the sides
    num_bytes: int = 0  # of the file at `path`


def serialize_encoded(picture: Encoded) -> bytes:
    """Makes the serialized Example of an encoded picture."""
    height, width, depth = picture.shape
    features = {
        "height": _int64(height),
        "width": _int64(width),
        "depth": _int64(depth),
        "label": _label(picture.label),
        "orientation": _int64(picture.orientation),
        "path" if picture.path else "image": _bytes(picture.path or picture.data),
        **({FILE_BYTES: _int64(picture.num_bytes)} if picture.path else {}),
        **{
            f"{BOXES}/{name}": _floats([box[place] for box in picture.boxes])
            for place, name in enumerate(Box._fields if picture.boxes else ())
        },
    }
    serialized: bytes = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
        deterministic=True
    )
    return serialized


def _serialize_any(example: tuple[np.ndarray, Label] | Encoded) -> bytes:
    return serialize_encoded(example) if isinstance(example, Encoded) else serialize_example(*example)


def _serialize(shape: tuple[int, int, int], label: Label, image_raw: bytes) -> bytes:
    height, width, depth = shape
    features = {
        "height": _int64(height),
        "width": _int64(width),
        "depth": _int64(depth),
        "label": _label(label),
        "image_raw": _bytes(image_raw),
    }
    serialized: bytes = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
        deterministic=True
    )
    return serialized


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int64(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def _floats(values: Sequence[float]) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def _label(label: Label) -> tf.train.Feature:
    """Makes the feature of a class, of several, or of numbers."""
    values = label if isinstance(label, tuple) else (label,)
    if all(isinstance(value, int) for value in values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return _floats(values)


def write_shards(
    examples: Iterable[tuple[np.ndarray, Label] | Encoded],
    *,
    folder: Path,
    split: str,
    num_shards: int,
    advance: Callable[[int], None],
) -> tuple[Shard, ...]:
    """Deals examples out over `num_shards` files, one by one, so that each shard is a sample of the whole.

    Args:
      examples: (image uint8 [height, width, depth], label), or encoded; consumed one at a time.
      folder: where the shards are written.
      split: the first word of their names.
      num_shards: how many; at most the number of examples, so that none is empty.
      advance: called with the number of examples written since the last call.
    """
    names = [shard_name(split, index, num_shards) for index in range(num_shards)]
    counts = [0] * num_shards
    with ExitStack() as stack:
        writers = [stack.enter_context(tf.io.TFRecordWriter(tf_path(folder / name))) for name in names]
        for index, example in enumerate(examples):
            writers[index % num_shards].write(_serialize_any(example))
            counts[index % num_shards] += 1
            if index % 1000 == 999:
                advance(1000)
        advance(sum(counts) % 1000)
    paths = [folder / name for name in names]
    return tuple(
        Shard(path.name, count, path.stat().st_size, sha256_of(path)) for path, count in zip(paths, counts, strict=True)
    )
