"""The records of TFRecord shards, read without a graph: whole files, single examples, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.data import framing
from trainer.data.binary import parse_layout, read_binary
from trainer.data.framing import FRAME_BYTES
from trainer.data.manifest import differing_checksum
from trainer.data.pictures import decode_stored, describe_error, read_orientation
from trainer.data.spec import CLASS, FILE_BYTES, LABEL, SEVERAL, Box, DataError, DatasetSpec, RecordFields, Shard
from trainer.errors import UsageError
from trainer.tf1 import tf


def read_records(path: Path, spec: DatasetSpec | None = None) -> Iterator[bytes]:
    """Yields the serialized records of one shard.

    Args:
      path: of the shard.
      spec: of its data set; None: plain TFRecords.

    Raises:
      DataError: a record is damaged or cut off; the message names the shard, the record's number and its offset.
    """
    if spec and spec.fields.binary:
        yield from read_binary(path, parse_layout(spec.fields.binary))
        return
    # Not by `tf_record_iterator`: it takes a record that is cut off within 12 bytes for the end of the file, and a
    # length of 2^63 crashes it.
    try:
        yield from framing.read(path, spec.compression if spec else "")
    except framing.FrameError as error:
        raise DataError(f"{path}: {error}") from error


def parse_record(record: bytes, spec: DatasetSpec) -> tuple[np.ndarray, int | np.ndarray]:
    """Parses and checks one record: its image, and its class, or float32 [width] of several classes or of numbers.

    Raises:
      ValueError: it is no Example, or not one of this data set.
    """
    if spec.fields.binary:
        layout = parse_layout(spec.fields.binary)
        if len(record) != layout.record_bytes:
            raise ValueError(f"it has {len(record)} bytes, wanted {layout.record_bytes}")
        return layout.image_of(record), _legal(layout.label_of(record) - spec.fields.label_offset, spec)
    feature, fields = _features_of(record), spec.fields
    label = _parse_label(feature, spec)
    boxes_of(feature, fields)
    told = tuple(only_value(feature, name) for name in ("height", "width", "depth")) if fields.are_sized else None
    if told and not _fits(told, spec):
        raise ValueError(f"its image is {list(told)}, wanted {list(spec.stored_shape)}")
    if spec.is_encoded:
        image = _decode(feature, fields, spec.stored_shape[2])
        if told and image.shape != told:
            raise ValueError(f"its picture is {list(image.shape)}, and not {list(told)} as its record says")
        if not _fits(image.shape, spec):
            raise ValueError(f"its picture is {list(image.shape)}, wanted {list(spec.stored_shape)}")
        return image, label
    raw = feature[fields.image_raw].bytes_list.value if fields.image_raw in feature else []
    if len(raw) != 1 or len(raw[0]) != spec.image_bytes:
        sizes = [len(value) for value in raw]
        raise ValueError(f"{fields.image_raw} holds {sizes} bytes, wanted {spec.image_bytes}")
    return np.frombuffer(raw[0], np.uint8).reshape(spec.image_shape), label


def _features_of(record: bytes) -> tf.train.Features:
    try:
        return tf.train.Example.FromString(record).features.feature
    except Exception as error:  # The class of protobuf's error differs between its implementations.
        raise ValueError(f"it is no tf.train.Example: {error}") from error


def parse_boxes(record: bytes, spec: DatasetSpec) -> np.ndarray:
    """Reads the boxes of a record's objects, ymin, xmin, ymax, xmax: float32 [objects, 4]; none where it has none."""
    return np.zeros((0, 4), np.float32) if spec.fields.binary else boxes_of(_features_of(record), spec.fields)


def boxes_of(feature: tf.train.Features, fields: RecordFields) -> np.ndarray:
    """Reads the boxes of the objects, as `parse_boxes`.

    Raises:
      ValueError: the corners are not as many.
    """
    corners = [
        np.array(feature[name].float_list.value if name in feature else [], np.float32) for name in fields.corners()
    ]
    if len({len(values) for values in corners}) > 1:
        raise ValueError(f"its boxes have {[len(values) for values in corners]} corners {', '.join(Box._fields)}")
    return np.stack(corners, 1)


def _parse_label(feature: tf.train.Features, spec: DatasetSpec) -> int | np.ndarray:
    fields = spec.fields
    if spec.label_kind == CLASS:
        return _legal(label_of(feature, fields) - fields.label_offset, spec)
    label = np.zeros(spec.num_classes, np.float32)
    if spec.label_kind == SEVERAL:
        for each in feature[fields.label].int64_list.value if fields.label in feature else []:
            label[_legal(int(each) - fields.label_offset, spec)] = 1
        return label
    numbers = feature[fields.label].float_list.value if fields.label in feature else []
    if len(numbers) != spec.num_classes:
        raise ValueError(f"feature {fields.label} holds {len(numbers)} numbers, wanted {spec.num_classes}")
    return np.array(numbers, np.float32)


def label_of(feature: tf.train.Features, fields: RecordFields) -> int:
    """Reads the label of a record, or that of one of its objects, as it stands there.

    Raises:
      ValueError: it has none, or several where one is wanted.
    """
    if not fields.label_of:
        return only_value(feature, fields.label)
    labels = feature[fields.label].int64_list.value if fields.label in feature else []
    if not labels:
        raise ValueError(f"feature {fields.label} is empty: it has no object")
    if fields.label_of == "first":
        return int(labels[0])
    boxes = boxes_of(feature, fields)
    if len(boxes) != len(labels):
        raise ValueError(f"it has {len(labels)} labels and {len(boxes)} boxes")
    top, left, bottom, right = boxes.T  # float32, as the graph computes them.
    return int(labels[int(np.argmax((right - left) * (bottom - top)))])


def _legal(label: int, spec: DatasetSpec) -> int:
    if not 0 <= label < spec.num_classes:
        raise ValueError(f"label {label} is out of range 0..{spec.num_classes - 1}")
    return label


def _decode(feature: tf.train.Features, fields: RecordFields, depth: int) -> np.ndarray:
    """Decodes the picture of a record, by pillow: uint8 [height, width, depth]."""
    if fields.path and fields.path in feature:
        path = Path(os.fsdecode(feature[fields.path].bytes_list.value[0]))
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ValueError(f"its file {path}: {error.strerror}") from error
        if FILE_BYTES in feature and len(data) != only_value(feature, FILE_BYTES):
            raise ValueError(
                f"its file {path} has changed: {len(data):,} bytes, and {only_value(feature, FILE_BYTES):,} when it "
                "was converted"
            )
    else:
        values = feature[fields.image].bytes_list.value if fields.image in feature else []
        if len(values) != 1:
            raise ValueError(f"feature {fields.image} holds {len(values)} values, wanted one")
        data = values[0]
    try:
        orientation = only_value(feature, "orientation") if fields.are_sized else read_orientation(data)
        image = decode_stored(data, orientation, depth=depth)
    except Exception as error:  # Of pillow's decoders, of almost any class.
        raise ValueError(f"its picture is damaged: {describe_error(error)}") from error
    return image


def _fits(shape: tuple[int, ...], spec: DatasetSpec) -> bool:
    return all(wanted in (None, size) for size, wanted in zip(shape, spec.stored_shape, strict=True))


def only_value(feature: tf.train.Features, name: str) -> int:
    """Reads a feature that is one whole number.

    Raises:
      ValueError: it is missing, or something else.
    """
    values = feature[name].int64_list.value if name in feature else []
    if len(values) != 1:
        raise ValueError(f"feature {name} holds {list(values)}, wanted one int64")
    return int(values[0])


def read_examples(path: Path, spec: DatasetSpec) -> Iterator[tuple[np.ndarray, int | np.ndarray]]:
    """Yields (image, label) of one shard, each checked against what its data set is.

    Raises:
      DataError: a record is damaged or wrong; the message names the shard, the record's number and its offset.
    """
    offset, between = 0, 0 if spec.fields.binary else FRAME_BYTES
    for number, record in enumerate(read_records(path, spec)):
        try:
            yield parse_record(record, spec)
        except ValueError as error:
            raise DataError(f"{path}: record {number} at byte {offset}: {error}") from error
        offset += between + len(record)


def record_batches(spec: DatasetSpec, split: str, batch_size: int) -> Iterator[list[bytes]]:
    """Yields a split's serialized records in lists of `batch_size`, each record once; the last list may be shorter.

    Raises:
      DataError: a record is damaged, or a shard holds another number of records than its manifest says.
      UsageError: the split does not lie in shards.
    """
    batch: list[bytes] = []
    for shard in shards_of(spec, split):
        count = 0
        for record in read_records(spec.path_of(shard), spec):
            batch.append(record)
            count += 1
            if len(batch) == batch_size:
                yield batch
                batch = []
        check_count(spec, shard, count)
    if batch:
        yield batch


def load_split(spec: DatasetSpec, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a whole split into memory: images uint8 [n, height, width, depth], and labels as batches have them.

    Raises:
      DataError: a record is damaged or wrong, or there are more or fewer than the manifest says.
    """
    images = np.empty((spec.num_examples(split), *spec.image_shape), np.uint8)
    wanted = spec.features[LABEL]
    labels = np.empty((len(images), *map(int, filter(None, wanted.shape))), wanted.dtype)
    position = 0
    for shard in spec.splits[split]:
        start = position
        for image, label in read_examples(spec.path_of(shard), spec):
            if position - start < shard.num_examples:
                images[position], labels[position] = image, label
            position += 1
        check_count(spec, shard, position - start)
    return images, labels


def shards_of(spec: DatasetSpec, split: str) -> tuple[Shard, ...]:
    """Finds the shards of a split.

    Raises:
      UsageError: it does not lie in shards.
    """
    if split not in spec.stored():
        raise UsageError(f"the {split} set comes from {spec.fields.generator} and lies nowhere: take another split")
    return spec.splits[split]


def load_examples(spec: DatasetSpec, split: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Reads a split, also of pictures of several sizes: uint8 [height, width, depth] each, and labels as in batches.

    Raises:
      DataError: a record is damaged or wrong.
      UsageError: the split does not lie in shards.
    """
    images, labels = [], []
    for shard in shards_of(spec, split):
        for image, label in read_examples(spec.path_of(shard), spec):
            images.append(image)
            labels.append(label)
    return images, np.array(labels, spec.features[LABEL].dtype)


def check_count(spec: DatasetSpec, shard: Shard, count: int) -> None:
    """Compares the number of records that were read with the manifest's.

    Raises:
      DataError: they differ.
    """
    if count != shard.num_examples:
        raise DataError(f"{spec.path_of(shard)} holds {count:,} records, its manifest says {shard.num_examples:,}")


def explain_input_error(spec: DatasetSpec, split: str) -> DataError | None:
    """Looks for the first bad record of a split, after a reader in the graph failed on it; None if all are good."""
    try:
        for shard in spec.stored().get(split, ()):
            count = sum(1 for _ in read_examples(spec.path_of(shard), spec))
            check_count(spec, shard, count)
    except DataError as error:
        return error
    return None


def check_checksums(spec: DatasetSpec) -> None:
    """Compares every byte of every shard with the manifest.

    Raises:
      DataError: a shard differs; the message names the first bad record where there is one.
    """
    different = differing_checksum(spec)
    if different:
        split = next(name for name, shards in spec.splits.items() if different in shards)
        raise explain_input_error(spec, split) or DataError(
            f"{spec.path_of(different)} is not what was converted (its sha256 differs from the manifest); "
            f"remove {spec.data_dir} and convert the data again"
        )
