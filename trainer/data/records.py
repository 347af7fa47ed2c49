"""TFRecord shards of `tf.train.Example`: int64 height, width, depth, label, and bytes image_raw or image.

Records with `image`, a JPEG or PNG, also have `orientation`, as EXIF numbers it; height and width are those of the
upright picture.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data import framing
from trainer.data.framing import FRAME_BYTES
from trainer.data.manifest import differing_checksum, sha256_of
from trainer.data.pictures import decode_stored, describe_error
from trainer.data.spec import DataError, DatasetSpec, Shard
from trainer.tf1 import tf, tf_path


def shard_name(split: str, index: int, count: int) -> str:
    return f"{split}-{index:05d}-of-{count:05d}.tfrecords"


def serialize_example(image: np.ndarray, label: int) -> bytes:
    """Makes the serialized Example of an image (uint8 [height, width, depth])."""
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
    """A picture as the bytes of a JPEG or PNG."""

    data: bytes
    label: int
    orientation: int  # 1 to 8, as EXIF numbers it
    shape: tuple[int, int, int]  # height and width, upright, and depth


def serialize_encoded(picture: Encoded) -> bytes:
    """Makes the serialized Example of an encoded picture."""
    height, width, depth = picture.shape
    features = {
        "height": _int64(height),
        "width": _int64(width),
        "depth": _int64(depth),
        "label": _int64(picture.label),
        "orientation": _int64(picture.orientation),
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture.data])),
    }
    serialized: bytes = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    return serialized


def _serialize_any(example: tuple[np.ndarray, int] | Encoded) -> bytes:
    return serialize_encoded(example) if isinstance(example, Encoded) else serialize_example(*example)


def _serialize(shape: tuple[int, int, int], label: int, image_raw: bytes) -> bytes:
    height, width, depth = shape
    features = {
        "height": _int64(height),
        "width": _int64(width),
        "depth": _int64(depth),
        "label": _int64(label),
        "image_raw": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image_raw])),
    }
    serialized: bytes = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    return serialized


def _int64(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def write_shards(
    examples: Iterable[tuple[np.ndarray, int] | Encoded],
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


def read_records(path: Path) -> Iterator[bytes]:
    """Yields the serialized records of one shard.

    Raises:
      DataError: a record is damaged or cut off; the message names the shard, the record's number and its offset.
    """
    # Not by `tf_record_iterator`: it takes a record that is cut off within 12 bytes for the end of the file, and a
    # length of 2^63 crashes it.
    try:
        yield from framing.read(path)
    except framing.FrameError as error:
        raise DataError(f"{path}: {error}") from error


def parse_record(record: bytes, spec: DatasetSpec) -> tuple[np.ndarray, int]:
    """Parses and checks one record.

    Raises:
      ValueError: it is no Example, or not one of this data set.
    """
    try:
        example = tf.train.Example.FromString(record)
    except Exception as error:  # The class of protobuf's error differs between its implementations.
        raise ValueError(f"it is no tf.train.Example: {error}") from error
    feature = example.features.feature
    values = [_only_value(feature, name) for name in ("height", "width", "depth", "label")]
    if not all(wanted in (None, size) for size, wanted in zip(values, spec.stored_shape, strict=False)):
        raise ValueError(f"its image is {values[:3]}, wanted {list(spec.stored_shape)}")
    if spec.is_encoded:
        image = _decode(feature, (values[0], values[1], values[2]))
        return image, _legal(values[3], spec)
    raw = feature["image_raw"].bytes_list.value if "image_raw" in feature else []
    if len(raw) != 1 or len(raw[0]) != spec.image_bytes:
        raise ValueError(f"image_raw holds {[len(value) for value in raw]} bytes, wanted {spec.image_bytes}")
    return np.frombuffer(raw[0], np.uint8).reshape(spec.image_shape), _legal(values[3], spec)


def _legal(label: int, spec: DatasetSpec) -> int:
    if not 0 <= label < spec.num_classes:
        raise ValueError(f"label {label} is out of range 0..{spec.num_classes - 1}")
    return label


def _decode(feature: tf.train.Features, shape: tuple[int, int, int]) -> np.ndarray:
    """Decodes the picture of a record, by pillow: uint8 [height, width, depth]."""
    values = feature["image"].bytes_list.value if "image" in feature else []
    if len(values) != 1:
        raise ValueError(f"feature image holds {len(values)} values, wanted one")
    try:
        image = decode_stored(values[0], _only_value(feature, "orientation"), depth=shape[2])
    except Exception as error:  # Of pillow's decoders, of almost any class.
        raise ValueError(f"its picture is damaged: {describe_error(error)}") from error
    if image.shape != shape:
        raise ValueError(f"its picture is {list(image.shape)}, and not {list(shape)} as its record says")
    return image


def _only_value(feature: tf.train.Features, name: str) -> int:
    values = feature[name].int64_list.value if name in feature else []
    if len(values) != 1:
        raise ValueError(f"feature {name} holds {list(values)}, wanted one int64")
    return int(values[0])


def read_examples(path: Path, spec: DatasetSpec) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (image, label) of one shard, each checked against what its data set is.

    Raises:
      DataError: a record is damaged or wrong; the message names the shard, the record's number and its offset.
    """
    offset = 0
    for number, record in enumerate(read_records(path)):
        try:
            yield parse_record(record, spec)
        except ValueError as error:
            raise DataError(f"{path}: record {number} at byte {offset}: {error}") from error
        offset += FRAME_BYTES + len(record)


def record_batches(spec: DatasetSpec, split: str, batch_size: int) -> Iterator[list[bytes]]:
    """Yields a split's serialized records in lists of `batch_size`, each record once; the last list may be shorter.

    Raises:
      DataError: a record is damaged, or a shard holds another number of records than its manifest says.
    """
    batch: list[bytes] = []
    for shard in spec.splits[split]:
        count = 0
        for record in read_records(spec.path_of(shard)):
            batch.append(record)
            count += 1
            if len(batch) == batch_size:
                yield batch
                batch = []
        check_count(spec, shard, count)
    if batch:
        yield batch


def load_split(spec: DatasetSpec, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a whole split into memory: images uint8 [n, height, width, depth] and labels int32 [n].

    Raises:
      DataError: a record is damaged or wrong, or there are more or fewer than the manifest says.
    """
    images = np.empty((spec.num_examples(split), *spec.image_shape), np.uint8)
    labels = np.empty(len(images), np.int32)
    position = 0
    for shard in spec.splits[split]:
        start = position
        for image, label in read_examples(spec.path_of(shard), spec):
            if position - start < shard.num_examples:
                images[position], labels[position] = image, label
            position += 1
        check_count(spec, shard, position - start)
    return images, labels


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
        for shard in spec.splits[split]:
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
