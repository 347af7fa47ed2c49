"""Pictures of a data set as they are stored, and as a model sees them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from trainer.data.records import read_examples
from trainer.data.spec import DatasetSpec
from trainer.preprocessing.preprocessing import Preprocessing
from trainer.tf1 import tf

COUNTED, COUNTED_BYTES = 1000, 32 << 20  # pictures whose pixels are counted, and what they take at most


class Stored(NamedTuple):
    """A picture of a split."""

    number: int  # of the record, in the order of the manifest
    image: np.ndarray  # uint8 [height, width, depth]
    label: int


class Views(NamedTuple):
    """What a model sees of pictures: uint8 or float32, [n, height, width, depth] each."""

    evaluated: np.ndarray
    trained: list[np.ndarray]  # in one epoch after the other


def num_counted(spec: DatasetSpec) -> int:
    """Returns of how many pictures the pixels are counted."""
    return max(1, min(COUNTED, COUNTED_BYTES // spec.image_bytes))


def choose_pictures(spec: DatasetSpec, split: str, count: int) -> list[Stored]:
    """Takes pictures from the beginnings of all shards in turn, so that sorted shards are all seen.

    Raises:
      DataError: a shard is damaged.
    """
    firsts = itertools.accumulate((shard.num_examples for shard in spec.splits[split]), initial=0)
    turns = [_read(spec, split, place, first) for place, first in enumerate(firsts) if place < len(spec.splits[split])]
    chosen: list[Stored] = []
    while turns and len(chosen) < count:
        found = next(turns[0], None)
        turns = [*turns[1:], turns[0]] if found else turns[1:]
        chosen += [found] if found else []
    return chosen


def _read(spec: DatasetSpec, split: str, place: int, first: int) -> Iterator[Stored]:
    for number, (image, label) in enumerate(read_examples(spec.path_of(spec.splits[split][place]), spec), first):
        yield Stored(number, image, label)


def see(preprocessing: Preprocessing, pictures: list[Stored], *, epochs: int, num_records: int) -> Views:
    """Preprocesses pictures as an evaluation does, and as a training does in its first epochs.

    Args:
      preprocessing: of the run.
      pictures: of the training set.
      epochs: how many.
      num_records: of the training set.
    """
    numbers = np.array([picture.number for picture in pictures], np.int64)
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        stored = np.stack([picture.image for picture in pictures])
        images, keys = tf.placeholder(tf.uint8, [None, *stored.shape[1:]]), tf.placeholder(tf.int64, [None])
        evaluated, trained = preprocessing.evaluate(images), preprocessing.train(images, keys)
        of_epochs = [
            session.run(trained, {images: stored, keys: epoch * num_records + numbers}) for epoch in range(epochs)
        ]
        return Views(session.run(evaluated, {images: stored}), of_epochs)


def describe_pixels(name: str, images: np.ndarray) -> str:
    """Says range, mean and deviation of the pixels, [n, height, width, depth], by channel."""
    values = images.reshape(-1, images.shape[-1]).astype(np.float64)

    def by_channel(numbers: np.ndarray) -> str:
        return " ".join(f"{number:.4g}" for number in numbers)

    shape = "x".join(map(str, images.shape[1:]))
    return (
        f"{name}: {images.dtype} {shape}, {values.min():.4g} to {values.max():.4g}, mean {by_channel(values.mean(0))}, "
        f"deviation {by_channel(values.std(0))}"
    )
