"""Binary records of one length, as CIFAR-10's: where label and picture lie in them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.errors import UsageError

WANTED = "label:BYTES,image:BYTES,shape=HEIGHTxWIDTHxDEPTH,order=HWC or CHW; other names are skipped"
LABEL_BYTES = (1, 2, 4)
BLOCK = 1 << 20  # bytes that are read at once


class BinaryLayout(NamedTuple):
    """How a record is made."""

    record_bytes: int
    label: int  # offset
    label_bytes: int  # little-endian
    image: int  # offset
    shape: tuple[int, int, int]  # height, width, depth
    has_planes: bool  # one channel after the other (CHW), or all of a pixel together (HWC)

    def label_of(self, record: bytes) -> int:
        return int.from_bytes(record[self.label : self.label + self.label_bytes], "little")

    def image_of(self, record: bytes) -> np.ndarray:
        """Returns the picture of a record: uint8 [height, width, depth]."""
        pixels = np.frombuffer(record, np.uint8, math.prod(self.shape), self.image)
        height, width, depth = self.shape
        return (
            pixels.reshape(depth, height, width).transpose(1, 2, 0) if self.has_planes else pixels.reshape(self.shape)
        )


@functools.cache
def parse_layout(text: str) -> BinaryLayout:
    """Reads `label:1,image:3072,shape=32x32x3,order=CHW`.

    Raises:
      UsageError: it is none.
    """
    places: dict[str, tuple[int, int]] = {}  # offset and bytes by name
    values = {"order": "HWC"}
    end = 0
    for part in (word.strip() for word in text.split(",")):
        name, equals, value = part.partition("=")
        if equals:
            values[name] = value
            continue
        name, _, size = part.partition(":")
        if not name or name in places or not size.isdecimal() or not int(size):
            raise UsageError(f"--record={text}: {part!r}: wanted {WANTED}")
        places[name] = (end, int(size))
        end += int(size)
    sides = values.get("shape", "").split("x")
    if (
        len(sides) != 3
        or not all(side.isdecimal() and int(side) for side in sides)
        or set(values) != {"order", "shape"}
    ):
        raise UsageError(f"--record={text}: wanted {WANTED}")
    shape = (int(sides[0]), int(sides[1]), int(sides[2]))
    if values["order"] not in ("HWC", "CHW") or not {"label", "image"} <= set(places):
        raise UsageError(f"--record={text}: wanted {WANTED}")
    if places["image"][1] != math.prod(shape):
        raise UsageError(f"--record={text}: image has {places['image'][1]:,} bytes, its shape {math.prod(shape):,}")
    if places["label"][1] not in LABEL_BYTES:
        raise UsageError(f"--record={text}: label has {places['label'][1]} bytes, wanted one of {LABEL_BYTES}")
    return BinaryLayout(end, *places["label"], places["image"][0], shape, values["order"] == "CHW")


def read_binary(path: Path, layout: BinaryLayout) -> Iterator[bytes]:
    """Yields the records of a file; what follows the last whole one too."""
    many = max(1, BLOCK // layout.record_bytes) * layout.record_bytes
    with path.open("rb") as file:
        while block := file.read(many):
            for start in range(0, len(block), layout.record_bytes):
                yield block[start : start + layout.record_bytes]
