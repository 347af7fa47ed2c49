"""Shards whose records differ in image and label alone, which can be read without a parser."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainer.data.framing import FOOTER_BYTES, HEADER_BYTES, frame
from trainer.data.records import parse_record, read_records
from trainer.data.spec import CLASS, OWN_FIELDS, DatasetSpec
from trainer.tf1 import tf

MORE_BYTES = 128  # in a byte of a protocol buffer's number: the next byte belongs to it too


class Layout(NamedTuple):
    """Where everything lies in the frames of the records, in bytes from the beginning of a frame."""

    frame_bytes: int  # of a record with its header and footer
    image: int
    label: int  # one byte
    constant: tuple[tuple[int, bytes], ...]  # what is the same in all frames, and where


def find_layout(spec: DatasetSpec, split: str = "train") -> Layout | None:
    """Looks at every record of a split; None where they are not all of one layout."""
    shards = spec.splits[split]
    if spec.fields != OWN_FIELDS or spec.compression or spec.label_kind != CLASS:
        return None
    layout = _layout_of(next(read_records(spec.path_of(shards[0]))), spec)
    if layout is None:
        return None
    for shard in shards:
        if shard.num_bytes != shard.num_examples * layout.frame_bytes:
            return None
        frames = np.memmap(spec.path_of(shard), np.uint8, "r", shape=(shard.num_examples, layout.frame_bytes))
        if int(frames[:, layout.label].max()) >= min(spec.num_classes, MORE_BYTES):
            return None
        for offset, same in layout.constant:
            if not (frames[:, offset : offset + len(same)] == np.frombuffer(same, np.uint8)).all():
                return None
    return layout


def _layout_of(record: bytes, spec: DatasetSpec) -> Layout | None:
    """Finds image and label in a record, by what becomes of the record when these bytes are others."""
    image, label = parse_record(record, spec)
    at_image = record.find(image.tobytes())
    other = bytearray(record)
    other[at_image : at_image + image.nbytes] = (255 - image).tobytes()
    for at_label in (place for place in range(len(record)) if record[place] == label):
        if at_image <= at_label < at_image + image.nbytes:
            continue
        other[at_label] = 1 - label if label < 2 else label - 1
        if _holds(bytes(other), 255 - image, other[at_label]):
            return _make_layout(record, at_image, image.nbytes, at_label)
        other[at_label] = label
    return None


def _holds(record: bytes, image: np.ndarray, label: int) -> bool:
    try:
        feature = tf.train.Example.FromString(record).features.feature
    except Exception:  # The class of protobuf's error differs between its implementations.
        return False
    return (
        list(feature["label"].int64_list.value) == [label]
        and list(feature["image_raw"].bytes_list.value) == [image.tobytes()]
        and [list(feature[name].int64_list.value) for name in ("height", "width", "depth")]
        == [[size] for size in image.shape]
    )


def _make_layout(record: bytes, image: int, image_bytes: int, label: int) -> Layout:
    whole = frame(record)
    image, label = image + HEADER_BYTES, label + HEADER_BYTES
    variable = sorted([(image, image + image_bytes), (label, label + 1), (len(whole) - FOOTER_BYTES, len(whole))])
    constant, begin = [], 0
    for start, end in variable:
        if start > begin:
            constant.append((begin, whole[begin:start]))
        begin = end
    return Layout(len(whole), image, label, tuple(constant))
