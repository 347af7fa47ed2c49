"""Pictures of a data set as they are stored, and as a model sees them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from trainer.data.records import read_examples
from trainer.data.spec import DatasetSpec
from trainer.preprocessing.preprocessing import Preprocessing
from trainer.tf1 import tf

DECODED = 10  # times as large as its JPEG is a picture, about
COUNTED, COUNTED_BYTES = 1000, 128 << 20  # pictures whose pixels are counted, and what they take at most


class Stored(NamedTuple):
    """A picture of a split."""

    number: int  # of the record, in the order of the manifest
    image: np.ndarray  # uint8 [height, width, depth]
    label: int


class Views(NamedTuple):
    """What a model sees of pictures: uint8 or float32, [height, width, depth] each."""

    evaluated: list[np.ndarray]
    trained: list[list[np.ndarray]]  # in one epoch after the other


def num_counted(spec: DatasetSpec, preprocessing: Preprocessing) -> int:
    """Returns of how many pictures the pixels are counted."""
    stored = DECODED * spec.bytes_in_memory if spec.is_encoded else spec.image_bytes
    seen = math.prod(preprocessing.shape) * int(preprocessing.dtype.size)
    return max(1, min(COUNTED, COUNTED_BYTES // max(stored, seen)))


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
    training, elsewhere = preprocessing.training, preprocessing.elsewhere
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        image, key = tf.placeholder(tf.uint8, [1, *training.stored_shape]), tf.placeholder(tf.int64, [1])
        evaluated = session.make_callable(elsewhere.in_batches(elsewhere.alone(image))[0], feed_list=[image])
        trained = session.make_callable(training.in_batches(training.alone(image, key), key)[0], feed_list=[image, key])
        seen = [evaluated(picture.image[np.newaxis]) for picture in pictures]
        epochs_seen = [
            [trained(picture.image[np.newaxis], [epoch * num_records + picture.number]) for picture in pictures]
            for epoch in range(epochs)
        ]
    return Views(seen, epochs_seen)


def describe_pixels(name: str, images: Sequence[np.ndarray]) -> str:
    """Says range, mean and deviation of the pixels, [height, width, depth] each, by channel."""
    values = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images]).astype(np.float64)

    def by_channel(numbers: np.ndarray) -> str:
        return " ".join(f"{number:.4g}" for number in numbers)

    shapes = sorted({image.shape for image in images})
    shape = "x".join(map(str, shapes[0])) if len(shapes) == 1 else f"of {len(shapes):,} sizes"
    return (
        f"{name}: {images[0].dtype} {shape}, {values.min():.4g} to {values.max():.4g}, mean "
        f"{by_channel(values.mean(0))}, deviation {by_channel(values.std(0))}"
    )
