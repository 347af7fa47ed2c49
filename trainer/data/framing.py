"""The frame of a TFRecord: length, its checksum, the data, its checksum.

TensorFlow reads and writes whole files of records; this is for single ones, and for files that are damaged.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import google_crc32c

HEADER_BYTES = 12  # uint64 length, uint32 its checksum
FOOTER_BYTES = 4  # uint32 checksum of the data
FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES
GZIP_MAGIC = b"\x1f\x8b"
MOST_UNPACKED = 1032  # bytes that deflate makes of one (RFC 1951: 258 of 2 bits)
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


class _ZlibFile(io.RawIOBase):
    """Reads a file that is one zlib stream."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._unpack = zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = b""
        while not data and not self._unpack.eof:
            packed = self._unpack.unconsumed_tail or self._file.read(1 << 16)
            if not packed:
                raise EOFError("the stream ends within itself")
            data = self._unpack.decompress(packed, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def open_stream(path: Path, compression: str) -> BinaryIO:
    """Opens a file of records: its bytes, unpacked from "GZIP" or "ZLIB"."""
    if compression == "GZIP":
        return cast(BinaryIO, gzip.open(path, "rb"))
    file = path.open("rb")
    return cast(BinaryIO, io.BufferedReader(_ZlibFile(file), 1 << 16)) if compression == "ZLIB" else file


def find_compression(path: Path) -> str | None:
    """Finds how a file of records is packed: "", "GZIP" or "ZLIB"; None where it is no file of records.

    Raises:
      OSError: it cannot be read.
    """
    for compression in ("", "GZIP", "ZLIB"):
        try:
            with open_stream(path, compression) as file:
                if _length_at(file.read(HEADER_BYTES), 0) is not None:
                    return compression
        except (gzip.BadGzipFile, EOFError, zlib.error):
            continue
    return None


def read(path: Path, compression: str = "") -> Iterator[bytes]:
    """Yields the records of a file, which may be packed.

    Raises:
      FrameError: a record is damaged or cut off; the message has its number and offset.
    """
    place = [0, 0]  # of the record that is read: its number and where it begins
    most = path.stat().st_size * (MOST_UNPACKED if compression else 1)
    try:
        with open_stream(path, compression) as file:
            yield from _read(file, most, place)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = f"the {compression} stream is damaged: {error}"
        raise FrameError(f"record {place[0]} at byte {place[1]} is damaged: {what}") from error


def _read(file: BinaryIO, most: int, place: list[int]) -> Iterator[bytes]:
    """Yields the records of a stream of so many bytes at most, and keeps `place` up to date."""
    number = offset = 0
    while header := file.read(HEADER_BYTES):
        where = f"record {number} at byte {offset} is damaged"
        length = _length_at(header, 0)
        if length is None:
            cut = "the file ends within it" if len(header) < HEADER_BYTES else "the checksum of its length is wrong"
            if not number and header.startswith(GZIP_MAGIC):
                cut = "the file is compressed by gzip; unpack it"
            raise FrameError(f"{where}: {cut}")
        if offset + FRAME_BYTES + length > most:
            raise FrameError(f"{where}: the file ends within it")
        data, footer = file.read(length), file.read(FOOTER_BYTES)
        if len(data) + len(footer) < length + FOOTER_BYTES:
            raise FrameError(f"{where}: the file ends within it")
        if masked_crc32c(data) != int.from_bytes(footer, "little"):
            raise FrameError(f"{where}: its checksum is wrong")
        yield data
        number, offset = number + 1, offset + FRAME_BYTES + length
        place[:] = number, offset


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
