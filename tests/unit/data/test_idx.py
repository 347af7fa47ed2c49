import gzip
import struct

import numpy as np
import pytest

from trainer.data.sources import idx
from trainer.data.spec import DataError


def idx_bytes(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


IMAGES = np.arange(2500 * 4, dtype=np.uint32).astype(np.uint8).reshape(2500, 2, 2)


@pytest.mark.parametrize("compress", [False, True])
def test_elements_come_in_order(tmp_path, compress):
    path = tmp_path / "images"
    data = idx_bytes(IMAGES)
    path.write_bytes(gzip.compress(data) if compress else data)
    np.testing.assert_array_equal(np.stack(list(idx.read_idx(path, 3))), IMAGES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "is truncated: 2,499 of 2,500 elements"),
        (lambda data: data + b"x", "is too long"),
        (lambda data: data[:9], "is truncated within its header"),
        (lambda data: b"", "is empty"),
        (lambda data: b"\x00\x00\x0d\x03" + data[4:], "is no IDX file of 3 dimensions: it begins with 00000d03"),
        (lambda data: gzip.compress(data)[:-20], "is damaged or truncated"),
        (lambda data: gzip.compress(data)[:30] + b"garbage" * 9, "is damaged or truncated"),
        (lambda data: struct.pack(">BBBB3I", 0, 0, 8, 3, 0, 28, 28), "its header says 0 elements"),
        (lambda data: struct.pack(">BBBB3I", 0, 0, 8, 3, 9, 2**32 - 1, 2**32 - 1), "its header says 9 elements"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, change, message):
    path = tmp_path / "images"
    path.write_bytes(change(idx_bytes(IMAGES)))
    with pytest.raises(DataError, match=message) as caught:
        list(idx.read_idx(path, 3))
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="train-images-idx3-ubyte: no such file, nor"):
        idx.find_idx(tmp_path, "train-images-idx3-ubyte")


@pytest.mark.parametrize("name", ["a-idx3-ubyte", "a-idx3-ubyte.gz", "a.idx3-ubyte"])
def test_the_usual_spellings_are_found(tmp_path, name):
    (tmp_path / name).touch()
    assert idx.find_idx(tmp_path, "a-idx3-ubyte").name == name
