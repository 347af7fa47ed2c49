"""Frames of TFRecord files, against TensorFlow's own writer and reader."""

import numpy as np
import pytest

from trainer.data.framing import Record, frame, scan
from trainer.tf1 import tf

RECORDS = [b"", b"a", b"bc" * 50, bytes(range(256)), b"\0" * 20]


def test_frames_are_those_of_tensorflow(tmp_path):
    path = tmp_path / "records"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in RECORDS:
            writer.write(record)
    assert path.read_bytes() == b"".join(map(frame, RECORDS))
    (tmp_path / "ours").write_bytes(b"".join(map(frame, RECORDS)))
    assert list(tf.io.tf_record_iterator(str(tmp_path / "ours"))) == RECORDS


def test_whole_files_are_read_whole():
    content = b"".join(map(frame, RECORDS))
    assert [record.data for record in scan(content)] == RECORDS
    assert scan_offsets(content) == list(np.cumsum([0, *(len(frame(record)) for record in RECORDS)])[:-1])


def scan_offsets(content):
    return [record.offset for record in scan(content)]


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_any_damaged_byte_of_a_record_loses_that_record_alone(number):
    frames = [frame(record) for record in RECORDS]
    wanted = [None if other == number else record for other, record in enumerate(RECORDS)]
    for offset in range(len(frames[number])):
        damaged = bytearray(frames[number])
        damaged[offset] ^= 0x40
        found = scan(b"".join([*frames[:number], damaged, *frames[number + 1 :]]))
        assert [record.data for record in found] == wanted, offset


def test_a_file_that_is_cut_off_or_empty():
    content = frame(b"one") + frame(b"two")
    for length in range(1, len(frame(b"two"))):
        assert list(scan(content[:-length])) == [Record(0, b"one"), Record(len(frame(b"one")), None)]
    assert list(scan(b"")) == []


def test_a_length_beyond_the_file_is_damage():
    header = frame(b"x" * 1000)[:12]
    assert list(scan(header + frame(b"two"))) == [Record(0, None), Record(12, b"two")]
