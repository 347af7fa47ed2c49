"""TowerRecords: records by number, straight from memory-mapped shards; its twins are TensorFlow's readers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from trainer.tf1 import tf


class RecordFiles(NamedTuple):
    """TFRecords of one layout."""

    paths: Sequence[str]  # of the shards
    counts: Sequence[int]  # records of each
    frame_bytes: int  # of a record, with its header and footer
    shape: Sequence[int]  # height, width, depth of an image
    image: int  # where it begins in a frame
    label: int  # where it lies in a frame, one byte
    classes: int  # labels are less
    constant: Sequence[tuple[int, bytes]]  # what is the same in all frames, and where


def build_records(module: Any, numbers: tf.Tensor, files: RecordFiles) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads records; each is compared with its checksum, and with what all records have in common.

    Shards are mapped at their first use, and stay so. Memory: the batch, and what the system keeps of the files.

    Args:
      module: of the library.
      numbers: int64 [n], of the records, over all shards.
      files: where they lie.

    Returns:
      Images, uint8 [n, height, width, depth], and labels, int32 [n].

    Raises:
      tf.errors.DataLossError: a shard has another size, a record is another one than it was, or the file gives no
        bytes there.
      tf.errors.NotFoundError: a shard has gone.
      tf.errors.InvalidArgumentError: a number is out of range.
    """
    found = module.tower_records(
        numbers=numbers,
        paths=[os.fsencode(path) for path in files.paths],
        counts=list(files.counts),
        frame_bytes=files.frame_bytes,
        shape=list(files.shape),
        image=files.image,
        label=files.label,
        classes=files.classes,
        offsets=[offset for offset, _ in files.constant],
        constants=[same for _, same in files.constant],
    )
    return found.images, found.labels
