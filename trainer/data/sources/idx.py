"""IDX files (http://yann.lecun.com/exdb/mnist/): MNIST and its relatives, raw or gzip-compressed."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from trainer.data.spec import DataError

UINT8 = 0x08
BLOCK = 1000  # images read at a time
MAX_ELEMENT_BYTES = 1 << 20  # more is a damaged header


def find_idx(folder: Path, name: str) -> Path:
    """Finds `name` or `name.gz` in a folder, also under the spelling `train-images.idx3-ubyte`.

    Raises:
      DataError: none of them is there.
    """
    stem, _, kind = name.partition("-idx")
    for candidate in (f"{name}.gz", name, f"{stem}.idx{kind}", f"{stem}.idx{kind}.gz"):
        if (folder / candidate).is_file():
            return folder / candidate
    raise DataError(f"{folder / name}: no such file, nor {name}.gz; --source_dir is the folder of the IDX files")


def read_idx(path: Path, num_dimensions: int) -> Iterator[np.ndarray]:
    """Yields the uint8 elements of an IDX file, each of its trailing dimensions (a scalar for labels).

    Raises:
      DataError: the file is no such IDX file, or it is truncated, too long, or damaged.
    """
    try:
        with _open(path) as file:
            shape = _read_header(path, file, num_dimensions)
            yield from _read_elements(path, file, shape)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged or truncated: {error}") from error


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if compressed else path.open("rb")


def _read_header(path: Path, file: BinaryIO, num_dimensions: int) -> tuple[int, ...]:
    header = file.read(4 + 4 * num_dimensions)
    if not header:
        raise DataError(f"{path} is empty")
    wanted = struct.pack(">BBBB", 0, 0, UINT8, num_dimensions)
    if header[:4] != wanted:
        raise DataError(
            f"{path} is no IDX file of {num_dimensions} dimensions: it begins with {header[:4].hex()}, "
            f"wanted {wanted.hex()}"
        )
    if len(header) < 4 + 4 * num_dimensions:
        raise DataError(f"{path} is truncated within its header")
    return struct.unpack(f">{num_dimensions}I", header[4:])


def _read_elements(path: Path, file: BinaryIO, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    count, element = shape[0], shape[1:]
    size = math.prod(element)
    if not 0 < size <= MAX_ELEMENT_BYTES or not count:
        raise DataError(f"{path} cannot be read: its header says {count:,} elements of {element}")
    for start in range(0, count, BLOCK):
        wanted = min(BLOCK, count - start)
        data = file.read(wanted * size)
        if len(data) < wanted * size:
            raise DataError(f"{path} is truncated: {start + len(data) // size:,} of {count:,} elements")
        yield from np.frombuffer(data, np.uint8).reshape(wanted, *element)
    if file.read(1):
        raise DataError(f"{path} is too long: it goes on after its {count:,} elements")
