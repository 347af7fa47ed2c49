"""CIFAR-10 and CIFAR-100 in their binary versions (https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.spec import DataError
from trainer.tf1 import tf

HEIGHT, WIDTH, DEPTH = 32, 32, 3
BLOCK = 1000


class Version(NamedTuple):
    """A data set of these, as its archive holds it."""

    archive: str
    folder: str  # in the archive
    train: tuple[str, ...]  # files
    test: str
    class_names: tuple[str, ...]
    num_labels: int = 1  # bytes of a record before the red, green and blue planes
    label: int = 0  # which of them


CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
COARSE_NAMES = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture
insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2
"""
FINE_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CIFAR10 = Version(
    "cifar-10-binary.tar.gz",
    "cifar-10-batches-bin",
    tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test_batch.bin",
    tuple(CIFAR10_NAMES.split()),
)
CIFAR100_COARSE = Version(
    "cifar-100-binary.tar.gz",
    "cifar-100-binary",
    ("train.bin",),
    "test.bin",
    tuple(COARSE_NAMES.split()),
    num_labels=2,
    label=0,
)
CIFAR100 = CIFAR100_COARSE._replace(class_names=tuple(FINE_NAMES.split()), label=1)


def read_cifar(path: Path, version: Version = CIFAR10) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (image uint8 [32, 32, 3], label) of one file, by TensorFlow's reader.

    Raises:
      DataError: the file is missing, or not a whole number of records.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; --source_dir is the folder of {version.folder} or {version.archive}")
    size, num_labels = path.stat().st_size, version.num_labels
    record_bytes = num_labels + HEIGHT * WIDTH * DEPTH
    if size == 0 or size % record_bytes:
        raise DataError(f"{path} has {size:,} bytes, which is no whole number of records of {record_bytes:,} bytes")
    for block in _read_blocks(path, size // record_bytes, record_bytes):
        images = block[:, num_labels:].reshape(-1, DEPTH, HEIGHT, WIDTH).transpose(0, 2, 3, 1)
        yield from zip(images, (int(label) for label in block[:, version.label]), strict=True)


def _read_blocks(path: Path, count: int, record_bytes: int) -> Iterator[np.ndarray]:
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        files = tf.FIFOQueue(1, [tf.string], [[]])
        session.run(files.enqueue([str(path)]))
        session.run(files.close())
        _, records = tf.FixedLengthRecordReader(record_bytes).read_up_to(files, BLOCK)
        # The shape is known here, where decode_raw alone would leave it open.
        block = tf.reshape(tf.decode_raw(records, tf.uint8), [-1, record_bytes])
        read = session.make_callable(block)
        for _ in range(-(-count // BLOCK)):
            yield read()
