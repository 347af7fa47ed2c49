"""The frame of a TFRecord: length, its checksum, the data, its checksum.

TensorFlow reads and writes whole files of records; this is for single ones, and for files that are damaged.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c

HEADER_BYTES = 12  # uint64 length, uint32 its checksum
FOOTER_BYTES = 4  # uint32 checksum of the data
FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES
GZIP_MAGIC = b"\x1f\x8b"
NO_HEADER = bytes(HEADER_BYTES)  # the checksum of length 0 is not 0
NOT_ZERO = re.compile(rb"[^\0]")


def masked_crc32c(data: bytes) -> int:
    """Computes the CRC-32C of bytes, rotated by 15 bits and shifted by a constant, as TFRecord files hold it."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """Frames one record."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


class FrameError(Exception):
    """A record is damaged."""


def read(path: Path) -> Iterator[bytes]:
    """Yields the records of a file.

    Raises:
      FrameError: a record is damaged or cut off; the message has its number and offset.
    """
    size = path.stat().st_size
    offset = number = 0
    with path.open("rb") as file:
        while header := file.read(HEADER_BYTES):
            where = f"record {number} at byte {offset} is damaged"
            length = _length_at(header, 0)
            if length is None:
                cut = "the file ends within it" if len(header) < HEADER_BYTES else "the checksum of its length is wrong"
                if not number and header.startswith(GZIP_MAGIC):
                    cut = "the file is compressed by gzip; unpack it"
                raise FrameError(f"{where}: {cut}")
            if offset + FRAME_BYTES + length > size:
                raise FrameError(f"{where}: the file ends within it")
            data = file.read(length)
            if masked_crc32c(data) != int.from_bytes(file.read(FOOTER_BYTES), "little"):
                raise FrameError(f"{where}: its checksum is wrong")
            yield data
            offset += FRAME_BYTES + length
            number += 1


class Record(NamedTuple):
    offset: int  # of its frame, in bytes
    data: bytes | None  # None where the bytes at `offset` are no whole record


def scan(content: bytes) -> Iterator[Record]:
    """Yields the records of a file whose bytes may be damaged anywhere, and each stretch of damage once.

    After damage it goes on where the next whole record begins, with both checksums right.
    """
    offset = 0
    while offset < len(content):
        data = _record_at(content, offset)
        yield Record(offset, data)
        if data is not None:
            offset += FRAME_BYTES + len(data)
        else:
            offset = _next_record(content, offset)


def _length_at(content: bytes, offset: int) -> int | None:
    """Reads the length of the record whose frame begins here; None where there is no right header."""
    header = content[offset : offset + HEADER_BYTES]
    if len(header) < HEADER_BYTES or masked_crc32c(header[:8]) != int.from_bytes(header[8:], "little"):
        return None
    return int.from_bytes(header[:8], "little")


def _record_at(content: bytes, offset: int) -> bytes | None:
    length = _length_at(content, offset)
    if length is None or offset + FRAME_BYTES + length > len(content):
        return None
    begin = offset + HEADER_BYTES
    data = content[begin : begin + length]
    footer = content[begin + length : begin + length + FOOTER_BYTES]
    return data if masked_crc32c(data) == int.from_bytes(footer, "little") else None


def _next_record(content: bytes, offset: int) -> int:
    """Finds the next whole record after the damaged one at `offset`; the end of the file where there is none."""
    length = _length_at(content, offset)
    if length is not None:
        behind = offset + FRAME_BYTES + length
        if behind == len(content) or _record_at(content, behind) is not None:
            return behind
    candidate = offset + 1
    while candidate <= len(content) - FRAME_BYTES:
        if content.startswith(NO_HEADER, candidate):  # Large holes are found at once.
            other = NOT_ZERO.search(content, candidate)
            candidate = other.start() - HEADER_BYTES + 1 if other else len(content)
            continue
        if _record_at(content, candidate) is not None:
            return candidate
        candidate += 1
    return len(content)
