"""Serialized Examples to pictures and labels in the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.data.binary import BinaryLayout, parse_layout
from trainer.data.spec import CLASS, FILE_BYTES, IMAGE, LABEL, NUMBERS, SEVERAL, DatasetSpec, RecordFields
from trainer.inputs.batch import Features
from trainer.preprocessing.decoding import read_sides
from trainer.preprocessing.preprocessing import Side
from trainer.tf1 import tf

SIZES = ("height", "width", "orientation")


def parse_examples(serialized: tf.Tensor, spec: DatasetSpec, side: Side, keys: tf.Tensor | None = None) -> Features:
    """Parses serialized records (string [n]) at once; fails on a wrong image size or a label out of range.

    Labels are int32 [n] of classes, or float32 [n, width] of several classes, 0 or 1, or of numbers.

    Args:
      serialized: string [n].
      spec: of the data set.
      side: decodes the pictures, where they are encoded.
      keys: int64 [n], RECORD of each, where what is done to each picture is random.
    """
    if spec.fields.binary:
        images, labels = _slice_binary(serialized, parse_layout(spec.fields.binary))
    else:
        images, labels = _parse(serialized, spec, side, keys)
    if spec.label_kind == NUMBERS:
        return {IMAGE: images, LABEL: labels}
    labels -= spec.fields.label_offset
    if spec.label_kind == SEVERAL:
        return {IMAGE: images, LABEL: _encode_several(labels, spec)}
    legal = tf.reduce_all((labels >= 0) & (labels < spec.num_classes))
    with tf.control_dependencies([tf.Assert(legal, ["a label is out of range", labels])]):
        labels = tf.cast(labels, tf.int32)
    return {IMAGE: images, LABEL: labels}


def _encode_several(labels: tf.Tensor, spec: DatasetSpec) -> tf.Tensor:
    """Makes 1 of each class that a record has, of int64 [n, labels], less than 0 where there is none."""
    with tf.control_dependencies([tf.Assert(tf.reduce_all(labels < spec.num_classes), ["a label is out of range"])]):
        ones = tf.one_hot(labels, spec.num_classes)  # Of a number below 0 it is zeros.
    # With a row more, so that there is one of records without labels.
    return tf.reduce_max(tf.pad(ones, [[0, 0], [0, 1], [0, 0]]), 1)


def _slice_binary(records: tf.Tensor, layout: BinaryLayout) -> tuple[tf.Tensor, tf.Tensor]:
    """Slices binary records, string [n]: images uint8 [n, height, width, depth] and labels int64 [n]."""
    frames = tf.reshape(tf.io.decode_raw(records, tf.uint8), [-1, layout.record_bytes])
    height, width, depth = layout.shape
    pixels = frames[:, layout.image : layout.image + height * width * depth]
    if layout.has_planes:
        images = tf.transpose(tf.reshape(pixels, [-1, depth, height, width]), [0, 2, 3, 1])
    else:
        images = tf.reshape(pixels, [-1, height, width, depth])
    digits = tf.cast(frames[:, layout.label : layout.label + layout.label_bytes], tf.int64)
    return images, tf.reduce_sum(digits * [256**place for place in range(layout.label_bytes)], 1)


def _parse(serialized: tf.Tensor, spec: DatasetSpec, side: Side, keys: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Parses serialized Examples: images [n, *batch_shape], and labels as they stand there.

    These are int64 [n] of classes, int64 [n, labels] of several, far below 0 where there are fewer, or float32
    [n, width] of numbers.
    """
    fields, one, empty = spec.fields, tf.io.FixedLenFeature([], tf.int64), tf.io.FixedLenFeature([], tf.string, "")
    picture = fields.image if spec.is_encoded else fields.image_raw
    features: dict[str, Any] = {picture: tf.io.FixedLenFeature([], tf.string)}
    features[fields.label] = {
        CLASS: tf.io.VarLenFeature(tf.int64) if fields.label_of else one,
        SEVERAL: tf.io.VarLenFeature(tf.int64),
        NUMBERS: tf.io.FixedLenFeature([spec.num_classes], tf.float32),
    }[spec.label_kind]
    needs_boxes = bool(fields.boxes) and side.takes_boxes
    if needs_boxes or fields.label_of == "largest":
        features.update(dict.fromkeys(fields.corners(), tf.io.VarLenFeature(tf.float32)))
    if spec.is_encoded and fields.are_sized:
        features.update(dict.fromkeys(SIZES, one))
    if fields.path:
        features.update(dict.fromkeys((picture, fields.path), empty))
        features[FILE_BYTES] = tf.io.FixedLenFeature([], tf.int64, -1)  # None where the record holds the bytes.
    parsed = tf.io.parse_example(serialized, features)
    if spec.is_encoded:
        if fields.path:
            parsed[picture] = _read_files(parsed[picture], parsed[fields.path], parsed[FILE_BYTES])
        keys = tf.zeros(tf.shape(serialized), tf.int64) if keys is None else keys
        boxes = _boxes(parsed, fields) if needs_boxes else None
        images = side.decode(parsed[picture], *_turns_and_sides(parsed, fields), keys, boxes)
    else:
        pixels = tf.io.decode_raw(parsed[picture], tf.uint8)
        images = tf.reshape(pixels, [tf.shape(serialized)[0], *spec.image_shape])
    if spec.label_kind == SEVERAL:
        return images, tf.sparse.to_dense(parsed[fields.label], np.iinfo(np.int64).min // 2)
    return images, parsed[fields.label] if spec.label_kind == NUMBERS else _labels(parsed, fields)


def _boxes(parsed: dict[str, Any], fields: RecordFields) -> tf.Tensor:
    """Returns the boxes of each record's objects, and zeros behind them: float32 [n, objects, 4], as `Box` has them."""
    return tf.stack([tf.sparse.to_dense(parsed[name], 0.0) for name in fields.corners()], 2)


def _read_files(data: tf.Tensor, paths: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Reads the files of records that name one, string [n], of these sizes; the others hold its bytes."""

    def read(each: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return tf.cond(tf.equal(each[1], ""), lambda: each[0], lambda: tf.io.read_file(each[1]))

    files = tf.map_fn(read, (data, paths), fn_output_signature=tf.string, parallel_iterations=1)
    same = tf.equal(sizes, tf.cast(tf.strings.length(files), tf.int64)) | (sizes < 0)
    with tf.control_dependencies([tf.Assert(tf.reduce_all(same), ["a file has changed since the conversion", paths])]):
        return tf.identity(files)


def _turns_and_sides(parsed: dict[str, Any], fields: RecordFields) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the orientations, int64 [n], and height and width, upright, int32 [n, 2]."""
    if fields.are_sized:
        sides = tf.cast(tf.stack([parsed["height"], parsed["width"]], 1), tf.int32)
        return parsed["orientation"], sides
    data = parsed[fields.image]
    sides = tf.map_fn(read_sides, data, fn_output_signature=tf.int32, parallel_iterations=1)
    return tf.ones(tf.shape(data), tf.int64), sides


def _labels(parsed: dict[str, Any], fields: RecordFields) -> tf.Tensor:
    """Returns the label of each record, or that of one of its objects; -1 where it has none: int64 [n]."""
    if not fields.label_of:
        return parsed[fields.label]
    # One more, so that there is a first.
    labels = tf.pad(tf.sparse.to_dense(parsed[fields.label], -1), [[0, 0], [0, 1]], constant_values=-1)
    if fields.label_of == "first":
        return labels[:, 0]
    top, left, bottom, right = tf.unstack(_boxes(parsed, fields), axis=2)
    areas = tf.pad((right - left) * (bottom - top), [[0, 0], [0, 1]])
    real = tf.compat.v2.where(labels < 0, areas.dtype.min, areas)
    return tf.gather(labels, tf.argmax(real, 1), batch_dims=1)
