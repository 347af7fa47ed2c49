"""CIFAR-10 in its binary version (https://www.cs.toronto.edu/~kriz/cifar.html), read by TensorFlow's reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.data.spec import DataError
from trainer.tf1 import tf

HEIGHT, WIDTH, DEPTH = 32, 32, 3
RECORD_BYTES = 1 + HEIGHT * WIDTH * DEPTH  # the label, then the red, green and blue planes
BLOCK = 1000


def read_cifar(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (image uint8 [32, 32, 3], label) of one `*_batch*.bin`.

    Raises:
      DataError: the file is missing, or not a whole number of records.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; --source_dir is the folder of CIFAR-10's binary version")
    size = path.stat().st_size
    if size == 0 or size % RECORD_BYTES:
        raise DataError(f"{path} has {size:,} bytes, which is no whole number of records of {RECORD_BYTES:,} bytes")
    for block in _read_blocks(path, size // RECORD_BYTES):
        images = block[:, 1:].reshape(-1, DEPTH, HEIGHT, WIDTH).transpose(0, 2, 3, 1)
        yield from zip(images, (int(label) for label in block[:, 0]), strict=True)


def _read_blocks(path: Path, count: int) -> Iterator[np.ndarray]:
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        files = tf.FIFOQueue(1, [tf.string], [[]])
        session.run(
            [
                files.enqueue([str(path)]),
            ]
        )
        session.run(files.close())
        _, records = tf.FixedLengthRecordReader(RECORD_BYTES).read_up_to(files, BLOCK)
        # The shape is known here, where decode_raw alone would leave it open.
        block = tf.reshape(tf.decode_raw(records, tf.uint8), [-1, RECORD_BYTES])
        read = session.make_callable(block)
        for _ in range(-(-count // BLOCK)):
            yield read()
