"""A record that another program wrote: looked at once, and written anew where TensorFlow decodes it otherwise."""

from __future__ import annotations

from typing import NamedTuple

from trainer.data.pictures import as_png, describe_error, flatten, is_kept, open_upright, read_orientation, turn_box
from trainer.data.records import boxes_of, label_of, only_value
from trainer.data.sources.shards import Names, Wanted
from trainer.data.spec import Box, RecordFields
from trainer.tf1 import tf


class Looked(NamedTuple):
    """What is known of a record that was decoded once."""

    label: int
    size: tuple[int, int, int]  # height, width, upright, and depth
    format: str = ""  # of the picture; empty: pixels
    is_kept: bool = True  # TensorFlow decodes it as pillow does
    text: str = ""
    error: str = ""
    has_boxes: bool = False


def look_at(record: bytes, names: Names, wanted: Wanted) -> Looked:
    """Decodes a record once."""
    try:
        feature = tf.train.Example.FromString(record).features.feature
        fields = RecordFields(label=names.label, boxes=names.boxes, label_of=wanted.label_of)
        count = len(feature[names.label].int64_list.value) if names.label in feature else 0
        if count > 1 and not wanted.label_of:
            raise ValueError(f"it has {count} labels: --label_of=first or --label_of=largest takes one")
        label = label_of(feature, fields) - wanted.label_offset
        has_boxes = len(boxes_of(feature, fields)) > 0
        if label < 0:
            raise ValueError(f"label {label + wanted.label_offset} is less than --label_offset={wanted.label_offset}")
        values = feature[names.text].bytes_list.value if names.text in feature else []
        text = values[0].decode(errors="replace") if len(values) == 1 else ""
        if names.image_raw:
            height, width, depth = (only_value(feature, name) for name in (names.height, names.width, names.depth))
            sizes = [len(value) for value in feature[names.image_raw].bytes_list.value]
            if min(height, width, depth) < 1:
                raise ValueError(f"its pixels are {height} x {width} x {depth}")
            if sizes != [height * width * depth]:
                raise ValueError(f"{names.image_raw} holds {sizes} bytes, wanted {height} x {width} x {depth}")
            return Looked(label, (height, width, depth), text=text, has_boxes=has_boxes)
        data = _picture_of(feature, names)
        image = open_upright(data, max_pixels=wanted.max_pixels)
        flatten(image)
        is_grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
        size = (image.height, image.width, 1 if is_grey else 3)
        # What has to be turned is written anew, upright: TensorFlow does not read EXIF.
        stays = is_kept(image) and read_orientation(data) == 1
        return Looked(label, size, image.format or "", stays, text, has_boxes=has_boxes)
    except Exception as error:  # Damaged bytes make protobuf and pillow's decoders raise almost anything.
        return Looked(0, (0, 0, 0), error=describe_error(error))


def _picture_of(feature: tf.train.Features, names: Names) -> bytes:
    values = feature[names.image].bytes_list.value if names.image in feature else []
    if len(values) != 1:
        raise ValueError(f"feature {names.image} holds {len(values)} values, wanted one")
    return bytes(values[0])


def write_upright(feature: tf.train.Features, names: Names, max_pixels: int) -> None:
    """Makes a PNG of a record's picture, upright, and turns its boxes with it."""
    values = feature[names.image].bytes_list.value
    orientation = read_orientation(values[0])
    values[0] = as_png(open_upright(values[0], max_pixels=max_pixels))
    fields = RecordFields(boxes=names.boxes)
    boxes = [turn_box(Box(*map(float, box)), orientation) for box in boxes_of(feature, fields)]
    for name, corners in zip(fields.corners(), zip(*boxes, strict=True), strict=bool(boxes)):
        feature[name].float_list.value[:] = corners
