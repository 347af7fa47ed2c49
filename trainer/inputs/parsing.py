"""Serialized Examples to pictures and labels in the graph."""

from __future__ import annotations

from typing import Any

from trainer.data.spec import IMAGE, LABEL, DatasetSpec, RecordFields
from trainer.inputs.batch import Features
from trainer.preprocessing.decoding import read_orientation, read_sides
from trainer.preprocessing.preprocessing import Side
from trainer.tf1 import tf

SIZES = ("height", "width", "orientation")


def parse_examples(serialized: tf.Tensor, spec: DatasetSpec, side: Side, keys: tf.Tensor | None = None) -> Features:
    """Parses serialized Examples (string [n]) at once; fails on a wrong image size or a label out of range.

    Args:
      serialized: string [n].
      spec: of the data set.
      side: decodes the pictures, where they are encoded.
      keys: int64 [n], RECORD of each, where what is done to each picture is random.
    """
    fields = spec.fields
    one = tf.io.FixedLenFeature([], tf.int64)
    features: dict[str, Any] = {
        fields.image if spec.is_encoded else fields.image_raw: tf.io.FixedLenFeature([], tf.string)
    }
    features[fields.label] = tf.io.VarLenFeature(tf.int64) if fields.label_of else one
    if fields.label_of == "largest":
        features.update(dict.fromkeys(fields.corners(), tf.io.VarLenFeature(tf.float32)))
    if spec.is_encoded and fields.are_sized:
        features.update(dict.fromkeys(SIZES, one))
    parsed = tf.io.parse_example(serialized, features)
    if spec.is_encoded:
        data = parsed[fields.image]
        keys = tf.zeros(tf.shape(data), tf.int64) if keys is None else keys
        images = side.decode(data, *_turns_and_sides(parsed, fields), keys)
    else:
        pixels = tf.io.decode_raw(parsed[fields.image_raw], tf.uint8)
        images = tf.reshape(pixels, [tf.shape(serialized)[0], *spec.image_shape])
    labels = _labels(parsed, fields) - fields.label_offset
    legal = tf.reduce_all((labels >= 0) & (labels < spec.num_classes))
    with tf.control_dependencies([tf.Assert(legal, ["a label is out of range", labels])]):
        labels = tf.cast(labels, tf.int32)
    return {IMAGE: images, LABEL: labels}


def _turns_and_sides(parsed: dict[str, Any], fields: RecordFields) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the orientations, int64 [n], and height and width, upright, int32 [n, 2]."""
    if fields.are_sized:
        sides = tf.cast(tf.stack([parsed["height"], parsed["width"]], 1), tf.int32)
        return parsed["orientation"], sides
    data = parsed[fields.image]
    sides = tf.map_fn(read_sides, data, fn_output_signature=tf.int32, parallel_iterations=1)
    if not fields.are_turned:
        return tf.ones(tf.shape(data), tf.int64), sides
    turns = tf.map_fn(read_orientation, data, fn_output_signature=tf.int32, parallel_iterations=1)
    upright = tf.where(tf.stack([turns > 4] * 2, 1), tf.reverse(sides, [1]), sides)
    return tf.cast(turns, tf.int64), upright


def _labels(parsed: dict[str, Any], fields: RecordFields) -> tf.Tensor:
    """Returns the label of each record, or that of one of its objects; -1 where it has none: int64 [n]."""
    if not fields.label_of:
        return parsed[fields.label]
    # One more, so that there is a first.
    labels = tf.pad(tf.sparse.to_dense(parsed[fields.label], -1), [[0, 0], [0, 1]], constant_values=-1)
    if fields.label_of == "first":
        return labels[:, 0]
    left, top, right, bottom = (tf.sparse.to_dense(parsed[name], 0.0) for name in fields.corners())
    areas = tf.pad((right - left) * (bottom - top), [[0, 0], [0, 1]], constant_values=-1.0)
    return tf.gather(labels, tf.argmax(areas, 1), batch_dims=1)
